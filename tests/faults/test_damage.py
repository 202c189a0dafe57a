"""The damage matrix: every way to damage every kind of object is noticed, names the object, and never gives wrong data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import BackupdError, Exit, IntegrityError
from backupd.jobs.verify import Level
from backupd.repo.format import FRAME_BYTES, OWNER_BYTES, trust_name
from backupd.repo.pack import TRAILER_BYTES, parse_pack
from backupd.repo.records import encode_mark
from backupd.store.base import ObjectStore
from tests.jobs_kit import Kit, contents, copy_host, pack_kinds, store_of

NOWHERE = f"packs/00/{'00' * 32}"
SIGNATURE = 81


def make_wide_database(path: Path, chunks: int = 80) -> Path:
    """Many chunks that compress well, so that lists have nodes and nothing is large."""
    db = apsw.Connection(str(path))
    with db:
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
        db.executemany("INSERT INTO rows VALUES (?, zeroblob(3900))", ((n,) for n in range(chunks * 16)))
    db.close()
    return path


def change_wide_database(path: Path) -> None:
    """Change one row in each of some chunks."""
    db = apsw.Connection(str(path))
    with db:
        for n in range(0, 1000, 100):
            db.execute("UPDATE rows SET data = ? WHERE id = ?", (f"{n:03900}".encode(), n))
    db.close()


@dataclass
class Base:
    """A repository with two of everything, and what its snapshots hold."""

    kit: Kit
    source: Path
    held: dict[str, bytes]
    objects: dict[str, bytes]
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Made once; every test works on copies."""
    kit = Kit(tmp_path_factory.mktemp("damage"), pack_bytes=12_000)
    source, held = make_wide_database(kit.root / "wide.db"), {}
    held[kit.backup(source).snapshot] = source.read_bytes()
    trust = kit.trust
    kit.put_trust(type(trust)(**{**{n: getattr(trust, n) for n in trust.__slots__}, "version": 2}))
    change_wide_database(source)
    held[kit.backup(source).snapshot] = source.read_bytes()
    pairs = {"trust": (trust_name(1), trust_name(2))}
    for n in (1, 2):
        kit.put_record(Role.CHECK, n, {"type": "bad-packs", "created": "x", "packs": [NOWHERE]})
        kit.put_record(Role.PRUNE, n, {"type": "hold", "created": "x", "snapshot": "x", "reason": "a case"})
        name, data = encode_mark(n, [NOWHERE], "x", trust.repository, kit.signer(Role.PRUNE))
        kit.store.put(name, data)
    first, second = sorted(kit.history().views, key=lambda v: v.object.seq)
    writer = kit.writer.hex()
    pairs["snapshot"] = (first.object.name, second.object.name)
    for kind, tail in (("session", "sessions/{w}/{s}"), ("index", "index/{w}/{s}/000000")):
        one, two = (tail.format(w=writer, s=v.object.envelope.session.hex()) for v in (first, second))
        pairs[kind] = (one, two)
    (old_data, old_lists), (new_data, new_lists) = pack_kinds(kit, first.id), pack_kinds(kit, second.id)
    pairs["data pack"] = (old_data[0], min(set(new_data) - set(old_data)))
    pairs["list pack"] = (old_lists[0], min(set(new_lists) - set(old_lists)))
    pairs["bad-packs record"] = ("records/check/000000000001", "records/check/000000000002")
    pairs["hold record"] = ("records/prune/000000000001", "records/prune/000000000002")
    pairs["gc mark"] = ("gc/000000000001.mark", "gc/000000000002.mark")
    assert kit.verify(Level.CONTENT).problems == []
    change_wide_database(source)
    return Base(kit, source, held, contents(kit.store), pairs)


# ---- regions


def _frame_regions() -> Iterator[tuple[str, int]]:
    yield from {"magic": 1, "kind": 4, "version": 5, "suite": 6, "features": 8, "repository": 20}.items()
    yield "optional features", 13


def _envelope_regions(at: int) -> Iterator[tuple[str, int]]:
    """`at` is where the envelope's length stands."""
    yield "envelope length", at
    start = at + 4
    parts = {"repository": 0, "writer": 16, "epoch": 32, "trust": 36, "structure id": 40, "nonce": 60, "count": 72}
    parts |= {"recipient": 75, "stanza length": 89, "encapsulation": 100, "stanza": 1300, "second recipient": 1392}
    for name, offset in parts.items():
        yield f"envelope {name}", start + offset


