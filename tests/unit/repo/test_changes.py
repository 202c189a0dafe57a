"""What changed between two versions of a chunk, from deltas alone."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError
from backupd.repo.changes import changes_between
from backupd.repo.codecs import DICT_DELTA, MAX_DELTA, ROW_DELTA, ZSTD, RowDelta, parse_row_delta, split_rows
from backupd.repo.compression import decompress
from backupd.repo.deltas import encode_row_delta
from backupd.repo.nodes import ChunkRef, PackPlace
from backupd.repo.reading import ChunkReader, PackCache
from tests.jobs_kit import Kit
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import rows, take

ROWS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"dd\n"]), max_size=12)


class Chains:
    """Versions of a chunk, each a row delta on another one, without packs."""

    def __init__(self) -> None:
        self.payloads: dict[int, bytes] = {}
        self.read: list[int] = []

    def full(self, data: bytes) -> ChunkRef:
        return self._ref(data, b"", ZSTD, ())

    def on(self, base: ChunkRef, before: bytes, data: bytes) -> ChunkRef:
        payload = encode_row_delta([before], data, 1)
        assert payload is not None
        return self._ref(data, payload, ROW_DELTA, (base,))

    def _ref(self, data: bytes, payload: bytes, codec: int, bases: tuple[ChunkRef, ...]) -> ChunkRef:
        at = len(self.payloads)
        self.payloads[at] = payload
        return ChunkRef(data.ljust(32, b"-")[:32], PackPlace(bytes(32)), at, len(payload), len(data) or 1, codec, bases)

    def delta(self, ref: ChunkRef) -> RowDelta:
        self.read.append(ref.offset)
        return parse_row_delta(decompress(self.payloads[ref.offset], limit=MAX_DELTA))


def difference(old: bytes, new: bytes) -> tuple[Counter[bytes], Counter[bytes]]:
    before, after = Counter(split_rows(old)), Counter(split_rows(new))
    return before - after, after - before


@settings(max_examples=300, deadline=None)
@given(versions=st.lists(ROWS, min_size=2, max_size=7), forks=st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_any_two_versions_of_any_tree(versions: list[list[bytes]], forks: list[int]) -> None:
    """Between any two versions of a chunk, up and down any chains, the changes are the difference of the multisets."""
    chains = Chains()
    texts = [b"".join(version) for version in versions]
    refs = [chains.full(texts[0])]
    for n, text in enumerate(texts[1:]):
        base = forks[n] % (n + 1)
        refs.append(chains.on(refs[base], texts[base], text))
    for old, before in zip(refs, texts, strict=True):
        for new, after in zip(refs, texts, strict=True):
            found = changes_between(old, new, chains.delta)
            assert found is not None
            assert (found.removed, found.added) == difference(before, after)


def test_only_the_deltas_between_are_read() -> None:
    """Adjacent versions cost one delta, whatever else their chains hold; the same version costs none."""
    chains = Chains()
    texts = [b"".join(b"%d\t%d\n" % (n, night if n == night else 0) for n in range(50)) for night in range(6)]
    refs = [chains.full(texts[0])]
    for before, text in pairwise(texts):
        refs.append(chains.on(refs[-1], before, text))
    assert changes_between(refs[4], refs[5], chains.delta)
    assert chains.read == [5]
    chains.read.clear()
    same = changes_between(refs[3], refs[3], chains.delta)
    assert same is not None
    assert not same.added + same.removed
    assert chains.read == []


def test_where_no_way_leads_both_must_be_read() -> None:
    """Chunks that have nothing in common, or that lean by a dictionary, are not answered from deltas."""
    chains = Chains()
    one, two = chains.full(b"a\n"), chains.full(b"b\n")
    assert changes_between(one, two, chains.delta) is None
    leaning = ChunkRef(b"x" * 32, PackPlace(bytes(32)), 9, 1, 1, DICT_DELTA, (one,))
    assert changes_between(one, leaning, chains.delta) is None


def test_in_a_repository_only_the_deltas_are_fetched(tmp_path: Path) -> None:
    """Two nights of a table: what changed is told from deltas, the full chunks being gone; a damaged delta is named."""
    kit = Kit(tmp_path, pack_bytes=200_000)
    table = rows(20_000)
    first = take(kit, TableSource({"t": table}))
    changed = [b"%d\tchanged\n" % n if n % 400 == 7 else row for n, row in enumerate(table)]
    second = take(kit, TableSource({"t": changed}))
    refs = {ref.id: ref for ref in kit.refs(first.snapshot)[1]}
    repo = kit.repo(Role.READ, host="reader")
    deltas = [ref for ref in kit.refs(second.snapshot)[1] if ref.codec == ROW_DELTA]
    before = PackCache(repo)
    whole = ChunkReader(repo, before)
    wanted = [difference(whole.read(ref.bases[0], Kind.ROWS), whole.read(ref, Kind.ROWS)) for ref in deltas]
    before.close()
    kept = {ref.pack for ref in deltas}
    for ref in refs.values():
        if ref.pack not in kept:
            kit.store.delete(f"packs/{ref.pack.hex()[:2]}/{ref.pack.hex()}")
    cache = PackCache(repo)
    removed: Counter[bytes] = Counter()
    added: Counter[bytes] = Counter()
    try:
        reader = ChunkReader(repo, cache)
        for ref, expected in zip(deltas, wanted, strict=True):
            found = changes_between(ref.bases[0], ref, reader.row_delta)
            assert found is not None
            assert (found.removed, found.added) == expected
            removed += found.removed
            added += found.added
            assert max(len(data) for data in [*found.removed, *found.added]) < 100
        (name,) = {f"packs/{ref.pack.hex()[:2]}/{ref.pack.hex()}" for ref in deltas[:1]}
        kit.store.delete(name)
        fresh = ChunkReader(repo, PackCache(repo))
        with pytest.raises(IntegrityError) as caught:
            fresh.row_delta(deltas[0])
        assert caught.value.object_name == name
    finally:
        cache.close()
    whole_removed, whole_added = difference(b"".join(table), b"".join(changed))
    assert deltas
    assert removed <= whole_removed
    assert added <= whole_added
    assert sum(added.values()) > 0.5 * sum(whole_added.values())
