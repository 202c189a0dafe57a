"""Does a key work? Opened, pinned, known to trust, and tried on what it is for."""

from dataclasses import dataclass
from pathlib import Path

from backupd.crypto.envelope import SessionSecrets, open_envelope, seal_envelope
from backupd.crypto.keyfile import Key, LockedKey, Role
from backupd.crypto.keyring import Keyring, Right
from backupd.crypto.primitives import random_bytes
from backupd.errors import BackupdError, KeyProblem
from backupd.jobs.restore import open_content
from backupd.repo.ledger import Ledger
from backupd.repo.repository import Repository
from backupd.repo.writing import check_credential
from backupd.store.base import ObjectStore


@dataclass(frozen=True, slots=True)
class KeyTest:
    """What was tried, and the first failure."""

    detail: str
    error: BackupdError | None = None


def try_key(locked: LockedKey, store: ObjectStore, passphrase: bytes | None) -> KeyTest:
    """Try one key file on its repository; failures are returned, not raised."""
    try:
        key = locked.unlock(passphrase)
        repo = Repository.open(store, Keyring((key,)), Ledger(Path("/nonexistent")))
        return KeyTest(_try_role(repo, key))
    except BackupdError as error:
        return KeyTest(error.message, error)


def _try_role(repo: Repository, key: Key) -> str:
    if key.role is Role.WRITE:
        check_credential(repo, key)
        return "opens, and trust accepts it for new snapshots"
    known = repo.trust.signer_public(key.header.id)
    if known != (key.role, key.header.public):
        raise KeyProblem(
            f"the trust document does not name {key.header.path}",
            object_name=key.header.path,
            hint="it was replaced or revoked; use the current one",
        )
    if key.role not in Right.READ.value:
        history = repo.history()
        return f"opens, and reads the structure of {len(history.views)} snapshots"
    _seal_and_open(repo, key)
    views = repo.history().views
    if not views:
        return "opens what is sealed to it; there is no snapshot yet"
    open_content(repo, views[-1])
    return f"opens the newest snapshot, {views[-1].id[:12]}"


def _seal_and_open(repo: Repository, key: Key) -> None:
    secrets = SessionSecrets(
        random_bytes(32), random_bytes(32), random_bytes(32), random_bytes(32), random_bytes(16), 1, repo.id
    )
    envelope = seal_envelope(secrets, repo.trust.recipients, repo.trust.version)
    if open_envelope(envelope, key.header.id, key.secrets["unseal"]) != secrets:
        raise KeyProblem(f"{key.header.path} does not open what is sealed to it", object_name=key.header.path)
