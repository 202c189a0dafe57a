"""A repository as its users see it: trust, the history of snapshots, and the keys that open them.

Everything read here is verified before it is believed: trust against the pin, snapshots against trust, and the history
against itself and against what this machine remembers. Nothing here writes; see `writing`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from backupd.crypto.envelope import Envelope
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring, Right, missing_right
from backupd.errors import IntegrityError, MissingObject, MissingRight, NoRepository
from backupd.repo.format import frame_repository, kind_of, snapshot_name, split_signed, trust_name
from backupd.repo.ledger import Ledger
from backupd.repo.near import NearCopies
from backupd.repo.recordfacts import packs_found_bad, pruned_before, pruned_snapshots, well_formed
from backupd.repo.records import Record, decode_mark, decode_record
from backupd.repo.snapshot import SnapshotObject, Structure, parse_snapshot
from backupd.repo.trust import Trust, decode_trust
from backupd.report import Problem, Reporter
from backupd.store.base import ObjectInfo, ObjectMissing, ObjectStore, ShortRead, StoreMissing

READ_THREADS = 8
MAX_SKIPPED = 100_000
_Found = TypeVar("_Found")


def repository_id(store: ObjectStore) -> bytes:
    """The id that the repository at this place claims: enough to choose keys by, not enough to trust.

    Raises:
        NoRepository: there is none.
        IntegrityError: the first trust document is damaged.
    """
    try:
        name = next((i.name for i in store.list("trust/") if kind_of(i.name) and i.name != trust_name(0)), None)
    except StoreMissing as error:
        raise NoRepository(error.message, object_name=store.url, hint=error.hint) from None
    if name is None:
        if next(store.list("snapshots/"), None) or next(store.list("packs/"), None):
            raise MissingObject(
                "the trust document is missing from the storage, though there are snapshots",
                object_name=trust_name(1),
                hint="bring it back from a copy of the repository or an older version in the storage",
            )
        raise NoRepository(
            f"there is no backupd repository at {store.url}",
            object_name=store.url,
            hint=f"make one with `backupctl init {store.url} --keys DIR`",
        )
    found = frame_repository(read_object(store, name))
    if found is None:
        raise IntegrityError(f"{name} is damaged", object_name=name)
    return found


def read_object(store: ObjectStore, name: str) -> bytes:
    """Read a whole object that must be there.

    Raises:
        MissingObject: it is not there.
        IntegrityError: it comes back cut.
    """
    try:
        return store.get(name)
    except ObjectMissing:
        raise MissingObject(f"{name} is missing from the storage", object_name=name) from None
    except ShortRead as error:
        raise IntegrityError(f"{name} cannot be read whole: {error.message}", object_name=name) from None


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A verified snapshot: the object and its opened structure part."""

    object: SnapshotObject
    structure: Structure
    writer_label: str

    @property
    def id(self) -> str:
        """The snapshot's id in hex."""
        return self.object.id.hex()

    @property
    def source(self) -> str:
        """The source's name within its writer."""
        return self.structure.source


_HIDDEN = "hidden"


