"""Records: who may sign what, sealed for whom, and nothing else is believed."""

import base64
import json
from dataclasses import replace

import pytest

from backupd.crypto.chunks import seal_part
from backupd.crypto.envelope import structure_key_id
from backupd.crypto.keyfile import Key, Role, Secrets
from backupd.crypto.keyring import Keyring, Signer
from backupd.crypto.primitives import expand
from backupd.errors import IntegrityError
from backupd.repo.format import GC, RECORD, block, dump_json, frame, owner_block, pack_json, sign_object
from backupd.repo.records import (
    SIGNERS,
    decode_mark,
    decode_record,
    encode_mark,
    encode_record,
    record_name,
)
from tests.unit.crypto.made import make_keys
from tests.unit.repo.world import make_world

WORLD = make_world()
ALL = WORLD.ring()
RIGHTS = {
    Role.WRITE: {"hold", "brake"},
    Role.CHECK: {"bad-packs", "good-packs", "evidence", "brake", "audit"},
    Role.PRUNE: {"bad-packs", "good-packs", "prune", "hold", "release", "brake", "brake-release", "audit"},
    Role.READ: {"bad-packs", "good-packs", "hold", "evidence", "erasure", "incident", "brake", "audit"},
    Role.RECOVERY: {"bad-packs", "good-packs", "hold", "evidence", "erasure", "incident", "brake", "audit"},
    Role.ROOT: {
        "bad-packs", "good-packs", "prune", "hold", "release", "brake", "brake-release", "evidence", "erasure",
        "incident", "audit",
    },
}  # fmt: skip
TYPES = sorted(RIGHTS[Role.ROOT])
OPEN = {"bad-packs", "good-packs", "prune"}


def joined(
    name: str,
    document: dict[str, object],
    signer: Signer,
    sealing: int,
    *,
    owner: bytes | None = None,
    key: bytes = b"",
) -> bytes:
    """A record put together by hand, by somebody who does not care what he may."""
    if owner is None:
        owner = bytes(20) + structure_key_id(records_key()) if sealing == 2 else bytes(36)
    body = seal_part(key, "record", name.encode(), pack_json(document)) if sealing else dump_json(document)
    return sign_object(
        name, frame(RECORD, WORLD.repository) + owner + bytes([sealing]) + bytes(32) + block(body), [signer]
    )


def records_key() -> bytes:
    key = ALL.records_key()
    assert key is not None
    return key


def test_the_table_covers_every_type() -> None:
    """There is a rule for every type that version 1 knows, and the root may sign each."""
    assert set(SIGNERS) == set(TYPES)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", TYPES)
def test_who_may_sign_what(role: Role, kind: str) -> None:
    """A record is made and believed if its signer's role may sign its type, and neither otherwise."""
    name, document = record_name(role, 1), {"type": kind, "reason": "r"}
    sealing = 0 if kind in OPEN else 2
    forged = joined(name, document, WORLD.signer(role), sealing, key=records_key())
    if kind in RIGHTS[role]:
        data = encode_record(name, document, WORLD.repository, WORLD.signer(role), WORLD.ring(role))
        for made in (data, forged):
            record = decode_record(made, name, WORLD.trust, ALL)
            assert record is not None
            assert (record.role, record.type, record.document) == (role, kind, document)
    else:
        with pytest.raises(IntegrityError, match="may not sign"):
            encode_record(name, document, WORLD.repository, WORLD.signer(role), ALL)
        with pytest.raises(IntegrityError, match="may not sign"):
            decode_record(forged, name, WORLD.trust, ALL)


@pytest.mark.parametrize("kind", ["unknown", "", "None", "HOLD"])
def test_unknown_types_are_kept(kind: str) -> None:
    """A type that version 1 does not know is read from whoever signed it, so that later versions may add types."""
    for role in Role:
        name = record_name(role, 1)
        record = decode_record(
            joined(name, {"type": kind}, WORLD.signer(role), 2, key=records_key()), name, WORLD.trust, ALL
        )
        assert record is not None
        assert (record.type, record.role) == (kind, role)


