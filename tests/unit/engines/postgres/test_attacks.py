"""Snapshots that carry payloads, servers that turn on us half-way, client programs that lie, disks that fill."""

import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from backupd.engines.base import LoadOptions, ServerPlace
from backupd.engines.postgres import open_source, open_target
from backupd.engines.postgres import worker as workers
from backupd.errors import BackupdError, SourceIncomplete, StorageRefused, Unreachable
from tests.servers.postgres import PostgresServer, running
from tests.servers.processes import short_files, wrapped
from tests.servers.proxy import Turn, between, closes, garbage, silent
from tests.unit.engines.postgres import kit

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("postgres", [15], indirect=True)]

LONG = 40_000
"""Rows of a table of 8 MB."""


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """A fresh database; it and all whose names begin with `back_` are dropped at the end."""
    name = postgres.create_database()
    yield name
    for other in kit.databases(postgres):
        if other.startswith("back_") or other == name:
            postgres.drop_database(other)


@pytest.fixture
def restorer(postgres: PostgresServer, database: str) -> Iterator[str]:
    """A role that may create databases and nothing else, and owns the database."""
    postgres.psql("postgres", f'CREATE ROLE restorer LOGIN CREATEDB; ALTER DATABASE "{database}" OWNER TO restorer')
    yield "restorer"
    for other in kit.databases(postgres):
        if other.startswith("back_") or other == database:
            postgres.drop_database(other)
    postgres.psql("postgres", "DROP ROLE restorer")


# ---- payloads


def _payloads(canary: Path) -> str:
    """Objects of every kind whose code runs while rows are loaded or indexes built; each would run a program as a superuser."""
    attack = f"EXECUTE 'COPY (SELECT 1) TO PROGRAM ''touch {canary}'''"
    body = f"BEGIN {attack}; EXCEPTION WHEN OTHERS THEN NULL; END"
    return f"""
    CREATE FUNCTION v(int) RETURNS int LANGUAGE plpgsql AS $$BEGIN {body}; RETURN $1; END$$;
    CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM public.v($1); RETURN $1; END$$;
    CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body}; RETURN NEW; END$$;
    CREATE DOMAIN d AS int CHECK (f(VALUE) > 0);
    CREATE TABLE t(a int CHECK (f(a) > 0), b d, c int DEFAULT f(1), g int GENERATED ALWAYS AS (f(a)) STORED);
    CREATE TRIGGER trig BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION trig();
    CREATE INDEX ON t (f(a));
    CREATE MATERIALIZED VIEW m AS SELECT f(a) AS a FROM t;
    INSERT INTO t VALUES (1, 2), (3, 4);
    REFRESH MATERIALIZED VIEW m;
    """


def test_payloads_run_with_the_rights_of_who_restores(postgres: PostgresServer, database: str, restorer: str) -> None:
    """A role that is no superuser runs no program, whatever constraints, columns, triggers and indexes call (H65).

    A superuser does: which is why such a restore is warned of before anything is written.
    """
    canary = postgres.data / f"canary-{secrets.token_hex(8)}"  # where the server's own user can write
    postgres.psql(database, "SET ROLE restorer;" + _payloads(canary))
    assert not canary.exists()
    snapshot = kit.capture(kit.source(postgres, database, restorer))
    assert not canary.exists()
    told: list[str] = []
    result = kit.restore(postgres, "back_plain", snapshot, LoadOptions(), user=restorer, told=told)
    assert not canary.exists()
    assert (told, result.warnings) == ([], ())
    assert kit.dump(postgres, "back_plain") == kit.dump(postgres, database)
    kit.restore(postgres, "back_super", snapshot, LoadOptions(), told=told)
    assert canary.exists(), "the payload does nothing, so this test says nothing"
    assert any("superuser" in warning for warning in told)


