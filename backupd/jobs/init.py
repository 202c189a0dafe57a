"""Making a repository and its six keys.

Order: keys first, the trust document last. So a repository never exists without its keys, and an interrupted `init` leaves
key files that open nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backupd.crypto.kdf import SALT, KdfSettings
from backupd.crypto.keyfile import (
    UNDER_PASSPHRASE,
    Key,
    Pin,
    Role,
    Secrets,
    encode_key,
    new_header,
    write_key_file,
)
from backupd.crypto.keyring import Signer, derive_structure_key
from backupd.crypto.primitives import random_bytes, require_mlkem, sign_public
from backupd.errors import SafetyRefused
from backupd.repo.format import trust_name
from backupd.repo.issuing import first_trust
from backupd.repo.trust import Policy, encode_trust, recipients_hash, root_fingerprint
from backupd.store.base import ObjectExists, ObjectStore


@dataclass(frozen=True, slots=True)
class KdfCost:
    """Argon2id's cost; the default is the contract's."""

    memory_kib: int = 65536
    passes: int = 3
    lanes: int = 4

    def settings(self) -> KdfSettings:
        """This cost with a salt of its own."""
        return KdfSettings(random_bytes(SALT), self.memory_kib, self.passes, self.lanes)


@dataclass(frozen=True, slots=True)
class InitResult:
    """What was made."""

    repository: bytes
    fingerprint: bytes
    keys: Mapping[Role, Path]


def refuse_existing(store: ObjectStore, folder: Path) -> None:
    """Refuse to touch an existing repository or key file.

    Raises:
        SafetyRefused: there is one.
    """
    there = next(store.list("trust/"), None) or next(store.list("snapshots/"), None)
    if there is not None:
        raise SafetyRefused(
            f"there is a repository at {store.url} already", object_name=store.url, hint="choose another place"
        )
    for role in Role:
        path = folder / f"{role}.key"
        if path.exists() or path.is_symlink():
            raise SafetyRefused(
                f"{path} exists; key files are never overwritten",
                object_name=str(path),
                hint="choose another folder with --keys",
            )


def fresh_secrets(role: Role, structure_root: bytes, writer: bytes = b"", recipients: bytes = b"") -> Secrets:
    """The secrets of a new key.

    Args:
        role: its role.
        structure_root: the repository's.
        writer: of a write key the new writer's id.
        recipients: of a write key the hash of those to whom it will seal.
    """
    values = {"sign": random_bytes(32)}
    if role is Role.WRITE:
        values |= {"id": random_bytes(32), "cut": random_bytes(32), "cache": random_bytes(32)}
        values |= {"structure": derive_structure_key(structure_root, writer, 1), "recipients": recipients}
        return Secrets(values, 1)
    if role in {Role.READ, Role.RECOVERY}:
        values["unseal"] = random_bytes(32)
    return Secrets({**values, "structure_root": structure_root})


def init_repository(
    store: ObjectStore,
    folder: Path,
    passphrase: Callable[[], bytes],
    *,
    now: datetime,
    create_only: bool,
    label: str = "",
    cost: KdfCost | None = None,
) -> InitResult:
    """Make the keys and the first trust document.

    Args:
        store: an empty place.
        folder: where the key files go; made if it is not there (0700).
        passphrase: asked once, for read, root and recovery.
        now: the time.
        create_only: what the probe found of the store.
        label: the writer's label, shown where two writers have sources of one name.
        cost: Argon2id's cost.

    Raises:
        SafetyRefused: a repository or a key file is there already.
    """
    require_mlkem()
    refuse_existing(store, folder)
    cost = cost or KdfCost()
    writer, repository, structure_root = random_bytes(16), random_bytes(16), random_bytes(32)
    secrets = {role: fresh_secrets(role, structure_root) for role in Role if role is not Role.WRITE}
    pin = Pin(repository, root_fingerprint(1, [sign_public(secrets[Role.ROOT]["sign"])]), 1)
    secret = passphrase()
    keys: dict[Role, Key] = {role: new_key(role, mine, pin, now, cost) for role, mine in secrets.items()}
    recipients = recipients_hash(k.header.id for k in keys.values() if k.header.recipient)
    mine = fresh_secrets(Role.WRITE, structure_root, writer, recipients)
    keys[Role.WRITE] = new_key(Role.WRITE, mine, pin, now, cost, writer)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = {}
    for role in Role:
        paths[role] = folder / f"{role}.key"
        write_key_file(paths[role], encode_key(keys[role].header, keys[role].secrets, secret))
    trust = first_trust(list(keys.values()), pin, now, Policy(create_only=create_only), label)
    root = keys[Role.ROOT]
    data = encode_trust(trust, [Signer(Role.ROOT, root.header.id, root.secrets["sign"])])
    try:
        store.put(trust_name(1), data)
    except ObjectExists:
        raise SafetyRefused(f"somebody made a repository at {store.url} meanwhile", object_name=store.url) from None
    return InitResult(repository, trust.fingerprint, paths)


def new_key(role: Role, secrets: Secrets, pin: Pin, now: datetime, cost: KdfCost, writer: bytes = b"") -> Key:
    """A new key; under a passphrase if its role wants one."""
    kdf = cost.settings() if role in UNDER_PASSPHRASE else KdfSettings(random_bytes(SALT))
    return Key(new_header(role, pin, secrets, kdf, now, writer), secrets)
