"""A further key of a repository: for a second host that writes, or for another one that checks or prunes.

Order: the key file first, the trust document that names it last. The trust document is the one write that makes the key good, so
wherever this is cut off, either everything is there or there is a key file that opens and signs nothing; it is never the
other way round, a credential in force whose secrets nobody has. Nothing that runs meanwhile is disturbed: other keys pin
an older trust document and accept each later one that the root signed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backupd.crypto.keyfile import Key, LockedKey, Pin, Role, encode_key, write_key_file
from backupd.crypto.keyring import Right, Signer
from backupd.crypto.primitives import random_bytes
from backupd.errors import MissingRight, SafetyRefused, StorageRefused, TryAgain, UsageError
from backupd.jobs.init import KdfCost, fresh_secrets, new_key
from backupd.repo.format import trust_name
from backupd.repo.issuing import next_trust
from backupd.repo.repository import Repository, read_object
from backupd.repo.trust import Trust, encode_trust
from backupd.store.base import ObjectExists

MADE = (Role.WRITE, Role.CHECK, Role.PRUNE)
"""A read key is a new recipient: every writer would need a new epoch and a new write key with it."""
_MOST_LABEL = 128


@dataclass(frozen=True, slots=True)
class NewKey:
    """What was made, or would be: the key's readable half, and the trust document that names it."""

    key: Key
    path: Path
    trust: Trust


def quorum(repo: Repository, locked: Sequence[LockedKey], passphrase: Callable[[LockedKey], bytes | None]) -> list[Key]:
    """As many root keys as trust asks for, opened; the one that opened the repository is the first.

    Raises:
        MissingRight: there are not enough of them at hand.
        KeyProblem: one does not open.
    """
    roots = {repo.keyring.need(Right.ROOT).header.id: repo.keyring.need(Right.ROOT)}
    for one in locked:
        if len(roots) < repo.trust.threshold and one.header.id in repo.trust.roots and one.header.id not in roots:
            roots[one.header.id] = one.unlock(passphrase(one) if one.header.kdf.needs_passphrase else None)
    good = [key for key in roots.values() if key.header.id in repo.trust.roots]
    if len(good) < repo.trust.threshold:
        raise MissingRight(
            f"a change of trust takes the signatures of {repo.trust.threshold} root keys; at hand: {len(good)} that trust names",
            hint="name each with --key",
        )
    return good


def check_label(repo: Repository, role: Role, text: str) -> str:
    """A label that can stand before a source's name, and that no other writer has.

    Raises:
        UsageError: it cannot, or one has it.
    """
    if not 1 <= len(text) <= _MOST_LABEL or not text.isprintable() or not text.strip() or set(text) & set("/@\\"):
        raise UsageError(
            f"a label has 1 to {_MOST_LABEL} printable characters without / @ and \\", hint="choose one with --label"
        )
    taken = {repo.trust.label_of(entry.writer, repo.keyring.records_key) for entry in repo.trust.writers}
    if role is Role.WRITE and text in taken:
        raise UsageError(
            f"another writer is called {text!r}: their sources could not be told apart", hint="choose one with --label"
        )
    return text


def plan_key(
    repo: Repository, role: Role, path: Path, label: str, *, now: datetime, cost: KdfCost | None = None
) -> NewKey:
    """Everything that a new key needs, made and written nowhere.

    Args:
        repo: opened with the root key.
        role: one of `MADE`.
        path: where the key file will be.
        label: for people.
        now: the time.
        cost: Argon2id's cost, for a role that wants a passphrase.

    Raises:
        UsageError: the label cannot be taken, or the role is not one of those.
        SafetyRefused: there is a file of that name.
    """
    if role not in MADE:
        raise UsageError(f"a {role} key cannot be made here", hint=f"can be: {', '.join(MADE)}")
    refuse_file(path)
    root, trust = repo.keyring.need(Right.ROOT), repo.trust
    label = check_label(repo, role, label)
    writer = random_bytes(16) if role is Role.WRITE else b""
    secrets = fresh_secrets(role, root.secrets["structure_root"], writer, trust.recipients_hash())
    pin = Pin(repo.id, trust.fingerprint, trust.version + 1)
    key = new_key(role, secrets, pin, now, cost or KdfCost(), writer)
    return NewKey(key, path, next_trust(trust, root, key, now, label))


def issue(repo: Repository, planned: NewKey, roots: Sequence[Key]) -> None:
    """Write the key file, then the trust document that makes it good.

    Raises:
        SafetyRefused: there is a file of that name.
        TryAgain: somebody else changed trust meanwhile; nothing is left.
        BackupdError: the storage failed; if it is not known whether it took the document, the key file stays and is named.
    """
    path, trust = planned.path, planned.trust
    data = encode_trust(trust, [Signer(Role.ROOT, root.header.id, root.secrets["sign"]) for root in roots])
    refuse_file(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_key_file(path, encode_key(planned.key.header, planned.key.secrets, None))
    name = trust_name(trust.version)
    try:
        repo.store.put(name, data)
        if not trust.policy.create_only and read_object(repo.store, name) != data:
            raise ObjectExists(f"{name} was written by somebody else", object_name=name)
    except ObjectExists:
        path.unlink()
        raise TryAgain(
            "somebody else changed trust at the same moment; nothing was made", object_name=name, hint="run it again"
        ) from None
    except StorageRefused:
        path.unlink()
        raise
    except TryAgain as error:
        error.hint = f"the storage may have taken it: `backupctl keys test --key {path}` tells; if not, remove the file"
        raise


def refuse_file(path: Path) -> None:
    """Refuse to touch what is there.

    Raises:
        SafetyRefused: there is a file, or a link, of that name.
    """
    if path.exists() or path.is_symlink():
        raise SafetyRefused(
            f"{path} exists; key files are never overwritten",
            object_name=str(path),
            hint="choose another name with --out; one that was left by an interrupted `keys new` does not pass `keys test`",
        )
