"""Forgets snapshots by rule or by name, and collects what nothing needs any more.

The order is the promise: first everything that may be said against it, then a signed record, then the snapshot objects, then
marks; and nothing is deleted but what a mark has named for longer than any session may last. Whatever is cut off is taken up
by the next prune. While anything of the history, the records or what is kept cannot be believed, nothing goes.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

from backupd.config.clock import parse_stamp, stamp
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Right, Signer
from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError, KeyProblem, MissingRight, SafetyRefused, StorageRefused, TryAgain
from backupd.jobs.appending import append_record
from backupd.jobs.drillrecords import is_evidence
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.leavings import Leavings
from backupd.jobs.locks import Locked, Locks
from backupd.jobs.needed import packs_needed
from backupd.jobs.recordchain import record_problems
from backupd.policy.retention import Candidate, Rule, Verdict, plan
from backupd.repo.brakes import Brake, brakes_set
from backupd.repo.format import kind_of, snapshot_name
from backupd.repo.garbage import Collector, Generation, over, server_now
from backupd.repo.incidents import is_step, orphans
from backupd.repo.recordfacts import packs_found_bad, pruned_snapshots
from backupd.repo.records import Record
from backupd.repo.repository import (
    History,
    Repository,
    SnapshotView,
    read_object,
)
from backupd.report import Problem, Reporter
from backupd.store.base import Lockable, ObjectInfo, ObjectStore

_NEWEST = "the newest of its writer, whose numbers go on from it"
_MOVED = "when it was stored is not when it says: a copy, or a forgery"
_SLACK = timedelta(hours=2)
_A_RECORD = 1000


@dataclass(slots=True)
class PruneResult:
    """What a prune did, or would do.

    Attributes:
        verdicts: for each snapshot.
        freed: bytes that are gone from the storage.
        pending: bytes of packs that are marked and wait; `pending_packs` how many, `until` when the first of them may go.
        refused: objects that the storage did not let go: they are locked there.
        locks: of what the newest snapshots need; None if none were asked for.
    """

    verdicts: list[Verdict]
    freed: int = 0
    pending: int = 0
    pending_packs: int = 0
    until: datetime | None = None
    refused: list[str] = field(default_factory=list)
    locks: Locked | None = None


def candidates(
    views: Sequence[SnapshotView],
    held: Mapping[str, Sequence[str]],
    drilled: frozenset[str],
    stored: Mapping[str, datetime],
    longest: timedelta,
    brakes: Sequence[Brake] = (),
) -> list[Candidate]:
    """The snapshots as a retention rule sees them.

    When a snapshot was stored the storage says, and its writer: if the two are further apart than a session may last, it is kept
    and takes no other's place.

    Args:
        views: all snapshots.
        held: the reasons for which some are.
        drilled: ids of those that a drill proved.
        stored: of each object's name, when the storage says that it was written; empty to believe the writers.
        longest: how long a session may last.
        brakes: those in force: nothing of their sources goes.
    """
    reasons = {(brake.writer, brake.source): brake.reason for brake in brakes}
    newest: dict[bytes, int] = {}
    for view in views:
        newest[view.object.writer] = max(view.object.seq, newest.get(view.object.writer, 0))
    found = []
    for view in views:
        said = _said(view)
        at = stored.get(view.object.name, said)
        honest = said is not None and at is not None and -_SLACK <= at - said <= longest + _SLACK
        pinned = _NEWEST if view.object.seq == newest[view.object.writer] else None if honest else _MOVED
        found.append(
            Candidate(
                view.id,
                (view.writer_label, view.object.writer.hex(), view.source),
                (at if honest else said) or at or datetime.min.replace(tzinfo=UTC),
                view.object.seq,
                tuple(held.get(view.id, ())),
                view.id in drilled,
                view.structure.kind == "checkpoint",
                pinned,
                honest,
                reasons.get((view.object.writer, view.source)),
            )
        )
    return found


def all_candidates(
    repo: Repository, views: Sequence[SnapshotView], records: Sequence[Record], *, copied: bool = False
) -> list[Candidate]:
    """Every snapshot of a repository as a retention rule sees it; in a copy, by the writers' times."""
    stored = {} if copied else {info.name: info.modified for info in repo.store.list("snapshots/")}
    longest = timedelta(hours=repo.trust.policy.max_session_hours)
    held, drilled = holds_by_snapshot(views, records), drilled_snapshots(records)
    return candidates(views, held, drilled, stored, longest, brakes_set(records)[0])


