"""Night after night: what changed is stored as its difference, restores exactly, and leans on nothing too old or too long."""

import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError
from backupd.jobs.restore import joined as read_stream
from backupd.jobs.restore import open_content
from backupd.jobs.verify import Level
from backupd.repo.codecs import DICT_DELTA, MAX_FAMILY, MAX_LINKS, ROW_DELTA
from backupd.repo.format import pack_name
from backupd.repo.leaning import MOST_OF_FULL, _in_full, _room
from backupd.repo.nodes import ChunkRef, PackPlace
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.trust import Policy
from backupd.repo.versioncache import VersionCache
from backupd.report import Tally
from backupd.store.dryrun import DryRunStore
from backupd.store.folder import FolderStore
from tests.jobs_kit import Kit, utc_now
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import newest, rows, take

CITIES = [f"city {n}" for n in range(90)]


def make_customers(path: Path, count: int = 12_000) -> Path:
    """An SQLite file of customers and calls."""
    db = sqlite3.connect(path)
    db.execute("create table customers(id integer primary key, name text, city text, notes text)")
    db.execute("create table calls(id integer primary key, customer integer, text text)")
    db.execute("create index calls_customer on calls(customer)")
    noise = random.Random(5)
    db.executemany(
        "insert into customers values(?,?,?,?)",
        ((n, f"name {noise.random()}", noise.choice(CITIES), f"notes {noise.random()}") for n in range(count)),
    )
    db.executemany("insert into calls(customer, text) values(?,?)", ((n % count, "call") for n in range(count)))
    db.commit()
    db.close()
    return path


def churn(path: Path, seed: int, share: float = 0.01) -> None:
    """Some rows updated wherever they are, some added at the end, a few deleted."""
    db = sqlite3.connect(path)
    noise = random.Random(seed)
    (count,) = db.execute("select max(id) from customers").fetchone()
    some = [(noise.choice(CITIES), f"note {noise.random()}", noise.randrange(count)) for _ in range(int(count * share))]
    db.executemany("update customers set city=?, notes=? where id=?", some)
    db.executemany("insert into calls(customer, text) values(?,?)", ((n, f"call {seed}") for n in range(100)))
    db.executemany("delete from calls where id=?", ((noise.randrange(count),) for _ in range(5)))
    db.commit()
    db.close()


def family(ref: ChunkRef) -> set[ChunkRef]:
    return {ref}.union(*(family(base) for base in ref.bases))


def links(ref: ChunkRef) -> int:
    return 1 + max(links(base) for base in ref.bases) if ref.bases else 0


def check_chains(chains: list[list[ChunkRef]]) -> None:
    """No chain is longer, and no links are larger, than the rules say."""
    for ref in (ref for stream in chains for ref in stream):
        all_of_it = family(ref)
        assert links(ref) <= MAX_LINKS
        assert len(all_of_it) <= MAX_FAMILY + 1
        full = [one.payload_length for one in all_of_it if not one.bases]
        assert sum(one.payload_length for one in all_of_it if one.bases) <= sum(full) / len(full) * MOST_OF_FULL + 1


def test_ten_nights_of_a_file(tmp_path: Path) -> None:
    """Ten nights of churn: each costs a fraction of the file, and each restores to the bytes that were kept aside."""
    kit = Kit(tmp_path, pack_bytes=1 << 20)
    source = make_customers(tmp_path / "crm.db")
    kept, stored = {}, []
    for night in range(11):
        if night:
            churn(source, night)
        done = kit.backup(source)
        kept[done.snapshot] = source.read_bytes()
        stored.append(done.stored_bytes)
        check_chains(kit.refs(done.snapshot))
        assert (done.chunks["delta"] > 0) == (night > 0)
    assert max(stored[1:]) < stored[0] / 3
    kit.assert_restores(kept)
    for level in Level:
        assert kit.verify(level).problems == []
    deltas = [ref for snapshot in kept for stream in kit.refs(snapshot) for ref in stream if ref.bases]
    assert {ref.codec for ref in deltas} == {DICT_DELTA}
    assert max(links(ref) for ref in deltas) > 1