def test_a_record_sealed_under_an_older_key_is_found_by_its_id() -> None:
    """A record names the key that seals it: one under another key is not opened with the newest, and an older root opens it."""
    name = record_name(Role.ROOT, 1)
    root = next(k for k in ALL.keys if k.role is Role.ROOT)
    old = expand(bytes(32), b"backupd/v1/records", 32)
    data = joined(name, {"type": "hold"}, WORLD.signer(Role.ROOT), 2, owner=bytes(20) + structure_key_id(old), key=old)
    assert decode_record(data, name, WORLD.trust, ALL) is None
    older = Key(root.header, Secrets(root.secrets.values, 0, (bytes(32),)))
    assert decode_record(data, name, WORLD.trust, Keyring((older,))) is not None


def test_a_role_is_not_taken_from_the_name() -> None:
    """A record under another role's name, well signed by its own signer, is refused."""
    for role in Role:
        for other in Role:
            if other is not role:
                name = record_name(other, 1)
                data = joined(name, {"type": "brake"}, WORLD.signer(role), 2, key=records_key())
                with pytest.raises(IntegrityError, match="may not"):
                    decode_record(data, name, WORLD.trust, ALL)


def test_a_forged_role() -> None:
    """A signature under a known key's id by another key, and by a key that trust does not name, is refused."""
    name = record_name(Role.PRUNE, 1)
    stranger = make_keys()[Role.PRUNE]
    prune = WORLD.signer(Role.PRUNE)
    liars = [
        Signer(Role.PRUNE, prune.id, stranger.secrets["sign"]),
        Signer(Role.PRUNE, stranger.header.id, stranger.secrets["sign"]),
        Signer(Role.PRUNE, prune.id, WORLD.keys[Role.WRITE].secrets["sign"]),
    ]
    for liar in liars:
        with pytest.raises(IntegrityError):
            decode_record(joined(name, {"type": "prune"}, liar, 0), name, WORLD.trust, ALL)


def test_a_record_is_bound_to_its_number_and_repository() -> None:
    """A record replayed under another number or in another repository is refused."""
    name = record_name(Role.PRUNE, 1)
    data = joined(name, {"type": "prune"}, WORLD.signer(Role.PRUNE), 0)
    assert decode_record(data, name, WORLD.trust, ALL)
    with pytest.raises(IntegrityError, match="does not verify"):
        decode_record(data, record_name(Role.PRUNE, 2), WORLD.trust, ALL)
    with pytest.raises(IntegrityError, match="another repository"):
        decode_record(data, name, replace(WORLD.trust, repository=bytes(16)), ALL)


@pytest.mark.parametrize("role", list(Role))
def test_who_can_open_a_sealed_record(role: Role) -> None:
    """A record under the records key opens for every role but write, to whom it is no record at all."""
    name = record_name(Role.READ, 4)
    data = encode_record(name, {"type": "erasure", "who": "x"}, WORLD.repository, WORLD.signer(Role.READ), ALL)
    record = decode_record(data, name, WORLD.trust, WORLD.ring(role))
    assert (record is None) == (role is Role.WRITE)
    assert b"erasure" not in data


@pytest.mark.parametrize("role", list(Role))
def test_who_can_open_a_writers_record(role: Role) -> None:
    """A record of a writer opens for that writer and for all who have the structure root."""
    name = record_name(Role.WRITE, 4)
    data = encode_record(
        name, {"type": "hold", "reason": "audit"}, WORLD.repository, WORLD.signer(), WORLD.ring(Role.WRITE)
    )
    assert data[32:68] == owner_block(WORLD.secrets.writer, 1, structure_key_id(WORLD.structure_key))
    record = decode_record(data, name, WORLD.trust, WORLD.ring(role))
    assert record is not None
    assert record.document["reason"] == "audit"
    assert b"audit" not in data
    strange = Keyring((make_keys()[Role.CHECK],))
    assert decode_record(data, name, WORLD.trust, strange) is None


def test_plain_is_for_numbers_and_names_alone() -> None:
    """A hold or an erasure in the clear is refused, though its signer may sign it."""
    for kind in set(TYPES) - OPEN:
        name = record_name(Role.ROOT, 1)
        with pytest.raises(IntegrityError, match="sealed"):
            decode_record(joined(name, {"type": kind}, WORLD.signer(Role.ROOT), 0), name, WORLD.trust, ALL)


@pytest.mark.parametrize("sealing", [3, 4, 255])
def test_unknown_sealings_are_refused(sealing: int) -> None:
    """A way of sealing that version 1 does not know is refused."""
    name = record_name(Role.ROOT, 1)
    data = joined(name, {"type": "hold"}, WORLD.signer(Role.ROOT), sealing, key=records_key())
    with pytest.raises(IntegrityError, match="does not know"):
        decode_record(data, name, WORLD.trust, ALL)


