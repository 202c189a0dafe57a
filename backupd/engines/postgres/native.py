"""Restores an opaque archive of pg_dump (capture: native), judged by its table of contents before pg_restore sees it."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from backupd.engines.base import TableInfo
from backupd.engines.postgres.archive import Archive, Entry, major_of, read_archive
from backupd.engines.postgres.judgement import UNKNOWN, Danger, dangers, refuse, restorable
from backupd.engines.postgres.pgrestore import feed_restore, restore_tools
from backupd.engines.postgres.requirements import owners
from backupd.engines.postgres.sqltext import Unclear, statements
from backupd.errors import IntegrityError

if TYPE_CHECKING:
    from backupd.engines.postgres.restore import Job

_LONGEST_HEAD = 256 * 1024 * 1024
_NAME = r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_COPY = re.compile(rf"COPY {_NAME}(?:\.{_NAME})? (?:\({_NAME}(?:, {_NAME})*\))? ?FROM stdin;\n\Z")
_SETVAL = re.compile(r"SELECT pg_catalog\.setval\('(?:[^'\\]|'')*', -?[0-9]+, (?:true|false)\);\n\Z")


class NativePlan:
    """An opaque archive whose table of contents has been judged.

    Raises:
        SafetyRefused: objects that are not allowed.
    """

    def __init__(self, job: "Job", name: str, bin_folders: Sequence[str]) -> None:
        (self._stream,) = job.streams["/native"]
        self._blocks = self._stream.open()
        self._head, archive = _read_head(self._blocks)
        schema = restorable(archive)
        found = dangers(archive, schema, job.offer.trusted_extensions)
        found += [
            Danger(UNKNOWN, f"{entry.desc} {entry.tag}") for entry in archive.entries if not _is_sound_data(entry)
        ]
        refuse(found, job.options.allow, name)
        job.missing_roles = job.offer.refuse_roles(owners(schema), job.options, owners(schema))
        numbers = {entry.number for entry in job.offer.possible(schema, job.warnings)}
        self._entries = [entry for entry in archive.entries if entry.number in numbers or _is_data(entry)]
        self._tools = restore_tools(bin_folders, job.server, at_least=major_of(archive.dump_version))

    def build(self, job: "Job") -> Sequence[TableInfo]:
        """Feed the archive to pg_restore; returns no tables, because nothing of it can be compared.

        Raises:
            Failed: the server refused something.
            IntegrityError: the archive is not whole.
        """
        flags = [*job.flags, *(["--no-acl"] if job.missing_roles else [])]
        blocks = chain(self._head, self._blocks)
        count = feed_restore(self._tools, job.server, job.scratch, blocks, self._entries, flags)
        if count != self._stream.size:
            raise IntegrityError("the archive is not as long as the manifest says", hint="verify the snapshot")
        job.bytes += count
        job.warnings.append("an opaque archive was restored: its rows were not compared")
        return []


def _is_data(entry: Entry) -> bool:
    return entry.section == 3 and entry.desc not in {"STATISTICS DATA", "BLOB METADATA"}


def _is_sound_data(entry: Entry) -> bool:
    if not _is_data(entry):
        return True
    if entry.desc == "SEQUENCE SET":
        return _SETVAL.match(entry.defn) is not None and not (entry.copy or entry.has_data)
    if entry.desc == "TABLE DATA":
        return _is_comment(entry.defn) and _COPY.match(entry.copy) is not None
    return entry.desc in {"BLOBS", "BLOB DATA"} and not entry.copy and _is_comment(entry.defn)


def _is_comment(text: str) -> bool:
    """Whether there is no statement in it."""
    try:
        return not list(statements(text))
    except Unclear:
        return False


def _read_head(blocks: Iterator[bytes]) -> tuple[list[bytes], Archive]:
    """Blocks from the beginning, as many as the table of contents takes, and that table."""
    head: list[bytes] = []
    data = bytearray()

    def read(offset: int, size: int) -> bytes:
        while len(data) < min(offset + size, _LONGEST_HEAD) and (block := next(blocks, None)) is not None:
            head.append(block)
            data.extend(block)
        return bytes(data[offset : offset + size])

    return head, read_archive(read)