@dataclass(slots=True)
class History:
    """All snapshots that verify, oldest first; what is wrong with the rest; how many the keys at hand do not open.

    `records` are those that were read to tell pruned snapshots from missing ones, after the snapshots were listed;
    `record_problems` what is wrong with others, `hidden_records` the names of those that the keys at hand do not open.
    """

    views: list[SnapshotView] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    heads: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    hidden: int = 0
    records: list[Record] = field(default_factory=list)
    record_problems: list[Problem] = field(default_factory=list)
    hidden_records: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Repository:
    """An opened repository. Reading only; safe for several threads.

    Attributes:
        near: copies of snapshots and records on this machine; None for who must see what the storage holds now.
    """

    store: ObjectStore
    keyring: Keyring
    trust: Trust
    ledger: Ledger
    near: NearCopies | None = field(default=None, repr=False)
    _read: dict[str, Record | str] = field(default_factory=dict, repr=False)
    """Records by name, so that each is fetched once: they are never changed. Of one that no key opens `_HIDDEN`."""

    @property
    def id(self) -> bytes:
        """The repository's id."""
        return self.trust.repository

    @classmethod
    def open(cls, store: ObjectStore, keyring: Keyring, ledger: Ledger, near: NearCopies | None = None) -> "Repository":
        """Verify trust from the pin up to the newest version.

        Raises:
            IntegrityError: trust is missing, forged, or older than what was seen before.
        """
        pin = keyring.pin
        there = {info.name for info in store.list("trust/")}
        version, trust = pin.trust, None
        while trust is None or trust_name(version) in there:
            data = read_object(store, trust_name(version))
            trust = decode_trust(data, version, pin.repository, trust, pin.root)
            version += 1
        later = sorted(name for name in there if name > trust_name(version) and kind_of(name))
        if later or trust.version < ledger.trust:
            newest = max(ledger.trust, int(later[-1].split("/")[1]) if later else 0)
            raise IntegrityError(
                f"the storage lacks a trust document: version {newest} was seen, {trust.version} is the newest whole one",
                object_name=trust_name(trust.version + 1),
                hint="somebody removed it or restored an old state of the storage; do not go on before you know who",
            )
        return cls(store, keyring, trust, ledger, near)

    def structure_key(self, envelope: Envelope, name: str | None = None) -> bytes:
        """The structure key that the envelope of the object `name` names.

        Raises:
            MissingRight: no key at hand leads to it.
            IntegrityError: there is no such key: the structure root leads to that of every writer and epoch.
        """
        key = self.keyring.structure_key(envelope.writer, envelope.epoch, envelope.structure_id)
        if key is not None:
            return key
        if any(k.role is not Role.WRITE for k in self.keyring.keys):
            raise IntegrityError(f"{name or 'it'} names a structure key that no writer has", object_name=name)
        raise missing_right(Right.CHECK, [k.role for k in self.keyring.keys])

    def verified(self, data: bytes, name: str) -> SnapshotObject:
        """Take a snapshot object apart and check that a writer of this repository signed it.

        Raises:
            IntegrityError: forged or damaged.
        """
        found = parse_snapshot(data, name, self.id)
        signer = found.signed.signer()
        entry = self.trust.writer_entry(found.writer, signer)
        if entry is None:
            raise IntegrityError(f"{name} is signed by a key that is no writer of this repository", object_name=name)
        found.signed.verify(signer, entry.public)
        if found.envelope.trust_version > self.trust.version:
            raise IntegrityError(
                f"{name} was made under trust version {found.envelope.trust_version}, the storage shows only "
                f"{self.trust.version}",
                object_name=name,
                hint="the storage was rolled back, or hides trust documents",
            )
        return found

    def view(self, data: bytes, name: str) -> SnapshotView:
        """Verify one snapshot object and open its structure part.

        Raises:
            IntegrityError: forged or damaged.
            MissingRight: no structure key for it (a write key opens its own epoch only).
        """
        found = self.verified(data, name)
        structure = found.structure(self.structure_key(found.envelope, name))
        return SnapshotView(found, structure, self.writer_label(found.writer))

    def writer_label(self, writer: bytes) -> str:
        """A writer's label for people, as far as the keys at hand open it."""
        return self.trust.label_of(writer, self.keyring.records_key)

    def history(self) -> History:
        """Read and verify every snapshot there is, and the chains between them; problems are collected, not raised."""
        history = History()
        listed = self._listed("snapshots/")
        with ThreadPoolExecutor(READ_THREADS) as pool:
            results = list(pool.map(self._try_view, listed))
        broken: set[tuple[str, int]] = set()
        for name, result in zip((info.name for info in listed), results, strict=True):
            if isinstance(result, SnapshotView):
                history.views.append(result)
                continue
            if kind_of(name):
                broken.add((name.split("/")[1], int(name.split("/")[2])))
            if result is None:
                history.hidden += 1
            else:
                history.problems.append(result)
        history.records = list(self.records(history.record_problems.append, history.hidden_records.append))
        self._check_chains(history, broken)
        history.views.sort(key=lambda v: (v.structure.taken_at, v.object.seq))
        return history

    def _listed(self, prefix: str) -> list[ObjectInfo]:
        listed = list(self.store.list(prefix))
        if self.near:
            self.near.keep(prefix, listed)
        return listed

    def _fetched(self, info: ObjectInfo, read: Callable[[bytes], _Found]) -> _Found:
        """What `read` makes of an object: of a copy of it, or of itself, of which a copy is kept once it is verified."""
        copy = self.near.get(info) if self.near else None
        if copy is not None:
            with suppress(IntegrityError):  # somebody else's copy: the storage is asked
                return read(copy)
        data = read_object(self.store, info.name)
        try:
            found = read(data)
        except MissingRight:
            self._keep(info, data)
            raise
        self._keep(info, data)
        return found

    def _keep(self, info: ObjectInfo, data: bytes) -> None:
        if self.near:
            self.near.put(info, data)

    def _try_view(self, info: ObjectInfo) -> "SnapshotView | Problem | None":
        name = info.name
        if not kind_of(name):
            return Problem(name, "unknown", "this name is not one of version 1")
        try:
            return self._fetched(info, lambda data: self.view(data, name))
        except IntegrityError as error:
            return Problem(name, "missing" if isinstance(error, MissingObject) else "damaged", error.message)
        except MissingRight:
            return None

    def _check_chains(self, history: History, broken: set[tuple[str, int]]) -> None:
        pruned, before = pruned_snapshots(history.records), pruned_before(history.records)
        gone = {snapshot_name(*key) for key in pruned}  # one that was listed, and removed before it was read
        history.problems = [p for p in history.problems if not (p.kind == "missing" and p.object in gone)]
        for writer in sorted({view.object.writer for view in history.views} | set(self.ledger.heads)):
            for view in [v for v in history.views if pruned.get((v.object.writer, v.object.seq)) == v.object.id]:
                history.views.remove(view)  # a prune that was cut off has signed for it, and the next one removes it
            chain = sorted((v for v in history.views if v.object.writer == writer), key=lambda v: v.object.seq)
            history.problems += list(_chain_problems(writer, chain, pruned, broken, self.ledger.heads.get(writer)))
            if chain:
                history.heads[writer] = (chain[-1].object.seq, chain[-1].object.id)
            revoked = {e.id: e.last_good for e in self.trust.writers if e.writer == writer and e.last_good}
            for view in _untrusted(chain, revoked, before):
                history.views.remove(view)
                history.problems.append(
                    Problem(
                        view.object.name, "revoked", "signed by a revoked writer key and not on its last good chain"
                    )
                )

    def pruned(self) -> dict[tuple[bytes, int], bytes]:
        """Writer and number of every snapshot that a prune has signed for, to its hash."""
        return pruned_snapshots(self.records(lambda _: None))

    def records(
        self,
        problem: Callable[[Problem], None],
        hidden: Callable[[str], None] = lambda _: None,
        known: Collection[str] = frozenset(),
    ) -> Iterator[Record]:
        """All records that verify.

        Args:
            problem: is told of the others.
            hidden: is told the names of those that the keys at hand do not open.
            known: names of those that were read before; they are left out.
        """
        found: dict[Role, list[Record]] = {}
        listed = [info for info in self._listed("records/") if info.name not in known]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for info, record in zip(listed, pool.map(self._record, listed), strict=True):
                if isinstance(record, Problem):
                    problem(record)
                elif isinstance(record, Record):
                    found.setdefault(record.role, []).append(record)
                elif record is _HIDDEN:
                    hidden(info.name)
        for chain in found.values():
            yield from self._unrevoked(chain, problem)

    def _record(self, info: ObjectInfo) -> Record | Problem | str | None:
        found = self._read.get(info.name) or self._try_record(info)
        if isinstance(found, Record | str):
            self._read[info.name] = found
        return found

    def _try_record(self, info: ObjectInfo) -> Record | Problem | str | None:
        name = info.name
        if not kind_of(name):
            return Problem(name, "unknown", "this name is not one of version 1")
        try:
            record = self._fetched(info, lambda data: self._opened(data, name))
        except IntegrityError as error:
            return Problem(name, "damaged", error.message)
        if not isinstance(record, Record):
            return record
        if well_formed(record, self.trust):
            return record
        return Problem(name, "damaged", f"a {record.type} record without what such a record tells")

    def _opened(self, data: bytes, name: str) -> Record | str | None:
        """A record that verifies; None of one that a revoked key signed, `_HIDDEN` of one that no key at hand opens."""
        record = decode_record(data, name, self.trust, self.keyring)
        if record is None:
            return None if self.trust.is_revoked(split_signed(name, data).signer()) else _HIDDEN
        return record

    def _unrevoked(self, chain: list[Record], problem: Callable[[Problem], None]) -> Iterator[Record]:
        """Leave out what a revoked identity signed, but for what its last good record leads back to."""
        by_digest = {record.digest: record for record in chain}
        good: set[bytes] = set()
        for last in {self.trust.last_record(record.signer) for record in chain} - {None}:
            at = by_digest.get(last[1]) if last else None
            while at is not None and at.digest not in good:
                good.add(at.digest)
                at = by_digest.get(at.previous)
        for record in chain:
            if self.trust.last_record(record.signer) is None or record.digest in good:
                yield record
            else:
                problem(Problem(record.name, "revoked", "signed by a revoked key and not on its last good chain"))

    def bad_packs(self, report: Reporter) -> set[str]:
        """Names of packs whose newest verdict is that they are bad."""
        return packs_found_bad(self.records(report.problem))

    def marked_packs(self, report: Reporter) -> set[str]:
        """Names of packs that garbage collection is about to remove. A mark that cannot be believed marks nothing."""
        marked: set[str] = set()
        names = [info.name for info in self.store.list("gc/") if kind_of(info.name)]
        for name in names:
            sweep = f"{name.partition('.')[0]}.sweep"
            if name.endswith(".mark") and not (sweep in names and self._is_signed(sweep, report)):
                try:
                    marked |= decode_mark(read_object(self.store, name), name, self.trust)
                except MissingObject:
                    continue  # of a generation that was done and tidied away meanwhile
                except IntegrityError as error:
                    report.problem(Problem(name, "damaged", error.message))
        return marked

    def _is_signed(self, name: str, report: Reporter) -> bool:
        try:
            decode_mark(read_object(self.store, name), name, self.trust)
        except MissingObject:
            return True
        except IntegrityError as error:
            report.problem(Problem(name, "damaged", error.message))
            return False
        return True

    def avoided_packs(self, report: Reporter) -> set[str]:
        """Names of packs that count as absent for new snapshots: reported bad, or marked by garbage collection."""
        return self.bad_packs(report) | self.marked_packs(report)


