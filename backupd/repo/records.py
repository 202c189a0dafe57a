"""Signed records (holds, bad packs, prunes, ...) and the marks of garbage collection. FORMAT.md, section 11.

Which role may sign which type is the table in FORMAT.md, section 3; a record signed by another role is reported and ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backupd.crypto.chunks import open_part, seal_part
from backupd.crypto.envelope import structure_key_id
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring, Signer
from backupd.crypto.primitives import Unauthentic, sha256
from backupd.errors import IntegrityError
from backupd.repo.format import (
    GC,
    OWNER_BYTES,
    RECORD,
    Cursor,
    Signed,
    block,
    check_frame,
    dump_json,
    frame,
    owner_block,
    pack_json,
    parse_json,
    parse_owner,
    sign_object,
    split_signed,
    unpack_json,
)
from backupd.repo.trust import Trust

PLAIN, WRITER, ROOT = range(3)
NONE = bytes(32)
"""`previous` of a role's first record."""
OPEN_TYPES = frozenset({"bad-packs", "good-packs", "prune"})
_EVERY = frozenset(Role)
_READERS = frozenset({Role.READ, Role.RECOVERY, Role.ROOT})
SIGNERS: Mapping[str, frozenset[Role]] = {
    "hold": _READERS | {Role.WRITE, Role.PRUNE},
    "release": frozenset({Role.PRUNE, Role.ROOT}),
    "brake": _EVERY,
    "brake-release": frozenset({Role.PRUNE, Role.ROOT}),
    "bad-packs": _READERS | {Role.CHECK, Role.PRUNE},
    "good-packs": _READERS | {Role.CHECK, Role.PRUNE},
    "evidence": _READERS | {Role.CHECK},
    "prune": frozenset({Role.PRUNE, Role.ROOT}),
    "erasure": _READERS,
    "incident": _READERS,
    "audit": _READERS | {Role.CHECK, Role.PRUNE},
}


def record_name(role: Role, n: int) -> str:
    """`records/<role>/<n>`."""
    return f"records/{role}/{n:012d}"


@dataclass(frozen=True, slots=True)
class Record:
    """A verified record; `owner` names the key that it is sealed under, of a writer or of all records."""

    name: str
    role: Role
    type: str
    document: Mapping[str, Any]
    signer: bytes = b""
    previous: bytes = NONE
    digest: bytes = b""
    owner: bytes = b""

    @property
    def n(self) -> int:
        """Its number within its role."""
        return int(self.name.rsplit("/", 1)[1])


def encode_record(
    name: str,
    document: Mapping[str, object],
    repository: bytes,
    signer: Signer,
    keyring: Keyring,
    previous: bytes = NONE,
    owner: bytes = b"",
) -> bytes:
    """Seal and sign a record: plain for types of object names only, else under the records key.

    `previous` is the hash of the record before it, of the same role. With `owner`, an answer to a writer's record, it is sealed
    as that was, so that the writer can read it.

    Raises:
        IntegrityError: the signer's role may not sign this type.
    """
    kind = str(document["type"])
    if signer.role not in SIGNERS[kind]:
        raise IntegrityError(f"a {signer.role} key may not sign a {kind} record")
    if kind in OPEN_TYPES:
        return _join(name, repository, bytes(OWNER_BYTES), PLAIN, previous, dump_json(document), signer)
    writer = next((k for k in keyring.keys if k.role is Role.WRITE), None)
    records_key = keyring.records_key()
    if any(owner[:20]) and (key := keyring.structure_key(*parse_owner(owner))) is not None:
        body = seal_part(key, "record", name.encode(), pack_json(document))
        return _join(name, repository, owner, WRITER, previous, body, signer)
    if records_key is not None:
        body = seal_part(records_key, "record", name.encode(), pack_json(document))
        owner = owner_block(bytes(16), 0, structure_key_id(records_key))
        return _join(name, repository, owner, ROOT, previous, body, signer)
    assert writer is not None
    key = writer.secrets["structure"]
    body = seal_part(key, "record", name.encode(), pack_json(document))
    owner = owner_block(writer.header.writer, writer.secrets.epoch, structure_key_id(key))
    return _join(name, repository, owner, WRITER, previous, body, signer)


def _join(
    name: str, repository: bytes, owner: bytes, sealing: int, previous: bytes, body: bytes, signer: Signer
) -> bytes:
    return sign_object(name, frame(RECORD, repository) + owner + bytes([sealing]) + previous + block(body), [signer])


@dataclass(frozen=True, slots=True)
class Link:
    """A record's place in its chain: who signed it, the hash of the one before it, and its own."""

    signer: bytes
    previous: bytes
    digest: bytes


