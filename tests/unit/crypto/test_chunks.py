"""Sealed chunks and parts: bound to everything about them, and never two plaintexts under one key and nonce."""

import hmac
import os
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from backupd.crypto.chunks import (
    BLOB_OVERHEAD,
    ChunkHead,
    ChunkNamer,
    ChunkSealer,
    Kind,
    open_part,
    seal_part,
)
from backupd.crypto.primitives import Unauthentic

REPOSITORY = bytes(range(16))
ROOT = Path(__file__).parents[3]


class RecordingSealer(ChunkSealer):
    """Writes down every key and nonce that it derives, in order."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.pairs: list[bytes] = []

    def _key_nonce(self, head: ChunkHead, salt: bytes) -> bytes:
        pair = super()._key_nonce(head, salt)
        self.pairs.append(pair)
        return pair


class Ledger:
    """Which (key, nonce) pair sealed which message; a pair that seals a second message fails the test."""

    def __init__(self) -> None:
        self.seen: dict[bytes, bytes] = {}

    def note(self, pair: bytes, message: bytes) -> None:
        assert len(pair) == 44
        assert self.seen.setdefault(pair, message) == message, "one key and nonce, two plaintexts"


def head_of(plain: bytes, namer: ChunkNamer, *, codec: int = 0, bases: tuple[bytes, ...] = ()) -> ChunkHead:
    return ChunkHead(REPOSITORY, namer.kind, codec, namer.name(plain), len(plain), len(plain), bases)


def rows_namer(secret: bytes = bytes(32)) -> ChunkNamer:
    return ChunkNamer.of(secret, Kind.ROWS)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 65535, 65536, 1024 * 1024 - 1, 1024 * 1024])
def test_round_trip_of_sizes(size: int) -> None:
    """What was sealed opens to the same bytes, and the blob is 40 bytes longer, at every size at an edge (A8)."""
    plain = os.urandom(size)
    sealer = ChunkSealer(os.urandom(32))
    head = head_of(plain, rows_namer())
    blob = sealer.seal(head, plain)
    assert len(blob) == size + BLOB_OVERHEAD == size + 40
    assert sealer.open(head, blob) == plain
    assert sealer.open(head, memoryview(blob)) == plain


@given(plain=st.binary(min_size=1, max_size=300), secret=st.binary(min_size=32, max_size=32))
def test_round_trip_of_anything(plain: bytes, secret: bytes) -> None:
    """Any plaintext under any secret comes back (A8)."""
    sealer, head = ChunkSealer(secret), head_of(plain, rows_namer(secret))
    assert sealer.open(head, sealer.seal(head, plain)) == plain


def expand(key: bytes, info: bytes, n: int) -> bytes:
    """HKDF-Expand by its definition."""
    out = block = b""
    for i in range(1, -(-n // 32) + 1):
        block = hmac.digest(key, block + info + bytes([i]), "sha256")
        out += block
    return out[:n]


def test_a_blob_is_the_documented_one() -> None:
    """Id, salt, key, nonce and associated data are those of FORMAT.md, section 6, computed without this package."""
    secret, id_key, plain, base = b"\1" * 32, b"\2" * 32, b"payload bytes", b"\3" * 32
    chunk_id = blake3(b"plain", key=blake3(id_key, derive_key_context="backupd/v1/chunk-id/rows").digest()).digest()
    assert ChunkNamer.of(id_key, Kind.ROWS).name(b"plain") == chunk_id
    aad = REPOSITORY + struct.pack("<BBBBII", 1, 2, 1, 0, len(plain), 5) + chunk_id + base
    salt = blake3(aad + plain, key=blake3(secret, derive_key_context="backupd/v1/chunk-salt").digest()).digest()[:24]
    both = expand(secret, b"backupd/v1/chunk" + REPOSITORY + b"\1" + chunk_id + salt, 44)
    want = salt + AESGCM(both[:32]).encrypt(both[32:], plain, aad)
    assert (
        ChunkSealer(secret).seal(ChunkHead(REPOSITORY, Kind.ROWS, 2, chunk_id, len(plain), 5, (base,)), plain) == want
    )


def test_a_part_is_the_documented_one() -> None:
    """Salt, key, nonce and associated data are those of FORMAT.md, section 2, computed without this package."""
    key, plain = b"\1" * 32, b"plaintext"
    message = b"\5index" + struct.pack("<I", 4) + b"name" + plain
    salt = blake3(message, key=blake3(key, derive_key_context="backupd/v1/sealed-salt").digest()).digest()[:24]
    both = expand(key, b"backupd/v1/sealed\5index" + salt, 44)
    want = salt + AESGCM(both[:32]).encrypt(both[32:], plain, b"index\0name")
    assert seal_part(key, "index", b"name", plain) == want


def test_every_bit_of_a_blob_counts() -> None:
    """A blob with any single bit flipped, cut or grown does not open (A1, A2)."""
    plain = b"row one\nrow two\n"
    sealer, head = ChunkSealer(bytes(32)), head_of(plain, rows_namer())
    blob = sealer.seal(head, plain)
    damaged = [blob[:i] + bytes([blob[i] ^ (1 << bit)]) + blob[i + 1 :] for i in range(len(blob)) for bit in range(8)]
    for bad in [*damaged, *(blob[:n] for n in range(len(blob))), blob + b"\0"]:
        with pytest.raises(Unauthentic):
            sealer.open(head, bad)


@pytest.mark.parametrize(
    "change",
    [
        {"repository": bytes(16)},
        {"kind": Kind.PAGES},
        {"codec": 1},
        {"id": bytes(32)},
        {"payload_length": 7},
        {"plain_length": 9},
        {"bases": (bytes(32),)},
        {"bases": (b"\1" * 32, b"\2" * 32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_head_is_bound_to_its_blob(change: dict[str, object]) -> None:
    """A chunk does not open as another repository's, kind's, codec's, id's, length's or base's (A4, A5)."""
    plain = b"12345678"
    sealer = ChunkSealer(bytes(32))
    head = head_of(plain, rows_namer(), codec=2, bases=(b"\1" * 32,))
    blob = sealer.seal(head, plain)
    assert sealer.open(head, blob) == plain
    with pytest.raises(Unauthentic):
        sealer.open(replace(head, **change), blob)  # type: ignore[arg-type]


def test_bases_are_bound_in_order() -> None:
    """Two bases exchanged do not open (A4)."""
    head = ChunkHead(REPOSITORY, Kind.ROWS, 2, bytes(32), 3, 3, (b"\1" * 32, b"\2" * 32))
    sealer = ChunkSealer(bytes(32))
    with pytest.raises(Unauthentic):
        sealer.open(replace(head, bases=head.bases[::-1]), sealer.seal(head, b"abc"))


def test_another_session_opens_nothing() -> None:
    """A chunk of the same id from another session, writer or epoch does not open here (A4)."""
    plain = b"the same row\n"
    head = head_of(plain, rows_namer())
    mine, other = ChunkSealer(b"\1" * 32), ChunkSealer(b"\2" * 32)
    with pytest.raises(Unauthentic):
        mine.open(head, other.seal(head, plain))


def test_a_lying_writer_is_found_by_the_id() -> None:
    """Well-sealed content under an id that is not its own opens, and the id check refuses it (A6)."""
    namer, sealer = rows_namer(), ChunkSealer(bytes(32))
    head = head_of(b"promised", namer)
    opened = sealer.open(head, sealer.seal(head, b"replaced"))
    assert opened == b"replaced"
    with pytest.raises(Unauthentic):
        namer.check(head.id, opened)
    namer.check(head.id, b"promised")


def test_ids_are_functions_of_secret_kind_and_content() -> None:
    """Equal content of one writer has one id and one blob; other kinds and writers have unrelated ids (C25)."""
    plain = b"equal plaintext\n"
    ids = {
        (secret, kind): ChunkNamer.of(secret, kind).name(plain) for secret in (b"\1" * 32, b"\2" * 32) for kind in Kind
    }
    assert len(set(ids.values())) == 2 * len(Kind)
    assert ids[b"\1" * 32, Kind.ROWS] == ChunkNamer.of(b"\1" * 32, Kind.ROWS).name(plain)
    head, sealer = head_of(plain, rows_namer()), ChunkSealer(bytes(32))
    assert sealer.seal(head, plain) == sealer.seal(head, plain)
    assert sealer.seal(head, plain) != ChunkSealer(b"\1" * 32).seal(head, plain)


def test_no_pair_repeats_in_a_hundred_thousand_seals() -> None:
    """Over 10^5 different chunks, some alike in all but one field, no (key, nonce) pair is used twice (C21)."""
    sealer, namer, ledger = RecordingSealer(bytes(32)), rows_namer(), Ledger()
    heads: list[tuple[ChunkHead, bytes]] = []
    for n in range(25_000):
        plain = n.to_bytes(8, "little")
        head = head_of(plain, namer)
        liar = n.to_bytes(7, "little") + b"\xff"
        heads += [(head, plain), (head, liar), (replace(head, codec=1), plain), (replace(head, kind=Kind.PAGES), plain)]
    for head, payload in heads:
        sealer.seal(head, payload)
        ledger.note(sealer.pairs[-1], head.aad() + payload)
    assert len(ledger.seen) == len(sealer.pairs) == 100_000
    assert len({pair[32:] for pair in ledger.seen}) > 99_990, "nonces alone are as good as random"


def test_key_and_nonce_come_from_what_is_sealed() -> None:
    """Every field of a head and every bit of a payload changes the pair, so a repeated pair is a repeated chunk (C21)."""
    sealer, ledger = RecordingSealer(bytes(32)), Ledger()
    head = ChunkHead(REPOSITORY, Kind.ROWS, 2, bytes(32), 4, 4, (b"\1" * 32, b"\2" * 32))
    variants = [
        head,
        replace(head, repository=bytes(16)),
        replace(head, kind=Kind.SCHEMA),
        replace(head, codec=3),
        replace(head, id=b"\1" * 32),
        replace(head, plain_length=5),
        replace(head, bases=head.bases[:1]),
        replace(head, bases=head.bases[::-1]),
        replace(head, bases=()),
    ]
    for variant in variants:
        for payload in (b"\0\0\0\0", b"\0\0\0\1", b"\x80\0\0\0"):
            sealer.seal(variant, payload)
            ledger.note(sealer.pairs[-1], variant.aad() + payload)
    assert len(ledger.seen) == 3 * len(variants)


CONSTANT_RANDOM = """
import os
os.urandom = lambda n: bytes(n)
from backupd.crypto.primitives import random_bytes
from backupd.crypto.chunks import Kind
from tests.unit.crypto.test_chunks import Ledger, RecordingSealer, head_of, rows_namer
ledger = Ledger()
blobs = []
for run in range(2):
    secret, namer = random_bytes(32), rows_namer(random_bytes(32))
    assert secret == bytes(32)
    sealer = RecordingSealer(secret)
    for n in range(2000):
        plain = (n + 1000 * run).to_bytes(4, "little")
        head = head_of(plain, namer)
        for payload in (plain, bytes(4 - run) + b"x" * run):
            blobs.append(sealer.seal(head, payload))
            ledger.note(sealer.pairs[-1], head.aad() + payload)
