"""What the records of a repository say of drills: evidence that whoever drills signs. Imports little: `snapshots` asks it too."""

from collections.abc import Iterable
from datetime import datetime

from backupd.config.clock import parse_stamp
from backupd.crypto.keyfile import Role
from backupd.repo.records import Record

PROVERS = frozenset({Role.READ, Role.RECOVERY, Role.ROOT})
"""Whose evidence of a drill counts: who cannot read cannot have restored."""


def is_evidence(record: Record, *, passed: bool = True) -> bool:
    """Whether a record is evidence, by somebody who can have it, of a drill that passed, or did not."""
    return record.type == "evidence" and record.role in PROVERS and record.document.get("passed") is passed


def drills_by_snapshot(records: Iterable[Record], *, passed: bool = True) -> dict[str, datetime]:
    """Of each snapshot that a drill proved, when it did last; of those that did not pass without `passed`."""
    found: dict[str, datetime] = {}
    for record in records:
        if is_evidence(record, passed=passed):
            try:
                snapshot, at = str(record.document["snapshot"]), parse_stamp(str(record.document["created"]))
            except (KeyError, ValueError, OverflowError):
                continue
            found[snapshot] = max(at, found.get(snapshot, at))
    return found
