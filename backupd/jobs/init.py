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
from backupd.repo.trust import Policy, encode_trust, first_trust, recipients_hash, root_fingerprint
from backupd.store.base import ObjectExists, ObjectStore


@dataclass(frozen=True, slots=True)
class KdfCost:
    """Argon2id's cost; the default is the contract's."""

    memory_kib: int = 65536
    passes: int = 3
    lanes: int = 4


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


def _secrets(writer: bytes) -> dict[Role, Secrets]:
    structure_root = random_bytes(32)
    out = {}
    for role in Role:
        values = {"sign": random_bytes(32)}
        if role is Role.WRITE:
            values |= {"id": random_bytes(32), "cut": random_bytes(32), "cache": random_bytes(32)}
            values["structure"] = derive_structure_key(structure_root, writer, 1)
        else:
            values["structure_root"] = structure_root
        if role in {Role.READ, Role.RECOVERY}:
            values["unseal"] = random_bytes(32)
        out[role] = Secrets(values, 1 if role is Role.WRITE else 0)
    return out


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
    writer, repository = random_bytes(16), random_bytes(16)
    secrets = _secrets(writer)
    pin = Pin(repository, root_fingerprint(1, [sign_public(secrets[Role.ROOT]["sign"])]), 1)
    secret = passphrase()
    keys: dict[Role, Key] = {
        role: _key(role, secrets[role], pin, writer, now, cost) for role in Role if role is not Role.WRITE
    }
    recipients = recipients_hash(k.header.id for k in keys.values() if k.header.recipient)
    write_secrets = Secrets(dict(secrets[Role.WRITE].values) | {"recipients": recipients}, 1)
    keys[Role.WRITE] = _key(Role.WRITE, write_secrets, pin, writer, now, cost)
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


def _key(role: Role, secrets: Secrets, pin: Pin, writer: bytes, now: datetime, cost: KdfCost) -> Key:
    salt = random_bytes(SALT)
    kdf = KdfSettings(salt, cost.memory_kib, cost.passes, cost.lanes) if role in UNDER_PASSPHRASE else KdfSettings(salt)
    return Key(new_header(role, pin, secrets, kdf, now, writer if role is Role.WRITE else b""), secrets)
