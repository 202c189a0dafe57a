"""A MySQL server is captured and restored as a MariaDB server is; what it does in its own way."""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from backupd.drilling import ask_database, check_references, start_server
from backupd.engines import mariadb
from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import connect, discard, run
from backupd.engines.mariadb.mysql import Alarm
from backupd.engines.mariadb.tools import CLIENT, find_program, option_file
from backupd.errors import SourceIncomplete, SourceMoved
from backupd.model import Change
from backupd.wiring import ServerOptions, place_of
from tests.servers.mysql import MysqlServer
from tests.unit.engines.mariadb import kit

pytestmark = pytest.mark.slow
ALLOW = frozenset({"definer"})
LEAST = ("SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON {}.*", "SHOW_ROUTINE ON *.*")


@pytest.fixture(scope="module")
def nasty(mysql_server: MysqlServer) -> Iterator[str]:
    """The nasty database."""
    name = mysql_server.create_database(options="CHARACTER SET utf8mb4")
    kit.fill(mysql_server, name, "nasty/mysql.sql")
    yield name
    mysql_server.drop_database(name)


@pytest.fixture
def make(mysql_server: MysqlServer) -> Iterator[Callable[..., str]]:
    """Makes databases; they and what was restored beside them are dropped at the end."""
    made: list[str] = []

    def create(sql: str = "") -> str:
        made.append(mysql_server.create_database(options="CHARACTER SET utf8mb4"))
        if sql:
            mysql_server.sql(sql, made[-1])
        return made[-1]

    yield create
    for name in kit.databases(mysql_server):
        if any(name.startswith(one) for one in made):
            mysql_server.drop_database(name)


def findings(server: MysqlServer, where: ServerPlace) -> dict[str, set[str]]:
    """What is said about a place before anything is read, by level."""
    found: dict[str, set[str]] = {"error": set(), "warning": set(), "note": set()}
    for finding in mariadb.preflight(where, bin_folders=[server.bin]):
        found[finding.level].add(finding.detail)
    return found


def test_the_nasty_database_comes_back_as_it_was(
    mysql_server: MysqlServer, nasty: str, make: Callable[..., str]
) -> None:
    """Every trap; of JSON the text, in which a DECIMAL is a DOUBLE."""
    kept = kit.capture(mysql_server, kit.place(mysql_server, nasty))
    target = make()
    kit.restore(mysql_server, kept, kit.place(mysql_server, target), allow=ALLOW)
    decimals = re.compile(r'"d\\": 1\.50?, |"big\\": 1[.0-9e]+, ')
    was, now = (decimals.sub("", kit.dump(mysql_server, name)) for name in (nasty, target))
    assert now == was
    for query in (
        "SELECT id, CAST(f AS DOUBLE), CAST(fn AS DOUBLE), CAST(fd AS DOUBLE), HEX(d), CAST(u AS DOUBLE) FROM floats ORDER BY id",
        "SELECT id, a+0, b+0, c+0, d+0, e+0, f+0, g+0, h+0 FROM members ORDER BY id",
        "SELECT id, HEX(l), HEX(c9), HEX(sj), HEX(u2), HEX(gb), HEX(eu) FROM charsets ORDER BY id",
        "SELECT id, HEX(g), ST_SRID(g), ST_SRID(p), HEX(c) FROM places ORDER BY id",
        "SELECT id, VECTOR_TO_STRING(v) FROM vectors ORDER BY id",
        "SELECT my_row_id, a, b FROM unseen ORDER BY my_row_id",
        "SELECT id, inv, e+0 FROM t ORDER BY id",
        "SELECT EVENT_NAME, STATUS, TIME_ZONE, STARTS, ENDS FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()",
    ):  # fmt: skip
        assert mysql_server.sql(query, target) == mysql_server.sql(query, nasty), query


def test_rows_are_loaded_by_inserts_where_local_infile_is_off(
    mysql_server: MysqlServer, nasty: str, make: Callable[..., str]
) -> None:
    """Every type of column; the restore compares all rows itself."""
    kept = kit.capture(mysql_server, kit.place(mysql_server, nasty))
    tables = ("t", "docs", "floats", "dates", "numbers", "texts", "charsets", "members", "places", "vectors", "unseen")
    mysql_server.sql("SET GLOBAL local_infile = OFF")
    try:
        result = kit.restore(mysql_server, kept, kit.place(mysql_server, make()), tables=tables)
    finally:
        mysql_server.sql("SET GLOBAL local_infile = ON")
    assert any("local_infile is off" in warning for warning in result.warnings)


