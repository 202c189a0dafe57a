"""Trust: who may write, check, prune and read, signed by the root and pinned by every key. FORMAT.md, section 4.

Nothing unsigned is ever taken from the storage: a public key that only the bucket vouches for is no key.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backupd.crypto.chunks import open_part
from backupd.crypto.keyfile import Role, key_id
from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import RECIPIENT_BYTES, Unauthentic, sha256
from backupd.errors import IntegrityError
from backupd.repo.format import (
    MAX_SIGNATURES,
    SUITE,
    TRUST,
    VERSION,
    Cursor,
    block,
    check_frame,
    dump_json,
    frame,
    label,
    natural,
    parse_json,
    sign_object,
    split_signed,
    trust_name,
)

MAX_PACK = 16 * 1024 * 1024
MAX_DAYS = 36_500
LABEL_KEY_ID = 16
"""A sealed label begins with the id of the records key that opens it."""


RecordsKey = Callable[[bytes], bytes | None]
"""Of a records key's id the key, if it is at hand."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that may sign records of its role and, with a recipient half, open sessions.

    With `last_good` it is revoked: it gets no new sessions, and of its records only what that hash leads back to counts.
    """

    id: bytes
    role: Role
    public: bytes
    recipient: bytes = field(default=b"", repr=False)
    label: str = ""
    last_good: tuple[int, bytes] | None = None
    sealed_label: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class WriterEntry:
    """One credential of a writer. With `last_good` it is revoked: only what that hash leads back to is trusted."""

    writer: bytes
    id: bytes
    public: bytes
    epoch: int
    label: str = ""
    last_good: tuple[int, bytes] | None = None
    sealed_label: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the repository's owner promised for all its writers."""

    base_max_age_days: int = 30
    max_session_hours: int = 24
    grace_hours: int = 25
    undo_days: int = 7
    pack_bytes: int = 16 * 1024 * 1024
    create_only: bool = True


@dataclass(frozen=True, slots=True)
class Trust:
    """A verified trust document."""

    repository: bytes
    version: int
    created: str
    expires: str | None
    threshold: int
    roots: Mapping[bytes, bytes]
    identities: tuple[Identity, ...]
    writers: tuple[WriterEntry, ...]
    policy: Policy
    min_format: int = VERSION
    min_suite: int = SUITE

    @property
    def recipients(self) -> dict[bytes, bytes]:
        """Key id to public key of everybody a session is sealed to."""
        return {i.id: i.recipient for i in self.identities if i.recipient and i.last_good is None}

    def recipients_hash(self) -> bytes:
        """What a write key remembers of the recipient set of its epoch."""
        return recipients_hash(self.recipients)

    @property
    def fingerprint(self) -> bytes:
        """The root fingerprint."""
        return root_fingerprint(self.threshold, self.roots.values())

    def signer_public(self, key: bytes) -> tuple[Role, bytes] | None:
        """Role and public key of somebody who may sign records."""
        if key in self.roots:
            return Role.ROOT, self.roots[key]
        for identity in self.identities:
            if identity.id == key:
                return identity.role, identity.public
        for entry in self.writers:
            if entry.id == key:
                return Role.WRITE, entry.public
        return None

    def last_record(self, key: bytes) -> tuple[int, bytes] | None:
        """Number and hash of the last good record of a revoked identity."""
        return next((i.last_good for i in self.identities if i.id == key), None)

    def is_revoked(self, key: bytes) -> bool:
        """Whether a write key was revoked: its records count for nothing."""
        return any(entry.id == key and entry.last_good for entry in self.writers)

    def writer_entry(self, writer: bytes, key: bytes) -> WriterEntry | None:
        """The credential `key` of a writer."""
        return next((e for e in self.writers if e.writer == writer and e.id == key), None)

    def label_of(self, writer: bytes, records_key: RecordsKey) -> str:
        """A writer's label for people; the beginning of its id where the keys at hand open none."""
        labels = (self.open_label(entry, records_key) for entry in self.writers if entry.writer == writer)
        return next(filter(None, labels), writer.hex()[:8])

    def open_label(self, entry: Identity | WriterEntry, records_key: RecordsKey) -> str:
        """The label of an entry; empty if it has none, or none that the keys at hand open."""
        sealed = entry.sealed_label
        key = records_key(sealed[:LABEL_KEY_ID]) if sealed else None
        if key is None:
            return entry.label
        try:
            return label(open_part(key, "label", self.repository + entry.id, sealed[LABEL_KEY_ID:]).decode())
        except (Unauthentic, ValueError):
            return entry.label


