"""What a capture meets at servers that are damaged, hostile or silent: whole rows or an error, and no command of theirs."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupd.engines.postgres import catalog, examination, plan, preflight, worker
from backupd.engines.postgres.client import Server
from backupd.engines.postgres.condition import is_sound
from backupd.engines.postgres.dump import run_tool
from backupd.engines.postgres.tools import Child, Tools
from backupd.errors import SourceIncomplete
from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

ROWS = 50_000
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
newest = pytest.mark.parametrize("postgres", [18], indirect=True)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """A fresh database."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a few MiB are read by an index, and split."""
    monkeypatch.setattr(plan, "SORT_BYTES", 1)
    monkeypatch.setattr(plan, "SPLIT_BYTES", 1024 * 1024)
    monkeypatch.setattr(plan, "PIECE_BYTES", 1024 * 1024)


def fill(server: PostgresServer, database: str, *, key: str = "PRIMARY KEY") -> None:
    """A table of about 12 MiB, whose key has the order of the heap."""
    server.psql(
        database,
        f"""CREATE TABLE t(id int {key}, filler text) WITH (autovacuum_enabled = off);
            INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, {ROWS}) g; ANALYZE t;""",
    )


def damage(server: PostgresServer, database: str) -> None:
    """Ten rows of which the index knows nothing.

    A VACUUM meanwhile would note that the table has no index at all, so that none would be used.
    """
    ready = "UPDATE pg_index SET indisready = {} WHERE indrelid = 't'::regclass"
    server.psql(database, ready.format("false"))
    server.psql(database, f"INSERT INTO t SELECT {ROWS} + g, 'lost' FROM generate_series(1, 10) g")
    server.psql(database, ready.format("true"))


@pytest.mark.slow
def test_a_small_table_is_read_from_the_heap(postgres: PostgresServer, database: str) -> None:
    """An index that lacks rows costs none of them."""
    fill(postgres, database)
    damage(postgres, database)
    snapshot = kit.capture(kit.source(postgres, database))
    assert snapshot.rows("t").count(b"\n") == ROWS + 10


@pytest.mark.slow
@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_that_an_index_lacks_are_missed(postgres: PostgresServer, database: str, jobs: int) -> None:
    """A large table is read by its index; the number of its rows tells that some did not come."""
    fill(postgres, database)
    assert kit.capture(kit.source(postgres, database, jobs=jobs)).rows("t").count(b"\n") == ROWS
    damage(postgres, database)
    with pytest.raises(SourceIncomplete, match=f"t has {ROWS + 10} rows, and its key's index gave {ROWS} of") as caught:
        kit.capture(kit.source(postgres, database, jobs=jobs))
    assert caught.value.object_name == "t"
    assert "REINDEX" in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.usefixtures("small_is_large")
def test_rows_that_nobody_counts_are_no_capture(postgres: PostgresServer, database: str) -> None:
    """A reader that forgets to say how many rows came does not switch the comparison off."""
    fill(postgres, database)
    with kit.source(postgres, database).view() as view:
        for stream in view.streams:
            for _ in view.read(stream):
                pass
        with pytest.raises(SourceIncomplete, match="nobody has counted the rows of t"):
            view.finish()


@pytest.mark.slow
def test_no_piece_relies_on_the_settings_of_another() -> None:
    """The same switches in all of them: they outlive the statement that they were made for."""
    named = [
        {words.split(" = ")[0] for words in text.split(";")} for text in (plan.FROM_HEAP, plan.BY_INDEX, plan.FREELY)
    ]
    assert named[0] == named[1] == named[2]


