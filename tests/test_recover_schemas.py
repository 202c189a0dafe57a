"""Recovery where schemas are nasty: values spelled in other ways, keys of many kinds, defaults; one server start for all of them.

Every case is a few tables in one database that is captured once and damaged once. Each subject then comes back by itself: its
tables are as they were, the undo gives back an equal database, and nobody else's tables are touched.
"""

import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import ServerPlace, Source
from backupd.engines.live import Live
from backupd.engines.sqlite import open_source as sqlite_source
from backupd.engines.sqlite_live import open_live as sqlite_live
from backupd.errors import SafetyRefused
from backupd.jobs.recover import Recovery, carry_out, prepare, read_undo, take_back
from backupd.jobs.recoverroots import Wanted
from backupd.jobs.recoverscript import script_lines
from backupd.jobs.stored import StoredTables
from backupd.jobs.storedtables import opened_tables
from backupd.records.plan import Rules
from backupd.records.references import parse_reference
from backupd.records.subject import parse_subject
from backupd.repo.repository import SnapshotView
from backupd.report import Tally
from backupd.wiring import open_file_database
from tests.erasing import erase, erased
from tests.jobs_kit import Kit
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.test_compare_servers import Maria, Postgres, Server, take

pytestmark = pytest.mark.slow
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SPELLED = ("sp_c", "sp_o", "sp_n", "sp_t")
State = dict[str, Counter[tuple[object, ...]]]


@dataclass(frozen=True)
class Case:
    """A few tables, what a mistake does to them, and who shall come back.

    Attributes:
        counts: of the plan; those that are not named are 0.
        more: whole statements behind the schema.
        altered: what becomes of the tables after the capture.
        later: what somebody does after the recovery, which keeps it from being undone, and how that goes away again.
        triggers: whether they run.
        same: whether everything is as before afterwards.
        meanwhile: what somebody does between a script and its execution, which it must notice, and how that goes away again.
    """

    name: str
    subject: str
    tables: str
    schema: str
    damage: str
    counts: dict[str, int]
    references: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    altered: str = ""
    later: tuple[tuple[str, str], ...] = ()
    triggers: bool | None = None
    same: bool = True
    meanwhile: tuple[str, str] | None = None


LATER = Case(
    "later columns",
    "la_c:1",
    "la_c la_v",
    "create table la_c (id int primary key, n int);"
    "create table la_v (c int, page varchar(20), foreign key (c) references la_c(id) on delete cascade);"
    "insert into la_c values (1, 1), (2, 2); insert into la_v values (1, 'home'), (1, 'home'), (2, 'home'), (null, 'home')",
    "delete from la_c where id = 1",
    {"insert": 3},
    altered="alter table la_c add column phone varchar(20) default 'none'; alter table la_v add column seen varchar(9)",
    later=(
        ("update la_c set phone = '123' where id = 1", "update la_c set phone = 'none' where id = 1"),
        ("update la_v set seen = 'yes' where c = 1", "update la_v set seen = null where c = 1"),
        (
            "alter table la_c add column z varchar(9); update la_c set z = 'q' where id = 1",
            "alter table la_c drop column z",
        ),
        ("alter table la_v add column z varchar(9); update la_v set z = 'q'", "alter table la_v drop column z"),
        ("insert into la_v values (1, 'newer', 'x')", "delete from la_v where page = 'newer'"),
    ),
)


def triggered(*triggers: str) -> Case:
    """Triggers write into what comes back: the undo takes back what they made of it."""
    return Case(
        "triggers",
        "tr_c:1",
        "tr_c tr_n",
        "create table tr_c (id int primary key, stamp varchar(9));"
        "create table tr_n (id int primary key, c int, stamp varchar(9), foreign key (c) references tr_c(id) on delete set null);"
        "insert into tr_c values (1, 'old'), (2, 'old'); insert into tr_n values (1, 1, 'old'), (2, 2, 'old')",
        "delete from tr_c where id = 1",
        {"insert": 1, "repair": 1},
        more=triggers,
        triggers=True,
        same=False,
    )