def table_text(kit: Kit, snapshot: str) -> bytes:
    """The rows of a snapshot's tables, as they are stored."""
    repo = kit.repo(Role.READ, host="reader")
    view = next(v for v in repo.history().views if v.id == snapshot)
    cache = PackCache(repo)
    try:
        reader = ChunkReader(repo, cache, view.object.envelope)
        wanted = [root for root in view.structure.streams if root.kind.name == "ROWS"]
        return b"".join(b"".join(read_stream(root, reader, cache, None, Tally())) for root in wanted)
    finally:
        cache.close()


def churn_rows(table: list[bytes], noise: random.Random, share: float = 0.01) -> list[bytes]:
    """Rows of another night: some changed, some gone, some between others, more at the end."""
    out = list(table)
    for _ in range(int(len(out) * share)):
        at = noise.randrange(len(out))
        out[at] = out[at].split(b"\t")[0] + b"\t%d changed\n" % noise.randrange(10**6)
    for _ in range(5):
        del out[noise.randrange(len(out))]
        at = noise.randrange(len(out))
        out.insert(at, out[at].split(b"\t")[0] + b".5\tbetween\n")
    end = int(out[-1].split(b"\t")[0].split(b".")[0])
    return out + [b"%d\t%s\n" % (end + n + 1, noise.randbytes(30).hex().encode()) for n in range(50)]


@pytest.mark.parametrize("parts", [1, 3])
def test_ten_nights_of_a_table(tmp_path: Path, parts: int) -> None:
    """The same with rows, also where the table is read in several streams whose borders move every night."""
    kit = Kit(tmp_path, pack_bytes=1 << 20)
    noise = random.Random(3)
    table = rows(30_000)
    kept, stored, codecs = {}, [], set()
    for night in range(11):
        if night:
            table = churn_rows(table, noise)
        done = take(kit, TableSource({"t": table}, parts=parts, hint=2_000_000))
        kept[done.snapshot] = b"".join(table)
        stored.append(done.stored_bytes)
        chains = kit.refs(done.snapshot)
        check_chains(chains)
        codecs |= {ref.codec for stream in chains for ref in stream if ref.bases}
    assert median(stored[1:]) < stored[0] / 8
    assert max(stored[1:]) < stored[0] / 2
    assert codecs == {ROW_DELTA, DICT_DELTA}
    assert {snapshot: table_text(kit, snapshot) == text for snapshot, text in kept.items()} == dict.fromkeys(kept, True)
    for level in Level:
        assert kit.verify(level).problems == []


def test_rows_without_a_key_and_in_another_order(tmp_path: Path) -> None:
    """Rows in heap order, of which many are equal, and which are all read in another order one night."""
    kit = Kit(tmp_path)
    noise = random.Random(4)
    table = [b"\\N\t%d\n" % noise.randrange(50) for _ in range(20_000)]
    kept = {}
    for night in range(5):
        if night == 3:
            noise.shuffle(table)
        elif night:
            table = [*table[:5000], b"\\N\tnew\n", *table[5002:], b"\\N\tnew\n"]
        kept[take(kit, TableSource({"t": table})).snapshot] = b"".join(table)
    for snapshot, text in kept.items():
        assert table_text(kit, snapshot) == text


def test_every_row_changed_every_night(tmp_path: Path) -> None:
    """Mass updates: what has nothing in common is stored in full, and all restores."""
    kit = Kit(tmp_path)
    kept = {}
    for night in range(4):
        table = [b"%d\t%s\n" % (n, random.Random(n * 10 + night).randbytes(20).hex().encode()) for n in range(8000)]
        done = take(kit, TableSource({"t": table}))
        kept[done.snapshot] = b"".join(table)
    assert done.chunks["delta"] < done.chunks["full"]
    assert all(table_text(kit, snapshot) == text for snapshot, text in kept.items())


