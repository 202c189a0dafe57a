"""Snapshot objects: bound to writer, number, session and repository, every bit of them."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from backupd.crypto.chunks import Kind, seal_part
from backupd.crypto.envelope import seal_envelope
from backupd.crypto.keyfile import Role
from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError
from backupd.repo.format import SNAPSHOT, block, dump_json, frame, pack_json, sign_object, snapshot_name
from backupd.repo.snapshot import SnapshotObject, StreamRoot, Structure, encode_snapshot, parse_snapshot
from tests.unit.crypto.made import recipients, session_secrets
from tests.unit.repo.world import World, make_world

WORLD = make_world()
STRUCTURE = Structure(
    seq=7,
    previous=b"\7" * 32,
    trust=1,
    source="orders",
    taken_at="2026-01-02T03:04:05Z",
    stored_at="2026-01-02T03:04:06Z",
    kind="snapshot",
    streams=(StreamRoot(Kind.ROWS, 64, 3, 300, b"top node"), StreamRoot(Kind.PAGES, 64, 1, 65536, b"")),
    rows=12,
    read_bytes=400,
    stored_bytes=500,
    chunks={"total": 4, "full": 3, "delta": 0, "reused": 1},
    segments=(b"\5" * 32,),
    skipped=((3, 5),),
    tags=("weekly", "größe"),
    hold="audit",
)
KINDS = [Kind.ROWS, Kind.PAGES]
CONTENT: dict[str, object] = {
    "engine": "sqlite",
    "facts": {},
    "warnings": [],
    "streams": [
        {"name": "customers", "kind": "rows", "unit": 0, "rows": 12, "content": "", "digest": "0" * 64, "key": [0]},
        {"name": "main", "kind": "pages", "unit": 4096, "rows": None, "content": None, "digest": None},
    ],
    "tables": [
        {
            "name": "customers",
            "key": ["id"],
            "rows": 12,
            "columns": [["id", "integer"]],
            "format": "f",
            "ordered": True,
            "digest": "0" * 64,
        }
    ],
    "note": "",
}


def make(world: World = WORLD, structure: Structure = STRUCTURE, *, signer: World | None = None) -> tuple[str, bytes]:
    return encode_snapshot(
        structure,
        CONTENT,
        envelope=world.envelope,
        structure_key=world.structure_key,
        session_key=world.secrets.session_key,
        signer=(signer or world).signer(),
        stored_overhead=False,
    )


NAME, DATA = make()


def read(data: bytes, name: str = NAME, world: World = WORLD) -> tuple[Structure, dict[str, Any]]:
    """Everything that a reader with a read key checks of one snapshot object."""
    found = parse_snapshot(data, name, world.repository)
    signer = found.signed.signer()
    entry = world.trust.writer_entry(found.writer, signer)
    if entry is None:
        raise IntegrityError("signed by no writer", object_name=name)
    found.signed.verify(signer, entry.public)
    ring = world.ring(Role.READ)
    key = ring.structure_key(found.writer, found.envelope.epoch, found.envelope.structure_id)
    assert key is not None
    return found.structure(key), found.content(ring.session(found.envelope).session_key, KINDS)


def test_a_snapshot_round_trips() -> None:
    """What was sealed comes back, and the id is the hash of the whole object."""
    structure, content = read(DATA)
    assert structure == STRUCTURE
    assert content == CONTENT
    found = parse_snapshot(DATA, NAME, WORLD.repository)
    assert (found.id, found.seq, found.size) == (sha256(DATA), 7, len(DATA))
    assert snapshot_name(WORLD.secrets.writer, 7) == NAME


def test_the_smallest_snapshot_round_trips() -> None:
    """A first snapshot without streams, rows, tags and hold comes back too."""
    small = replace(STRUCTURE, seq=1, previous=None, streams=(), rows=None, tags=(), hold=None, segments=(), skipped=())
    name, data = make(structure=small)
    assert read(data, name)[0] == small


def test_its_own_length_counts_as_stored() -> None:
    """The object's own bytes are added to what the run stored, within one part in fifty."""
    name, data = encode_snapshot(
        STRUCTURE,
        CONTENT,
        envelope=WORLD.envelope,
        structure_key=WORLD.structure_key,
        session_key=WORLD.secrets.session_key,
        signer=WORLD.signer(),
    )
    counted = read(data, name)[0].stored_bytes - STRUCTURE.stored_bytes
    assert abs(counted - len(data)) < len(data) / 50


