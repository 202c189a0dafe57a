"""Erasures as records of the repository hold them: keyed hashes of rows that nobody may be shown. FORMAT.md, section 11."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from backupd.crypto.erasure import HASH_BYTES
from backupd.repo.format import label, natural
from backupd.repo.records import Record

A_RECORD = 200_000
"""Hashes of one record: a long erasure is several."""
Action = Literal["delete", "null"]


@dataclass(frozen=True, slots=True)
class ErasedTable:
    """Rows of a table, by the hashes of their cells of some columns; `whole` if those were all the columns that it had."""

    table: bytes
    columns: tuple[bytes, ...]
    whole: bool
    rows: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ErasedReference:
    """What becomes of rows that refer to erased ones, by the hashes of their cells of the referring columns.

    Attributes:
        cleared: those of the columns that become NULL, where it is not all of them.
    """

    table: bytes
    columns: tuple[bytes, ...]
    rows: frozenset[bytes]
    action: Action
    cleared: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Erasure:
    """One record of the ledger.

    Attributes:
        id: the same in all parts of one erasure.
        writer, source: whose rows.
        subject_table, subject_row: hashes of the subject's table, and of its key there.
        snapshots: ids of those in which rows were found.
        horizon: the repository's policy as it was: base_max_age_days, grace_hours, undo_days.
        record: the object's name; `key` the id of the records key that it is sealed under.
    """

    id: str
    created: str
    writer: bytes
    source: str
    reason: str
    subject_table: bytes
    subject_row: bytes
    tables: tuple[ErasedTable, ...]
    references: tuple[ErasedReference, ...]
    snapshots: tuple[str, ...]
    horizon: Mapping[str, int]
    part: int = 1
    parts: int = 1
    record: str = ""
    key: bytes = b""

    @property
    def rows(self) -> int:
        """How many rows it hides by themselves."""
        return sum(len(entry.rows) for entry in self.tables)


_Entry = ErasedTable | ErasedReference


def documents(erasure: Erasure) -> list[dict[str, object]]:
    """The records of an erasure, as few as its length allows."""
    pieces = list(_pieces([*erasure.tables, *erasure.references])) or [[]]
    return [
        _document(
            replace(
                erasure,
                tables=tuple(entry for entry in piece if isinstance(entry, ErasedTable)),
                references=tuple(entry for entry in piece if isinstance(entry, ErasedReference)),
                part=n,
                parts=len(pieces),
            )
        )
        for n, piece in enumerate(pieces, 1)
    ]


def _pieces(entries: Sequence[_Entry]) -> Iterator[list[_Entry]]:
    """The entries, parted so that no piece has too many hashes."""
    held: list[_Entry] = []
    room = A_RECORD
    for entry in entries:
        rows = sorted(entry.rows)
        while rows:
            taken, rows = rows[:room], rows[room:]
            held.append(replace(entry, rows=frozenset(taken)))
            room -= len(taken)
            if room == 0:
                yield held
                held, room = [], A_RECORD
    if held:
        yield held


def _document(erasure: Erasure) -> dict[str, object]:
    return {
        "type": "erasure",
        "created": erasure.created,
        "erasure": erasure.id,
        "part": erasure.part,
        "parts": erasure.parts,
        "writer": erasure.writer.hex(),
        "source": erasure.source,
        "reason": erasure.reason,
        "subject": {"table": erasure.subject_table.hex(), "row": erasure.subject_row.hex()},
        "tables": [
            {
                "table": e.table.hex(),
                "columns": [c.hex() for c in e.columns],
                "whole": e.whole,
                "rows": _packed(e.rows),
            }
            for e in erasure.tables
        ],
        "references": [
            {
                "table": e.table.hex(),
                "columns": [c.hex() for c in e.columns],
                "rows": _packed(e.rows),
                "action": e.action,
                **({"cleared": [c.hex() for c in e.cleared]} if e.cleared else {}),
            }
            for e in erasure.references
        ],
        "snapshots": list(erasure.snapshots),
        "horizon": dict(erasure.horizon),
    }


def erasure_of(record: Record) -> Erasure:
    """What a record of the ledger says.

    Raises:
        KeyError, ValueError, TypeError: it lacks what such a record tells.
    """
    said = record.document
    tables = tuple(
        ErasedTable(_hash(e["table"]), _hashes(e["columns"]), _flag(e["whole"]), _unpacked(e["rows"]))
        for e in said["tables"]
    )
    references = tuple(map(_reference, said["references"]))
    return Erasure(
        _hash(said["erasure"]).hex(),
        label(said["created"]),
        _hash(said["writer"]),
        label(said["source"]),
        label(said["reason"]),
        _hash(said["subject"]["table"]),
        _hash(said["subject"]["row"]),
        tables,
        references,
        tuple(label(snapshot) for snapshot in said["snapshots"]),
        {name: natural(said["horizon"][name]) for name in ("base_max_age_days", "grace_hours", "undo_days")},
        natural(said["part"]),
        natural(said["parts"]),
        record.name,
        record.owner[20:],
    )


def _reference(entry: Mapping[str, Any]) -> ErasedReference:
    columns = _hashes(entry["columns"])
    cleared = _hashes(entry["cleared"]) if "cleared" in entry else ()
    if not set(cleared) <= set(columns):
        raise ValueError("cleared is another column")
    return ErasedReference(_hash(entry["table"]), columns, _unpacked(entry["rows"]), _action(entry["action"]), cleared)


def check_erasure(record: Record) -> None:
    """Refuse a record of the ledger that lacks what such a record tells.

    Raises:
        KeyError, ValueError, TypeError: it does.
    """
    erasure_of(record)


def _packed(rows: frozenset[bytes]) -> str:
    return base64.b64encode(b"".join(sorted(rows))).decode()


def _unpacked(text: Any) -> frozenset[bytes]:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("no hashes") from None
    if len(data) % HASH_BYTES:
        raise ValueError("no hashes")
    return frozenset(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def _hash(text: Any) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != HASH_BYTES:
        raise ValueError("no hash")
    return digest


def _hashes(items: Any) -> tuple[bytes, ...]:
    if not isinstance(items, list) or not items:
        raise ValueError("no columns")
    return tuple(map(_hash, items))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _action(value: Any) -> Action:
    if value == "delete":
        return "delete"
    if value == "null":
        return "null"
    raise ValueError("no action")