print(len(ledger.seen), len(set(blobs)))
"""


def test_a_dead_random_source_repeats_no_pair() -> None:
    """With a random source stuck at zero, two runs share their keys, and still no pair seals two plaintexts (C22)."""
    out = subprocess.run([sys.executable, "-c", CONSTANT_RANDOM], cwd=ROOT, capture_output=True, check=True, text=True)
    pairs, blobs = map(int, out.stdout.split())
    assert pairs == blobs
    assert pairs >= 6000


def test_threads_share_a_sealer() -> None:
    """Four threads sealing overlapping chunks with one sealer make equal blobs of equal chunks and no clash (C23)."""
    sealer, namer = RecordingSealer(bytes(32)), rows_namer()
    blobs: list[dict[bytes, bytes]] = [{} for _ in range(4)]

    def work(number: int) -> None:
        for n in range(number * 500, number * 500 + 2000):
            plain = n.to_bytes(4, "little")
            blobs[number][plain] = sealer.seal(head_of(plain, namer), plain)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    merged: dict[bytes, bytes] = {}
    for part in blobs:
        for plain, blob in part.items():
            assert merged.setdefault(plain, blob) == blob
            assert sealer.open(head_of(plain, namer), blob) == plain
    assert len(set(sealer.pairs)) == len(merged) == 3500


def test_a_fork_after_the_session_began() -> None:
    """Parent and child of a fork go on with one secret; equal pairs mean equal plaintexts in both (C23, C24)."""
    sealer, namer, ledger = RecordingSealer(os.urandom(32)), rows_namer(), Ledger()
    sealer.seal(head_of(b"before", namer), b"before")

    def run(start: int) -> bytes:
        out = []
        for n in range(start, start + 300):
            plain = n.to_bytes(4, "little")
            sealer.seal(head_of(plain, namer), plain)
            out.append(sealer.pairs[-1] + plain)
        return b"".join(out)

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, run(150))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    mine = run(0)
    assert len(theirs) == len(mine) == 300 * 48
    for line in (mine, theirs):
        for at in range(0, len(line), 48):
            ledger.note(line[at : at + 44], line[at + 44 : at + 48])
    assert len(ledger.seen) == 450


def test_a_part_opens_under_its_own_key_label_and_place_alone() -> None:
    """A sealed part moved to another place, under another label or key, or damaged, does not open (A1, A7)."""
    key = bytes(32)
    sealed = seal_part(key, "index", b"name", b"plaintext")
    assert open_part(key, "index", b"name", sealed) == b"plaintext"
    assert seal_part(key, "index", b"name", b"plaintext") == sealed
    for other in [
        (b"\1" * 32, "index", b"name"),
        (key, "inde", b"xname"),
        (key, "index", b"nam"),
        (key, "record", b"name"),
    ]:
        with pytest.raises(Unauthentic):
            open_part(*other, sealed)
    for bad in [*(sealed[:n] for n in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(Unauthentic):
            open_part(key, "index", b"name", bad)
    for at in range(len(sealed)):
        with pytest.raises(Unauthentic):
            open_part(key, "index", b"name", sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])


def test_salts_of_parts_tell_label_place_and_plaintext_apart() -> None:
    """No two of (label, place, plaintext) share a salt, not even where their joined bytes are equal (C21)."""
    made = {
        seal_part(bytes(32), label, aad, plain)[:24]
        for label, aad, plain in [
            ("a", b"", b"bc"),
            ("a", b"b", b"c"),
            ("a", b"bc", b""),
            ("ab", b"", b"c"),
            ("ab", b"c", b""),
            ("abc", b"", b""),
        ]
    }
    assert len(made) == 6


@given(label=st.sampled_from(["index", "record"]), aad=st.binary(max_size=40), plain=st.binary(max_size=200))
def test_parts_round_trip(label: str, aad: bytes, plain: bytes) -> None:
    """Any part comes back, 40 bytes longer while sealed (A8)."""
    sealed = seal_part(b"\7" * 32, label, aad, plain)
    assert len(sealed) == len(plain) + BLOB_OVERHEAD
    assert open_part(b"\7" * 32, label, aad, sealed) == plain


def test_secrets_do_not_show() -> None:
    """The repr of namers and sealers holds no key."""
    secret = bytes.fromhex("c0ffee11" * 8)
    shown = repr(ChunkNamer.of(secret, Kind.ROWS)) + repr(ChunkSealer(secret))
    assert secret.hex() not in shown
    assert repr(secret)[2:-1] not in shown
    assert "key" not in shown