def place_of_blocks() -> dict[str, tuple[int, int]]:
    """Every region of DATA: start and end."""
    out = {
        "magic": (0, 4),
        "kind": (4, 5),
        "version": (5, 6),
        "suite": (6, 8),
        "features": (8, 16),
        "repository": (16, 32),
    }
    at = 32
    for name in ("envelope", "structure", "content"):
        length = int.from_bytes(DATA[at : at + 4], "little")
        out[f"{name} length"] = (at, at + 4)
        if name == "envelope":
            out[name] = (at + 4, at + 4 + length)
        else:
            out[f"{name} salt"] = (at + 4, at + 28)
            out[f"{name} ciphertext"] = (at + 28, at + 4 + length - 16)
            out[f"{name} tag"] = (at + 4 + length - 16, at + 4 + length)
        at += 4 + length
    out |= {"signature count": (at, at + 1), "signer": (at + 1, at + 17), "signature": (at + 17, at + 81)}
    return out


REGIONS = place_of_blocks()


def test_regions_cover_the_whole_object() -> None:
    """The regions that are damaged below are all there is."""
    assert [start for start, _ in list(REGIONS.values())[1:]] == [end for _, end in list(REGIONS.values())[:-1]]
    assert list(REGIONS.values())[-1][1] == len(DATA)


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_is_found(region: str) -> None:
    """A bit flipped in any region is refused, naming the snapshot (A1)."""
    start, end = REGIONS[region]
    for at in {*range(start, min(end, start + 8)), (start + end) // 2, end - 1}:
        for bit in (1, 128):
            with pytest.raises(IntegrityError) as caught:
                read(DATA[:at] + bytes([DATA[at] ^ bit]) + DATA[at + 1 :])
            assert caught.value.object_name == NAME


@pytest.mark.parametrize("region", REGIONS)
def test_a_cut_is_found(region: str) -> None:
    """Cut at each boundary and one byte to either side, a snapshot is refused (A2)."""
    for boundary in REGIONS[region]:
        for length in (boundary - 1, boundary, boundary + 1):
            if 0 <= length < len(DATA):
                with pytest.raises(IntegrityError):
                    read(DATA[:length])
    with pytest.raises(IntegrityError):
        read(DATA + b"\0")


def test_a_copy_under_another_number_is_refused() -> None:
    """The same object as another snapshot of its writer does not verify (D29)."""
    for seq in (6, 8, 70):
        with pytest.raises(IntegrityError, match="does not verify"):
            read(DATA, snapshot_name(WORLD.secrets.writer, seq))


def test_a_copy_under_another_writer_is_refused() -> None:
    """The same object under another writer's prefix is refused by its envelope (D29)."""
    with pytest.raises(IntegrityError, match="another writer"):
        read(DATA, snapshot_name(bytes(16), 7))


def test_a_copy_in_another_repository_is_refused() -> None:
    """The same object in another repository is refused by its frame, and with a new frame by its envelope (D29)."""
    other = make_world()
    with pytest.raises(IntegrityError, match="another repository"):
        parse_snapshot(DATA, NAME, other.repository)
    reframed = DATA[:16] + other.repository + DATA[32:]
    with pytest.raises(IntegrityError, match="another writer"):
        parse_snapshot(reframed, NAME, other.repository)


def test_another_signer_is_refused() -> None:
    """A snapshot of this writer signed by another repository's writer, or by another role's key, is refused (D29)."""
    other = make_world()
    _, forged = make(signer=other)
    with pytest.raises(IntegrityError):
        read(forged)
    for role in (Role.CHECK, Role.PRUNE, Role.ROOT):
        body = DATA[:-81]
        with pytest.raises(IntegrityError):
            read(sign_object(NAME, body, [WORLD.signer(role)]))
    with pytest.raises(IntegrityError, match="one signature"):
        read(sign_object(NAME, DATA[:-81], [WORLD.signer(), WORLD.signer(Role.ROOT)]))


def parts(data: bytes) -> list[bytes]:
    at, out = 32, []
    for _ in range(3):
        length = int.from_bytes(data[at : at + 4], "little")
        out.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return out


def rejoined(envelope: bytes, structure: bytes, content: bytes, name: str = NAME) -> bytes:
    """Parts put together and signed by the writer itself."""
    body = frame(SNAPSHOT, WORLD.repository) + block(envelope) + block(structure) + block(content)
    return sign_object(name, body, [WORLD.signer()])


def test_parts_of_two_snapshots_do_not_mix() -> None:
    """Parts of another number or session do not open here, even if the writer signs the mixture (A4)."""
    mine = parts(DATA)
    _, later = make(structure=replace(STRUCTURE, seq=8))
    _, other_session = make(WORLD.session())
    for other in (parts(later), parts(other_session)):
        for mixture in ((mine[0], other[1], mine[2]), (mine[0], mine[1], other[2]), (mine[0], mine[2], mine[1])):
            with pytest.raises(IntegrityError, match="does not open"):
                read(rejoined(*mixture))
    with pytest.raises(IntegrityError):
        read(rejoined(parts(other_session)[0], mine[1], mine[2]))
    assert read(rejoined(*mine))[0] == STRUCTURE


def test_an_envelope_of_another_writer_is_refused() -> None:
    """An envelope that names another writer outside is refused before anything is opened."""
    secrets = replace(session_secrets(WORLD.keys[Role.WRITE]), writer=bytes(16))
    envelope = seal_envelope(secrets, recipients(WORLD.keys), 1)
    with pytest.raises(IntegrityError, match="another writer"):
        read(rejoined(envelope.raw, *parts(DATA)[1:]))


def test_the_number_inside_is_the_one_outside() -> None:
    """A structure part that says another number than the name is refused."""
    aad = NAME.encode() + sha256(WORLD.envelope.raw)
    document = replace(STRUCTURE, seq=8).document()
    sealed = seal_part(WORLD.structure_key, "snapshot-structure", aad, pack_json(document))
    with pytest.raises(IntegrityError, match="another number"):
        read(rejoined(WORLD.envelope.raw, sealed, parts(DATA)[2]))


BAD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no seq": lambda d: d.pop("seq"),
    "no segments": lambda d: d.pop("segments"),
    "seq text": lambda d: d.update(seq="x"),
    "seq null": lambda d: d.update(seq=None),
    "previous no hex": lambda d: d.update(previous="zz"),
    "previous a number": lambda d: d.update(previous=5),
    "streams null": lambda d: d.update(streams=None),
    "streams numbers": lambda d: d.update(streams=[1]),
    "kind unknown": lambda d: d["streams"][0].update(kind=9),
    "top no base64": lambda d: d["streams"][0].update(top="?"),
    "top no text": lambda d: d["streams"][0].update(top=1),
    "chunks a list": lambda d: d.update(chunks=[]),
    "chunks text": lambda d: d.update(chunks={"total": "many"}),
    "tags a number": lambda d: d.update(tags=5),
    "rows text": lambda d: d.update(rows="many"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_structure_without_sense_is_refused(name: str) -> None:
    """A well-signed structure part with a part missing or of another type is refused, never a crash."""
    document = json.loads(dump_json(STRUCTURE.document()))
    BAD[name](document)
    aad = NAME.encode() + sha256(WORLD.envelope.raw)
    for plain in (pack_json(document), dump_json(document), b"", block(b"")):
        sealed = seal_part(WORLD.structure_key, "snapshot-structure", aad, plain)
        with pytest.raises(IntegrityError) as caught:
            read(rejoined(WORLD.envelope.raw, sealed, parts(DATA)[2]))
        assert caught.value.object_name in (NAME, None)


def test_content_opens_with_the_session_key_alone() -> None:
    """The structure key opens the structure part and not the content part (I80)."""
    found: SnapshotObject = parse_snapshot(DATA, NAME, WORLD.repository)
    assert found.structure(WORLD.structure_key) == STRUCTURE
    for key in (
        WORLD.structure_key,
        *WORLD.keys[Role.CHECK].secrets.values.values(),
        *WORLD.keys[Role.WRITE].secrets.values.values(),
    ):
        with pytest.raises(IntegrityError, match="does not open"):
            found.content(key, KINDS)


def test_a_snapshot_shows_nothing() -> None:
    """Neither sources, tables, tags nor top nodes stand in the object's bytes or in its repr (I77)."""
    for secret in (b"orders", b"customers", b"weekly", b"audit", b"2026", base64.b64encode(b"top node")):
        assert secret not in DATA
        assert secret.decode() not in repr(parse_snapshot(DATA, NAME, WORLD.repository))