def test_content_that_comes_back_is_not_stored_again(tmp_path: Path) -> None:
    """A, B, A: the third night stores lists and nothing else, because A stands in B's chains."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    first = source.read_bytes()
    kit.backup(source)
    churn(source, 1)
    assert kit.backup(source).chunks["delta"]
    source.write_bytes(first)
    done = kit.backup(source)
    assert done.chunks["full"] + done.chunks["delta"] == 0
    assert kit.restore(done.snapshot).read_bytes() == first
    assert kit.verify(Level.CONTENT).problems == []


# ---- the version cache is disposable


def files_of(kit: Kit) -> list[Path]:
    return sorted(path for path in kit.versions().rglob("*") if path.is_file())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 1 << at % 8
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip, zero])
@pytest.mark.parametrize("which", ["blobs", "head", "list", "places", "anchors", "lock", ""])
def test_a_damaged_version_cache_costs_space_only(tmp_path: Path, which: str, harm: Callable[[Path], None]) -> None:
    """Whatever of the cache is deleted, cut, or changed between runs: the snapshot is whole, and the next night leans again."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    table = rows(6000)
    for night in range(3):
        churn(source, night)
        table = churn_rows(table, random.Random(night))
        kit.backup(source)
        take(kit, TableSource({"t": table}))
    for path in files_of(kit):
        if which in path.name:
            harm(path)
    for night in (4, 5, 6):
        churn(source, night)
        table = churn_rows(table, random.Random(night))
        done = kit.backup(source)
        assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
        other = take(kit, TableSource({"t": table}))
        assert table_text(kit, other.snapshot) == b"".join(table)
    assert done.chunks["delta"] > 0
    assert other.chunks["delta"] > 0
    assert kit.verify(Level.CONTENT).problems == []


def test_a_cache_that_vanishes_during_a_run(tmp_path: Path) -> None:
    """Everything of the cache is deleted while the source is read: the run succeeds, and so does the next."""
    kit = Kit(tmp_path)
    tables = {"t": rows(20_000)}
    take(kit, TableSource(tables))
    table = churn_rows(tables["t"], random.Random(1))

    def strike(name: str, at: int) -> None:
        if at:
            shutil.rmtree(kit.versions(), ignore_errors=True)

    done = take(kit, TableSource({"t": table}, before_read=strike))
    assert table_text(kit, done.snapshot) == b"".join(table)
    again = take(kit, TableSource({"t": table}))
    assert again.chunks["total"] == again.chunks["reused"] + again.chunks["full"]
    table = churn_rows(table, random.Random(2))
    last = take(kit, TableSource({"t": table}))
    assert last.chunks["delta"] > 0
    assert table_text(kit, last.snapshot) == b"".join(table)


def test_a_lost_cache_costs_one_night(tmp_path: Path) -> None:
    """After the cache is lost one night is stored in full, and the next one as deltas again."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db")
    kit.backup(source)
    churn(source, 1)
    usual = kit.backup(source).stored_bytes
    shutil.rmtree(kit.versions())
    churn(source, 2)
    lost = kit.backup(source)
    assert lost.chunks["delta"] == 0
    assert lost.stored_bytes > 2 * usual
    churn(source, 3)
    assert kit.backup(source).stored_bytes < 2 * usual


def test_a_limited_cache_holds_always_the_same_part(tmp_path: Path) -> None:
    """Over its limit a fixed part of the chunks is held, so that every night profits and not every other one."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db")
    whole = kit.backup(source, name="whole")
    limit = whole.stored_bytes // 3
    kit.backup(source, name="part", version_cache=limit)
    counts = []
    for night in range(4):
        churn(source, night)
        kit.backup(source, name="whole")
        counts.append(kit.backup(source, name="part", version_cache=limit).chunks)
    size = max(sum(p.stat().st_size for p in folder.rglob("*")) for folder in kit.versions().iterdir())
    assert size < whole.stored_bytes * 2
    assert kit.verify(Level.CONTENT).problems == []