SHADOWS = """
CREATE FUNCTION public.shadow() RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.shadowed VALUES (current_query()); EXCEPTION WHEN OTHERS THEN RAISE 'shadow-canary'; END$$;
CREATE TABLE public.shadowed(what text);
CREATE FUNCTION public.pg_has_role(oid, text) RETURNS bool LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN true; END$$;
CREATE FUNCTION public.has_table_privilege(oid, text) RETURNS bool LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN true; END$$;
CREATE FUNCTION public.has_table_privilege(text, text) RETURNS bool LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN true; END$$;
CREATE FUNCTION public.set_config(text, text, bool) RETURNS text LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN $2; END$$;
CREATE FUNCTION public.to_regclass(text) RETURNS regclass LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN NULL; END$$;
CREATE FUNCTION public.setval(regclass, bigint, bool) RETURNS bigint LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN 1; END$$;
CREATE FUNCTION public.quote_ident(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM public.shadow(); RETURN $1; END$$;
CREATE FUNCTION public.format_type(oid, int) RETURNS text LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN 'text'; END$$;
CREATE FUNCTION public.pg_export_snapshot() RETURNS text LANGUAGE plpgsql
  AS $$BEGIN PERFORM public.shadow(); RETURN 'x'; END$$;
CREATE FUNCTION public.lower(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
  AS $$BEGIN RAISE 'shadow-canary'; END$$;
CREATE FUNCTION public.same(oid, oid) RETURNS bool LANGUAGE plpgsql AS $$BEGIN PERFORM public.shadow(); RETURN false; END$$;
CREATE FUNCTION public.same(name, text) RETURNS bool LANGUAGE plpgsql AS $$BEGIN PERFORM public.shadow(); RETURN false; END$$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = public.same);
CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = public.same);
CREATE TABLE t(a serial PRIMARY KEY, b text);
INSERT INTO t(b) VALUES ('one'), ('two');
CREATE UNIQUE INDEX ON t (pg_catalog.lower(b));
"""


def test_no_name_is_looked_up_where_users_can_put_it(postgres: PostgresServer, database: str) -> None:
    """Functions and operators with the names of the system's, before them on the database's and the role's path (H66)."""
    postgres.psql(database, SHADOWS)
    path = "SET search_path = public, pg_catalog"
    postgres.psql(
        "postgres", f'ALTER DATABASE "{database}" {path}; ALTER ROLE postgres IN DATABASE "{database}" {path}'
    )
    try:
        shadowed = postgres.psql(database, "SELECT public.pg_has_role(1::oid, 'x'); TABLE public.shadowed", check=False)
        assert "pg_has_role" in shadowed, "nothing is shadowed, so this test says nothing"
        postgres.psql(database, "TRUNCATE public.shadowed")
        snapshot = kit.capture(kit.source(postgres, database))
        kit.restore(postgres, "back_path", snapshot)
        look = "SELECT pg_catalog.count(*) FROM public.shadowed"
        assert [postgres.psql(name, look) for name in (database, "back_path")] == ["0", "0"]
    finally:
        postgres.psql("postgres", f'ALTER ROLE postgres IN DATABASE "{database}" RESET ALL')
    assert kit.dump(postgres, "back_path") == kit.dump(postgres, database)


# ---- a server, or what sits between, turns on us


def _endless_row(line: socket.socket) -> None:
    line.sendall(b"d" + struct.pack("!i", 0x3FFFFFFF))
    for _ in range(200):
        line.sendall(b"x" * 65_536)


def _error(line: socket.socket) -> None:
    body = b"SERROR\0VERROR\0CXX000\0Mrow-canary in an error\0Drow-canary\0\0"
    line.sendall(b"E" + struct.pack("!i", 4 + len(body)) + body + b"Z" + struct.pack("!i", 5) + b"E")


def _ends_early(line: socket.socket) -> None:
    """The end of the COPY and of the statement, as if that were all."""
    tag = b"COPY 7\0"
    line.sendall(b"c" + struct.pack("!i", 4) + b"C" + struct.pack("!i", 4 + len(tag)) + tag)
    line.sendall(b"Z" + struct.pack("!i", 5) + b"T")
    threading.Event().wait(1)