CIRCLE = Case(
    "circle",
    "ro_o:1",
    "ro_o ro_p ro_a ro_b",
    "create table ro_o (id int primary key); create table ro_p (id int primary key);"
    "create table ro_b (id int primary key, a int not null);"
    "create table ro_a (id int primary key, b int not null, o int not null, p int not null,"
    " foreign key (b) references ro_b(id) on delete cascade, foreign key (o) references ro_o(id) on delete cascade,"
    " foreign key (p) references ro_p(id));"
    "insert into ro_o values (1), (2); insert into ro_p values (8), (9)",
    "delete from ro_o where id = 1",
    {"insert": 3},
    meanwhile=("delete from ro_p where id = 9", "insert into ro_p values (9)"),
)
_CLOSED = "alter table ro_b add foreign key (a) references ro_a(id) on delete cascade"

MARIADB = [
    LATER,
    replace(
        CIRCLE,
        more=(
            _CLOSED,
            "set foreign_key_checks = 0",
            "insert into ro_b values (1, 1)",
            "insert into ro_a values (1, 1, 1, 9)",
            "set foreign_key_checks = 1",
        ),
    ),
    triggered(
        "create trigger tr_i before insert on tr_c for each row set new.stamp = 'made'",
        "create trigger tr_u before update on tr_n for each row set new.stamp = if(new.c is null, new.stamp, 'back')",
    ),
    Case(
        "spelled",
        "sp_c:ADA",
        "sp_c sp_o sp_n sp_t",
        "create table sp_c (name varchar(20) primary key, boss varchar(20),"
        " foreign key (boss) references sp_c(name) on delete cascade);"
        "create table sp_o (id int primary key, name varchar(20), foreign key (name) references sp_c(name) on delete cascade);"
        "create table sp_n (id int primary key, name varchar(20), foreign key (name) references sp_c(name) on delete set null);"
        "create table sp_t (name varchar(20), n int, foreign key (name) references sp_c(name) on delete set null);"
        "insert into sp_c values ('ADA', null), ('José', 'ada '), ('joe', 'aDa'), ('Bob', null), ('BobX', 'bob');"
        "insert into sp_o values (1, 'ada'), (2, 'Ada '), (3, 'JOSE'), (4, 'bob'), (5, 'JOE'), (6, 'BOBx');"
        "insert into sp_n values (1, 'aDA'), (2, 'bOB'), (3, 'jose');"
        "insert into sp_t values ('AdA', 1), ('AdA', 1), (null, 1), ('BOB', 1), ('jOSé', 2)",
        "delete from sp_c where name = 'Ada'",
        {"insert": 3 + 4, "repair": 2 + 3},
    ),
    Case(
        "up",
        "up_o:1",
        "up_c up_o",
        "create table up_c (code char(6) character set utf8mb4 collate utf8mb4_bin primary key, n int);"
        "create table up_o (id int primary key, code char(6) character set utf8mb4 collate utf8mb4_bin,"
        " foreign key (code) references up_c(code) on delete cascade);"
        "insert into up_c values ('a', 1), ('A', 2); insert into up_o values (1, 'a'), (2, 'A')",
        "delete from up_c where code = 'a'",
        {"insert": 2},
    ),
    Case(
        "lithuanian",
        "li_c:Yi",
        "li_c li_o",
        "create table li_c (name varchar(20) collate utf8mb4_lithuanian_ci primary key);"
        "create table li_o (id int primary key, name varchar(20) collate utf8mb4_lithuanian_ci,"
        " foreign key (name) references li_c(name) on delete cascade);"
        "insert into li_c values ('Yi'), ('other'); insert into li_o values (1, 'ii'), (2, 'other'), (3, 'YY')",
        "delete from li_c where name = 'yy'",
        {"insert": 3},
    ),
    Case(
        "codes",
        "co_c:1,78",
        "co_c co_o",
        "create table co_c (t int, code varchar(9) character set cp932 collate cp932_japanese_ci, primary key (t, code));"
        "create table co_o (id int primary key, t int, code varchar(9) character set cp932 collate cp932_japanese_ci,"
        " foreign key (t, code) references co_c(t, code) on delete cascade);"
        "insert into co_c values (1, 'x'), (2, 'x'); insert into co_o values (1, 1, 'X'), (2, 2, 'X'), (3, null, 'X')",
        "delete from co_c where t = 1",
        {"insert": 2},
    ),
    Case(
        "zeros",
        "ze_c:7",
        "ze_c ze_o",
        "create table ze_c (id int(5) unsigned zerofill primary key, u int);"
        "create table ze_o (id int primary key, c int(3) unsigned zerofill,"
        " foreign key (c) references ze_c(id) on delete cascade);"
        "insert into ze_c values (7, 1); insert into ze_o values (1, 7)",
        "delete from ze_c",
        {"insert": 2},
    ),
]
POSTGRES = [
    LATER,
    replace(
        CIRCLE,
        more=(
            _CLOSED,
            "with b as (insert into ro_b values (1, 1)) insert into ro_a values (1, 1, 1, 9)",
            "create function ro_f() returns trigger language plpgsql as $$ begin raise 'it runs'; end $$",
            "create trigger ro_t before insert on ro_a for each row execute function ro_f()",
        ),
        triggers=False,
    ),
    triggered(
        "create function tr_f() returns trigger language plpgsql as $$ begin new.stamp = 'made'; return new; end $$",
        "create trigger tr_i before insert on tr_c for each row execute function tr_f()",
    ),
    Case(
        "spelled",
        "sp_c:ADA",
        "sp_c sp_o sp_n sp_t",
        "create collation loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);"
        "create table sp_c (name text collate loose primary key, boss text collate loose references sp_c on delete cascade);"
        "create table sp_o (id int primary key, name text collate loose references sp_c on delete cascade);"
        "create table sp_n (id int primary key, name text collate loose references sp_c on delete set null);"
        "create table sp_t (name text collate loose references sp_c on delete set null, n int);"
        "insert into sp_c values ('ADA', null), ('José', 'ada'), ('joe', 'aDa'), ('Bob', null), ('BobX', 'bob');"
        "insert into sp_o values (1, 'ada'), (2, 'Àda'), (3, 'JOSE'), (4, 'bob'), (5, 'JOE'), (6, 'BOBx');"
        "insert into sp_n values (1, 'aDA'), (2, 'bOB'), (3, 'jose');"
        "insert into sp_t values ('AdA', 1), ('AdA', 1), (null, 1), ('BOB', 1), ('jOSé', 2)",
        "delete from sp_c where name = 'Ada'",
        {"insert": 3 + 4, "repair": 2 + 3},
    ),
    Case(
        "citext",
        "ci_c:Straße",
        "ci_c ci_o",
        "create extension citext; create table ci_c (name citext primary key);"
        "create table ci_o (id int primary key, name citext references ci_c on delete cascade);"
        "insert into ci_c values ('Straße'), ('ada'); insert into ci_o values (1, 'STRAßE'), (2, 'ADA'), (3, 'straße')",
        "delete from ci_c where name = 'straße'",
        {"insert": 3},
    ),
    Case(
        "numbers",
        "nu_c:1.00",
        "nu_c nu_o nu_i",
        "create table nu_c (id numeric primary key, up numeric references nu_c on delete cascade);"
        "create table nu_o (id int primary key, c numeric(10,2) references nu_c on delete cascade);"
        "create table nu_i (id int primary key, c int references nu_c on delete set null);"
        "insert into nu_c values (1.00, null), (2, 1.0), (3, null); insert into nu_o values (1, 1), (2, 2.00), (3, 3);"
        "insert into nu_i values (1, 1), (2, 2), (3, 3)",
        "delete from nu_c where id = 1",
        {"insert": 2 + 2, "repair": 2},
    ),
    Case(
        "times",
        "ti_c:1 day",
        "ti_c ti_o",
        "create table ti_c (id interval primary key); create table ti_o (id int primary key, c interval references ti_c"
        " on delete cascade); insert into ti_c values ('1 day'), ('2 days');"
        "insert into ti_o values (1, '24:00:00'), (2, '2 days')",
        "delete from ti_c where id = '1 day'",
        {"insert": 2},
    ),
    Case(
        "padded",
        "pa_c:ab",
        "pa_c pa_o",
        "create table pa_c (id char(5) primary key); create table pa_o (id int primary key, c char(3) references pa_c"
        " on delete cascade); insert into pa_c values ('ab'), ('c'); insert into pa_o values (1, 'ab'), (2, 'c')",
        "delete from pa_c where id = 'ab'",
        {"insert": 2},
    ),
    Case(
        "fallen back",
        "fb_u:7,1",
        "fb_u fb_c fb_d fb_e",
        "create type fb_mood as enum ('ok', 'it''s');"
        "create table fb_u (t int, id int, primary key (t, id));"
        "create table fb_c (t int not null, u int, x text, foreign key (t, u) references fb_u on delete set null (u));"
        "create table fb_d (t int default 7, u int default '-1'::integer, x char(5) default 'a', m fb_mood default 'it''s',"
        " foreign key (t, u) references fb_u on delete set default);"
        "create table fb_e (t int not null, u int default 0, k int primary key,"
        " foreign key (t, u) references fb_u on delete set default (u));"
        "insert into fb_u values (7, 0), (7, 1), (7, -1), (8, 1);"
        "insert into fb_c values (7, 1, 'a'), (7, 1, 'a'), (8, 1, 'a'), (7, null, 'a');"
        "insert into fb_d values (7, 1, 'x'), (8, 1, 'x'); insert into fb_e values (7, 1, 1), (7, 0, 2)",
        "delete from fb_u where t = 7 and id = 1",
        {"insert": 1, "repair": 2 + 1 + 1},
    ),
]