@pytest.mark.slow
@newest
@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("trusting", [False, True])
def test_keys_that_may_be_null_after_all(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch, trusting: bool
) -> None:
    """NOT NULL that was never validated: such a column is no key; and if it were, the last range has what has none."""
    fill(postgres, database, key="UNIQUE")
    postgres.psql(
        database, "INSERT INTO t VALUES (NULL, 'a'), (NULL, 'b'); ALTER TABLE t ADD CONSTRAINT k NOT NULL id NOT VALID"
    )
    if trusting:
        monkeypatch.setattr(catalog, "_VALIDATED", "")
    snapshot = kit.capture(kit.source(postgres, database))
    assert [table.key for table in snapshot.tables] == [("id",) if trusting else ()]
    assert len([stream for stream, _ in snapshot.streams if stream.name == "t"]) > 2
    assert snapshot.rows("t").count(b"\n") == ROWS + 2
    assert snapshot.rows("t").count(b"\\N\t") == 2


def make_extension(server: PostgresServer, database: str, condition: str) -> None:
    """An extension that has a configuration table with a condition."""
    text = condition.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n")
    server.psql(
        database,
        f"""CREATE EXTENSION hstore; CREATE TABLE config(a int, b text); INSERT INTO config VALUES (1, 'x'), (2, 'y');
            ALTER EXTENSION hstore ADD TABLE config;
            UPDATE pg_extension SET extconfig = ARRAY['config'::regclass::oid], extcondition = ARRAY[E'{text}']
             WHERE extname = 'hstore';""",
    )


@pytest.mark.slow
@pytest.mark.parametrize("checked", [True, False])
def test_a_condition_runs_no_program(
    postgres: PostgresServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """It is refused by name; and psql would refuse its command, even if it came that far (H64)."""
    proof = tmp_path / "proof"
    condition = f"WHERE true) TO STDOUT;\n\\! touch {proof}\nCOPY (SELECT 1 WHERE false"
    make_extension(postgres, database, condition)
    if not checked:
        monkeypatch.setattr(examination, "is_sound", lambda _: True)
        monkeypatch.setattr(plan, "sound", lambda condition, _: condition)
    with pytest.raises(
        SourceIncomplete, match="not one plain condition" if checked else "config could not be read"
    ) as caught:
        kit.capture(kit.source(postgres, database))
    assert caught.value.object_name == "config"
    assert str(proof) not in f"{caught.value.message}{caught.value.hint}"
    assert not proof.exists()
    found = preflight(kit.place(postgres, database), bin_folders=[str(postgres.bin)])
    assert [finding.object for finding in found if finding.level == "error"] == (["config"] if checked else [])


@pytest.mark.slow
@newest
def test_a_condition_may_have_several_lines(postgres: PostgresServer, database: str) -> None:
    """As those of well-known extensions have."""
    make_extension(postgres, database, "WHERE NOT (\na BETWEEN 2 AND 3\nOR b = 'it''s')")
    assert kit.capture(kit.source(postgres, database)).rows("config") == b"1\tx\n"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("", True),
        ("WHERE a > 1", True),
        ("WHERE NOT (\n a = ANY ('{1,2}'::int[]) OR\tb = 'a;b')", True),
        ("WHERE \"ä\" = 'é'", True),
        ("WHERE a; DROP TABLE t", False),
        ("WHERE a;", False),
        ("WHERE a) TO STDOUT; COPY (SELECT 1", False),
        ("WHERE a)", False),
        ("WHERE (a", False),
        ("WHERE a = 'open", False),
        ("WHERE a -- rest", False),
        ("WHERE a /* rest", False),
        ("WHERE a = E'\\n'", False),
        ("WHERE a = :DBNAME", False),
        ("WHERE a = :'DBNAME'", False),
        ("WHERE a = :::DBNAME", False),
        ("WHERE a = b: :DBNAME", False),
        ("WHERE a = '\x00'", False),
        ("WHERE a = '\x1b[0m'", False),
    ],
)
def test_conditions_that_stay_within_their_statement(condition: str, expected: bool) -> None:
    """Everything else is refused, for the server's sake and for psql's."""
    assert is_sound(condition) is expected