def _said(view: SnapshotView) -> datetime | None:
    """When the storage made it, as its writer signed; None if that is no time of this world."""
    try:
        said = parse_stamp(view.structure.stored_at)
    except (ValueError, OverflowError):
        return None
    return said if 1970 < said.year < 9000 else None


def drilled_snapshots(records: Iterable[Record]) -> frozenset[str]:
    """Ids of the snapshots of which evidence says that a drill restored them."""
    return frozenset(str(record.document.get("snapshot")) for record in records if is_evidence(record))


class Prune:
    """One prune.

    Args:
        repo: opened with the prune right.
        now: this machine's time, for records.
        report: progress, problems.
        dry_run: change nothing.
        accept_damage: go on although snapshots or records are damaged or missing: what only they need is removed, what only
            they hold goes.
        copied: believe the writers' times: in a copy of a repository the storage's own are those of the copying.
        cache: a folder for notes that spare the next prune some reading; None for none.

    Raises:
        MissingRight, KeyProblem: no key that may, or one that was revoked.
        SafetyRefused: trust has expired, or its policy lets sessions last longer than garbage waits.
        IntegrityError: something is damaged or missing.
    """

    def __init__(
        self,
        repo: Repository,
        now: datetime,
        report: Reporter,
        *,
        dry_run: bool = False,
        accept_damage: bool = False,
        copied: bool = False,
        cache: Path | None = None,
    ) -> None:
        self._repo, self._now, self._report, self._dry = repo, now, report, dry_run
        self._accept, self._cache = accept_damage, cache
        self._signer = _signer(repo)
        # the wait after a mark is measured by the storage's clock, and the listings come after this reading of it
        self._at = now if dry_run else server_now(repo.store)
        _check_policy(repo, self._at)
        self._problems: list[Problem] = []
        self._history = repo.history()
        self._records = self._history.records
        # what a revoked key signed counts for nothing, so nothing that is needed or held can be lost with it
        self._problems += [problem for problem in self._history.record_problems if problem.kind != "revoked"]
        self._hidden = self._history.hidden_records
        self._check()
        self._all = all_candidates(repo, self._history.views, self._records, copied=copied)
        self._collector = Collector(repo, stamp(now), self._signer, report)
        self.result = PruneResult([])
        self._gone: list[SnapshotView] = []

    def _check(self) -> None:
        """What is needed and what is held must be known before anything may go."""
        history = self._history
        if history.hidden:
            raise MissingRight(
                f"{history.hidden} snapshots cannot be opened with the keys at hand: what they need is not known"
            )
        if self._hidden and not self._accept:
            raise MissingRight(
                f"{len(self._hidden)} records cannot be opened with the keys at hand, the first is {self._hidden[0]}: one of"
                " them may be a hold or a brake",
                object_name=self._hidden[0],
                hint="a prune key opens what honest keys seal: find out who signed it (`backupctl audit verify`);"
                " --accept-damage goes on without what cannot be read",
            )
        self._problems += [_sealed(name) for name in self._hidden]
        self._problems += [problem for problem in history.problems if problem.kind != "unknown"]
        self._problems += record_problems(self._repo, self._records) + orphans(self._records, self._revoked())
        self._stop(self._problems)

    def _revoked(self) -> set[str]:
        """Records that count for nothing, because their key was revoked."""
        return {problem.object for problem in self._history.record_problems if problem.kind == "revoked"}

    def _stop(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            self._report.problem(problem)
        if problems and not self._accept:
            first = problems[0]
            raise IntegrityError(
                f"{first.object}: {first.detail}; nothing is removed while it is not known what is needed",
                object_name=first.object,
                hint="find out why (`backupctl verify`); --accept-damage goes on without what cannot be read",
            )

    @property
    def store(self) -> ObjectStore:
        """Where the repository is."""
        return self._repo.store

    @property
    def history(self) -> History:
        """All snapshots."""
        return self._history

    def by_rule(self, rule: Rule, sources: Callable[[SnapshotView], bool], zone: tzinfo = UTC) -> PruneResult:
        """Forget what a rule does not keep, of the sources it is for, and collect.

        Args:
            rule: what to keep.
            sources: whether the rule is for the source of a snapshot.
            zone: in which hours, days and years begin.
        """
        wanted = {view.id for view in self._history.views if sources(view)}
        self.result.verdicts = plan([c for c in self._all if c.id in wanted], rule, self._at, zone)
        return self._forget([v.snapshot.id for v in self.result.verdicts if not v.keep], str(rule))

    def by_name(self, view: SnapshotView, reason: str) -> PruneResult:
        """Forget one snapshot.

        Raises:
            SafetyRefused: it is held, its source is braked, or it is the newest of its writer, or of its source that a drill
                proved.
        """
        (chosen,) = [c for c in self._all if c.id == view.id]
        if chosen.holds:
            raise SafetyRefused(
                f"snapshot {view.id[:12]} is held: {chosen.holds[0]}",
                object_name=view.id,
                hint="`backupctl hold release` first, if whoever holds it agrees",
            )
        if chosen.brake:
            raise SafetyRefused(
                f"snapshot {view.id[:12]} is of a source of which the brake is set: {chosen.brake}",
                object_name=view.id,
                hint=f"find out what happened there; `backupctl brake release {view.source}` lets its snapshots go again",
            )
        proven = [c for c in self._all if c.source == chosen.source and c.drilled]
        last = chosen.drilled and chosen == max(proven, key=lambda c: (c.stored_at, c.order))
        if last or chosen.pinned == _NEWEST:
            what = "the newest that a drill proved" if last else _NEWEST
            raise SafetyRefused(
                f"snapshot {view.id[:12]} is {what}", object_name=view.id, hint="take, or drill, another one first"
            )
        self.result.verdicts = [Verdict(chosen)]
        return self._forget([view.id], reason)

    def keep_locked(
        self, store: Lockable, promised: timedelta, mode: str, sources: Callable[[SnapshotView], bool]
    ) -> None:
        """Lock what the newest snapshots that stay need for as long as was promised; the result tells how that went."""
        locks = Locks(self._repo, store, promised, self._at, self._report)
        views = [view for view in self._history.views if sources(view)]
        self.result.locks = locks.look(views) if self._dry else locks.keep(views, mode)

    # ---- snapshots

    def _forget(self, ids: Sequence[str], rule: str) -> PruneResult:
        """See that what stays is whole; sign for what goes, remove it, and collect."""
        going = {view.id: view for view in self._history.views if view.id in set(ids)}
        self._gone = [going[i] for i in ids]
        self._history.views = [view for view in self._history.views if view.id not in going]
        packs = {info.name: info for info in self._repo.store.list("packs/") if kind_of(info.name)}
        self._report.phase("reading lists", None)
        live, forgotten = packs_needed(self._repo, self._history.views, self._gone)
        broken = [Problem(name, "missing", "a snapshot that stays needs it") for name in sorted(live - packs.keys())]
        bad = packs_found_bad(self._records) & live & packs.keys()
        broken += [
            Problem(name, "damaged", "it was found bad, and a snapshot that stays needs it") for name in sorted(bad)
        ]
        self._stop(broken)
        if not self._dry:
            self._hear()
            self._sign(rule)
            self._remove_signed()
        return self._collect(packs, live, forgotten)

    def _hear(self) -> None:
        """See that nobody set a brake or a hold since the records were read: lists of a long history take their time.

        Raises:
            TryAgain: somebody did; nothing was removed.
            IntegrityError: what came since cannot be believed.
        """
        if not self._gone:
            return
        read = {record.name for record in self._records} | {problem.object for problem in self._problems}
        read |= self._revoked()
        problems: list[Problem] = []
        for record in self._repo.records(problems.append, lambda name: problems.append(_sealed(name)), read):
            opens = is_step(record) and record.document["step"] == "open"
            if opens or record.type in {"brake", "hold"}:
                raise TryAgain(
                    f"{'an incident was opened' if opens else f'a {record.type} was set'} while this prune was at work;"
                    " nothing was removed",
                    object_name=record.name,
                    hint="run it again",
                )
        problems = [problem for problem in problems if problem.kind != "revoked"]
        self._problems += problems
        self._stop(problems)

    def _sign(self, rule: str) -> None:
        for at in range(0, len(self._gone), _A_RECORD):
            listed = [
                {
                    "writer": view.object.writer.hex(),
                    "seq": view.object.seq,
                    "hash": view.id,
                    "previous": view.structure.previous.hex() if view.structure.previous else None,
                }
                for view in self._gone[at : at + _A_RECORD]
            ]
            document = {"type": "prune", "created": stamp(self._now), "snapshots": listed, "rule": rule}
            append_record(self._repo, self._signer, document)

    def _remove_signed(self) -> None:
        """Remove the objects of this prune's snapshots, and of those that an earlier one has signed for."""
        there = {info.name: info.size for info in self._repo.store.list("snapshots/")}
        mine = {view.object.name for view in self._gone}
        signed = pruned_snapshots(self._records)
        signed |= {(view.object.writer, view.object.seq): view.object.id for view in self._gone}
        for key, digest in sorted(signed.items()):
            name = snapshot_name(*key)
            if name not in there:
                continue
            if name not in mine and sha256(read_object(self._repo.store, name)) != digest:
                self._report.problem(Problem(name, "forked", "another snapshot of this number was pruned; it stays"))
                continue
            self._delete(name, there[name])

    def _delete(self, name: str, size: int) -> None:
        try:
            self._repo.store.delete(name)
            self.result.freed += size
        except StorageRefused:
            self.result.refused.append(name)

    # ---- what they needed

    def _collect(self, packs: dict[str, ObjectInfo], live: set[str], forgotten: set[str]) -> PruneResult:
        """Sweep what has waited long enough, mark what nothing needs, and drop sessions of which nothing is left."""
        grace = timedelta(hours=self._repo.trust.policy.grace_hours)
        waiting: list[Generation] = []
        for generation in self._collector.open():
            if self._dry or not over(generation, self._at, grace):
                waiting.append(generation)
                continue
            self._sweep(generation, live, packs)
        marked = frozenset().union(*(generation.packs for generation in waiting))
        unneeded = packs.keys() - live
        # a pack that is young may belong to a run that is under way
        idle = {n for n in unneeded - marked if n in forgotten or self._at - packs[n].modified >= grace}
        if idle and not self._dry:
            waiting += self._collector.mark(idle)
        pending = unneeded & (marked | idle)
        self.result.pending = sum(packs[name].size for name in pending)
        self.result.pending_packs = len(pending)
        self.result.until = min((generation.marked_at + grace for generation in waiting), default=None)
        if not self._dry:
            Leavings(self._repo, packs, self._report, self._cache).drop(
                self._history.views, self._at, grace, self._delete
            )
            self._collector.tidy(self._at - 2 * grace)
            self._remember()
        return self.result

    def _sweep(self, generation: Generation, live: set[str], packs: dict[str, ObjectInfo]) -> None:
        sizes = {name: info.size for name, info in packs.items()}
        self._report.phase("removing packs", sum(sizes.get(name, 0) for name in generation.packs - live))
        done = self._collector.sweep(generation, live.__contains__, sizes, self._report.advance)
        self.result.freed += done.freed
        self.result.refused += done.refused
        for name in done.deleted:
            del packs[name]

    def _remember(self) -> None:
        """Keep what was seen, if nothing was wrong with it: so that the next prune here notices what was taken away."""
        if self._problems:
            return
        numbers: dict[str, int] = {}
        for info in self._repo.store.list("records/"):
            if kind_of(info.name):
                numbers[info.name.split("/")[1]] = int(info.name.split("/")[2])
        with contextlib.suppress(OSError):
            self._repo.ledger.remember(self._repo.trust.version, self._history.heads, records=numbers)


def _sealed(name: str) -> Problem:
    return Problem(name, "sealed", "no key at hand opens it, and it may be a hold or a brake")


def _signer(repo: Repository) -> Signer:
    """A key that may sign deletions, and is trusted.

    Raises:
        MissingRight, KeyProblem.
    """
    signer = repo.keyring.signer([Role.PRUNE, Role.ROOT])
    if signer is None:
        raise MissingRight("this needs the prune right", hint=f"name {Right.PRUNE.value[0]}.key with --key")
    known = repo.trust.signer_public(signer.id)
    if known is None or known[0] is not signer.role or repo.trust.last_record(signer.id):
        raise KeyProblem(
            f"this {signer.role} key is not trusted any more: the trust document does not name it, or revokes it",
            hint="use the key that stands in its place",
        )
    return signer


def _check_policy(repo: Repository, now: datetime) -> None:
    """Trust that is in force, and a wait that is longer than any session.

    Raises:
        SafetyRefused.
    """
    if repo.trust.expires and repo.trust.expires < stamp(now):
        raise SafetyRefused(
            f"the trust document expired on {repo.trust.expires}: nothing is removed on its word",
            hint="have it signed again with the root key",
        )
    policy = repo.trust.policy
    if policy.grace_hours < policy.max_session_hours + 1:
        raise SafetyRefused(
            f"garbage waits {policy.grace_hours} hours, and a session may last {policy.max_session_hours}: a run could lose"
            " what it leans on",
            hint="have the trust document's policy changed: grace_hours must be at least an hour more",
        )
