"""Ten nights of every engine: what a repository holds of each night is what was in the database."""

import random
from collections.abc import Mapping
from pathlib import Path

import apsw
import pytest

from backupd.crypto.chunks import Kind
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring
from backupd.engines.base import LoadOptions
from backupd.jobs.backup import BackupOptions, BackupResult, backup
from backupd.jobs.load import load
from backupd.jobs.restore import joined, open_content
from backupd.jobs.verify import Level
from backupd.repo.ledger import Ledger
from backupd.repo.reading import ChunkReader, PackCache
from backupd.repo.repository import Repository
from backupd.report import Tally
from tests.contracts.test_engine import SERVERS, capture, engine
from tests.engines import Engine, MariaEngine, PostgresEngine, ServerEngine, SqliteEngine
from tests.jobs_kit import Kit
from tests.stores import utc_now

__all__ = ["SERVERS", "engine"]
NIGHTS = 10


def change(source: Engine, night: int, noise: random.Random) -> None:
    """Updates wherever they are, rows at the end, rows that go, and a table that comes and goes."""
    few = noise.sample(range(2000), 25)
    statements = [
        f"update accounts set filler = 'night {night}' where id in ({', '.join(map(str, few))})",
        *(f"insert into bookings values ({100_000 + night * 50 + n}, 'of night {night}')" for n in range(40)),
        f"delete from accounts where id = {noise.randrange(2000)}",
        f"delete from bookings where id % 29 = {night}",
    ]
    if night == 4:
        statements.append("create table passing (id integer primary key, t varchar(50))")
        statements += [f"insert into passing values ({n}, 'row {n}')" for n in range(300)]
    if night == 7:
        statements.append("drop table passing")
    if isinstance(source, SqliteEngine):
        db = apsw.Connection(str(source._path))
        for statement in statements:
            db.execute(statement)
        db.close()
    elif isinstance(source, PostgresEngine):
        source._server.psql(source._database, ";\n".join(statements) + ";\n")
    else:
        assert isinstance(source, MariaEngine)
        source._server.sql(";\n".join(statements) + ";\n", source._database)


def take(kit: Kit, source: Engine) -> BackupResult:
    key = kit.keys[Role.WRITE]
    repo = Repository.open(kit.store, Keyring((key,)), Ledger.load(kit.places("writer").state))
    options = BackupOptions("bank", threads=2)
    return backup(
        source.source(), repo, key, folder=kit.places("writer"), clock=utc_now, options=options, report=Tally()
    )


def stored(kit: Kit, snapshot: str) -> Mapping[str, list[bytes]]:
    """What a snapshot holds, as `Kept.content` tells it."""
    repo = kit.repo(Role.READ, host="reader")
    view = next(v for v in repo.history().views if v.id == snapshot)
    cache = PackCache(repo)
    found: dict[str, list[bytes]] = {}
    try:
        reader = ChunkReader(repo, cache, view.object.envelope)
        content = open_content(repo, view)
        for root, stream in zip(view.structure.streams, content["streams"], strict=True):
            if root.kind in {Kind.ROWS, Kind.PAGES}:
                data = b"".join(joined(root, reader, cache, None, Tally()))
                lines = sorted(data.splitlines()) if root.kind is Kind.ROWS else [data]
                found.setdefault(stream["name"], []).extend(lines)
    finally:
        cache.close()
    return found


@pytest.mark.timeout(300)
def test_ten_nights_hold_what_was_there(engine: Engine, tmp_path: Path) -> None:
    """Every night, read back from deltas, is the copy that was kept aside; the last one is restored as well."""
    kit = Kit(tmp_path / "kit", pack_bytes=200_000)
    noise = random.Random(7)
    kept, deltas = {}, 0
    for night in range(NIGHTS + 1):
        if night:
            change(engine, night, noise)
        aside = capture(engine).content
        done = take(kit, engine)
        kept[done.snapshot] = aside
        deltas += done.chunks["delta"]
    assert deltas > NIGHTS
    for snapshot, aside in kept.items():
        assert {name: rows for name, rows in stored(kit, snapshot).items() if rows} == {
            name: rows for name, rows in aside.items() if rows
        }
    assert kit.verify(Level.CONTENT).problems == []
    if isinstance(engine, ServerEngine):
        repo = kit.repo(Role.READ, host="reader")
        place = engine.place(f"{engine._database}_last")
        target = engine._target(place)
        load(repo, repo.history().views[-1], target, [engine.engine], LoadOptions(), check="quick", report=Tally())
        assert engine.dump("last") == engine.dump_source()