def recipients_hash(recipients: Iterable[bytes]) -> bytes:
    """H of the sorted recipient ids."""
    return sha256(b"".join(sorted(recipients)))


def root_fingerprint(threshold: int, publics: Iterable[bytes]) -> bytes:
    """The fingerprint of a root set."""
    return sha256(b"backupd/v1/root" + bytes([threshold]) + b"".join(sorted(publics)))


def _point(point: tuple[int, bytes] | None, number: str) -> dict[str, object] | None:
    return {number: point[0], "hash": point[1].hex()} if point else None


def _read_point(document: Any, number: str) -> tuple[int, bytes] | None:
    if document is None:
        return None
    digest = bytes.fromhex(document["hash"])
    if len(digest) != 32:
        raise ValueError("no hash")
    return natural(document[number]), digest


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encode_trust(trust: Trust, signers: list[Signer]) -> bytes:
    """The signed object."""
    document = {
        "format": VERSION,
        "repository": trust.repository.hex(),
        "version": trust.version,
        "created": trust.created,
        "expires": trust.expires,
        "min_format": trust.min_format,
        "min_suite": trust.min_suite,
        "root": {
            "threshold": trust.threshold,
            "keys": [{"id": k.hex(), "public": _b64(p)} for k, p in sorted(trust.roots.items())],
        },
        "identities": [
            {
                "id": i.id.hex(),
                "role": i.role,
                "public": _b64(i.public),
                "label": i.label,
                "last_good": _point(i.last_good, "n"),
                **({"recipient": _b64(i.recipient)} if i.recipient else {}),
                **({"sealed_label": _b64(i.sealed_label)} if i.sealed_label else {}),
            }
            for i in trust.identities
        ],
        "writers": [
            {
                "writer": w.writer.hex(),
                "id": w.id.hex(),
                "public": _b64(w.public),
                "epoch": w.epoch,
                "label": w.label,
                "last_good": _point(w.last_good, "seq"),
                **({"sealed_label": _b64(w.sealed_label)} if w.sealed_label else {}),
            }
            for w in trust.writers
        ],
        "policy": {name: getattr(trust.policy, name) for name in Policy.__slots__},
    }
    name = trust_name(trust.version)
    if _parse(parse_json(dump_json(document), name)) != trust:
        raise IntegrityError(f"{name} would not read back as it was meant", object_name=name)
    return sign_object(trust_name(trust.version), frame(TRUST, trust.repository) + block(dump_json(document)), signers)


def _policy(document: dict[str, Any]) -> Policy:
    named = {k: v for k, v in document.items() if k in Policy.__slots__}
    if type(named.pop("create_only")) is not bool:
        raise ValueError("create_only is neither true nor false")
    numbers = {k: natural(v, MAX_DAYS) for k, v in named.items() if k != "pack_bytes"}
    size = natural(named["pack_bytes"], MAX_PACK)
    return Policy(**numbers, pack_bytes=size, create_only=document["create_only"])


def _parse(document: dict[str, Any]) -> Trust:
    identities = tuple(
        Identity(
            bytes.fromhex(i["id"]),
            Role(i["role"]),
            base64.b64decode(i["public"], validate=True),
            base64.b64decode(i.get("recipient", ""), validate=True),
            label(i.get("label", "")),
            _read_point(i.get("last_good"), "n"),
            base64.b64decode(i.get("sealed_label", ""), validate=True),
        )
        for i in document["identities"]
    )
    writers = tuple(
        WriterEntry(
            bytes.fromhex(w["writer"]),
            bytes.fromhex(w["id"]),
            base64.b64decode(w["public"], validate=True),
            natural(w["epoch"], 0xFFFFFFFF),
            label(w.get("label", "")),
            _read_point(w.get("last_good"), "seq"),
            base64.b64decode(w.get("sealed_label", ""), validate=True),
        )
        for w in document["writers"]
    )
    roots = {bytes.fromhex(k["id"]): base64.b64decode(k["public"], validate=True) for k in document["root"]["keys"]}
    policy = _policy(document["policy"])
    return Trust(
        bytes.fromhex(document["repository"]),
        natural(document["version"]),
        label(document["created"]),
        None if document["expires"] is None else label(document["expires"]),
        natural(document["root"]["threshold"]),
        roots,
        identities,
        writers,
        policy,
        natural(document["min_format"]),
        natural(document["min_suite"]),
    )