def test_captures_without_a_change_between_them_are_equal(mysql_server: MysqlServer, nasty: str) -> None:
    """Equal databases give equal bytes; the server's place in its binary log proves the moment."""
    first = kit.capture(mysql_server, kit.place(mysql_server, nasty))
    second = kit.capture(mysql_server, kit.place(mysql_server, nasty), jobs=3)
    assert [data for _, data in first.streams] == [data for _, data in second.streams]
    assert first.tables == second.tables
    assert first.facts["barrier"]["kind"] == "lock_tables"  # type: ignore[index]
    assert first.facts["barrier"]["proven"]  # type: ignore[index]
    assert first.facts["binlog"]["file"] == "binlog.000001"  # type: ignore[index]


def test_what_is_otherwise_than_with_mariadb_is_said(mysql_server: MysqlServer, nasty: str) -> None:
    """JSON, accounts; nothing stands in the way."""
    said = findings(mysql_server, kit.place(mysql_server, nasty))
    assert not said["error"]
    assert any("inside JSON (docs, t), a DECIMAL is captured as a DOUBLE" in detail for detail in said["note"])
    assert "accounts, roles and grants are captured from MariaDB only" in said["note"]
    with pytest.raises(SourceIncomplete, match="from MariaDB only"):
        kit.capture(mysql_server, kit.place(mysql_server, nasty), globals=True)


def test_few_privileges_are_enough(mysql_server: MysqlServer, nasty: str) -> None:
    """Without RELOAD, BACKUP_ADMIN and REPLICATION CLIENT the rows are the same, and what is weaker is said."""
    name, password = mysql_server.create_user(*(grant.format(nasty) for grant in LEAST))
    where = kit.place(mysql_server, nasty, name, password)
    said = findings(mysql_server, where)
    assert not said["error"]
    assert any("BACKUP_ADMIN" in detail for detail in said["note"])
    assert any("REPLICATION CLIENT" in detail for detail in said["note"])
    kept = kit.capture(mysql_server, where)
    whole = kit.capture(mysql_server, kit.place(mysql_server, nasty))
    assert [data for _, data in kept.streams] == [data for _, data in whole.streams]
    assert kept.facts["barrier"]["kind"] == "lock_tables"  # type: ignore[index]


def test_what_roles_give_counts_and_what_was_revoked_of_one_database_does_not(
    mysql_server: MysqlServer, make: Callable[..., str]
) -> None:
    """SHOW GRANTS tells neither by itself."""
    database = make("CREATE TABLE a (id INT PRIMARY KEY); CREATE PROCEDURE p() SELECT 1")
    name, password = mysql_server.create_user()
    where = kit.place(mysql_server, database, name, password)
    grants = "".join(f"GRANT {grant.format(database)} TO backup_role;" for grant in LEAST)
    mysql_server.sql(f"CREATE ROLE backup_role; {grants} GRANT backup_role TO {name}; SET DEFAULT ROLE ALL TO {name}")
    assert not findings(mysql_server, where)["error"]
    mysql_server.sql(f"REVOKE backup_role FROM {name}; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO {name}")
    assert not findings(mysql_server, where)["error"]
    mysql_server.sql("SET GLOBAL partial_revokes = ON")
    try:
        mysql_server.sql(f"REVOKE SELECT ON {database}.* FROM {name}; GRANT SELECT ON {database}.a TO {name}")
        assert any("there may be tables" in detail for detail in findings(mysql_server, where)["error"])
    finally:
        mysql_server.sql(f"DROP USER {name}; DROP ROLE backup_role; SET GLOBAL partial_revokes = OFF")


def test_hidden_routines_are_an_error(mysql_server: MysqlServer, make: Callable[..., str]) -> None:
    """Without SHOW_ROUTINE their bodies, or they themselves, are not seen."""
    database = make("CREATE PROCEDURE p() SELECT 1")
    grants = f"SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON {database}.*"
    plain, runs = mysql_server.create_user(grants), mysql_server.create_user(grants, f"EXECUTE ON {database}.*")
    assert "its procedures and functions are hidden" in findings(
        mysql_server, kit.place(mysql_server, database, *plain)
    )["error"]  # fmt: skip
    assert "its body is hidden from the backup user" in findings(
        mysql_server, kit.place(mysql_server, database, *runs)
    )["error"]  # fmt: skip