def gaps(numbers: set[int], last: int) -> Iterator[tuple[int, int]]:
    """The runs of numbers from 1 to `last` that are not in `numbers`, as (first, last) pairs."""
    before = 0
    for n in [*sorted(n for n in numbers if 0 < n <= last), last + 1]:
        if n > before + 1:
            yield before + 1, n - 1
        before = n


def _chain_problems(
    writer: bytes,
    chain: list[SnapshotView],
    pruned: dict[tuple[bytes, int], bytes],
    broken: set[tuple[str, int]],
    remembered: tuple[int, bytes] | None,
) -> Iterator[Problem]:
    prefix = f"snapshots/{writer.hex()}/"
    known = {view.object.seq: view.object.id for view in chain}
    last = max([0, *known, *(seq for w, seq in broken if w == writer.hex())])
    if remembered and remembered[0] > last:
        yield Problem(
            f"{prefix}{remembered[0]:012d}",
            "missing",
            f"this machine has seen snapshot {remembered[0]}; the newest is {last}",
        )
    if remembered and remembered[0] in known and known[remembered[0]] != remembered[1]:
        yield Problem(
            f"{prefix}{remembered[0]:012d}", "forked", "this machine has seen another snapshot of this number"
        )
    pairs = [pair for view in chain for pair in view.structure.skipped if pair[1] - pair[0] < MAX_SKIPPED]
    skipped = {seq for first, end in pairs for seq in range(first, end + 1)}
    explained = (
        skipped
        | set(known)
        | {seq for w, seq in pruned if w == writer}
        | {seq for w, seq in broken if w == writer.hex()}
    )
    for first, end in gaps(explained, last):
        what = f"snapshots {first} to {end} are" if end > first else f"snapshot {first} is"
        yield Problem(f"{prefix}{first:012d}", "missing", f"{what} missing and no signed record tells why")
    for view in chain:
        before = view.object.seq - 1
        expected = known.get(before, pruned.get((writer, before)))
        if (before == 0) != (view.structure.previous is None) or (expected and view.structure.previous != expected):
            yield Problem(view.object.name, "chain", "it does not follow the snapshot before it")


def _untrusted(
    chain: list[SnapshotView], revoked: Mapping[bytes, tuple[int, bytes]], pruned: Mapping[bytes, bytes]
) -> list[SnapshotView]:
    """What a revoked key signed and its last good snapshot does not lead back to, over those that were pruned too."""
    previous = {**pruned, **{view.object.id: view.structure.previous for view in chain}}
    good: set[bytes] = set()
    for last_good in revoked.values():
        at: bytes | None = last_good[1]
        while at in previous and at not in good:
            good.add(at)
            at = previous[at]
    return [v for v in chain if v.object.signed.signer() in revoked and v.object.id not in good]
