"""Recovery where schemas are nasty: values spelled in other ways, keys of many kinds, defaults; one server start for all of them.

Every case is a few tables in one database that is captured once and damaged once. Each subject then comes back by itself: its
tables are as they were, the undo gives back an equal database, and nobody else's tables are touched.
"""

import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import ServerPlace, Source
from backupd.engines.live import Live
from backupd.engines.mariadb.live_schema import LETTERS
from backupd.engines.sqlite import open_source as sqlite_source
from backupd.engines.sqlite_live import open_live as sqlite_live
from backupd.errors import BackupdError, SafetyRefused
from backupd.jobs.recover import Recovery, carry_out, prepare, read_undo, take_back
from backupd.jobs.recoverroots import Wanted
from backupd.jobs.recoverscript import script_lines
from backupd.jobs.stored import StoredTables
from backupd.jobs.storedtables import opened_tables
from backupd.model import Cells
from backupd.records.plan import Rules
from backupd.records.references import parse_reference
from backupd.records.subject import parse_subject
from backupd.repo.repository import SnapshotView
from backupd.report import Tally
from backupd.wiring import open_file_database
from tests.erasing import erase, erased
from tests.jobs_kit import Kit
from tests.nasty_schemas import MARIADB, POSTGRES, ROUGH, SQLITE, Case
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer
from tests.test_compare_servers import Maria, Postgres, Server, take

pytestmark = pytest.mark.slow
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SPELLED = ("sp_c", "sp_o", "sp_n", "sp_t")
State = dict[str, Counter[tuple[object, ...]]]


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
            return {
                n: Counter(link.execute(f"select t::text, 0 from only {n} t".encode()).fetchall())
                for n in tables.split()
            }
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
                wrong.append(f"{case.name}: {type(error).__name__}: {error} {getattr(error, 'hint', '')}")
        assert not wrong, "\n".join(wrong)
        if isinstance(server, Maria):
            nothing_but_letters_is_taken_for_granted(server)
            recovery = planned(stored, live, ROUGH)
            with pytest.raises(SafetyRefused, match="cannot undo"):
                list(script_lines(live, recovery.plan.changes, triggers=True))
        if isinstance(server, Postgres):
            erased_across_types(kit, view, live)
        erased_with_all_spellings(kit, server, view, live)
        many_spellings_are_told_apart(live)


def many_spellings_are_told_apart(live: Live) -> None:
    """More of them than one statement asks of, long ones too: those are one that the column takes for one."""
    words = [f"{'long' * 500 if n % 50 == 0 else ''}word {n}" for n in range(1_100)]
    texts = [one for word in words for one in (word, word.upper())]
    values: list[Cells] = [(text if live.engine == "sqlite" else text.encode(),) for text in texts]
    found = live.alike("sp_c", ["name"], [*values, (None,)])
    assert found.keys() == set(values)
    numbers = [found[value] for value in values]
    assert numbers[::2] == numbers[1::2]
    assert len(set(numbers)) == len(words)


def nothing_but_letters_is_taken_for_granted(server: Maria) -> None:
    """The collations of which that is said take two texts of plain ASCII for one if their letters differ by case alone."""
    with server._link() as link, link.cursor() as cursor:
        cursor.execute(
            "select collation_name, character_set_name from information_schema.columns where table_schema = 'none'"
            " union select collation_name, character_set_name from information_schema.collation_character_set_applicability"
        )
        found = sorted({(str(n), str(c)) for n, c in cursor.fetchall() if LETTERS.fullmatch(str(n))})
        assert len(found) > 20
        texts = [chr(n) for n in range(0x21, 0x7F)]
        texts += [one + other for one in "aAcdhijlnstvwyz.-" for other in "ahijnsvwyz.-'"]
        listed = ", ".join(f"(x'{text.encode().hex()}')" for text in texts)
        for name, charset in found:
            word = f"convert(convert(t using ascii) using {charset}) collate {name}"
            cursor.execute(f"with v (t) as (values {listed}) select hex(t), dense_rank() over (order by {word}) from v")
            ranks: dict[object, set[str]] = {}
            for text, rank in cursor.fetchall():
                ranks.setdefault(rank, set()).add(bytes.fromhex(str(text)).decode())
            apart = [some for some in ranks.values() if len({text.lower() for text in some}) > 1]
            assert (apart, len(ranks)) == ([], len({text.lower() for text in texts})), name


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


def erased_across_types(kit: Kit, view: SnapshotView, live: Live) -> None:
    """Who refers by another type is hidden, and nobody else; where nobody can be asked, it is said. Only cleared columns go."""
    for subject, references, parts in (
        ("ac_p:3", ["ac_o(f) -> ac_p(f)"], ("ac_o.f",)),
        ("ac_p:1", [], ()),
        ("fb_u:7,1", [], ()),
        ("gb_p:1,person", [], ()),
    ):
        report = Tally()
        erase(kit, subject, references, live=None if references else live, report=report)
        assert [part in text for part, text in zip(parts, report.warnings, strict=False)] == [True] * len(parts)
    with opened_tables(
        kit.repo(Role.READ, host="reader"), view, open_file=open_file_database, erased=erased(kit)
    ) as stored:
        left = {name: Counter(table.shown(row) for row in table.rows()) for name, table in stored.tables.items()}
    others = {13, 22, 23, 33, 43, 52, 72, 82, 83, 92, 102, 111, 112, 122, 123}
    assert {row[0] for row in left["ac_o"]} == others, "63 has the text of the one that was erased without asking"
    assert {row[10] for row in left["ac_o"]} == {None, "11:00:00"}
    assert (left["ga_c"], {row[0] for row in left["ga_m"]}) == ({(2,): 1}, {2, 4})
    assert left["gb_m"] == {("b@x", 2, "person"): 1}
    assert left["ac_k"] == {(1, None): 3, (1, "2020-02-02 00:00:00"): 1}
    assert left["fb_c"] == {(7, None, "a"): 3, (8, 1, "a"): 1}


def tried(
    server: Server | Sqlite, live: Live, stored: StoredTables, case: Case, before: State, between: State, folder: Path
) -> Iterator[str]:
    """What is wrong with a case."""
    recovery = planned(stored, live, case)
    counts = {op: count for op, count in recovery.plan.counts.items() if count}
    if counts != case.counts:
        yield f"{counts}, not {case.counts}"
    if not any(case.warned in text for text in recovery.plan.warnings or [""]):
        yield f"not said: {case.warned}"
    file = folder / f"{case.name}.undo"
    if case.refused:
        with pytest.raises(BackupdError):
            carry_out(recovery, live, "ab" * 32, file, NOW, Tally(), triggers=case.triggers)
        if state(server, " ".join(between)) != between or file.exists():
            yield "something was changed"
        return
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
    if case.brief:
        return
    take_back(read_undo(redo), live, folder / f"{case.name}.again", NOW, Tally(), triggers=case.triggers)
    if case.same and state(server, " ".join(between)) != now:
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
