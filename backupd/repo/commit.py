"""The last write of a run: linking, signing and storing the snapshot object.

Two runs of one writer may end together: the loser of the create-only write reads the new head, checks it, and takes the next
number. On a store without create-only writes a lock of this machine stands in, and the object is read back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError, SafetyRefused, TryAgain
from backupd.repo.format import kind_of, snapshot_name
from backupd.repo.ledger import state_lock
from backupd.repo.repository import Repository, read_object
from backupd.repo.snapshot import SnapshotObject, Structure, encode_snapshot
from backupd.repo.writing import WriteSession
from backupd.report import Reporter
from backupd.store.base import ObjectExists

TRIES = 100
MAX_SEQ = 999_999_999_999


@dataclass(frozen=True, slots=True)
class Committed:
    """A snapshot that is visible now."""

    id: bytes
    name: str
    seq: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the next snapshot follows: the highest number used, and the hash to link to.

    `damaged` names the newest object if it cannot be read whole any more: its number stays used. `whole` is the number
    that `id` belongs to; what lies between is named in the next snapshot as skipped, once a person accepted that.
    """

    seq: int
    id: bytes | None
    damaged: str | None = None
    whole: int = 0


def check_head(repo: Repository, writer: bytes, *, accept_rollback: bool = False) -> Head | None:
    """A writer's newest snapshot, verified and not older than this machine remembers.

    A newest object that was damaged does not stop the nights: this machine remembers its hash, and the next snapshot
    links to that.

    Raises:
        SafetyRefused: the storage was rolled back or lost its newest snapshots.
        IntegrityError: another snapshot of the remembered number; or the newest one is damaged and its hash not known here.
    """
    head = _newest(repo, writer, accept_rollback=accept_rollback)
    remembered = repo.ledger.heads.get(writer)
    if remembered is None or accept_rollback:
        return head
    name = snapshot_name(writer, remembered[0])
    same = _standing(repo, name)
    if same and same.id != remembered[1]:
        raise IntegrityError(f"{name} is another snapshot than the one this machine remembers", object_name=name)
    seq = head.seq if head else 0
    if seq < remembered[0]:
        if same:  # a listing that lags behind, not a rollback
            return Head(same.seq, same.id, whole=same.seq)
        raise SafetyRefused(
            f"this machine remembers snapshot {remembered[0]} of this writer, the storage's newest is {seq}",
            object_name=name,
            hint="snapshots were removed or the storage was rolled back: find out why (`backupctl verify`), then run with"
            " --accept-rollback",
        )
    return head


def _newest(repo: Repository, writer: bytes, *, accept_rollback: bool) -> Head | None:
    names = [info.name for info in repo.store.list(f"snapshots/{writer.hex()}/") if kind_of(info.name)]
    if not names:
        return None
    seq = int(names[-1].rsplit("/", 1)[1])
    try:
        found = repo.verified(read_object(repo.store, names[-1]), names[-1])
        return Head(seq, found.id, whole=seq)
    except IntegrityError as error:
        remembered = repo.ledger.heads.get(writer)
        if remembered and remembered[0] == seq:
            return Head(seq, remembered[1], names[-1], seq)
        if not accept_rollback:
            error.hint = "see what `backupctl verify` says of it; to go on without it, run with --accept-rollback"
            raise
    older = next((s for name in reversed(names[:-1]) if (s := _standing(repo, name))), None)
    return Head(seq, older.id if older else None, names[-1], older.seq if older else 0)


def _standing(repo: Repository, name: str) -> SnapshotObject | None:
    """An older snapshot if it is there and whole: one that was pruned or damaged is `verify`'s to tell."""
    try:
        return repo.verified(read_object(repo.store, name), name)
    except IntegrityError:
        return None


def commit(
    session: WriteSession,
    structure: Structure,
    content: Mapping[str, object],
    *,
    locks: Path,
    report: Reporter,
    fence: Callable[[], None],
    accept_rollback: bool = False,
) -> Committed:
    """Make the snapshot visible.

    Args:
        session: the run's session, all packs and segments stored.
        structure: the structure part; its number and previous hash are set here.
        content: the content part.
        locks: the state folder of this repository.
        report: warnings.
        fence: raises if the session has lasted too long; asked right before the snapshot is written.
        accept_rollback: go on although the storage shows less than this machine remembers.

    Raises:
        SafetyRefused, IntegrityError: see `check_head`.
        TryAgain: others kept winning.
    """
    repo = session.repo
    with state_lock(locks, f"commit-{session.writer.hex()[:16]}"):
        for _ in range(TRIES):
            head = check_head(repo, session.writer, accept_rollback=accept_rollback)
            remembered = repo.ledger.heads.get(session.writer, (0, b""))[0]
            pruned = {n: digest for (writer, n), digest in repo.pruned().items() if writer == session.writer}
            newest, before = max([(0, b""), *pruned.items()])
            seq = max(head.seq if head else 0, remembered, newest) + 1
            if seq > MAX_SEQ:
                raise SafetyRefused(
                    f"snapshot {MAX_SEQ} of this writer exists: its numbers are used up, which no honest run does",
                    object_name=snapshot_name(session.writer, MAX_SEQ),
                    hint="see who wrote it (`backupctl verify`), then give this writer a new key",
                )
            whole = head.whole if head else 0
            skipped = ((whole + 1, seq - 1),) if accept_rollback and seq > whole + 1 else ()
            previous = head.id if head else None
            if newest > (head.seq if head else 0):
                previous = before
            linked = replace(structure, seq=seq, previous=previous, skipped=skipped)
            name, data = encode_snapshot(
                linked,
                content,
                envelope=session.envelope,
                structure_key=session.secrets.structure_key,
                session_key=session.secrets.session_key,
                signer=session.signer,
            )
            fence()
            try:
                repo.store.put(name, data)
            except ObjectExists:
                continue
            if not repo.trust.policy.create_only and read_object(repo.store, name) != data:
                continue
            session.counts.stored_bytes += len(data)
            committed = Committed(sha256(data), name, seq)
            try:
                repo.ledger.remember(repo.trust.version, {session.writer: (seq, committed.id)}, lower=accept_rollback)
            except OSError as error:
                report.warning(f"this machine could not remember the new snapshot: {error.strerror}")
            return committed
    raise TryAgain("other runs of this writer kept taking the next snapshot number", hint="run again")
