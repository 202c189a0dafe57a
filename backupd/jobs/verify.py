"""Verify: is everything that the snapshots need still there, whole, and what it was?

Three levels, each including the ones before. `structure` (check right): signatures, chains, remembered heads, lists, and
that every needed pack is there. `bytes` (check right): every pack is read whole; its hash is its name, and what the lists say
is in it is in its footer. `content` (read right): every chunk is opened, decompressed, and its id recomputed. Never answers
from a cache, collects problems instead of stopping at the first, and writes nothing but a record of bad packs.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from itertools import islice

from backupd.config.clock import stamp
from backupd.crypto.chunks import BLOB_OVERHEAD, ChunkHead, Kind
from backupd.crypto.envelope import parse_envelope
from backupd.crypto.keyfile import Role
from backupd.errors import BackupdError, IntegrityError, MissingObject
from backupd.jobs.appending import append_record
from backupd.jobs.restore import joined, open_content
from backupd.jobs.rowcheck import check_rows, check_tables
from backupd.repo.codecs import RAW, ZSTD, decode
from backupd.repo.format import Cursor, check_frame, kind_of, pack_name, split_signed
from backupd.repo.indexing import read_segment, session_segments
from backupd.repo.needs import Need, Needs
from backupd.repo.nodes import ChunkRef
from backupd.repo.pack import Pack, PackEntry, parse_pack
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.records import decode_mark, record_name
from backupd.repo.repository import Repository, SnapshotView, gaps, read_object
from backupd.repo.rowdigest import RowDigest
from backupd.repo.trees import walk
from backupd.report import Problem, Reporter, Tally
from backupd.store.base import ObjectInfo


class Level(IntEnum):
    """How deep to look."""

    STRUCTURE = 1
    BYTES = 2
    CONTENT = 3


@dataclass(slots=True)
class VerifyResult:
    """What was checked and what was found."""

    snapshots: int = 0
    packs: int = 0
    chunks: int = 0
    size: int = 0
    problems: list[Problem] = field(default_factory=list)
    heads: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    bad_packs: set[str] = field(default_factory=set)
    whole_packs: set[str] = field(default_factory=set)


class _Verify:
    """One verification under way."""

    def __init__(self, repo: Repository, level: Level, sample: float, report: Reporter) -> None:
        self.repo, self.level, self.sample, self.report = repo, level, sample, report
        self.result = VerifyResult()
        self.needs = Needs()
        self.cache = PackCache(repo)
        self.reader = ChunkReader(repo, self.cache)

    def found(self, name: str, kind: str, detail: str) -> None:
        problem = Problem(name, kind, detail)
        if problem not in self.result.problems:
            self.result.problems.append(problem)
            self.report.problem(problem)

    def failed(self, name: str, error: BackupdError) -> None:
        kind = "missing" if isinstance(error, MissingObject) else "damaged"
        culprit = error.object_name or name
        if culprit.startswith("packs/"):
            self.result.bad_packs.add(culprit)
        self.found(culprit, kind, error.message)

    def close(self) -> None:
        self.cache.close()
        self.needs.close()

    # ---- structure

    def objects(self) -> None:
        """Objects that are neither packs nor snapshots, and names that do not belong here."""
        for name in self.repo.store.strangers():
            self.report.warning(f"{name} is no object of this repository; it is left alone")
        for info in self.repo.store.list():
            kind = kind_of(info.name)
            if kind is None and not info.name.startswith(("snapshots/", "records/", "probe/")):
                self.report.warning(f"{info.name} is no object of this repository; it is left alone")
            try:
                self._object(info.name)
            except IntegrityError as error:
                self.failed(info.name, error)
        for _ in self.repo.records(lambda p: self.found(p.object, p.kind, p.detail)):
            pass
        self._record_gaps()

    def _record_gaps(self) -> None:
        """Records are numbered without gaps for each role, and a number seen once stays."""
        there: dict[str, set[int]] = {}
        for info in self.repo.store.list("records/"):
            if kind_of(info.name):
                _, role, n = info.name.split("/")
                there.setdefault(role, set()).add(int(n))
        for role, newest in self.repo.ledger.records.items():
            there.setdefault(role, set())
            self._gaps(role, there[role], newest)
        for role, numbers in there.items():
            self._gaps(role, numbers, max(numbers, default=0))
            self.result.records[role] = max(numbers, default=0)

    def _gaps(self, role: str, numbers: set[int], newest: int) -> None:
        for first, last in gaps(numbers, newest):
            what = f"records {first} to {last} are" if last > first else "a record is"
            self.found(record_name(Role(role), first), "missing", f"{what} missing; records are never removed")

    def sessions(self, views: list[SnapshotView]) -> None:
        """The session object and the index segments of every snapshot are there."""
        there = {info.name for prefix in ("sessions/", "index/") for info in self.repo.store.list(prefix)}
        for view in views:
            writer, session = view.object.writer, view.object.envelope.session
            segments = session_segments(view)
            for name in [f"sessions/{writer.hex()}/{session.hex()}", *segments]:
                if name not in there:
                    self.found(name, "missing", f"belongs to snapshot {view.id[:12]}")
            for name in there & segments.keys():
                self._try(name, lambda name=name, digest=segments[name]: read_segment(self.repo, name, None, digest))  # type: ignore[misc]

    def _object(self, name: str) -> None:
        if kind_of(name) is None:
            return
        if name.startswith("index/"):
            read_segment(self.repo, name)
        elif name.startswith("sessions/"):
            check_session(self.repo, name)
        elif name.startswith("gc/"):
            decode_mark(read_object(self.repo.store, name), name, self.repo.trust, revoked=True)

    def _try(self, name: str, work: Callable[[], object]) -> None:
        try:
            work()
        except IntegrityError as error:
            self.failed(name, error)

    def lists(self, views: list[SnapshotView]) -> None:
        """Walk the lists of the snapshots; what is shared between them is walked once."""
        self.report.phase("reading lists", None)
        for view in views:
            self.result.snapshots += 1
            for root in view.structure.streams:
                try:
                    for ref in walk(root.top, root.kind, self._load, self.needs.seen_node, totals=root.totals):
                        self.needs.add(ref, root.kind, view.id)
                except IntegrityError as error:
                    self.failed(view.object.name, error)

    def _load(self, ref: ChunkRef) -> bytes:
        self.needs.add(ref, Kind.STRUCTURE, "")
        return self.reader.read(ref, Kind.STRUCTURE)

    def presence(self) -> dict[bytes, ObjectInfo]:
        """Every needed pack is there; returns all packs that are."""
        there = {bytes.fromhex(i.name[9:]): i for i in self.repo.store.list("packs/") if kind_of(i.name) is not None}
        for pack, snapshot in self.needs.packs():
            if pack not in there:
                self.result.bad_packs.add(pack_name(pack))
                self.found(pack_name(pack), "missing", f"needed by snapshot {snapshot[:12] or 'lists'}")
        totals = self.needs.totals()
        self.result.packs, self.result.chunks, self.result.size = len(there), totals.chunks, totals.bytes
        return there

    # ---- bytes and content

    def packs(self, there: dict[bytes, ObjectInfo]) -> None:
        """Read packs whole, a few at once."""
        names = sorted(there)
        if self.sample < 100 and names:
            count = max(1, round(len(names) * self.sample / 100))
            # those known to be bad come along: that nothing is found must not mean that nobody looked there
            known = self.repo.bad_packs(Tally())
            bad = {digest for digest in names if pack_name(digest) in known}
            names = sorted(bad.union(random.SystemRandom().sample(names, count)))
        self.report.phase("reading packs", sum(there[n].size for n in names))
        self.result.packs, self.result.chunks, self.result.size = len(names), 0, 0
        waiting = iter(names)
        with ThreadPoolExecutor(2, thread_name_prefix="verify") as pool:
            while batch := list(islice(waiting, 4)):
                needs = [self.needs.of_pack(digest) for digest in batch]
                for digest, (count, problems) in zip(batch, pool.map(self._pack, batch, needs), strict=True):
                    self.result.chunks += count
                    if not problems:
                        self.result.whole_packs.add(pack_name(digest))
                    for problem in problems:
                        self.result.bad_packs.add(problem.object)
                        self.found(problem.object, problem.kind, problem.detail)
                for digest in batch:
                    self.result.size += there[digest].size
                    self.report.advance(there[digest].size)

    def _pack(self, digest: bytes, needs: list[Need]) -> tuple[int, list[Problem]]:
        name = pack_name(digest)
        try:
            pack = parse_pack(read_object(self.repo.store, name), name, self.repo.id)
            entries = pack.read_entries(self.repo.structure_key(pack.envelope, name))
        except IntegrityError as error:
            kind = "missing" if isinstance(error, MissingObject) else "damaged"
            return 0, [Problem(name, kind, error.message)]
        listed = {
            (e.offset, e.kind, e.id, e.payload_length, e.plain_length, e.codec, b"".join(e.bases)) for e in entries
        }
        problems = [
            Problem(name, "lists", f"snapshot {need.snapshot[:12]} needs a chunk that this pack does not hold")
            for need in needs
            if (need.offset, need.kind, need.id, need.payload_length, need.plain_length, need.codec, need.bases)
            not in listed
        ]
        for entry in entries:
            try:
                self._entry(pack, entry)
            except IntegrityError as error:
                problems.append(Problem(name, "damaged", f"a chunk at {entry.offset} does not open: {error.message}"))
        return len(entries), problems

    def _entry(self, pack: Pack, entry: PackEntry) -> None:
        """Open one blob as far as the level and the keys allow; deltas are read through the lists that name their bases."""
        if self.level < Level.CONTENT and entry.kind is not Kind.STRUCTURE:
            return
        sealer, namer = self.reader.opener(pack, entry.kind)
        head = ChunkHead(
            self.repo.id, entry.kind, entry.codec, entry.id, entry.payload_length, entry.plain_length, entry.bases
        )
        payload = sealer.open(head, pack.data[entry.offset : entry.offset + entry.payload_length + BLOB_OVERHEAD])
        if entry.codec in {RAW, ZSTD}:
            namer.check(entry.id, decode(entry.codec, payload, entry.plain_length, ()))

    def contents(self, views: list[SnapshotView], only: SnapshotView | None) -> None:
        """Open every snapshot's content part, every delta through its chain, and the newest streams as a restore would.

        Each chunk was opened by itself already; what remains is a writer that lied about the whole. That is looked for
        in the newest snapshot of each source, or in the one that was asked for.
        """
        newest = {(v.object.writer, v.source): v for v in views}
        for view in [only] if only else newest.values():
            self._try(view.object.name, lambda view=view: self._whole(view))  # type: ignore[misc]
        for view in views:
            try:
                open_content(self.repo, view)
            except IntegrityError as error:
                self.failed(view.object.name, error)
            for root in view.structure.streams:
                reader = ChunkReader(self.repo, self.cache, view.object.envelope)
                for ref in self._refs(view, root.top, root.kind):
                    if ref.bases:
                        try:
                            reader.read(ref, root.kind)
                        except IntegrityError as error:
                            self.failed(view.object.name, error)

    def _whole(self, view: SnapshotView) -> None:
        content = open_content(self.repo, view)
        tables: dict[str, RowDigest] = {}
        reader = ChunkReader(self.repo, self.cache, view.object.envelope)
        self.report.phase(f"reading {view.source} as a whole", view.structure.read_bytes)
        id_key = self.repo.keyring.session(view.object.envelope).id_key
        for root, stream in zip(view.structure.streams, content["streams"], strict=True):
            if root.kind is Kind.ROWS:
                rows = joined(root, reader, self.cache, None, self.report)
                tables.setdefault(stream["name"], RowDigest()).merge(check_rows(root, stream, reader, rows, id_key))
                continue
            for _ in joined(root, reader, self.cache, stream["digest"], self.report):
                pass
        check_tables(content["tables"], tables)

    def _refs(self, view: SnapshotView, top: bytes, kind: Kind) -> Iterator[ChunkRef]:
        try:
            yield from walk(top, kind, self.reader.node_loader(), lambda ref: self.needs.seen_node(ref, b"content"))
        except IntegrityError as error:
            self.failed(view.object.name, error)


def check_session(repo: Repository, name: str) -> None:
    """Check a session object.

    Raises:
        IntegrityError: damaged or forged.
    """
    data = read_object(repo.store, name)
    check_frame(data, name, repo.id)
    signed = split_signed(name, data)
    cursor = Cursor(signed.body, name)
    envelope = parse_envelope(cursor.block())
    entry = repo.trust.writer_entry(envelope.writer, signed.signer())
    if entry is None or name != f"sessions/{envelope.writer.hex()}/{envelope.session.hex()}":
        raise IntegrityError(f"{name} is signed by a key that is no writer of this repository", object_name=name)
    signed.verify(entry.id, entry.public)


def verify(
    repo: Repository,
    level: Level,
    *,
    only: SnapshotView | None = None,
    sample: float = 100.0,
    now: datetime,
    report: Reporter,
) -> VerifyResult:
    """Verify the repository, or what one snapshot needs.

    Args:
        repo: opened with the check right, with the read right for CONTENT.
        level: how deep.
        only: one snapshot instead of everything.
        sample: per cent of the packs that are read, chosen at random; those known to be bad are always read.
        now: the time, for the record of bad packs.
        report: progress and problems.

    Returns:
        What was checked; problems are in it, never raised.
    """
    work = _Verify(repo, level, sample, report)
    try:
        history = repo.history()
        for problem in history.problems:
            if only is None or problem.object == only.object.name:
                work.found(problem.object, problem.kind, problem.detail)
        work.result.heads = history.heads
        if only is None:
            work.objects()
        views = [v for v in history.views if only is None or v.id == only.id]
        work.sessions(views)
        work.lists(views)
        there = work.presence()
        if level >= Level.BYTES:
            if only is not None:
                needed = {pack for pack, _ in work.needs.packs()}
                there = {digest: info for digest, info in there.items() if digest in needed}
            work.packs(there)
        if level >= Level.CONTENT:
            work.contents(views, only)
        _give_verdicts(repo, work.result, now, report)
        return work.result
    finally:
        work.close()


def _give_verdicts(repo: Repository, result: VerifyResult, now: datetime, report: Reporter) -> None:
    """Write signed records of packs found bad, so that the next run stores anew what they held, and of those found whole
    again."""
    known = repo.bad_packs(Tally())
    verdicts = {"bad-packs": sorted(result.bad_packs - known), "good-packs": sorted(known & result.whole_packs)}
    signer = repo.keyring.signer([Role.CHECK, Role.PRUNE, Role.READ, Role.RECOVERY])
    for kind, packs in verdicts.items():
        if packs and signer is not None:
            try:
                append_record(repo, signer, {"type": kind, "created": stamp(now), "packs": packs})
            except BackupdError as error:
                report.warning(
                    f"the verdict on {len(packs)} packs could not be recorded for the next run: {error.message}"
                )