_RECIPIENTS = frozenset({Role.READ, Role.RECOVERY})
_IDENTITIES = frozenset({Role.CHECK, Role.PRUNE, Role.READ, Role.RECOVERY})


def _ids_fit(trust: Trust) -> bool:
    """Whether every key has the id of its role and public halves, so that ids vouch for keys wherever they stand."""
    keys = [(Role.ROOT, public, b"", key) for key, public in trust.roots.items()]
    keys += [(i.role, i.public, i.recipient, i.id) for i in trust.identities]
    keys += [(Role.WRITE, w.public, b"", w.id) for w in trust.writers]
    return (
        all(len(public) == 32 and key_id(role, public, recipient) == key for role, public, recipient, key in keys)
        and all(i.role in _IDENTITIES for i in trust.identities)
        and len({key for *_, key in keys}) == len(keys)
    )


def _check_sense(trust: Trust, name: str) -> None:
    recipients = trust.recipients
    recovery = any(i.role is Role.RECOVERY and i.recipient for i in trust.identities)
    distinct = len(set(trust.roots.values())) == len(trust.roots)
    quorum = 1 <= trust.threshold <= len(trust.roots) <= MAX_SIGNATURES and distinct
    lengths = all(len(r) == RECIPIENT_BYTES for r in recipients.values()) and len(recipients) <= 32
    lengths = lengths and all(i.role in _RECIPIENTS for i in trust.identities if i.recipient)
    if not (recovery and quorum and lengths and _ids_fit(trust)):
        raise IntegrityError(
            f"{name} is not a sane trust document: it needs a root quorum, a recovery recipient and ids that fit",
            object_name=name,
        )
    if trust.min_format > VERSION or trust.min_suite > SUITE:
        raise IntegrityError(
            f"{name} asks for a newer format than this program knows", object_name=name, hint="upgrade backupctl"
        )


def decode_trust(data: bytes, version: int, repository: bytes, previous: Trust | None, fingerprint: bytes) -> Trust:
    """Verify one trust document.

    Args:
        data: the object.
        version: the version its name says.
        repository: the repository it must belong to.
        previous: the verified version before it; None for the pinned one.
        fingerprint: the pinned root fingerprint, which counts where there is no `previous`.

    Raises:
        IntegrityError: wrong place, version or root, or not enough signatures of different root keys.
    """
    name = trust_name(version)
    check_frame(data, name, repository)
    signed = split_signed(name, data)
    # The document must be parsed to learn which roots sign it; it is believed only after their quorum was counted.
    cursor = Cursor(signed.body, name)
    try:
        trust = _parse(parse_json(cursor.block(), name))
    except (KeyError, ValueError, TypeError, AttributeError, binascii.Error):
        raise IntegrityError(f"{name} holds a document that cannot be read", object_name=name) from None
    cursor.end()
    if (trust.repository, trust.version) != (repository, version):
        raise IntegrityError(f"{name} says that it is another version or repository", object_name=name)
    _check_sense(trust, name)
    if previous is None and trust.fingerprint != fingerprint:
        raise IntegrityError(
            f"{name} has another root than the one your key pins",
            object_name=name,
            hint="the storage may have been tampered with: compare the fingerprint with the one that `init` printed",
        )
    for quorum in ([previous] if previous else []) + [trust]:
        good = set()
        for key in {key for key, _ in signed.signatures} & quorum.roots.keys():
            signed.verify(key, quorum.roots[key])
            good.add(quorum.roots[key])
        if len(good) < quorum.threshold:
            raise IntegrityError(f"{name} is not signed by enough root keys", object_name=name)
    return trust
