"""Keys, secrets and envelopes made for tests: cheap, and fresh for each call."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime

from backupd.crypto.envelope import Envelope, SessionSecrets, seal_envelope
from backupd.crypto.kdf import KdfSettings
from backupd.crypto.keyfile import Key, Pin, Role, Secrets, new_header
from backupd.crypto.keyring import derive_structure_key
from backupd.crypto.primitives import recipient_public

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHEAP = {"memory_kib": 8192, "passes": 1, "lanes": 1}


def make_keys(pin: Pin | None = None, *, writer: bytes | None = None, epoch: int = 1) -> dict[Role, Key]:
    """One key for each role of one repository; none has a passphrase."""
    pin = pin or Pin(os.urandom(16), os.urandom(32), 1)
    writer = writer or os.urandom(16)
    root = os.urandom(32)
    keys = {}
    for role in Role:
        values = {"sign": os.urandom(32)}
        if role is Role.WRITE:
            values |= {name: os.urandom(32) for name in ("id", "cut", "cache", "recipients")}
            values["structure"] = derive_structure_key(root, writer, epoch)
        else:
            values["structure_root"] = root
        if role in (Role.READ, Role.RECOVERY):
            values["unseal"] = os.urandom(32)
        secrets = Secrets(values, epoch if role is Role.WRITE else 0)
        kdf = KdfSettings(os.urandom(16))
        keys[role] = Key(new_header(role, pin, secrets, kdf, CREATED, writer if role is Role.WRITE else b""), secrets)
    return keys


def session_secrets(key: Key) -> SessionSecrets:
    """What a run of this write key seals."""
    values = key.secrets
    return SessionSecrets(
        os.urandom(32),
        values["id"],
        values["cut"],
        values["structure"],
        key.header.writer,
        values.epoch,
        key.header.pin.repository,
    )


def recipients(keys: Mapping[Role, Key]) -> dict[bytes, bytes]:
    """The read and recovery keys' ids and public halves."""
    return {keys[role].header.id: keys[role].header.recipient for role in (Role.READ, Role.RECOVERY)}


def make_session(keys: Mapping[Role, Key], trust_version: int = 1) -> tuple[SessionSecrets, Envelope]:
    """A session of these keys' writer, sealed to their read and recovery keys."""
    secrets = session_secrets(keys[Role.WRITE])
    return secrets, seal_envelope(secrets, recipients(keys), trust_version)


def seed_and_public() -> tuple[bytes, bytes]:
    """A fresh recipient."""
    seed = os.urandom(32)
    return seed, recipient_public(seed)
