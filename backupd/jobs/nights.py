"""A run looks back: what this host knows of its source's nights, and whether tonight is sudden.

What a night was is written down, sealed, before its snapshot becomes visible, and struck off once it was judged: whatever is
cut off between the two is judged by the next run. Where nothing is remembered the totals come from the host's own
snapshots, of which a limited number is read once. Nothing here may fail a run: the snapshot is published already, or
must be.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from backupd.config.clock import fine_stamp, parse_stamp
from backupd.config.paths import Places
from backupd.crypto.keyfile import Key, Role
from backupd.crypto.keyring import Signer
from backupd.errors import BackupdError, IntegrityError, MissingRight
from backupd.policy.nights import Night
from backupd.policy.sudden import Alarm, judge
from backupd.repo.format import kind_of
from backupd.repo.nightbook import NightBook, sweep_books
from backupd.repo.repository import Repository, SnapshotView, read_object
from backupd.repo.snapshot import Structure
from backupd.report import Reporter

if TYPE_CHECKING:
    from backupd.jobs.brake import Told

_DIGITS = re.compile(r"\d+")
_KEPT = timedelta(days=400)
_EACH = timedelta(days=2)
"""For so long every run is remembered; of older days the last one."""
_MOST_NIGHTS = 1_200
_MOST_TABLES = 5_000
"""Of a source with more tables only the totals are judged."""
_MOST_COUNTS = 200_000
_WANTED, _READ, _BATCH = 60, 240, 16
_UNKNOWN = "not known any more"
LOST, OFF, OLD = "the version cache was lost", "the version cache is off", "what deltas lean on had become too old"
NEW_PROGRAM = "another version of the program"


@dataclass(frozen=True, slots=True)
class Entry:
    """A night as it is remembered: `session` is the run's, `snapshot` the id once it is known to be published."""

    night: Night
    session: str
    snapshot: str | None = None


@dataclass(slots=True)
class _Memory:
    """What the file says.

    Attributes:
        waiting: nights that were not judged yet.
        names: of labels, and when each was last met.
        program: versions of what read and cut the last one.
        whole: whether earlier snapshots were looked at, if there was no file once.
    """

    nights: list[Entry] = field(default_factory=list)
    waiting: list[Entry] = field(default_factory=list)
    names: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    program: Mapping[str, str] | None = None
    whole: bool = False