SQLITE = [
    LATER,
    triggered(
        "create trigger tr_i after insert on tr_c begin update tr_c set stamp = 'made' where id = new.id; end",
        "create trigger tr_u after update of c on tr_n when new.c is not null"
        " begin update tr_n set stamp = 'back' where id = new.id; end",
    ),
    Case(
        "spelled",
        "sp_c:ADA",
        "sp_c sp_o sp_p sp_n sp_t",
        "create table sp_c (name text collate nocase primary key, boss text references sp_c on delete cascade);"
        "create table sp_o (id integer primary key, name text references sp_c on delete cascade);"
        "create table sp_p (id integer primary key, name text collate nocase references sp_c on delete cascade);"
        "create table sp_n (id integer primary key, name references sp_c on delete set null);"
        "create table sp_t (name text references sp_c on delete set null, n int);"
        "insert into sp_c values ('ADA', null), ('Jose', 'ada'), ('joe', 'aDa'), ('Bob', null), ('BobX', 'bob');"
        "insert into sp_o values (1, 'ada'), (2, 'Ada'), (3, 'JOSE'), (4, 'bob'), (5, 'JOE'), (6, 'BOBx');"
        "insert into sp_p values (1, 'ada'), (2, 'bob');"
        "insert into sp_n values (1, 'aDA'), (2, 'bOB'), (3, 'jose');"
        "insert into sp_t values ('AdA', 1), ('AdA', 1), (null, 1), ('BOB', 1), ('jOSe', 2)",
        "delete from sp_c where name = 'ADA'",
        {"insert": 3 + 4 + 1, "repair": 2 + 3},
    ),
    Case(
        "affinities",
        "af_c:1",
        "af_c af_o af_b",
        "create table af_c (id text primary key, n numeric);"
        "create table af_o (k integer primary key, id int references af_c on delete cascade);"
        "create table af_b (k integer primary key, id references af_c on delete set null);"
        "insert into af_c values ('1', 1.5), ('2', 2), ('01', 3);"
        "insert into af_o values (1, 1), (2, 2); insert into af_b values (1, '1'), (2, '2'), (3, '01')",
        "delete from af_c where id = '1'",
        {"insert": 2, "repair": 1},
    ),
    Case(
        "fallen back",
        "fb_u:7,1",
        "fb_u fb_d fb_e",
        "create table fb_u (t int, id int, primary key (t, id));"
        "create table fb_d (t int default 7, u int default (-1), x text default 'a',"
        " foreign key (t, u) references fb_u on delete set default);"
        "create table fb_e (t int not null default 8, u int default '1', k integer primary key,"
        " foreign key (t, u) references fb_u on delete set default);"
        "insert into fb_u values (7, 0), (7, 1), (7, -1), (8, 1);"
        "insert into fb_d values (7, 1, 'x'), (8, 1, 'x'), (7, 1, 'x'); insert into fb_e values (7, 1, 1), (7, 0, 2)",
        "delete from fb_u where t = 7 and id = 1",
        {"insert": 1, "repair": 2 + 1},
    ),
]


