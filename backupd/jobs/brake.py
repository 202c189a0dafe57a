"""The brake: after a sudden change nothing of a source is pruned until a person releases it.

Setting and releasing are signed records. What they say may be read by everybody who may check, so they hold kinds and
numbers and never a table's name.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backupd.config.clock import fine_stamp, parse_stamp
from backupd.crypto.keyring import Signer
from backupd.jobs.appending import append_record
from backupd.policy.nights import WEEK
from backupd.policy.sudden import LEARNT_SLOWLY, Alarm
from backupd.repo.brakes import Brake, brakes_set
from backupd.repo.records import Record
from backupd.repo.repository import Repository

_TOLD = 5
"""Sentences of one record; how many more there were is said behind them."""
_REASON = 3500


@dataclass(frozen=True, slots=True)
class Told:
    """One alarm as a run tells it.

    Attributes:
        reason: a sentence without a name.
        table: the table's name, which only the host that reads the source may tell.
        record: of the brake that is in force for it; None if it could not be set.
    """

    kind: str
    reason: str
    snapshot: str
    table: str | None = field(default=None, repr=False)
    record: str | None = None


def reason_of(alarms: Sequence[Alarm]) -> str:
    """The sentences of a record."""
    said = "; ".join(alarm.sentence() for alarm in alarms[:_TOLD])[:_REASON]
    more = len(alarms) - _TOLD
    return f"{said}; and {more} more" if more > 0 else said


class BrakeSetter:
    """Sets the brake of one source, if it is not set for the same already.

    Args:
        repo: opened with the write right.
        signer: the writer.
        writer: its id.
        source: the source's name.
    """

    def __init__(self, repo: Repository, signer: Signer, writer: bytes, source: str) -> None:
        self._repo, self._signer, self._writer, self._source = repo, signer, writer, source
        in_force, over = brakes_set(repo.records(lambda _: None))
        self._in_force = [brake for brake in in_force if self._is_mine(brake)]
        self._over = [brake for brake in over if self._is_mine(brake)]

    def _is_mine(self, brake: Brake) -> bool:
        return (brake.writer, brake.source) == (self._writer, self._source)

    def set(self, alarms: Sequence[Alarm], snapshot: str, now: datetime) -> dict[str, str]:
        """Set the brake for the kinds of these alarms for which it is not set.

        Returns:
            Of each kind the record of the brake in force; kinds for which a person released the brake after this very
            snapshot are left out, and so is one that the judgement learns slowly, for as long as that takes.

        Raises:
            BackupdError: a record could not be stored.
        """
        found = {kind: brake.record for brake in self._in_force for kind in brake.kinds}
        done = {kind for brake in self._over if brake.snapshot == snapshot for kind in brake.kinds}
        done |= {kind for brake in self._over if _set_within(brake, WEEK, now) for kind in brake.kinds} & LEARNT_SLOWLY
        fresh = [alarm for alarm in alarms if alarm.kind not in found and alarm.kind not in done]
        if fresh:
            kinds = list(dict.fromkeys(alarm.kind for alarm in fresh))
            document: dict[str, object] = {
                "type": "brake",
                "created": fine_stamp(now),
                "writer": self._writer.hex(),
                "source": self._source,
                "snapshot": snapshot,
                "kinds": kinds,
                "reason": reason_of(fresh),
                "numbers": {kind: dict(next(a for a in fresh if a.kind == kind).numbers) for kind in kinds},
            }
            name = append_record(self._repo, self._signer, document)
            self._in_force.append(
                Brake(self._writer, self._source, snapshot, fine_stamp(now), tuple(kinds), reason_of(fresh), name, b"")
            )
            found |= dict.fromkeys(kinds, name)
        return {kind: record for kind, record in found.items() if kind in {alarm.kind for alarm in alarms}}


def _set_within(brake: Brake, length: timedelta, now: datetime) -> bool:
    try:
        return now - parse_stamp(brake.since) <= length
    except (ValueError, OverflowError):
        return False


def release(repo: Repository, signer: Signer, brakes: Sequence[Brake], reason: str | None, now: datetime) -> list[str]:
    """End brakes, with a record for each source and key that they are sealed under; returns the records' names.

    Raises:
        BackupdError: a record could not be stored.
    """
    groups: dict[tuple[bytes, str, bytes], list[str]] = {}
    for brake in brakes:
        groups.setdefault((brake.writer, brake.source, brake.owner), []).append(brake.record)
    names = []
    for (writer, source, owner), ends in groups.items():
        document: dict[str, object] = {
            "type": "brake-release",
            "created": fine_stamp(now),
            "writer": writer.hex(),
            "source": source,
            "ends": ends,
            "reason": reason,
        }
        names.append(append_record(repo, signer, document, owner))
    return names


def in_force(records: Iterable[Record]) -> list[Brake]:
    """The brakes in force, oldest first."""
    return brakes_set(records)[0]