def test_a_cache_that_is_switched_off(tmp_path: Path) -> None:
    """Without a cache nothing is kept on this machine, and what changed is stored in full."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source, version_cache=None)
    churn(source, 1)
    assert kit.backup(source, version_cache=None).chunks["delta"] == 0
    assert files_of(kit) == []


def test_two_runs_of_one_source_at_the_same_time(tmp_path: Path) -> None:
    """The second one does without the cache, says so, and succeeds."""
    kit = Kit(tmp_path)
    table = rows(5000)
    take(kit, TableSource({"t": table}))
    told = Tally()

    def other() -> None:
        assert take(kit, TableSource({"t": table}), report=told).chunks["full"] == 0

    take(kit, TableSource({"t": table}, before_finish=other))
    assert any("another run" in warning for warning in told.warnings)


# ---- how long a removed row may live in a base


@pytest.fixture
def days() -> Callable[[int], Callable[[], datetime]]:
    begin = datetime(2026, 1, 1, 2, tzinfo=UTC)
    return lambda n: lambda: begin + timedelta(days=n)


def test_no_chunk_leans_on_what_is_too_old(tmp_path: Path, days: Callable[[int], Callable[[], datetime]]) -> None:
    """After base_max_age no object that is written, or listed, leans on a row that was erased before it."""
    kit = Kit(tmp_path)
    policy = Policy(pack_bytes=200_000, base_max_age_days=10)
    kit.put_trust(type(kit.trust)(**{**vars_of(kit), "version": 2, "policy": policy}))
    source = make_customers(tmp_path / "crm.db", 4000)
    written: dict[bytes, int] = {}
    last_seen: dict[bytes, int] = {}
    for night in range(30):
        if night:
            churn(source, night, 0.002)
        done = kit.backup(source, clock=days(night))
        for ref in kit.refs(done.snapshot)[0]:
            for one in family(ref):
                written.setdefault(one.pack, night)
                if not one.bases and one is ref:
                    last_seen[one.id] = night
            if ref.bases:
                assert all(last_seen[one.id] > night - 10 for one in family(ref) if not one.bases)
    assert kit.verify(Level.CONTENT).problems == []


def vars_of(kit: Kit) -> dict[str, object]:
    return {name: getattr(kit.trust, name) for name in type(kit.trust).__slots__}


def test_a_cache_is_not_kept_for_longer(tmp_path: Path, days: Callable[[int], Callable[[], datetime]]) -> None:
    """A source that rests for longer than base_max_age finds nothing to lean on, and leaves nothing on the disk."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source, clock=days(0))
    churn(source, 1)
    before = {path for path in files_of(kit) if path.name.startswith("blobs")}
    assert before
    done = kit.backup(source, clock=days(31))
    assert done.chunks["delta"] == 0
    assert not before & {path for path in files_of(kit) if path.stat().st_size > 4096 and path in before}


# ---- damage


def test_a_missing_base_names_the_chain(tmp_path: Path) -> None:
    """A pack of a base that is gone: restore and verify name it (exit 4), and the next run stores in full what leaned on it."""
    kit = Kit(tmp_path, pack_bytes=1)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source)
    churn(source, 1)
    second = kit.backup(source)
    (stream,) = kit.refs(second.snapshot)
    base = next(ref.bases[0] for ref in stream if ref.bases)
    kit.store.delete(pack_name(base.pack))
    with pytest.raises(IntegrityError) as caught:
        kit.restore(second.snapshot)
    assert caught.value.object_name == pack_name(base.pack)
    assert pack_name(base.pack) in {problem.object for problem in kit.verify(Level.STRUCTURE).problems}
    churn(source, 2)
    third = kit.backup(source)
    assert kit.restore(third.snapshot).read_bytes() == source.read_bytes()