def _sealed_regions(label: str, at: int, length: int) -> Iterator[tuple[str, int]]:
    yield f"{label} salt", at + 3
    yield f"{label} ciphertext", at + 24
    yield f"{label} tag", at + length - 1


def _blocks(kind: str, data: bytes) -> Iterator[tuple[str, int]]:
    at = FRAME_BYTES
    if kind in {"index", "bad-packs record", "hold record"}:
        yield from ((f"owner {name}", at + n) for name, n in (("writer", 1), ("epoch", 16), ("id", 30)))
        at += OWNER_BYTES
    if "record" in kind:
        yield "sealing", at
        at += 1
    labels = {"session": ["envelope", "sealed"], "snapshot": ["envelope", "structure", "content"]}.get(kind, ["body"])
    for label in labels:
        length = int.from_bytes(data[at : at + 4], "little")
        if label == "envelope":
            yield from _envelope_regions(at)
            yield "envelope mac", at + 4 + length - 5
        else:
            yield f"{label} length", at
            yield from _sealed_regions(label, at + 4, length)
        at += 4 + length
    yield from {
        "signature count": at,
        "signature key": at + 1,
        "signature": at + 40,
        "last byte": len(data) - 1,
    }.items()


def _pack_regions(kit: Kit, name: str, data: bytes) -> Iterator[tuple[str, int]]:
    yield from _envelope_regions(FRAME_BYTES)
    repo = kit.repo(Role.READ, host="reader")
    pack = parse_pack(data, name, kit.trust.repository)
    entries = pack.read_entries(repo.structure_key(pack.envelope))
    for label, entry in (("first blob", entries[0]), ("last blob", entries[-1])):
        yield from _sealed_regions(label, entry.offset, entry.payload_length + 40)
    last = max(e.offset + e.payload_length + 40 for e in entries)
    if len(data) - last > TRAILER_BYTES + 120 * len(entries):
        yield "padding", last
    yield "footer", len(data) - TRAILER_BYTES - 20
    yield "footer tag", len(data) - TRAILER_BYTES - 1
    yield from _sealed_regions("trailer", len(data) - TRAILER_BYTES, TRAILER_BYTES)


def regions(kit: Kit, kind: str, name: str, data: bytes) -> dict[str, int]:
    """Each region of an object and an offset inside it."""
    more = _pack_regions(kit, name, data) if "pack" in kind and "record" not in kind else _blocks(kind, data)
    return dict([*_frame_regions(), *more])


# ---- the matrix


Objects = dict[str, bytes]


def _cut(where: Callable[[bytes], int]) -> Callable[[Objects, str, str], None]:
    def change(objects: Objects, name: str, other: str) -> None:
        objects[name] = objects[name][: where(objects[name])]

    return change


def _delete(objects: Objects, name: str, other: str) -> None:
    del objects[name]


def _append(objects: Objects, name: str, other: str) -> None:
    objects[name] += b"\0"


def _swap(objects: Objects, name: str, other: str) -> None:
    objects[name], objects[other] = objects[other], objects[name]


def _replay(objects: Objects, name: str, other: str) -> None:
    objects[name] = objects[other]


def _zeros(objects: Objects, name: str, other: str) -> None:
    objects[name] = bytes(len(objects[name]))


