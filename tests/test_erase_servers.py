"""Erased people do not come back from a server's snapshot: by restore, by export, or in a comparison."""

from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import LoadOptions, ServerPlace, ServerTarget
from backupd.jobs.export import export
from backupd.jobs.load import load
from backupd.report import Tally
from tests.erasing import erase, erased
from tests.jobs_kit import Kit
from tests.test_compare_servers import Maria, Postgres, Server, server, take
from tests.unit.jobs.test_compare import look

__all__ = ["server"]
pytestmark = pytest.mark.slow
SCHEMA = """
create table people (id int primary key, mail varchar(60) unique, boss int,
  foreign key (boss) references people(id) on delete set null);
create table orders (id int primary key, person int not null, foreign key (person) references people(id) on delete cascade);
create table parts (orders int not null, n int not null, what varchar(60), primary key (orders, n),
  foreign key (orders) references orders(id) on delete cascade);
create table visits (person int, at varchar(60), foreign key (person) references people(id) on delete cascade);
create table calls (id int primary key, mail varchar(60), about varchar(60),
  foreign key (mail) references people(mail) on delete set null);
insert into people values (1, 'one@x', null), (2, 'erased canary', 1), (3, 'three@x', 2);
insert into orders values (10, 1), (20, 2), (21, 2);
insert into parts values (10, 1, 'kept'), (20, 1, 'a canary\tline'), (20, 2, null), (21, 1, 'canary');
insert into visits values (2, 'canary'), (2, 'canary'), (1, 'kept'), (null, 'kept too');
insert into calls values (7, 'erased canary', 'kept'), (8, null, 'kept')
"""
REFERENCES = [
    "people(boss) -> people(id) on delete set null",
    "orders(person) -> people(id)",
    "parts(orders) -> orders(id)",
    "visits(person) -> people(id)",
    "calls(mail) -> people(mail) on delete set null",
]
LEFT = {
    "people": {(1, "one@x", None): 1, (3, "three@x", None): 1},
    "orders": {(10, 1): 1},
    "parts": {(10, 1, "kept"): 1},
    "visits": {(1, "kept"): 1, (None, "kept too"): 1},
    "calls": {(7, None, "kept"): 1, (8, None, "kept"): 1},
}


def target(server: Server, name: str) -> tuple[ServerTarget, Server]:
    """A database to restore to, and the same to ask."""
    if isinstance(server, Postgres):
        from backupd.engines.postgres import open_target as postgres_target

        pg = server.server
        place = ServerPlace("postgresql", pg.host, pg.port, pg.superuser, name)
        return postgres_target(place, timeout=30, bin_folders=[str(pg.bin)]), Postgres(pg, name)
    assert isinstance(server, Maria)
    from backupd.engines.mariadb import open_target as mariadb_target

    s = server.server
    place = ServerPlace("mariadb", s.host, s.port, s.root, name, {}, s.root_password)
    return mariadb_target(place, timeout=30, bin_folders=[s.bin]), Maria(s, name)


def test_erased_people_do_not_come_back(tmp_path: Path, server: Server) -> None:
    """Cascades of two levels, a self-reference and a reference to a unique column made NULL, and a table without a key."""
    kit = Kit(tmp_path)
    server.execute(*filter(str.strip, SCHEMA.split(";")))
    before = take(kit, server.source())
    server.execute("insert into parts values (10, 2, 'since')")
    snapshot = take(kit, server.source())
    found = erase(kit, "people:2", REFERENCES)
    assert found.counts == {"people": 1, "orders": 2, "parts": 3, "visits": 1}
    assert all(b"canary" not in kit.store.get(i.name) for i in kit.store.list("records/"))

    repo = kit.repo(Role.READ, host="reader")
    view = next(v for v in repo.history().views if v.id == before)
    rules = erased(kit)
    name = f"{server.database}_back"  # type: ignore[attr-defined]
    place, back = target(server, name)
    engines = ["postgresql" if isinstance(server, Postgres) else "mariadb"]
    result = load(repo, view, place, engines, LoadOptions(), check="full", report=Tally(), erased=rules.rule)
    try:
        assert {table: dict(back.rows(table)) for table in LEFT} == LEFT
        assert (result.erased, result.compared, result.rows) == (8, 5, 8)
    finally:
        server.server.drop_database(name)  # type: ignore[attr-defined]

    plain = export(repo, view, tmp_path / "plain", secrets=False, report=Tally(), erased=rules.rule)
    assert plain.erased == 8
    assert not any(b"canary" in file.read_bytes() for file in (tmp_path / "plain").rglob("*") if file.is_file())

    server.execute("delete from people where id = 2", "update people set mail = 'new' where id = 1")
    after = take(kit, server.source())
    compared, records = look(kit, snapshot, after, erased=rules)
    assert {t.name: (t.added, t.removed, t.changed) for t in compared.tables} == {
        "people": (0, 0, 1),
        "orders": (0, 0, 0),
        "parts": (0, 0, 0),
        "visits": (0, 0, 0),
        "calls": (0, 0, 0),
    }
    assert {record.key for record in records["people"]} == {(1,)}, "that 3 referred to them nobody is told"
