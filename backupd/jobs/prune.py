"""Forgets snapshots by rule or by name, and collects what nothing needs any more.

The order is the promise: a signed record first, then the snapshot objects, then marks; and nothing is deleted but what a
mark has named for longer than any session may last. Whatever is cut off is taken up by the next prune.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from backupd.config.clock import parse_stamp, stamp
from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Right, Signer
from backupd.errors import IntegrityError, MissingRight, SafetyRefused, StorageRefused
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.verify import append_record
from backupd.policy.retention import Candidate, Rule, Verdict, plan
from backupd.repo.format import kind_of, pack_name, snapshot_name
from backupd.repo.garbage import Generation, mark, open_generations, over, server_now, sweep
from backupd.repo.indexing import read_segment
from backupd.repo.needs import Needs
from backupd.repo.nodes import ChunkRef
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.records import Record
from backupd.repo.repository import History, Repository, SnapshotView
from backupd.repo.trees import walk
from backupd.report import Problem, Reporter
from backupd.store.base import ObjectInfo

_NEWEST = "the newest of its writer, whose numbers go on from it"
_A_RECORD = 1000
_READERS = 8
_STRUCTURE = Kind.STRUCTURE


@dataclass(slots=True)
class PruneResult:
    """What a prune did, or would do.

    Attributes:
        verdicts: for each snapshot.
        freed: bytes that are gone from the storage.
        pending: bytes of packs that are marked and wait; `pending_packs` how many, `until` when the first of them may go.
        refused: objects that the storage did not let go: they are locked there.
    """

    verdicts: list[Verdict]
    freed: int = 0
    pending: int = 0
    pending_packs: int = 0
    until: datetime | None = None
    refused: list[str] = field(default_factory=list)


def candidates(
    views: Sequence[SnapshotView], held: Mapping[str, Sequence[str]], drilled: frozenset[str] = frozenset()
) -> list[Candidate]:
    """The snapshots as a retention rule sees them; `held` are the reasons for which some are."""
    newest: dict[bytes, int] = {}
    for view in views:
        newest[view.object.writer] = max(view.object.seq, newest.get(view.object.writer, 0))
    return [
        Candidate(
            view.id,
            (view.writer_label, view.object.writer.hex(), view.source),
            parse_stamp(view.structure.stored_at),
            view.object.seq,
            tuple(held.get(view.id, ())),
            view.id in drilled,
            view.structure.kind == "checkpoint",
            _NEWEST if view.object.seq == newest[view.object.writer] else None,
        )
        for view in views
    ]


def drilled_snapshots(records: Iterable[Record]) -> frozenset[str]:
    """Ids of the snapshots of which evidence says that a drill restored them."""
    return frozenset(
        str(r.document.get("snapshot")) for r in records if r.type == "evidence" and r.document.get("passed") is True
    )


class Prune:
    """One prune.

    Args:
        repo: opened with the prune right.
        now: this machine's time, for records.
        report: progress, problems.
        dry_run: change nothing.
        accept_damage: go on although snapshots are damaged or missing: what only they need is removed.
    """

    def __init__(
        self, repo: Repository, now: datetime, report: Reporter, *, dry_run: bool = False, accept_damage: bool = False
    ) -> None:
        self._repo, self._now, self._report, self._dry = repo, now, report, dry_run
        signer = repo.keyring.signer([Role.PRUNE, Role.ROOT])
        if signer is None:
            raise MissingRight("this needs the prune right", hint=f"name {Right.PRUNE.value[0]}.key with --key")
        self._signer: Signer = signer
        # the wait after a mark is measured by the storage's clock, and the listings come after this reading of it
        self._at = now if dry_run else server_now(repo.store)
        self._history = repo.history()
        self._records = list(repo.records(report.problem))
        self._check(accept_damage)
        self.result = PruneResult([])
        self._gone: list[SnapshotView] = []

    def _check(self, accept_damage: bool) -> None:
        """What is needed must be known before anything may go."""
        history = self._history
        if history.hidden:
            raise MissingRight(
                f"{history.hidden} snapshots cannot be opened with the keys at hand: what they need is not known"
            )
        bad = [problem for problem in history.problems if problem.kind != "unknown"]
        for problem in bad:
            self._report.problem(problem)
        if bad and not accept_damage:
            first = bad[0]
            raise IntegrityError(
                f"{first.object}: {first.detail}; nothing is removed while it is not known what is needed",
                object_name=first.object,
                hint="find out why (`backupctl verify`); --accept-damage removes what only such snapshots need",
            )

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
        views = [view for view in self._history.views if sources(view)]
        everything = candidates(self._history.views, self._holds(), drilled_snapshots(self._records))
        wanted = {view.id for view in views}
        self.result.verdicts = plan([c for c in everything if c.id in wanted], rule, self._at, zone)
        self._forget([v.snapshot.id for v in self.result.verdicts if not v.keep], str(rule))
        return self._collect()

    def by_name(self, view: SnapshotView, reason: str) -> PruneResult:
        """Forget one snapshot.

        Raises:
            SafetyRefused: it is held, or the newest of its writer.
        """
        (chosen,) = [c for c in candidates(self._history.views, self._holds()) if c.id == view.id]
        if chosen.holds:
            raise SafetyRefused(
                f"snapshot {view.id[:12]} is held: {chosen.holds[0]}",
                object_name=view.id,
                hint="`backupctl hold release` first, if whoever holds it agrees",
            )
        if chosen.pinned:
            raise SafetyRefused(
                f"snapshot {view.id[:12]} is {chosen.pinned}", object_name=view.id, hint="take another one first"
            )
        self.result.verdicts = [Verdict(chosen)]
        self._forget([view.id], reason)
        return self._collect()

    def _holds(self) -> dict[str, list[str]]:
        return holds_by_snapshot(self._history.views, self._records)

    # ---- snapshots

    def _forget(self, ids: Sequence[str], rule: str) -> None:
        """Sign for the snapshots that go, then remove their objects, and those that an earlier prune has signed for."""
        going = {view.id: view for view in self._history.views if view.id in set(ids)}
        self._gone = chosen = [going[i] for i in ids]
        self._history.views = [view for view in self._history.views if view.id not in going]
        if self._dry:
            return
        for at in range(0, len(chosen), _A_RECORD):
            listed = [
                {
                    "writer": view.object.writer.hex(),
                    "seq": view.object.seq,
                    "hash": view.id,
                    "previous": view.structure.previous.hex() if view.structure.previous else None,
                }
                for view in chosen[at : at + _A_RECORD]
            ]
            document = {"type": "prune", "created": stamp(self._now), "snapshots": listed, "rule": rule}
            append_record(self._repo, self._signer, document)
        there = {info.name: info.size for info in self._repo.store.list("snapshots/")}
        signed = {snapshot_name(*key) for key in self._repo.pruned()}
        for name in sorted(signed & there.keys()):
            self._delete(name, there[name])

    def _delete(self, name: str, size: int) -> None:
        try:
            self._repo.store.delete(name)
            self.result.freed += size
        except StorageRefused:
            self.result.refused.append(name)

    # ---- what they needed

    def _collect(self) -> PruneResult:
        """Sweep what has waited long enough, mark what nothing needs, and drop sessions of which nothing is left."""
        packs = {info.name: info for info in self._repo.store.list("packs/") if kind_of(info.name)}
        live, forgotten = self._needed()
        grace = timedelta(hours=self._repo.trust.policy.grace_hours)
        waiting: list[Generation] = []
        for generation in open_generations(self._repo):
            if self._dry or not over(generation, self._at, grace):
                waiting.append(generation)
                continue
            self._sweep(generation, live, packs)
        marked = frozenset().union(*(generation.packs for generation in waiting))
        unneeded = packs.keys() - live
        # a pack that is young may belong to a run that is under way
        idle = {n for n in unneeded - marked if n in forgotten or self._at - packs[n].modified >= grace}
        if idle and not self._dry:
            waiting += mark(self._repo, idle, stamp(self._now), self._signer)
        pending = unneeded & (marked | idle)
        self.result.pending = sum(packs[name].size for name in pending)
        self.result.pending_packs = len(pending)
        self.result.until = min((generation.marked_at + grace for generation in waiting), default=None)
        if not self._dry:
            self._drop_sessions(packs)
        return self.result

    def _sweep(self, generation: Generation, live: set[str], packs: dict[str, ObjectInfo]) -> None:
        sizes = {name: info.size for name, info in packs.items()}
        self._report.phase("removing packs", sum(sizes.get(name, 0) for name in generation.packs - live))
        done = sweep(
            self._repo, generation, live.__contains__, sizes, stamp(self._now), self._signer, self._report.advance
        )
        self.result.freed += done.freed
        self.result.refused += done.refused
        for name in done.deleted:
            del packs[name]

    def _needed(self) -> tuple[set[str], set[str]]:
        """Names of all packs that the snapshots need, and of those that only snapshots needed that go now.

        Raises:
            IntegrityError: a list cannot be read: what it names must not be taken for garbage.
        """
        needs, cache = Needs(), PackCache(self._repo)
        reader = ChunkReader(self._repo, cache)
        self._report.phase("reading lists", None)
        try:

            def load(ref: ChunkRef) -> bytes:
                needs.add(ref, _STRUCTURE, "")
                return reader.read(ref, _STRUCTURE)

            def visit(view: SnapshotView) -> None:
                for root in view.structure.streams:
                    for ref in walk(root.top, root.kind, load, needs.seen_node, totals=root.totals):
                        needs.add(ref, root.kind, view.id)

            for view in self._history.views:
                visit(view)
            live = {pack_name(pack) for pack, _ in needs.packs()}
            for view in self._gone:
                with contextlib.suppress(IntegrityError):  # then its packs go when they are old enough
                    visit(view)
            return live, {pack_name(pack) for pack, _ in needs.packs()} - live
        finally:
            cache.close()
            needs.close()

    # ---- sessions and their segments

    def _drop_sessions(self, packs: Mapping[str, ObjectInfo]) -> None:
        """Remove what is left of sessions whose snapshot went and of whose packs none is there."""
        repo, grace = self._repo, timedelta(hours=self._repo.trust.policy.grace_hours)
        alive = {f"{view.object.writer.hex()}/{view.object.envelope.session.hex()}" for view in self._history.views}
        segments: dict[str, dict[str, int]] = {}
        for info in repo.store.list("index/"):
            if kind_of(info.name):
                segments.setdefault(info.name[6:].rpartition("/")[0], {})[info.name] = info.size
        old = {
            info.name[9:]: info
            for info in repo.store.list("sessions/")
            if kind_of(info.name) and info.name[9:] not in alive and self._at - info.modified >= grace
        }
        with ThreadPoolExecutor(_READERS) as pool:
            names = [name for session in old for name in segments.get(session, {})]
            empty = {
                name
                for name, gone in zip(names, pool.map(lambda n: self._is_empty(n, packs), names), strict=True)
                if gone
            }
        for session, info in old.items():
            sizes = segments.get(session, {})
            for name in sorted(sizes.keys() & empty):
                self._delete(name, sizes[name])
            if sizes.keys() <= empty:
                self._delete(info.name, info.size)

    def _is_empty(self, name: str, packs: Mapping[str, ObjectInfo]) -> bool:
        """Whether none of the packs that a segment lists is there; one that cannot be read is left alone."""
        try:
            return not any(pack_name(pack.digest) in packs for pack in read_segment(self._repo, name))
        except IntegrityError as error:
            self._report.problem(Problem(name, "damaged", error.message))
            return False
