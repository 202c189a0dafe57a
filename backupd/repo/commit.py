"""The last write of a run: linking, signing and storing the snapshot object.

Two runs of one writer may end together: the loser of the create-only write reads the new head, checks it, and takes the next
number. On a store without create-only writes a lock of this machine stands in, and the object is read back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError, SafetyRefused, TryAgain
from backupd.repo.format import snapshot_name
from backupd.repo.ledger import state_lock
from backupd.repo.repository import Repository, read_object
from backupd.repo.snapshot import SnapshotObject, Structure, encode_snapshot
from backupd.repo.writing import WriteSession
from backupd.store.base import ObjectExists

TRIES = 100


@dataclass(frozen=True, slots=True)
class Committed:
    """A snapshot that is visible now."""

    id: bytes
    name: str
    seq: int


def check_head(repo: Repository, writer: bytes, *, accept_rollback: bool = False) -> SnapshotObject | None:
    """A writer's newest snapshot, verified and not older than this machine remembers.

    Raises:
        SafetyRefused: the storage was rolled back or lost its newest snapshots.
        IntegrityError: the head is damaged or forged, or another snapshot of the remembered number.
    """
    head = repo.head(writer)
    remembered = repo.ledger.heads.get(writer)
    if remembered is None or accept_rollback:
        return head
    seq = head.seq if head else 0
    if seq < remembered[0]:
        raise SafetyRefused(
            f"this machine remembers snapshot {remembered[0]} of this writer, the storage's newest is {seq}",
            object_name=f"snapshots/{writer.hex()}/{remembered[0]:012d}",
            hint="snapshots were removed or the storage was rolled back: find out why (`backupctl verify`), then run with"
            " --accept-rollback",
        )
    same = head if head and seq == remembered[0] else _standing(repo, snapshot_name(writer, remembered[0]))
    if same and same.id != remembered[1]:
        raise IntegrityError(
            f"{same.name} is another snapshot than the one this machine remembers", object_name=same.name
        )
    return head


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
    accept_rollback: bool = False,
) -> Committed:
    """Make the snapshot visible.

    Args:
        session: the run's session, all packs and segments stored.
        structure: the structure part; its number and previous hash are set here.
        content: the content part.
        locks: the state folder of this repository.
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
            seq = max(head.seq if head else 0, remembered) + 1
            linked = replace(structure, seq=seq, previous=head.id if head else None)
            name, data = encode_snapshot(
                linked,
                content,
                envelope=session.envelope,
                structure_key=session.secrets.structure_key,
                session_key=session.secrets.session_key,
                signer=session.signer,
            )
            try:
                repo.store.put(name, data)
            except ObjectExists:
                continue
            if not repo.trust.policy.create_only and read_object(repo.store, name) != data:
                continue
            session.counts.stored_bytes += len(data)
            committed = Committed(sha256(data), name, seq)
            repo.ledger.remember(repo.trust.version, {session.writer: (seq, committed.id)}, lower=accept_rollback)
            return committed
    raise TryAgain("other runs of this writer kept taking the next snapshot number", hint="run again")
