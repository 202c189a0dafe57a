"""Gives a key file another passphrase, or none, or its first.

The new file is written beside the old one, opened again to prove it, and then takes its name: whenever this is cut off, there is
a whole key file of that name, and it opens with the old passphrase or with the new one. The key stays the same: its id, its
secrets, its pin. Copies made before keep the old passphrase.
"""

from dataclasses import replace
from pathlib import Path

from backupd.crypto.kdf import SALT, KdfSettings
from backupd.crypto.keyfile import UNDER_PASSPHRASE, Key, LockedKey, encode_key, parse_key, replace_key_file
from backupd.crypto.primitives import random_bytes
from backupd.errors import KeyProblem, SafetyRefused
from backupd.jobs.init import KdfCost


def refuse_without(locked: LockedKey) -> None:
    """Whether a key may lie about without a passphrase.

    Raises:
        SafetyRefused: it may not: it opens records, or changes who may.
    """
    role = locked.header.role
    if role in UNDER_PASSPHRASE:
        raise SafetyRefused(
            f"a {role} key is never without a passphrase: whoever finds the file could use it",
            object_name=locked.header.path,
            hint="only write, check and prune keys, which work at night, may be",
        )


def change_passphrase(
    locked: LockedKey, old: bytes | None, new: bytes | None, *, cost: KdfCost | None = None
) -> KdfSettings:
    """Replace a key file by one that another passphrase opens.

    Args:
        locked: the key file as it was read.
        old: its passphrase, if it has one.
        new: the new one; None for none.
        cost: Argon2id's cost.

    Raises:
        KeyProblem: the old passphrase is wrong; nothing was changed.
        SafetyRefused: this key must have one.
    """
    if new is None:
        refuse_without(locked)
    key = locked.unlock(old)
    kdf = (cost or KdfCost()).settings() if new is not None else KdfSettings(random_bytes(SALT))
    data = encode_key(replace(key.header, kdf=kdf), key.secrets, new)
    _prove(key, data, new)
    replace_key_file(Path(key.header.path), data)
    return kdf


def _prove(key: Key, data: bytes, passphrase: bytes | None) -> None:
    again = parse_key(data, key.header.path).unlock(passphrase)
    if again.secrets != key.secrets or again.header.id != key.header.id:
        raise KeyProblem(f"{key.header.path} would not open as it should; it was left as it is")