def test_the_sum_of_all_accounts_never_differs_under_writers(
    mysql_server: MysqlServer, make: Callable[..., str]
) -> None:
    """Transfers between two tables go on while both are read, each by a connection of its own."""
    rows = ",".join(f"({n}, 1000)" for n in range(200))
    database = make(
        "".join(f"CREATE TABLE {t} (id INT PRIMARY KEY, v INT); INSERT INTO {t} VALUES {rows};" for t in "ab")
    )
    stop, done = threading.Event(), [0]

    def transfer(number: int) -> None:
        link = connect(kit.place(mysql_server, database), timeout=30, database=database)
        while not stop.is_set():
            run(link, "BEGIN")
            run(link, "UPDATE a SET v = v - 1 WHERE id = %s", ((done[0] * 7 + number) % 200,))
            run(link, "UPDATE b SET v = v + 1 WHERE id = %s", ((done[0] * 13 + number) % 200,))
            run(link, "COMMIT")
            done[0] += 1
        discard(link)

    writers = [threading.Thread(target=transfer, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            before = done[0]
            kept = kit.capture(mysql_server, kit.place(mysql_server, database))
            values = [int(row.split(b"\t")[1]) for t in "ab" for row in kept.rows(t).splitlines()]
            assert sum(values) == 400000
            assert len(values) == 400
            assert done[0] > before
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def test_an_open_transaction_and_a_long_select_keep_no_writer_waiting(
    mysql_server: MysqlServer, make: Callable[..., str]
) -> None:
    """A barrier that cannot be had is given up within a tenth of a second; then one connection reads, and it is said."""
    database = make("CREATE TABLE a (id INT PRIMARY KEY, v INT); INSERT INTO a VALUES (1, 1), (2, 2)")
    where = kit.place(mysql_server, database)
    held, slow, writer = (connect(where, timeout=30, database=database) for _ in range(3))
    run(held, "BEGIN")
    run(held, "UPDATE a SET v = 7 WHERE id = 1")
    reading = threading.Thread(target=run, args=(slow, "SELECT SLEEP(2) FROM a"))
    reading.start()
    waits, stop = [], threading.Event()

    def write() -> None:
        while not stop.is_set():
            began = time.monotonic()
            run(writer, "UPDATE a SET v = v + 1 WHERE id = 2")
            waits.append(time.monotonic() - began)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with mariadb.open_source(where, bin_folders=[mysql_server.bin], timeout=6).view() as view:
            kept = kit.drain(view)
    finally:
        stop.set()
        for thread in (writing, reading):
            thread.join()
        for link in (held, slow, writer):
            discard(link)
    assert kept.facts["barrier"]["kind"] == "one_connection"  # type: ignore[index]
    assert any("one connection reads everything" in warning for warning in kept.warnings)
    assert kept.rows("a").startswith(b"1\t1\n2\t")
    assert len(waits) > 10


def test_a_statement_in_time_is_not_interrupted(mysql_server: MysqlServer, make: Callable[..., str]) -> None:
    """An alarm ends what is late, and nothing that comes afterwards."""
    database = make("CREATE TABLE a (id INT PRIMARY KEY)")
    where = kit.place(mysql_server, database)
    link, other = (connect(where, timeout=10, database=database) for _ in range(2))
    alarm = Alarm(where, link, 10)
    try:
        run(other, "LOCK TABLES a WRITE")
        for _ in range(3):
            with pytest.raises(pymysql.Error, match="interrupted"), alarm.after(0.05):
                run(link, "LOCK TABLES a READ")
            with alarm.after(5):
                assert run(link, "SELECT 1") == [(1,)]
    finally:
        alarm.close()
        discard(link)
        discard(other)


def test_definitions_stand_still_while_rows_are_read(mysql_server: MysqlServer, make: Callable[..., str]) -> None:
    """With BACKUP_ADMIN an ALTER waits for the end; without it, it is found and named."""
    database = make(
        "CREATE TABLE a (id INT PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (id INT PRIMARY KEY)"
    )
    where = kit.place(mysql_server, database)
    other = connect(where, timeout=10, database=database)
    run(other, "SET lock_wait_timeout = 1")
    with mariadb.open_source(where, bin_folders=[mysql_server.bin]).view() as view:
        with pytest.raises(pymysql.Error, match="Lock wait timeout"):
            run(other, "ALTER TABLE a ADD COLUMN v INT")
        kit.drain(view)
    name, password = mysql_server.create_user(*(grant.format(database) for grant in LEAST))
    weaker = kit.place(mysql_server, database, name, password)
    with mariadb.open_source(weaker, bin_folders=[mysql_server.bin]).view() as view:
        run(other, "ALTER TABLE b ADD COLUMN v INT")
        with pytest.raises(SourceMoved, match="table b"):
            kit.drain(view)
    discard(other)


def test_rows_of_a_live_database_are_found_and_changed(mysql_server: MysqlServer, make: Callable[..., str]) -> None:
    """What is in a snapshot is written to the live database with equal cells, and taken out again."""
    sql = (
        "CREATE TABLE a (id INT AUTO_INCREMENT PRIMARY KEY, j JSON, b BIT(9), f FLOAT, e ENUM('', 'x'), t VARCHAR(20),"
        " d DECIMAL(10,2), p POINT SRID 4326, ts TIMESTAMP NULL, g INT AS (b * 2), UNIQUE KEY (t)) COLLATE utf8mb4_0900_ai_ci;"
        "INSERT INTO a (id, j, b, f, e, t, d, p, ts) VALUES (1,"
        " '{\"k\": [1.5, \"é\"]}', b'101010101', 0.1, '', 'é\\\\ \\'x', 1.1,"
        " ST_GeomFromText('POINT(48 11)', 4326), '2024-02-29 12:00:00'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);"
    )
    database = make(sql)
    where = kit.place(mysql_server, database)
    rows = [tuple(row.split(b"\t")) for row in kit.capture(mysql_server, where).rows("a").splitlines()]
    live = mariadb.open_live(where)
    try:
        names = [column.name for column in live.schema().tables["a"].columns if not column.generated]
        cells = dict(zip(names, next(iter(live.rows("a", names, ["id"], [(b"1",)]))), strict=True))
        assert [cells[name] for name in names if name not in ("t", "j")] == [
            cell for name, cell in zip(names, rows[0], strict=True) if name not in ("t", "j")
        ]
        with live.transaction(triggers=False, deletes=True):
            live.apply([Change("delete", "a", {"id": b"1"}, cells, {})])
        assert mysql_server.sql("SELECT id FROM a", database) == "2"
        with live.transaction(triggers=False):
            live.apply([Change("insert", "a", {"id": b"1"}, {}, cells)])
            live.apply([Change("update", "a", {"id": b"1"}, {"j": cells["j"]}, {"j": b'{"k": 2}'})])
    finally:
        live.close()
    assert mysql_server.sql("SELECT j, t, CAST(f AS DOUBLE), b+0, e+0, ST_AsText(p) FROM a WHERE id = 1", database) == (
        '{"k": 2}\té\\\\ \'x\t0.10000000149011612\t341\t1\tPOINT(48 11)'
    )


def test_only_mysqls_own_programs_will_do(mysql_server: MysqlServer, tmp_path: Path) -> None:
    """A `mysql` that says it is MariaDB's is passed over."""
    false = tmp_path / "mysql"
    false.write_text("#!/bin/sh\necho 'mysql  Ver 15.1 Distrib 10.11.6-MariaDB, for debian-linux-gnu'\n")
    false.chmod(0o755)
    assert find_program(CLIENT, "mysql", [tmp_path, mysql_server.bin]) == str(mysql_server.bin / "mysql")
    assert find_program(CLIENT, "mariadb", [tmp_path, mysql_server.bin]) == str(false)


def test_tls_in_mysqls_words() -> None:
    """They are not MariaDB's."""
    options = {"ssl_ca": "/ca.pem", "ssl_verify_identity": "true"}
    text = option_file(ServerPlace("mysql", "h", 0, "me", "x", options, password="p"), 5, "mysql")
    assert "ssl-mode = VERIFY_IDENTITY" in text
    assert "ssl-verify-server-cert" not in text
    assert "ssl-mode = DISABLED" in option_file(
        ServerPlace("mysql", "h", 0, "me", "x", {"ssl_disabled": "1"}, password="p"), 5, "mysql"
    )


def test_a_drill_restores_to_a_server_of_its_own(mysql_server: MysqlServer, make: Callable[..., str]) -> None:
    """By an account that has rights on the databases of drills alone; every table is what was stored."""
    tables = "CREATE TABLE a(id int PRIMARY KEY); CREATE TABLE b(a int, FOREIGN KEY (a) REFERENCES a(id));"
    rows = "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); CREATE TRIGGER t BEFORE INSERT ON a FOR EACH ROW SET @a = 1"
    kept = kit.capture(mysql_server, kit.place(mysql_server, make(tables + rows)))
    name, options = "backupd_drill_0123456789abcdef", ServerOptions(tools=(str(mysql_server.daemon_bin),))
    with tempfile.TemporaryDirectory(prefix="drill-") as top:
        Path(top).chmod(0o711)
        folder = Path(top, "server")
        folder.mkdir(0o700)
        with start_server("mariadb", kept.facts, folder, name, options=options) as started:
            assert (started.url.engine, started.version) == ("mysql", f"MySQL {mysql_server.version}")
            kit.restore(mysql_server, kept, place_of(started.url, started.options), allow=ALLOW)
            assert (
                ask_database(started.url, "SELECT CURRENT_USER()", options=started.options) == "backupd_drill@localhost"
            )
            assert check_references(started.url, options=started.options) == []
        assert list(folder.iterdir()) == []
