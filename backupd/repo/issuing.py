"""What the root makes: the first trust document, and the next one with another key in it. FORMAT.md, section 4.

Labels are for people and may name hosts: they are sealed, so that whoever reads the storage learns none.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from backupd.crypto.chunks import seal_part
from backupd.crypto.envelope import structure_key_id
from backupd.crypto.keyfile import Key, Pin, Role
from backupd.crypto.keyring import Keyring
from backupd.repo.trust import Identity, Policy, Trust, WriterEntry

_STAMP = "%Y-%m-%dT%H:%M:%SZ"


def seal_label(root: Key, key: Key, text: str) -> bytes:
    """A label of `key` as a trust document holds it."""
    records_key = Keyring((root,)).records_key()
    if not text or records_key is None:
        return b""
    sealed = seal_part(records_key, "label", key.header.pin.repository + key.header.id, text.encode())
    return structure_key_id(records_key) + sealed


def writer_entry(root: Key, key: Key, text: str) -> WriterEntry:
    """What trust says of a write key."""
    header = key.header
    sealed = seal_label(root, key, text)
    return WriterEntry(header.writer, header.id, header.public, key.secrets.epoch, sealed_label=sealed)


def identity(root: Key, key: Key, text: str) -> Identity:
    """What trust says of any other key but the root's."""
    header = key.header
    return Identity(header.id, key.role, header.public, header.recipient, sealed_label=seal_label(root, key, text))


def first_trust(keys: Sequence[Key], pin: Pin, created: datetime, policy: Policy, writer_label: str) -> Trust:
    """The trust document that `init` signs: one root, one writer, and the other keys as identities."""
    root = next(k for k in keys if k.role is Role.ROOT)
    identities = tuple(identity(root, k, "") for k in keys if k.role not in {Role.ROOT, Role.WRITE})
    writers = tuple(writer_entry(root, k, writer_label) for k in keys if k.role is Role.WRITE)
    roots = {root.header.id: root.header.public}
    return Trust(pin.repository, pin.trust, created.strftime(_STAMP), None, 1, roots, identities, writers, policy)


def next_trust(trust: Trust, root: Key, key: Key, created: datetime, text: str) -> Trust:
    """The trust document after `trust`, with one more key in it."""
    version, at = trust.version + 1, created.strftime(_STAMP)
    if key.role is Role.WRITE:
        writers = (*trust.writers, writer_entry(root, key, text))
        return replace(trust, version=version, created=at, writers=writers)
    return replace(trust, version=version, created=at, identities=(*trust.identities, identity(root, key, text)))