def test_the_cache_holds_no_record_in_clear(tmp_path: Path) -> None:
    """Nothing in the state folder and in the cache shows a customer, a table or the source's name."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "xanthippe.db", 3000)
    kit.backup(source)
    churn(source, 1)
    kit.backup(source)
    take(kit, TableSource({"xanthippe table": rows(3000)}, default_name="xanthippe"), name="xanthippe")
    places = kit.places("writer")
    for path in [*places.state.rglob("*"), *places.cache.rglob("*")]:
        assert "xanthippe" not in path.name
        if path.is_file():
            data = path.read_bytes()
            assert not any(word in data for word in (b"xanthippe", b"city 1", b"name 0.", b"customers", b"calls"))
            assert path.stat().st_mode & 0o077 == 0 or path.parent == places.cache


def test_a_trial_knows_what_a_night_would_cost(tmp_path: Path) -> None:
    """A run that stores nothing leans on the version cache as the real one does, and leaves it as it is."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source)
    churn(source, 1)
    before = {path: path.read_bytes() for path in files_of(kit)}
    trial = kit.backup(source, store=DryRunStore(kit.store, utc_now), host="scratch", trial=kit.places("writer"))
    assert {path: path.read_bytes() for path in files_of(kit)} == before
    assert not (kit.places("scratch").state / "versions").exists()
    done = kit.backup(source)
    assert trial.chunks == done.chunks
    assert trial.chunks["delta"] > 0


def test_a_trial_before_the_first_run(tmp_path: Path) -> None:
    """Where there is no version cache yet a trial makes none."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 300)
    trial = kit.backup(source, store=DryRunStore(kit.store, utc_now), host="scratch", trial=kit.places("writer"))
    assert trial.chunks["full"] == trial.chunks["total"]
    assert not kit.versions().exists()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kind", ["same", "scattered", "appended", "deleted", "giant", "shifted", "shorter"])
def test_recognised_chunks_are_cut_as_the_cutter_cuts(tmp_path: Path, kind: str, parts: int) -> None:
    """A run that recognises chunks of the run before gives the same chunks and digests as one that knows nothing."""
    kit = Kit(tmp_path)
    giant = b"7000.1\t" + random.Random(1).randbytes(1_600_000).hex().encode() + b"\n"
    before = [*rows(15_000), *([giant] if kind == "giant" else [])]
    if kind == "giant":
        before.sort(key=lambda row: float(row.split(b"\t")[0]))
    take(kit, TableSource({"t": before}, parts=parts, buffer=70_000))
    after = {
        "same": before,
        "scattered": churn_rows(before, random.Random(2), 0.003),
        "appended": [*before, *(b"%d\tmore\n" % n for n in range(15_000, 15_300))],
        "deleted": before[:4000] + before[4300:],
        "giant": [row.replace(b"\t", b"\tx", 1) if n % 3000 == 5 else row for n, row in enumerate(before)],
        "shifted": [b"-1\tin front\n", *before],
        "shorter": before[:9000],
    }[kind]
    night = TableSource({"t": after}, parts=parts, buffer=70_000)
    done = take(kit, night)
    streams = parts + 2  # behind them is the list of content nodes, in order of time
    chunks = [[ref.id for ref in stream] for stream in kit.refs(done.snapshot)[:streams]]
    digest = open_content(*newest(kit))["tables"][0]["digest"]
    again = take(kit, night, version_cache=None)
    assert [[ref.id for ref in stream] for stream in kit.refs(again.snapshot)[:streams]] == chunks
    assert open_content(*newest(kit))["tables"][0]["digest"] == digest
    assert kit.verify(Level.CONTENT).problems == []


def test_what_did_not_change_is_not_hashed_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an unchanged table only the last chunk of each stream is looked at row by row."""
    from backupd.repo.rows import RowHasher

    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks of few rows
    kit = Kit(tmp_path)
    table = rows(30_000)
    take(kit, TableSource({"t": table}))
    hashed = []
    real = RowHasher.hash

    def counting(self: RowHasher, block: object, starts: object, ends: object) -> object:
        hashed.append(len(ends))  # type: ignore[arg-type]
        return real(self, block, starts, ends)  # type: ignore[arg-type]

    monkeypatch.setattr(RowHasher, "hash", counting)
    take(kit, TableSource({"t": table}))
    assert sum(hashed) < len(table) / 10


# ---- what a hostile reader of this code found