@pytest.mark.parametrize("turn", [garbage, _endless_row, closes, _error, _ends_early, silent])
def test_a_server_that_turns_hostile_half_way(
    postgres: PostgresServer, database: str, turn: Turn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a table: the capture fails soon, no row is shown, and no child stays (H75)."""
    monkeypatch.setattr(workers.Worker.__init__, "__defaults__", (2.0,))
    text = f"CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, {LONG}) g"
    postgres.psql(database, text)
    before = _children()
    with between(postgres.host, postgres.port, turn, after=2_000_000) as port:
        place = ServerPlace("postgresql", "127.0.0.1", port, "postgres", database, {"sslmode": "disable"})
        with pytest.raises(BackupdError) as caught:
            kit.capture(open_source(place, bin_folders=[str(postgres.bin)], timeout=5.0))
    said = f"{caught.value} {caught.value.hint}"
    assert "row-canary" not in said
    assert "xxxx" not in said
    assert _children() <= before


def _children() -> set[str]:
    """Programs that this process has started and that are running."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rsplit(")", 1)[1].split()
            if int(words[1]) == os.getpid() and words[0] != "Z":
                found.add(path.parent.name)
    return found


def _other_number(data: bytes) -> bytes:
    """The process number that a pooler gives to its client instead of the server's."""
    at = data.find(b"K" + struct.pack("!i", 12))
    return data if at < 0 else data[: at + 5] + struct.pack("!i", 4711) + data[at + 9 :]


def test_a_pooler_is_not_taken_for_the_server(postgres: PostgresServer, database: str) -> None:
    """Neither as a source nor as a target: its sessions are not ours alone."""
    with between(postgres.host, postgres.port, closes, after=1 << 30, change=_other_number) as port:
        place = ServerPlace("postgresql", "127.0.0.1", port, "postgres", database, {"sslmode": "disable"})
        with pytest.raises(Unreachable, match="a connection pooler or proxy answers"), open_source(place).view():
            pass
        with pytest.raises(Unreachable, match="a connection pooler or proxy answers"):
            open_target(place).prepare(LoadOptions(), {})
        known = replace(place, options={**place.options, "pooler": "session"})
        postgres.psql(database, "CREATE TABLE t AS SELECT 1 AS a")
        assert kit.capture(open_source(known, bin_folders=[str(postgres.bin)])).rows("t") == b"1\n"


# ---- client programs that lie


@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("pg_dump", '"$REAL" "$@"; exit 1'),
        ("pg_dump", '"$REAL" "$@" | head -c 300; exit 0'),
        ("pg_dump", "exit 0"),
        ("psql", '"$REAL" "$@"; exit 1'),
        ("psql", '"$REAL" "$@" | dd bs=4k count=40 2>/dev/null; exit 0'),
        ("psql", "exit 0"),
    ],
    ids=["dump-fails-late", "dump-cut", "dump-empty", "psql-fails-late", "psql-cut", "psql-empty"],
)
def test_programs_that_end_badly_make_no_snapshot(
    postgres: PostgresServer, database: str, tmp_path: Path, program: str, script: str
) -> None:
    """Whole output and exit 1, half of it and exit 0, or nothing: none of it is taken for a capture (H76)."""
    text = f"CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, {LONG}) g"
    postgres.psql(database, text)
    tools = wrapped(postgres.bin, tmp_path / "bin", program, script)
    taken = open_source(kit.place(postgres, database), bin_folders=[str(tools)], timeout=10.0)
    with pytest.raises(SourceIncomplete):
        kit.capture(taken)