@dataclass
class Sqlite:
    """A database file."""

    path: Path

    def execute(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as link:
            link.execute("pragma foreign_keys = on")
            for statement in statements:
                link.execute(statement)

    def rows(self, table: str) -> Counter[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as link:
            return Counter(
                tuple((type(cell), cell) for cell in row) for row in link.execute(f'select * from "{table}"').fetchall()
            )

    def source(self) -> Source:
        return sqlite_source(self.path)


@pytest.fixture(params=["postgresql", "mariadb", "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server | Sqlite]:
    """A database; of PostgreSQL 15, which knows collations of ICU."""
    if request.param == "postgresql":
        servers: Callable[[int], PostgresServer] = request.getfixturevalue("postgres_servers")
        pg = servers(15)
        yield Postgres(pg, pg.create_database())
    elif request.param == "sqlite":
        yield Sqlite(tmp_path / "live.db")
    else:
        maria: MariaServer = request.getfixturevalue("mariadb_server")
        yield Maria(maria, maria.create_database())


ROUGH = Case(
    "not transactional",
    "my_c:1",
    "my_c",
    "create table my_c (id int primary key) engine = MyISAM; insert into my_c values (1)",
    "delete from my_c",
    {"insert": 1},
)


def place_of(server: Server | Sqlite) -> ServerPlace:
    if isinstance(server, Postgres):
        pg = server.server
        return ServerPlace("postgresql", pg.host, pg.port, pg.superuser, server.database)
    assert isinstance(server, Maria)
    s = server.server
    return ServerPlace("mariadb", s.host, s.port, s.root, server.database, {}, s.root_password)


@contextmanager
def opened_live(server: Server | Sqlite) -> Iterator[Live]:
    from backupd.engines.mariadb import open_live as mariadb_live
    from backupd.engines.postgres import open_live as postgres_live

    if isinstance(server, Sqlite):
        with closing(sqlite_live(server.path)) as live:
            yield live
        return
    opening = postgres_live if isinstance(server, Postgres) else mariadb_live
    with closing(opening(place_of(server))) as link:
        yield link


def cut(statements: str) -> list[str]:
    return [text for text in statements.split(";") if text.strip()]


def state(server: Server | Sqlite, tables: str) -> State:
    """All rows of some tables, read in one connection."""
    if isinstance(server, Sqlite):
        return {name: server.rows(name) for name in tables.split()}
    if isinstance(server, Postgres):
        with psycopg.connect(server.server.url(server.database)) as link:
            return {n: Counter(link.execute(f"select * from {n}".encode()).fetchall()) for n in tables.split()}
    assert isinstance(server, Maria)
    found: State = {}
    with server._link() as maria, maria.cursor() as cursor:
        for name in tables.split():
            cursor.execute(f"select * from {name}")
            found[name] = Counter(cursor.fetchall())
    return found


def planned(stored: StoredTables, live: Live, case: Case) -> Recovery:
    virtual = [parse_reference(text) for text in case.references]
    return prepare(stored, live, Wanted(parse_subject(case.subject)), Rules(), Tally(), virtual=virtual)


def test_every_case_comes_back_and_goes_again(tmp_path: Path, server: Server | Sqlite) -> None:
    cases = POSTGRES if isinstance(server, Postgres) else SQLITE if isinstance(server, Sqlite) else [*MARIADB, ROUGH]
    kit = Kit(tmp_path)
    server.execute(*(text for case in cases for text in (*cut(case.schema), *case.more)))
    snapshot = take(kit, server.source())
    server.execute(*(text for case in cases for text in cut(case.altered)))
    everything = " ".join(case.tables for case in cases)
    before = state(server, everything)
    server.execute(*(text for case in cases for text in cut(case.damage)))
    between = state(server, everything)
    repo = kit.repo(Role.READ, host="reader")
    view = next(view for view in repo.history().views if view.id == snapshot)
    wrong = []
    with (
        opened_tables(repo, view, open_file=open_file_database, erased=None) as stored,
        opened_live(server) as live,
    ):
        for case in filter(lambda case: case is not ROUGH, cases):
            try:
                wrong += [
                    f"{case.name}: {said}" for said in tried(server, live, stored, case, before, between, tmp_path)
                ]
            except Exception as error:
                wrong.append(f"{case.name}: {type(error).__name__}: {error}")
        assert not wrong, "\n".join(wrong)
        if isinstance(server, Maria):
            recovery = planned(stored, live, ROUGH)
            with pytest.raises(SafetyRefused, match="cannot undo"):
                list(script_lines(live, recovery.plan.changes, triggers=True))
        erased_with_all_spellings(kit, server, view, live)


def erased_with_all_spellings(kit: Kit, server: Server | Sqlite, view: SnapshotView, live: Live) -> None:
    """Who belongs to the erased in another spelling is hidden too; where nobody can be asked, it is said."""
    report = Tally()
    spelled = ["sp_o(name) -> sp_c(name)", "sp_n(name) -> sp_c(name) on delete set null"]
    if isinstance(server, Maria):
        erase(kit, "sp_c:ADA", spelled, report=report)
        assert report.warnings, "no database could say that they are the same"
    erase(kit, "sp_c:aDA" if not isinstance(server, Sqlite) else "sp_c:ada", live=live)
    with opened_tables(
        kit.repo(Role.READ, host="reader"), view, open_file=open_file_database, erased=erased(kit)
    ) as stored:
        left = {name: {stored.tables[name].shown(row) for row in stored.tables[name].rows()} for name in SPELLED}
    assert {str(row[0])[:3] for row in left["sp_c"]} == {"Bob"}
    assert {row[0] for row in left["sp_o"]} == {4, 6}
    assert {row[0]: row[1] for row in left["sp_n"]} == {1: None, 2: "bOB", 3: None}
    assert left["sp_t"] == {(None, 1), ("BOB", 1), (None, 2)}


def tried(
    server: Server | Sqlite, live: Live, stored: StoredTables, case: Case, before: State, between: State, folder: Path
) -> Iterator[str]:
    """What is wrong with a case."""
    recovery = planned(stored, live, case)
    counts = {op: count for op, count in recovery.plan.counts.items() if count}
    if counts != case.counts:
        yield f"{counts}, not {case.counts}"
    file = folder / f"{case.name}.undo"
    done = carry_out(recovery, live, "ab" * 32, file, NOW, Tally(), triggers=case.triggers)
    tables = {*case.tables.split()}
    wanted = {name: before[name] if name in tables else rows for name, rows in between.items()}
    now = state(server, " ".join(between))
    if case.same and now != wanted:
        yield f"not as before: {[n for n in now if now[n] != wanted[n]]}"
    redo = folder / f"{case.name}.redo"
    for since, away in case.later:
        server.execute(*cut(since))
        then = state(server, case.tables)
        try:
            take_back(read_undo(done.undo), live, redo, NOW, Tally(), triggers=case.triggers)
            yield f"undone in spite of: {since}"
        except SafetyRefused:
            if state(server, case.tables) != then:
                yield f"something was changed in spite of: {since}"
        server.execute(*cut(away))
    take_back(read_undo(done.undo), live, redo, NOW, Tally(), triggers=case.triggers)
    if state(server, " ".join(between)) != between:
        yield "the undo gives back another database"
    take_back(read_undo(redo), live, folder / f"{case.name}.again", NOW, Tally(), triggers=case.triggers)
    if state(server, " ".join(between)) != now:
        yield "the undo of the undo gives back another database"
    again, end = folder / f"{case.name}.again", folder / f"{case.name}.end"
    take_back(read_undo(again), live, end, NOW, Tally(), triggers=case.triggers)
    yield from scripted(server, live, recovery, case, now)
    take_back(read_undo(done.undo), live, folder / f"{case.name}.last", NOW, Tally(), triggers=case.triggers)


def scripted(server: Server | Sqlite, live: Live, recovery: Recovery, case: Case, after: State) -> Iterator[str]:
    """What is wrong with a case's script; it is executed as the last thing."""
    text = "\n".join(script_lines(live, recovery.plan.changes, triggers=case.triggers is not False))
    if case.meanwhile is not None:
        server.execute(*cut(case.meanwhile[0]))
        then = state(server, case.tables)
        if not ran(server, text):
            yield "the script did not fail"
        if state(server, case.tables) != then:
            yield "the script did half of it"
        server.execute(*cut(case.meanwhile[1]))
    if said := ran(server, text):
        yield f"the script failed: {said}"
    if state(server, " ".join(after)) != after:
        yield "the script does something else"


def ran(server: Server | Sqlite, text: str) -> str:
    """Execute a script by the engine's own client; returns what that complains of."""
    if isinstance(server, Sqlite):
        command = ["sqlite3", "-bail", str(server.path)]
    elif isinstance(server, Postgres):
        command = [str(server.server.bin / "psql"), "-X", "-q", "-f", "-", server.server.url(server.database)]
    else:
        assert isinstance(server, Maria)
        s = server.server
        to = [f"--host={s.host}", f"--port={s.port}", f"--user={s.root}", f"--password={s.root_password}"]
        command = [str(s.bin / "mariadb"), "--no-defaults", *to, "--protocol=tcp", "--binary-mode", server.database]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=120)
    return (done.stderr or f"code {done.returncode}") if done.returncode else ""