def test_an_owner_where_none_belongs_is_refused() -> None:
    """The owner block is zero unless a writer's structure key seals the record."""
    name, owner = record_name(Role.ROOT, 1), b"\1" + bytes(35)
    for sealing, kind in ((0, "prune"), (2, "hold")):
        data = joined(name, {"type": kind}, WORLD.signer(Role.ROOT), sealing, owner=owner, key=records_key())
        with pytest.raises(IntegrityError):
            decode_record(data, name, WORLD.trust, ALL)


def test_every_byte_of_a_record_counts() -> None:
    """A record of each sealing with any byte changed or cut is refused (A1, A2)."""
    made = [
        encode_record(record_name(Role.PRUNE, 1), {"type": kind}, WORLD.repository, WORLD.signer(Role.PRUNE), ALL)
        for kind in ("prune", "hold")
    ]
    name = record_name(Role.PRUNE, 1)
    for data in made:
        touched = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
        for bad in [*touched, *(data[:n] for n in range(0, len(data), 5)), data + b"\0"]:
            with pytest.raises(IntegrityError):
                decode_record(bad, name, WORLD.trust, ALL)


@pytest.mark.parametrize("body", [b"[]", b"", b"no json", b'{"type":"prune","type":"hold"}', b'{"type":1e999}'])
def test_a_signed_record_without_sense(body: bytes) -> None:
    """A document that is no object, doubled or no number is refused, though it is signed."""
    name = record_name(Role.PRUNE, 1)
    data = sign_object(name, frame(RECORD, WORLD.repository) + bytes(37 + 32) + block(body), [WORLD.signer(Role.PRUNE)])
    with pytest.raises(IntegrityError):
        decode_record(data, name, WORLD.trust, ALL)


def test_a_sealed_body_under_another_key_is_damage() -> None:
    """A body that the records key does not open is an error, not an absent record."""
    name = record_name(Role.READ, 1)
    data = joined(name, {"type": "hold"}, WORLD.signer(Role.READ), 2, key=bytes(32))
    with pytest.raises(IntegrityError, match="does not open"):
        decode_record(data, name, WORLD.trust, ALL)


PACKS = [f"packs/0a/{'0a' * 32}", f"packs/0b/{'0b' * 32}"]


@pytest.mark.parametrize("role", list(Role))
def test_who_may_mark(role: Role) -> None:
    """Marks of garbage collection are believed from prune and root keys alone."""
    name, data = encode_mark(3, PACKS, "2026-01-01T00:00:00Z", WORLD.repository, WORLD.signer(role))
    assert name == "gc/000000000003.mark"
    if role in (Role.PRUNE, Role.ROOT):
        assert decode_mark(data, name, WORLD.trust) == frozenset(PACKS)
    else:
        with pytest.raises(IntegrityError, match="may not"):
            decode_mark(data, name, WORLD.trust)


def test_a_mark_is_bound_to_its_generation() -> None:
    """A mark replayed as another generation, damaged, or without a list of packs is refused."""
    name, data = encode_mark(3, PACKS, "2026-01-01T00:00:00Z", WORLD.repository, WORLD.signer(Role.PRUNE))
    with pytest.raises(IntegrityError):
        decode_mark(data, "gc/000000000004.mark", WORLD.trust)
    for at in range(0, len(data), 3):
        with pytest.raises(IntegrityError):
            decode_mark(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], name, WORLD.trust)
    for document in ({}, {"packs": "all"}, {"packs": None}):
        bad = sign_object(name, frame(GC, WORLD.repository) + block(dump_json(document)), [WORLD.signer(Role.PRUNE)])
        with pytest.raises(IntegrityError):
            decode_mark(bad, name, WORLD.trust)


def test_records_show_no_secret() -> None:
    """Plain records hold names and numbers; the rest is sealed, and base64 of it does not stand there either."""
    name = record_name(Role.PRUNE, 2)
    data = encode_record(
        name, {"type": "hold", "reason": "customer 4711"}, WORLD.repository, WORLD.signer(Role.PRUNE), ALL
    )
    assert b"4711" not in data
    assert base64.b64encode(b"customer 4711") not in data
    assert json.dumps("customer 4711").encode() not in data