@pytest.mark.slow
def test_an_older_psql_is_given_ascii(postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names arrive all the same."""
    names = ('"tä\\! ""x\'"', '"漢字😀\n\\q"', "plain")
    for name in names:
        postgres.psql(
            database, f'CREATE TABLE {name}("ключ" int PRIMARY KEY, "\\" text); INSERT INTO {name} VALUES (1, \'é\')'
        )
    new = kit.capture(kit.source(postgres, database))
    monkeypatch.setattr(Tools, "vulnerable", property(lambda _: True))
    sent: list[bytes] = []
    write = Child.write

    def listen(child: Child, data: bytes | memoryview, silence: float = 60.0) -> None:
        sent.append(bytes(data))
        write(child, data, silence)

    monkeypatch.setattr(Child, "write", listen)
    old = kit.capture(kit.source(postgres, database))
    rows = [[(info.name, data) for info, data in taken.streams if info.kind == "rows"] for taken in (old, new)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3
    assert all(
        data.isascii() and b"\\!" not in data and b"\\q" not in data and b"\\restrict" not in data for data in sent
    )


def test_what_cannot_be_written_in_ascii() -> None:
    """Text outside of names, and commands of psql's."""
    assert worker.in_ascii('SELECT "é\\" FROM "a""b" WHERE x = \'"\'') == (
        'SELECT U&"\\00E9\\005C" FROM "a""b" WHERE x = \'"\''
    )
    for text in ("SELECT 'é'", "\\! x", "'\\q'", "SELECT 1 \\g |x"):
        with pytest.raises(ValueError, match="not plain"):
            worker.in_ascii(text)


@pytest.mark.slow
@pytest.mark.parametrize("major", [15, 18])
def test_a_standby_has_no_unlogged_sequences(postgres_servers: Callable[[int], PostgresServer], major: int) -> None:
    """They are said to be without a value, and the rest is captured."""
    from tests.servers.postgres import standby_of

    primary = postgres_servers(major)
    name = primary.create_database()
    primary.psql(name, "CREATE UNLOGGED SEQUENCE lost; CREATE SEQUENCE kept; SELECT setval('kept', 7)")
    with standby_of(primary) as standby:
        standby.catch_up(primary)
        snapshot = kit.capture(kit.source(standby, name))
    assert snapshot.facts["sequences"] == [["public", "kept", 7, True]]
    assert [warning for warning in snapshot.warnings if "lost" in warning] == [
        "lost is captured without its value: a standby has none of an unlogged sequence"
    ]
    primary.drop_database(name)


def test_a_program_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    """pg_dump at a server that is gone without a farewell."""
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho begun\nexec sleep 60\n")
    program.chmod(0o700)
    began = time.monotonic()
    blocks = run_tool("pg_dump", [], Server("", 0, "", {}, 180000), "db", tools=Tools(tmp_path, 18, 0), silence=0.3)
    with pytest.raises(SourceIncomplete, match="pg_dump wrote nothing of db for 0 s"):
        list(blocks)
    assert time.monotonic() - began < 10


def test_a_program_that_takes_nothing_is_given_up() -> None:
    """More than a pipe holds; what is taken arrives whole."""
    child = Child(["/bin/sleep", "60"], ENVIRONMENT, feed=True)
    try:
        with pytest.raises(TimeoutError):
            child.write(b"x" * 4_000_000, 0.3)
    finally:
        child.kill()
    child = Child(["/bin/cat"], ENVIRONMENT, feed=True)
    try:
        child.write(b"abc" * 10_000)
        assert child.input is not None
        child.input.close()
        assert b"".join(child.blocks(4096)) == b"abc" * 10_000
    finally:
        child.kill()


@pytest.mark.slow
def test_names_with_line_breaks_in_the_script(postgres: PostgresServer, database: str, tmp_path: Path) -> None:
    """Of schemas, tables and columns; none of them becomes a line of its own (H64)."""
    proof = tmp_path / "proof"
    command = f"\n\\! touch {proof}\n"
    postgres.psql(
        database,
        f"""CREATE SCHEMA "s{command}"; CREATE TABLE "s{command}"."t\r\\"
              ("id{command}" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "double" int GENERATED ALWAYS AS (1) STORED, b text);
            INSERT INTO "s{command}"."t\r\\"(b) VALUES ('one'), (E'two\\nlines');
            CREATE TABLE "empty\n"(); INSERT INTO "empty\n" DEFAULT VALUES;
            CREATE TABLE "\n;"("a\\" int); INSERT INTO "\n;" VALUES (5);
            CREATE SEQUENCE "q{command}"; SELECT setval('"q{command}"', 9);
            ALTER DATABASE "{database}" SET standard_conforming_strings = off""",
    )
    snapshot = kit.capture(kit.source(postgres, database))
    (tmp_path / "rows").mkdir()
    for position, (info, data) in enumerate(snapshot.streams):
        (tmp_path / (f"rows/{position:04d}.tsv" if info.kind == "rows" else info.name)).write_bytes(data)
    copy = postgres.create_database()
    postgres.psql("postgres", f'ALTER DATABASE "{copy}" SET standard_conforming_strings = off')
    for program, *words in (
        ("pg_restore", "--exit-on-error", "--section=pre-data", "-d", postgres.url(copy), "schema.dump"),
        ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", postgres.url(copy), "-f", "load.sql"),
        ("pg_restore", "--exit-on-error", "--section=post-data", "-d", postgres.url(copy), "schema.dump"),
    ):
        subprocess.run(
            [postgres.bin / program, *words], cwd=tmp_path, env=postgres.env, check=True, capture_output=True
        )
    assert not proof.exists()
    again = kit.capture(kit.source(postgres, copy))
    assert [table.name for table in again.tables] == [table.name for table in snapshot.tables]
    for table in snapshot.tables:
        assert again.rows(table.name) == snapshot.rows(table.name) != b""
    assert again.facts["sequences"] == snapshot.facts["sequences"]
    postgres.drop_database(copy)
    shutil.rmtree(tmp_path / "rows")


@pytest.mark.slow
@newest
def test_a_definition_that_is_lost_is_said(postgres: PostgresServer, database: str) -> None:
    """A table that is excluded and may not be read is not in the schema either."""
    postgres.psql(
        database,
        """CREATE TABLE hidden(a int); CREATE TABLE open(a int); CREATE TABLE shown(a int); CREATE ROLE half LOGIN;
           GRANT SELECT ON open, shown TO half""",
    )
    try:
        snapshot = kit.capture(kit.source(postgres, database, "half", exclude=["hidden", "open"]))
        assert b"CREATE TABLE public.open" in snapshot.stream("schema.sql")
        assert b"CREATE TABLE public.hidden" not in snapshot.stream("schema.sql")
        said = [warning for warning in snapshot.warnings if "without its definition" in warning]
        assert [warning.split(" ")[0] for warning in said] == ["hidden"]
    finally:
        postgres.psql(database, "DROP OWNED BY half; DROP ROLE half")


@pytest.mark.slow
@newest
def test_rows_are_never_to_be_sent_to_another_server(postgres: PostgresServer, database: str) -> None:
    """Partitions that are loaded through a root with a foreign partition are refused; others are not."""
    postgres.psql(
        database,
        """CREATE TYPE m AS ENUM ('a', 'b'); CREATE TABLE p(k m) PARTITION BY HASH (k);
           CREATE TABLE here PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
           CREATE TABLE n(k int) PARTITION BY HASH (k); CREATE TABLE n0 PARTITION OF n FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE FOREIGN TABLE n1 PARTITION OF n FOR VALUES WITH (MODULUS 2, REMAINDER 1) SERVER s""",
    )
    assert {table.name for table in kit.capture(kit.source(postgres, database)).tables} == {"p", "n0"}
    postgres.psql(database, "CREATE FOREIGN TABLE far PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1) SERVER s")
    with pytest.raises(
        SourceIncomplete, match="partitions of p can only be loaded through it, and far is a foreign one"
    ):
        kit.capture(kit.source(postgres, database))
    assert {table.name for table in kit.capture(kit.source(postgres, database, exclude=["here"])).tables} == {"n0"}