ACTIONS: dict[str, Callable[[Objects, str, str], None]] = {
    "delete": _delete,
    "empty": _cut(lambda _: 0),
    "frame only": _cut(lambda _: FRAME_BYTES),
    "half": _cut(lambda data: len(data) // 2),
    "one byte short": _cut(lambda data: len(data) - 1),
    "append": _append,
    "zeros": _zeros,
    "swap": _swap,
    "replay": _replay,
}
KINDS = [
    "trust",
    "session",
    "data pack",
    "list pack",
    "index",
    "snapshot",
    "bad-packs record",
    "hold record",
    "gc mark",
]
QUICK = {"delete", "half", "replay"}
HEALS = {"session", "data pack", "list pack", "index", "bad-packs record", "hold record", "first snapshot"}


def _named(kit: Kit, store: ObjectStore) -> set[str]:
    """The objects that `verify --level bytes` names."""
    try:
        return {p.object for p in kit.verify(Level.BYTES, store=store).problems}
    except IntegrityError as error:
        return {str(error.object_name)}


def _verify_names(kit: Kit, damaged: set[str]) -> None:
    """`verify --level bytes` finds the damage and names the object; nothing else is reported."""
    found = _named(kit, kit.store)
    assert found & damaged
    if not any(name.startswith(("trust/", "snapshots/")) for name in damaged):
        assert found <= damaged


def _restores_exactly_or_not(kit: Kit, held: dict[str, bytes], *, needed: bool) -> None:
    """Every snapshot comes back as it was, or is refused and leaves nothing; what it does not need does not matter."""
    for snapshot, content in held.items():
        try:
            restored = kit.restore(snapshot)
        except IntegrityError:
            assert needed
            continue
        assert restored.read_bytes() == content
        restored.unlink()


def _next_run(kit: Kit, source: Path, held: dict[str, bytes], *, heals: bool) -> None:
    """The next run heals, or refuses with an error that says so."""
    refused: BackupdError | None = None
    try:
        done = kit.backup(source)
    except BackupdError as error:
        refused = error
    if refused is not None:
        assert not heals, refused
        assert refused.exit in {Exit.INTEGRITY, Exit.SAFETY}
        assert refused.object_name
        return
    content = source.read_bytes()
    view = next(v for v in kit.history().views if v.id == done.snapshot)
    assert kit.verify(Level.CONTENT, only=view, host="second-checker").problems == []
    kit.assert_restores({done.snapshot: content})


def _damaged_kit(base: Base, tmp_path: Path, objects: Objects) -> Kit:
    """The base's hosts, with what they remember, on damaged storage."""
    kit = Kit(tmp_path)
    kit.store, kit.trust = store_of(objects), base.kit.trust
    for host in ("writer", "checker"):
        copy_host(base.kit, host, tmp_path / host)
    return kit


def _check(base: Base, tmp_path: Path, kind: str, which: int, change: Callable[[Objects, str, str], None]) -> None:
    objects = dict(base.objects)
    name, other = base.pairs[kind] if which == 0 else base.pairs[kind][::-1]
    change(objects, name, other)
    damaged = {n for n in base.objects if objects.get(n) != base.objects[n]}
    assert damaged
    kit = _damaged_kit(base, tmp_path, objects)
    _verify_names(kit, damaged)
    _restores_exactly_or_not(kit, base.held, needed=kind in {"trust", "snapshot", "data pack", "list pack"})
    whole = kind in HEALS or (kind == "snapshot" and base.pairs["snapshot"][1] not in damaged)
    _next_run(kit, base.source, base.held, heals=whole)


def _matrix() -> Iterator[object]:
    for kind in KINDS:
        for which, number in enumerate(("first", "second")):
            for action in ACTIONS:
                if kind == "gc mark" and action == "delete":
                    continue  # nobody can tell that a mark is gone: a prune that lost its mark starts again
                marks = () if action in QUICK and which == 1 else (pytest.mark.slow,)
                yield pytest.param(kind, which, action, id=f"{number} {kind}, {action}", marks=marks)


@pytest.mark.parametrize(("kind", "which", "action"), list(_matrix()))
def test_damage(base: Base, tmp_path: Path, kind: str, which: int, action: str) -> None:
    """Whatever is deleted, cut, grown, swapped or replayed: noticed by name, restored exactly or not, healed or refused."""
    _check(base, tmp_path, kind, which, ACTIONS[action])


@pytest.mark.parametrize("kind", KINDS)
def test_one_bit_flipped_in_each_region_is_named(base: Base, tmp_path: Path, kind: str) -> None:
    """One flipped bit in any region of any kind of object is found by `verify --level bytes`, by name (A1)."""
    name = base.pairs[kind][1]
    places = regions(base.kit, kind, name, base.objects[name])
    assert len(places) >= 14
    kit = _damaged_kit(base, tmp_path, base.objects)
    for region, at in places.items():
        data = bytearray(base.objects[name])
        data[at] ^= 1
        changed = store_of({**base.objects, name: bytes(data)})
        assert name in _named(kit, changed), region


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_bit_flipped_in_each_region(base: Base, tmp_path: Path, kind: str) -> None:
    """One flipped bit in any region: restores are exact or refused, the next run heals or refuses (A1)."""
    places = regions(base.kit, kind, base.pairs[kind][1], base.objects[base.pairs[kind][1]])
    for n, at in enumerate(places.values()):

        def flip(objects: Objects, name: str, _: str, at: int = at) -> None:
            data = bytearray(objects[name])
            data[at] ^= 1
            objects[name] = bytes(data)

        folder = tmp_path / str(n)
        folder.mkdir()
        _check(base, folder, kind, 1, flip)
