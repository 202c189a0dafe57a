"""Records of the brake: a pause of pruning for one source, and its end. FORMAT.md, section 11.

What they tell a reader who may not read records of customers is numbers and kinds; never a table's name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backupd.crypto.keyfile import Role
from backupd.repo.format import label
from backupd.repo.records import Record
from backupd.repo.trust import Trust


@dataclass(frozen=True, slots=True)
class Brake:
    """A pause of pruning.

    Attributes:
        writer, source: whose snapshots all stay.
        snapshot: the id, in hex, of the one after which it was set.
        since: when.
        kinds: of sudden change.
        reason: sentences.
        record: the name of the record that sets it.
        owner: the key that this is sealed under; its release is sealed so too.
    """

    writer: bytes
    source: str
    snapshot: str
    since: str
    kinds: tuple[str, ...]
    reason: str
    record: str
    owner: bytes


def _parse(record: Record) -> Brake:
    document = record.document
    snapshot, kinds = label(document["snapshot"]), tuple(label(kind) for kind in _list(document["kinds"]))
    if len(bytes.fromhex(snapshot)) != 32 or not kinds or not isinstance(document.get("numbers"), dict):
        raise ValueError("no brake")
    source, since, reason = label(document["source"]), label(document["created"]), label(document["reason"])
    return Brake(_writer(record), source, snapshot, since, kinds, reason, record.name, record.owner)


def _writer(record: Record) -> bytes:
    writer = bytes.fromhex(record.document["writer"])
    if len(writer) != 16:
        raise ValueError("no writer")
    return writer


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def check_brake(record: Record, trust: Trust) -> None:
    """Whether a brake, or a release of one, tells what such a record must; a write key speaks for its own writer only.

    Raises:
        KeyError, ValueError, TypeError: it does not.
    """
    if record.type == "brake":
        brake = _parse(record)
        if record.role is Role.WRITE and trust.writer_entry(brake.writer, record.signer) is None:
            raise ValueError("another writer's source")
    else:
        _writer(record), label(record.document["source"])
        [label(name) for name in _list(record.document["ends"])]


def brakes_set(records: Iterable[Record]) -> tuple[list[Brake], list[Brake]]:
    """The brakes in force, oldest first, and those that were released: each by its name, and times have no say.

    Args:
        records: those that `Repository.records` gives.
    """
    found: list[Brake] = []
    ended: set[tuple[bytes, str, str]] = set()
    for record in records:
        if record.type == "brake":
            found.append(_parse(record))
        elif record.type == "brake-release":
            ended |= {(_writer(record), str(record.document["source"]), str(n)) for n in record.document["ends"]}
    found.sort(key=lambda brake: (brake.since, brake.record))
    over = [brake for brake in found if (brake.writer, brake.source, brake.record) in ended]
    return [brake for brake in found if brake not in over], over
