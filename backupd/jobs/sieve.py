"""Rows on their way back, without those that the erasure ledger hides: what servers load, and what export writes.

The rows that were stored are checked as they come, and what is left of them is counted as a digest: a table that was read
back is compared with that. Must never let a row through that it could not judge.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backupd.engines.base import RowRule, RuleOf
from backupd.errors import IntegrityError, SafetyRefused
from backupd.jobs.rowcheck import RowCheck
from backupd.model import Cell
from backupd.records.rowtext import NULL, cell_of
from backupd.repo.rowdigest import RowDigest


def refuse_opaque(content: Mapping[str, Any], rule_of: RuleOf | None) -> None:
    """An archive of the server's own tool cannot be sieved.

    Raises:
        SafetyRefused: the snapshot is one, and there is something to be taken out.
    """
    native = any(s["kind"] == "schema" and s["name"] == "native" for s in content["streams"])
    if rule_of is not None and native:
        raise SafetyRefused(
            "the snapshot is one opaque archive, from which the rows of those who were erased cannot be taken out",
            hint="restore one that was captured as rows; or --with-erased --reason TEXT, which is recorded: then delete them"
            " from what was restored before anybody uses it",
        )


class Sieve:
    """Takes rows out of the streams of one snapshot. Its streams may be read in several threads at once.

    Args:
        rule_of: which rows must not come back.
        tables: as in the manifest.
        id_key: of the snapshot's writer.
    """

    def __init__(self, rule_of: RuleOf, tables: Sequence[Mapping[str, Any]], id_key: bytes) -> None:
        self._id_key = id_key
        self._lock = threading.Lock()
        found = {
            table["name"]: rule_of(table["name"], [name for name, _ in table.get("columns", ())]) for table in tables
        }
        self._rules = {name: rule for name, rule in found.items() if rule is not None}
        self.left: dict[str, RowDigest] = {}
        """Of each table that is concerned, what was left of it so far."""
        self.out: dict[str, int] = {}
        """Of each of these tables, how many rows were taken out so far."""

    def concerns(self, described: Mapping[str, Any]) -> bool:
        """Whether rows may be taken out of a stream."""
        return described["kind"] == "rows" and described["name"] in self._rules

    def wrap(
        self, opener: Callable[[], Iterator[bytes]], described: Mapping[str, Any]
    ) -> Callable[[], Iterator[bytes]]:
        """What opens the same stream, sieved."""
        rule = self._rules[described["name"]]

        def opened() -> Iterator[bytes]:
            return self._sieved(opener(), rule, described)

        return opened

    def _sieved(self, buffers: Iterator[bytes], rule: RowRule, described: Mapping[str, Any]) -> Iterator[bytes]:
        stored, left = RowCheck(self._id_key), RowCheck(self._id_key)
        for block in whole_rows(buffers):
            stored.update(block)
            kept = sieved(block, rule)
            if kept:
                left.update(kept)
                yield kept
        name = described["name"]
        found, rest = stored.finish(), left.finish()
        if found.hexdigest() != described["digest"]:
            raise IntegrityError(f"the stored rows of {name} are not the ones that were captured", object_name=name)
        with self._lock:
            self.left.setdefault(name, RowDigest()).merge(rest)
            self.out[name] = self.out.get(name, 0) + found.rows - rest.rows

    def manifest(self, tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The tables with the digests and counts of what was left; those of which nothing was read stay as they are."""
        return [
            {**table, "digest": left.hexdigest(), "rows": left.rows}
            if (left := self.left.get(table["name"])) is not None
            else dict(table)
            for table in tables
        ]


def whole_rows(buffers: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that end where rows do.

    Raises:
        IntegrityError: they end inside a row.
    """
    held: list[bytes] = []
    for buffer in buffers:
        cut = buffer.rfind(b"\n") + 1
        if cut == 0:
            held.append(buffer)
            continue
        yield b"".join([*held, buffer[:cut]])
        held = [buffer[cut:]] if cut < len(buffer) else []
    if any(held):
        raise IntegrityError("the rows end in the middle of one")


def sieved(block: bytes, rule: RowRule) -> bytes:
    """Whole rows, without those that must not come back."""
    positions = rule.positions
    last = max(positions)
    cells: list[Cell] = [None] * (last + 1)
    kept: list[bytes] = []
    for row in block.split(b"\n")[:-1]:
        fields = row.split(b"\t", last + 1)
        fields += [NULL] * (last + 1 - len(fields))
        for at in positions:
            cells[at] = cell_of(fields[at])
        found = rule.judge(cells)
        if found is None:
            continue
        if found:
            for at in found:
                fields[at] = NULL
            row = b"\t".join(fields)
        kept.append(row)
    kept.append(b"")
    return b"\n".join(kept)