@pytest.mark.parametrize("tail", [1, 1000, 20_000])
@pytest.mark.parametrize("buffer", [100_000, 4 << 20])
@pytest.mark.parametrize("changed", [True, False])
def test_pieces_of_a_giant_row_are_not_recognised(tmp_path: Path, tail: int, buffer: int, changed: bool) -> None:
    """A row of more than 1 MiB with a short last piece, changed at its front: counts, digests and flags are right."""
    kit = Kit(tmp_path)
    giant = b"3000\t" + b"T" * ((1 << 20) - 6 + tail) + b"\n"
    before = [*rows(3000), giant, *(b"%d\tmore rows\n" % n for n in range(3001, 6000))]
    take(kit, TableSource({"t": before}, buffer=buffer))
    after = [row.replace(b"\tTTTTTTTTTT", b"\tSSSSSSSSSS", 1) if changed and row is giant else row for row in before]
    done = take(kit, TableSource({"t": after}, buffer=buffer))
    assert table_text(kit, done.snapshot) == b"".join(after)
    assert kit.verify(Level.CONTENT).problems == []
    content = open_content(*newest(kit))
    kit.backup(make_customers(tmp_path / "other.db", 10))
    fresh = take(kit, TableSource({"t": after}, buffer=buffer), version_cache=None)
    again = open_content(*newest(kit))
    assert fresh.chunks["full"] == 0
    assert content["streams"][1]["content"] == again["streams"][1]["content"]