@pytest.mark.parametrize(
    "script",
    [
        '"$REAL" "$@"; exit 1',
        '"$REAL" "$@" | head -c 300; exit 0',
        '"$REAL" "$@" | head -c 600000; exit 0',
        '"$REAL" "$@" | head -c -1; exit 0',
        '"$REAL" "$@" | (head -c 300000; head -c 100000 /dev/zero; cat); exit 0',
        "exit 0",
    ],
    ids=["fails-late", "cut-head", "cut-rows", "cut-last-byte", "zeros-inside", "empty"],
)
def test_native_archives_that_end_badly_make_no_snapshot(
    postgres: PostgresServer, database: str, tmp_path: Path, script: str
) -> None:
    """An opaque archive is read by pg_restore while it passes by: an exit status of 0 is not believed (H76)."""
    text = f"CREATE TABLE t AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, {LONG}) g"
    postgres.psql(database, text)
    tools = wrapped(postgres.bin, tmp_path / "bin", "pg_dump", script)
    whole = open_source(kit.place(postgres, database), bin_folders=[str(postgres.bin)], native=True)
    ((_, archive),) = kit.capture(whole).streams
    assert len(archive) > 1_000_000
    with pytest.raises(SourceIncomplete):
        kit.capture(open_source(kit.place(postgres, database), bin_folders=[str(tools)], native=True))


def test_warnings_of_programs_are_no_failure(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    """What a program says beside its work does not spoil it, however much that is (H76)."""
    postgres.psql(database, "CREATE TABLE t AS SELECT 1 AS a")
    noise = 'i=0; while [ $i -lt 3000 ]; do echo "warning: nothing of importance $i" >&2; i=$((i+1)); done; exec "$REAL" "$@"'
    tools = wrapped(postgres.bin, tmp_path / "bin", "pg_dump", noise)
    snapshot = kit.capture(open_source(kit.place(postgres, database), bin_folders=[str(tools)], timeout=20.0))
    assert snapshot.rows("t") == b"1\n"


# ---- order, and a disk that fills


def test_scans_begin_at_the_beginning(postgres: PostgresServer, database: str) -> None:
    """Another session in the middle of a large table does not turn the order of its rows around."""
    rows = 60_000  # more than a quarter of shared_buffers, from where scans are synchronized
    postgres.psql(
        database,
        f"""CREATE TABLE t(a int, b text); INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, {rows}) g;
            ANALYZE t""",
    )
    with psycopg.connect(postgres.url(database)) as other, other.cursor() as cursor:
        cursor.execute("BEGIN; DECLARE c CURSOR FOR SELECT a FROM t")
        cursor.execute(f"FETCH {rows // 2} FROM c")
        first = postgres.psql(database, "COPY (SELECT a FROM t) TO STDOUT").split("\n", 1)[0]
        assert first != "1", "scans are not synchronized here, so this test says nothing"
        snapshot = kit.capture(kit.source(postgres, database))
    assert [int(row.split(b"\t")[0]) for row in snapshot.rows("t").splitlines()] == list(range(1, rows + 1))


def test_a_value_that_no_text_can_hold_is_named(postgres: PostgresServer, database: str) -> None:
    """More than 512 MB in one value: PostgreSQL writes it as text for nobody, pg_dump included; the table is named."""
    postgres.psql(
        database, "CREATE TABLE small(a int); CREATE TABLE huge(b bytea); ALTER TABLE huge ALTER b SET STORAGE EXTERNAL"
    )
    postgres.psql(database, "INSERT INTO huge SELECT pg_catalog.convert_to(repeat('x', 540000000), 'UTF8')")
    with pytest.raises(SourceIncomplete, match="huge could not be read") as caught:
        kit.capture(kit.source(postgres, database))
    assert "512 MB" in str(caught.value.hint)


def test_a_full_disk_leaves_nothing(postgres: PostgresServer, database: str) -> None:
    """The server can write no more in the middle of a restore: it fails, says so, and leaves no database behind."""
    postgres.psql(database, "CREATE TABLE t AS SELECT g AS a, repeat('x', 500) AS b FROM generate_series(1, 80000) g")
    snapshot = kit.capture(kit.source(postgres, database))
    with ExitStack() as stack:
        with short_files(20_000_000):
            full = stack.enter_context(running(postgres.major))
        before = kit.databases(full)
        with pytest.raises(StorageRefused, match="the rows of t were refused: the server's disk is full") as caught:
            kit.restore(full, "back_full", snapshot)
        assert "xxx" not in f"{caught.value} {caught.value.hint}"
        assert kit.databases(full) == before