class NightWatch:
    """What one run does about the nights of its source.

    Args:
        repo: opened with the write right.
        key: the write key.
        folder: this host's places.
        source: the source's name.
        program: versions of what reads and cuts.
        report: warnings.
    """

    def __init__(
        self, repo: Repository, key: Key, folder: Places, source: str, program: Mapping[str, str], report: Reporter
    ) -> None:
        self._repo, self._key, self._source, self._report = repo, key, source, report
        self._program = dict(program)
        self._max_age = timedelta(days=repo.trust.policy.base_max_age_days)
        self._books = folder.state / "nights"
        place = self._books / f"{key.header.id.hex()}-{key.secrets.epoch}"
        self._book = NightBook(place, key.secrets["cache"], source)
        self._memory = _decode(self._book.read()) or _Memory()
        self._known = self._memory.whole
        self._tonight: Entry | None = None

    def expect(
        self,
        structure: Structure,
        tables: Sequence[Mapping[str, Any]],
        fresh: tuple[int, int],
        session: bytes,
        *,
        leaning: bool,
        cache: bool,
    ) -> None:
        """Write down what is about to be published.

        Args:
            structure: of the snapshot.
            tables: as the manifest lists them.
            fresh: plain and stored bytes of what was stored in full.
            session: the run's id.
            leaning: whether the version cache had what deltas lean on.
            cache: whether one is kept at all.
        """
        memory = self._memory
        taken = parse_stamp(structure.taken_at)
        counts = self._counts(tables, memory, structure.taken_at) if len(tables) <= _MOST_TABLES else None
        cause = self._cause(memory, taken, leaning=leaning, cache=cache)
        night = replace(
            _of_structure(structure), tables=counts, fresh_plain=fresh[0], fresh_payload=fresh[1], cause=cause
        )
        self._tonight = Entry(night, session.hex())
        memory.waiting.append(self._tonight)
        self._save(memory)

    def _counts(self, tables: Sequence[Mapping[str, Any]], memory: _Memory, at: str) -> dict[str, int | None]:
        """The tables by their labels; names that differ in digits alone are a family."""
        found: dict[str, int | None] = {}
        kins = Counter(_DIGITS.sub("#", str(table["name"])) for table in tables)
        for table in tables:
            name = str(table["name"])
            kin = _DIGITS.sub("#", name)
            label = self._book.opaque(kin)
            memory.names[label] = (kin if kins[kin] > 1 else name, at)
            if kin != name:
                label = f"{label}/{self._book.opaque(name)}"
                memory.names[label] = (name, at)
            found[label] = table["rows"]
        return found

    def _cause(self, memory: _Memory, taken: datetime, *, leaning: bool, cache: bool) -> str | None:
        """What is known to make a run store more than what changed."""
        if not cache:
            return OFF
        if not leaning or not memory.nights:
            return LOST if self._known else _UNKNOWN
        if memory.program != self._program:
            return NEW_PROGRAM
        return OLD if taken - memory.nights[-1].night.taken_at > self._max_age / 4 else None

    # ---- after the snapshot

    def look(self, snapshot: str, now: datetime) -> "list[Told]":
        """Judge tonight, and what an earlier run left unjudged; set the brake where something is sudden.

        Args:
            snapshot: the id of the one that was published.
            now: for records.

        Returns:
            What is sudden; a brake that could not be set is told as a warning as well.
        """
        memory, tonight = self._memory, self._tonight
        assert tonight is not None
        memory.waiting = [entry for entry in memory.waiting if entry is not tonight]
        try:
            self._catch_up(memory, tonight)
            memory.whole = True
        except BackupdError as error:
            self._report.warning(f"earlier nights of this source could not be looked at: {error.message}")
        told: list[Told] = []
        still: list[Entry] = []
        for entry in [*memory.waiting, replace(tonight, snapshot=snapshot)]:
            if entry.snapshot is None:  # not known to be published, because the storage could not be asked
                still.append(entry)
                continue
            alarms = judge([known.night for known in memory.nights], entry.night)
            said, done = self._tell(entry, alarms, memory, now) if alarms else ([], True)
            told += said
            (memory.nights if done else still).append(entry)
        memory.waiting = still
        memory.program = self._program
        self._save(memory)
        sweep_books(self._books, (now - self._max_age).timestamp())
        return told

    def _catch_up(self, memory: _Memory, tonight: Entry) -> None:
        """Find which of the nights that wait were published; without a memory, read some of what was."""
        unsure = [entry for entry in memory.waiting if entry.snapshot is None]
        if self._known and not unsure:
            return
        seen = {entry.session for entry in memory.nights} | {tonight.session}
        views = self._own(memory.nights[-1].night.taken_at if memory.nights else None, {e.session for e in unsure})
        published = {_session(view): view for view in views if _session(view) not in seen}
        waiting = [replace(e, snapshot=published[e.session].id) for e in unsure if e.session in published]
        waiting += [entry for entry in memory.waiting if entry.snapshot is not None]
        if not self._known:
            met = {entry.session for entry in waiting}
            rest = [Entry(_of_structure(v.structure), s, v.id) for s, v in published.items() if s not in met]
            rest.sort(key=lambda entry: entry.night.taken_at)
            memory.nights += rest[:-1]
            waiting += rest[-1:]  # whether it was judged is not known
        memory.waiting = sorted(waiting, key=lambda entry: entry.night.taken_at)

    def _own(self, since: datetime | None, wanted: set[str]) -> list[SnapshotView]:
        """Snapshots of this source by this writer, the newest first: not all, but a limited number is read.

        Args:
            since: none older than this is wanted.
            wanted: sessions; once all are found nothing more is read. Empty for all.
        """
        names = [info.name for info in self._repo.store.list(f"snapshots/{self._key.header.writer.hex()}/")]
        names = [name for name in reversed(names) if kind_of(name)][:_READ]
        found: list[SnapshotView] = []
        with ThreadPoolExecutor(8) as pool:
            for at in range(0, len(names), _BATCH):
                views = [view for view in pool.map(self._view, names[at : at + _BATCH]) if view is not None]
                found += [view for view in views if view.source == self._source and view.structure.kind == "snapshot"]
                enough = len(found) > _WANTED or (wanted and wanted <= {_session(view) for view in found})
                if enough or (since and views and parse_stamp(views[-1].structure.taken_at) < since):
                    break
        return found

    def _view(self, name: str) -> SnapshotView | None:
        """A snapshot that can be believed and has a time; others teach nothing."""
        try:
            view = self._repo.view(read_object(self._repo.store, name), name)
            parse_stamp(view.structure.taken_at)
        except (IntegrityError, MissingRight, ValueError, OverflowError):
            return None
        return view

    def _tell(self, entry: Entry, alarms: Sequence[Alarm], memory: _Memory, now: datetime) -> "tuple[list[Told], bool]":
        """Set the brake and say so; whether it is done."""
        from backupd.jobs.brake import BrakeSetter, Told

        key, snapshot = self._key, entry.snapshot or ""
        records: dict[str, str] = {}
        failed: str | None = None
        try:
            signer = Signer(Role.WRITE, key.header.id, key.secrets["sign"])
            setter = BrakeSetter(self._repo, signer, key.header.writer, self._source)
            records = setter.set(alarms, snapshot, now)
        except BackupdError as error:
            failed = error.message
        told = []
        for alarm in alarms:
            if failed is None and alarm.kind not in records:
                continue  # a person has released it
            name = memory.names.get(alarm.table or "", (None, ""))[0]
            told.append(Told(alarm.kind, alarm.sentence(), snapshot, name, records.get(alarm.kind)))
        if told:
            self._warn(told, failed)
        return told, failed is None

    def _warn(self, told: "Sequence[Told]", failed: str | None) -> None:
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        what = f"sudden change in {self._source}: {told[0].reason}{more}"
        if failed is not None:
            self._report.warning(
                f"{what}. THE BRAKE COULD NOT BE SET ({failed}): do not prune this source; the next run tries again"
            )
        else:
            self._report.warning(
                f"{what}. The brake is set: nothing of it is pruned until `backupctl brake release {self._source}`;"
                " find out first whether it was meant"
            )

    def _save(self, memory: _Memory) -> None:
        try:
            self._book.write(_encode(memory, self._max_age))
        except OSError as error:
            self._report.warning(
                f"the numbers of this night cannot be remembered ({error.strerror}): sudden changes are judged by totals alone"
            )