def record_link(data: bytes, name: str, trust: Trust) -> Link:
    """The place of a verified record in its chain, whether or not it can be opened.

    Raises:
        IntegrityError: forged or damaged.
    """
    _, signed = _verified(data, name, trust)
    cursor = Cursor(signed.body, name)
    cursor.take(OWNER_BYTES + 1)
    return Link(signed.signer(), cursor.take(32), sha256(data))


def _verified(data: bytes, name: str, trust: Trust) -> tuple[Role, Signed]:
    """Who signed a record, and what.

    Raises:
        IntegrityError: forged, damaged, or signed by a key of another role than its name says.
    """
    check_frame(data, name, trust.repository)
    signed = split_signed(name, data)
    known = trust.signer_public(signed.signer())
    if known is None or known[0] != name.split("/")[1]:
        raise IntegrityError(f"{name} is signed by a key that may not", object_name=name)
    signed.verify(signed.signer(), known[1])
    return known[0], signed


def decode_record(data: bytes, name: str, trust: Trust, keyring: Keyring) -> Record | None:
    """Verify and open a record; None if it is sealed for keys not at hand, or signed by a revoked write key and no brake.

    Raises:
        IntegrityError: forged, damaged, or signed by a role that may not.
    """
    role, signed = _verified(data, name, trust)
    revoked = trust.is_revoked(signed.signer())
    cursor = Cursor(signed.body, name)
    owner = cursor.take(OWNER_BYTES)
    sealing, previous, body = cursor.u8(), cursor.take(32), cursor.block()
    cursor.end()
    clear = {PLAIN: owner, WRITER: b"", ROOT: owner[:20]}.get(sealing)
    if clear is None or any(clear):
        raise IntegrityError(f"{name} is sealed in a way that version 1 does not know", object_name=name)
    if sealing == PLAIN:
        document = parse_json(body, name)
    else:
        key = keyring.structure_key(*parse_owner(owner)) if sealing == WRITER else keyring.records_key(owner[20:])
        if key is None:
            return None
        try:
            document = unpack_json(open_part(key, "record", name.encode(), body), name)
        except Unauthentic:
            if revoked:
                return None
            raise IntegrityError(f"{name} does not open", object_name=name) from None
    kind = str(document.get("type"))
    if revoked and kind != "brake":  # what pauses deletions outlives trust in its host; a person ends it
        return None
    if sealing == PLAIN and kind not in OPEN_TYPES:
        raise IntegrityError(f"{name}: a {kind} record must be sealed", object_name=name)
    if kind in SIGNERS and role not in SIGNERS[kind]:
        raise IntegrityError(f"{name}: a {role} key may not sign a {kind} record", object_name=name)
    return Record(name, role, kind, document, signed.signer(), previous, sha256(data), owner)


def gc_name(generation: int, step: str) -> str:
    """`gc/<generation>.mark`, `.intent` or `.sweep`."""
    return f"gc/{generation:012d}.{step}"


def encode_mark(
    generation: int, packs: list[str], created: str, repository: bytes, signer: Signer, step: str = "mark"
) -> tuple[str, bytes]:
    """An object of garbage collection.

    Args:
        generation: its number.
        packs: of a mark those that are about to go, of an intent those that go now, of a sweep those that went.
        created: when.
        repository: the repository's id.
        signer: prune or root.
        step: mark, intent or sweep.
    """
    name = gc_name(generation, step)
    document = {"generation": generation, "created": created, "packs": packs}
    return name, sign_object(name, frame(GC, repository) + block(dump_json(document)), [signer])


def decode_mark(data: bytes, name: str, trust: Trust, *, revoked: bool = False) -> frozenset[str]:
    """The names of the packs that a verified mark, intent or sweep lists; with `revoked`, also of a key that was revoked since.

    Raises:
        IntegrityError: forged or damaged.
    """
    check_frame(data, name, trust.repository)
    signed = split_signed(name, data)
    known = trust.signer_public(signed.signer())
    if known is None or known[0] not in {Role.PRUNE, Role.ROOT} or (trust.last_record(signed.signer()) and not revoked):
        raise IntegrityError(f"{name} is signed by a key that may not", object_name=name)
    signed.verify(signed.signer(), known[1])
    cursor = Cursor(signed.body, name)
    document = parse_json(cursor.block(), name)
    cursor.end()
    packs = document.get("packs")
    if not isinstance(packs, list):
        raise IntegrityError(f"{name} holds a document that cannot be read", object_name=name)
    return frozenset(str(pack) for pack in packs)