def test_many_tables_take_few_descriptors(tmp_path: Path) -> None:
    """Six hundred tables, with a limit of 256 descriptors: both the first run and the second succeed."""
    import resource

    kit = Kit(tmp_path, FolderStore(tmp_path / "repo", create=True), pack_bytes=1 << 20)
    tables = {f"t{n}": rows(3, n) for n in range(600)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        take(kit, TableSource(tables))
        tables["t5"] = [*tables["t5"], b"77\tnew\n"]
        told = Tally()
        done = take(kit, TableSource(tables), report=told)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert told.warnings == []
    assert done.chunks["reused"] >= 599


def settled(path: Path, when: datetime) -> None:
    """Everything below a folder looks as if it had been written then."""
    for each in [path, *path.rglob("*")]:
        os.utime(each, (when.timestamp(), when.timestamp()))


def test_a_clock_that_was_ahead_makes_nothing_immortal(
    tmp_path: Path, days: Callable[[int], Callable[[], datetime]]
) -> None:
    """A list from the future is no list: what it saw is not leaned on once the clock is right."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source, clock=days(3650))
    settled(kit.versions(), days(0)())
    churn(source, 1, 0.002)
    assert kit.backup(source, clock=days(1)).chunks["delta"] == 0
    churn(source, 2, 0.002)
    assert kit.backup(source, clock=days(2)).chunks["delta"] > 0


def test_an_unchanged_delta_does_not_outlive_its_base(
    tmp_path: Path, days: Callable[[int], Callable[[], datetime]]
) -> None:
    """A chunk that changed once and then rests is stored in full before its base is too old."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source, clock=days(0))
    churn(source, 1, 0.002)
    leaning = 0
    for night in range(1, 40):
        done = kit.backup(source, clock=days(night))
        settled(kit.versions(), days(night)())
        deltas = [ref for ref in kit.refs(done.snapshot)[0] if ref.bases]
        assert night < 30 or not deltas
        leaning += bool(deltas)
    assert leaning > 15


def test_nothing_that_is_dead_stays_in_the_cache(tmp_path: Path, days: Callable[[int], Callable[[], datetime]]) -> None:
    """No blob file is older than base_max_age: what was erased from the source cannot be opened from an old one."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source, clock=days(0))
    (first,) = [path for path in files_of(kit) if path.name.startswith("blobs")]
    content = first.read_bytes()
    churn(source, 1, 0.01)
    for week in range(1, 6):
        kit.backup(source, clock=days(7 * week))
        settled(kit.versions(), days(7 * week)())
    assert all(path.read_bytes() != content for path in files_of(kit))
    churn(source, 2, 0.01)
    assert kit.backup(source, clock=days(36)).chunks["delta"] > 0


def test_caches_of_other_sources_and_keys_are_swept(
    tmp_path: Path, days: Callable[[int], Callable[[], datetime]]
) -> None:
    """Sources that run no more, and keys and epochs of before, leave nothing for longer than base_max_age."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 300)
    kit.backup(source, name="gone", clock=days(0))
    old = kit.versions().parent / "0123-7" / "0000"
    old.mkdir(parents=True)
    (old / "blobs-000001").write_bytes(b"x")
    settled(kit.versions().parent, days(0)())
    before = set(kit.versions().iterdir())
    kit.backup(source, clock=days(20))
    assert before <= set(kit.versions().iterdir())
    kit.backup(source, clock=days(31))
    assert not before & set(kit.versions().iterdir())
    assert not old.exists()
    kit.backup(source, version_cache=None, clock=days(32))
    assert files_of(kit) == []


def test_the_limit_holds_where_nobody_knows_the_size(tmp_path: Path) -> None:
    """A source without hints about its size: what is held stays below the limit, run after run."""
    kit = Kit(tmp_path)
    noise = random.Random(8)
    table = [b"%d\t%s\n" % (n, noise.randbytes(300).hex().encode()) for n in range(8000)]
    for _ in range(4):
        take(kit, TableSource({"t": table}, hint=0), version_cache=1 << 20)
        table = churn_rows(table, noise)
        assert sum(path.stat().st_size for path in files_of(kit) if path.name.startswith("blobs")) <= (1 << 20) + 40_000


def test_a_base_that_is_not_what_it_should_be_is_not_leaned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version cache that gives other content than the list says makes no delta: ids are compared first."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source)
    churn(source, 1)
    real = VersionCache.plain
    monkeypatch.setattr(VersionCache, "plain", lambda self, held, kind: (real(self, held, kind) or b"")[:-1] + b"!")
    done = kit.backup(source)
    assert done.chunks["delta"] == 0
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()


def test_a_full_disk_gives_the_cache_up_and_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for blobs or lists: the run succeeds and says so, this run's files go, and the list of before stays."""
    kit = Kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source)
    before = {path.name for path in files_of(kit)}
    for place in ("backupd.repo.versions.ListWriter._append", "backupd.repo.blobs.BlobFiles.append"):
        churn(source, 1)
        told = Tally()
        with monkeypatch.context() as full:
            full.setattr(place, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
            kit.backup(source, report=told)
        assert any("version cache" in warning for warning in told.warnings)
        assert {path.name for path in files_of(kit)} == before
    churn(source, 2)
    assert kit.backup(source).chunks["delta"] > 0


def test_a_delta_is_smaller_than_the_chunk_itself() -> None:
    """Links together are at most 30 % of one full chunk, and none is nearly as large as what it replaces."""

    def full(n: int, payload: int, plain: int = 65_536) -> ChunkRef:
        return ChunkRef(bytes([n]) * 32, PackPlace(bytes(32)), n, payload, plain, 1)

    one, two = full(1, 10_000), full(2, 10_000)
    both = ChunkRef(b"v" * 32, PackPlace(bytes(32)), 9, 2_900, 65_536, DICT_DELTA, (one, two))
    assert _room((one,)) == 3_000
    assert _room((both,)) == 100
    many = one
    for n in range(MAX_FAMILY + 1):
        many = ChunkRef(bytes([100 + n]) * 32, PackPlace(bytes(32)), 100 + n, 1, 65_536, DICT_DELTA, (many,))
    assert _room((many,)) == 0
    assert _in_full((one, two), 65_536) == 10_000


def test_a_pack_that_the_disk_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input error on a pack in a folder is an integrity error with its name, and no traceback."""
    from backupd.repo import reading

    kit = Kit(tmp_path, FolderStore(tmp_path / "repo", create=True))
    source = make_customers(tmp_path / "crm.db", 3000)
    done = kit.backup(source)

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(reading._InFile, "read", broken)
    with pytest.raises(IntegrityError) as caught:
        kit.restore(done.snapshot)
    assert str(caught.value.object_name).startswith("packs/")