def _session(view: SnapshotView) -> str:
    return view.object.envelope.session.hex()


def _of_structure(structure: Structure) -> Night:
    """What a snapshot tells of its night."""
    night = Night(
        parse_stamp(structure.taken_at), structure.rows, structure.read_bytes, structure.stored_bytes, structure.chunks
    )
    return night if night.full_share < 0.5 else replace(night, cause=_UNKNOWN)


# ---- as JSON


def _thinned(entries: Iterable[Entry]) -> list[Entry]:
    """All of the last days, one of each older day, and nothing that is too old."""
    ordered = sorted(entries, key=lambda entry: entry.night.taken_at)
    if not ordered:
        return []
    newest = ordered[-1].night.taken_at
    days: dict[object, Entry] = {}
    for entry in ordered:
        taken = entry.night.taken_at
        if newest - taken <= _KEPT:
            days[taken.date() if newest - taken > _EACH else taken, 0 if newest - taken > _EACH else entry.session] = (
                entry
            )
    kept = list(days.values())[-_MOST_NIGHTS:]
    while len(kept) > 1 and sum(len(entry.night.tables or ()) for entry in kept) > _MOST_COUNTS:
        kept = kept[len(kept) // 8 + 1 :]
    return kept


def _encode(memory: _Memory, max_age: timedelta) -> dict[str, Any]:
    nights = memory.nights = _thinned(memory.nights)
    newest = max((e.night.taken_at for e in [*nights, *memory.waiting]), default=None)
    if newest is not None:
        names = {label: said for label, said in memory.names.items() if newest - parse_stamp(said[1]) <= max_age}
        memory.names = names
    return {
        "nights": [_as_json(entry) for entry in nights],
        "waiting": [_as_json(entry) for entry in memory.waiting[-_MOST_NIGHTS:]],
        "names": {label: list(said) for label, said in memory.names.items()},
        "program": memory.program,
        "whole": memory.whole,
    }


def _as_json(entry: Entry) -> dict[str, Any]:
    night = entry.night
    return {
        "at": fine_stamp(night.taken_at),
        "session": entry.session,
        "snapshot": entry.snapshot,
        "rows": night.rows,
        "read": night.read_bytes,
        "stored": night.stored_bytes,
        "chunks": dict(night.chunks),
        "tables": None if night.tables is None else dict(night.tables),
        "fresh": [night.fresh_plain, night.fresh_payload],
        "cause": night.cause,
    }


def _decode(document: dict[str, Any] | None) -> _Memory | None:
    """None for what cannot be read."""
    if document is None:
        return None
    try:
        names = {str(label): (str(name), str(at)) for label, (name, at) in document["names"].items()}
        nights, waiting = ([_from_json(entry) for entry in document[key]] for key in ("nights", "waiting"))
        return _Memory(nights, waiting, names, document["program"], document["whole"] is True)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _from_json(said: Mapping[str, Any]) -> Entry:
    plain, payload = said["fresh"]
    night = Night(
        parse_stamp(said["at"]),
        said["rows"],
        int(said["read"]),
        int(said["stored"]),
        {str(key): int(count) for key, count in said["chunks"].items()},
        said["tables"],
        int(plain),
        int(payload),
        said["cause"],
    )
    return Entry(night, str(said["session"]), said["snapshot"])
