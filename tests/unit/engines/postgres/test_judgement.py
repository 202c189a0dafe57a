"""What an archive would execute is judged by its entries, whatever they call themselves."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.engines.postgres.archive import Archive, Entry, read_archive
from backupd.engines.postgres.judgement import UNKNOWN, dangers, restorable
from backupd.engines.postgres.names import label, literal, parse_label, quoted
from backupd.engines.postgres.native import _read_head
from backupd.engines.postgres.pgrestore import Complaints
from backupd.engines.postgres.problems import target_error
from backupd.engines.postgres.sqltext import Unclear, statements
from backupd.errors import BackupdError, Failed, IntegrityError, StorageRefused, Unreachable

STRINGS = "SET standard_conforming_strings = 'on';\n"
ENCODING = "SET client_encoding = 'UTF8';\n"
PATH = "SELECT pg_catalog.set_config('search_path', '', false);\n"
# A statement that is one string where backslashes count, and two statements where they do not; with a third behind it.
HIDDEN = "IS '\\''; COPY public.t TO PROGRAM $$id$$; --';"
SETTING = (
    b'pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"\n'
)
QUOTED = b"Command was: SET transaction_timeout = 0;\n\n"


def entry(defn: str, desc: str = "TABLE", tag: str = "t", drop: str = "DROP TABLE t;\n") -> Entry:
    """An entry of the section before the rows."""
    return Entry(7, False, tag, desc, 2, defn, drop, "", "public", "owner", ())


def kinds(*entries: Entry, trusted: Iterable[str] = ("hstore",)) -> set[str]:
    """The kinds of danger in an archive that begins as every archive does."""
    present = {entry.desc for entry in entries}
    frame = [("ENCODING", ENCODING), ("STDSTRINGS", STRINGS), ("SEARCHPATH", PATH)]
    start = [entry(defn, desc, desc, drop="") for desc, defn in frame if desc not in present]
    return judged(*start, *entries, trusted=trusted)


def judged(*entries: Entry, trusted: Iterable[str] = ("hstore",)) -> set[str]:
    """The kinds of danger in an archive."""
    archive = Archive(entries, "15.1", "15.1", 0)
    return {danger.kind for danger in dangers(archive, restorable(archive), set(trusted))}


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE public.t (a integer DEFAULT 'CREATE EVENT TRIGGER x; DROP DATABASE y');\n",
        'CREATE TABLE public."; DROP ROLE x; --" ("LANGUAGE c" integer);\n',
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $_$ BEGIN EXECUTE 'LANGUAGE c'; DROP TABLE x; END $_$;\n",
        "CREATE FUNCTION f() RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 3; END;\n",
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql AS 'SELECT 1';\n",
        "CREATE UNIQUE INDEX i ON t USING btree (a);\nALTER TABLE ONLY t REPLICA IDENTITY USING INDEX i;\n",
        "COMMENT ON TABLE t IS 'it''s \\';\n",
        "GRANT SELECT,INSERT(a) ON TABLE t TO PUBLIC;\nREVOKE ALL ON TABLE t FROM x;\n",
        "ALTER DEFAULT PRIVILEGES FOR ROLE x IN SCHEMA s GRANT SELECT ON TABLES TO y;\n",
        "REFRESH MATERIALIZED VIEW public.mv;\n",
        "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;\n",
        "SELECT pg_catalog.lo_create('424242');\n",
        "-- a comment\nCREATE SCHEMA s;\n",
    ],
)
def test_what_pg_dump_writes_is_harmless(text: str) -> None:
    """Words in quotes, bodies and comments are no statements."""
    assert kinds(entry(text)) == set()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f();", "event-trigger"),
        ("CREATE TABLE t(a int); create  event\n trigger e ON ddl_command_end EXECUTE FUNCTION f();", "event-trigger"),
        ("ALTER EVENT TRIGGER e ENABLE ALWAYS;", "event-trigger"),
        ("CREATE EXTENSION plpython3u;", "extension"),
        ('CREATE EXTENSION IF NOT EXISTS "hstore" FROM unpackaged;', "extension"),
        ("ALTER EXTENSION hstore UPDATE;", "extension"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/x.so', 'f';", "c-function"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE \"c\" AS '/tmp/x.so';", "c-function"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE 'C' AS '/tmp/x.so';", "language"),
        ("CREATE FUNCTION f() RETURNS int AS $$x$$ LANGUAGE plpython3u;", "language"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql LANGUAGE internal AS 'x';", "c-function"),
        ("CREATE TRUSTED PROCEDURAL LANGUAGE x HANDLER h;", "language"),
        ("CREATE ACCESS METHOD m TYPE TABLE HANDLER h;", "c-function"),
        ("CREATE SERVER s FOREIGN DATA WRAPPER w;", "foreign-server"),
        ("CREATE USER MAPPING FOR x SERVER s;", "foreign-server"),
        ("CREATE FOREIGN TABLE t(a int) SERVER s;", "foreign-server"),
        ("GRANT USAGE ON FOREIGN SERVER s TO x;", "foreign-server"),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p;", "subscription"),
        ("CREATE ROLE x SUPERUSER;", UNKNOWN),
        ("CREATE USER x SUPERUSER;", UNKNOWN),
        ("ALTER USER postgres PASSWORD 'x';", UNKNOWN),
        ("ALTER SYSTEM SET archive_command = 'rm';", UNKNOWN),
        ("ALTER DATABASE x SET session_preload_libraries = 'x';", UNKNOWN),
        ("GRANT pg_execute_server_program TO x;", UNKNOWN),
        ("DO $$BEGIN END$$;", UNKNOWN),
        ("COPY t FROM PROGRAM 'id';", UNKNOWN),
        ("LOAD '/tmp/x.so';", UNKNOWN),
        ("SELECT pg_catalog.lo_import('/etc/passwd');", UNKNOWN),
        ("SELECT pg_catalog.lo_create('1'), pg_read_file('x');", UNKNOWN),
        ("SET session_preload_libraries = 'x';", UNKNOWN),
        ("SET ROLE postgres;", UNKNOWN),
        ("INSERT INTO pg_proc VALUES (1);", UNKNOWN),
        ("WITH x AS (SELECT 1) SELECT 1;", UNKNOWN),
        ("DROP SCHEMA public CASCADE;", UNKNOWN),
        ("CREATE TABLE t(a int) /* ; */;", UNKNOWN),
        ("CREATE TABLE t(a text DEFAULT 'open);", UNKNOWN),
        ("CREATE TABLE t(a text DEFAULT $x$open$y$);", UNKNOWN),
        ("\\! id", UNKNOWN),
        ("CREATE TABLE t(a text DEFAULT E'\\'; DROP TABLE x; --');DO $$BEGIN END$$;", UNKNOWN),
        ("CREATE TABLE t(a text DEFAULT '\\'); DO $$BEGIN END$$; --');", UNKNOWN),
    ],
)
def test_what_runs_code_is_found_under_any_name(text: str, kind: str) -> None:
    """Whatever the entry says that it is."""
    assert kind in kinds(entry(text))


def test_what_else_pg_restore_puts_into_statements_is_judged() -> None:
    """The drop statement becomes ALTER ... OWNER TO; numbers of large objects are not quoted; the frame decides on strings."""
    assert kinds(entry("CREATE TABLE t();", drop="DROP FUNCTION f(); CREATE ROLE x SUPERUSER;")) == {UNKNOWN}
    assert kinds(entry("CREATE TABLE t();", drop="TRUNCATE t")) == {UNKNOWN}
    assert kinds(entry("SELECT pg_catalog.lo_create('1');", "BLOB", "1 OWNER TO x; DO", drop="")) == {UNKNOWN}
    assert kinds(entry("1\n2\n", "BLOB METADATA", "1..2", drop="")) == set()
    assert kinds(entry("1\n2'); DO $$x$$;\n", "BLOB METADATA", "1..2", drop="")) == {UNKNOWN}
    assert kinds(entry(STRINGS.replace("on", "off"), "STDSTRINGS")) == {UNKNOWN}
    assert kinds(entry("SET client_encoding = 'SJIS';\n", "ENCODING")) == {UNKNOWN}
    assert kinds(entry("SET client_encoding = 'UTF8';\n", "ENCODING"), entry(STRINGS, "STDSTRINGS")) == set()


def test_an_archive_says_once_how_its_strings_are_read() -> None:
    """What is not said keeps the default of pg_restore, in which backslashes count; said twice, the second counts."""
    frame = [entry(ENCODING, "ENCODING"), entry(STRINGS, "STDSTRINGS"), entry(PATH, "SEARCHPATH")]
    comment = entry(f"COMMENT ON SCHEMA public {HIDDEN}", "COMMENT", drop="")
    assert judged(*frame) == set()
    assert judged(*frame, entry("COMMENT ON SCHEMA public IS 'x';", "COMMENT", drop="")) == set()
    for left in range(3):
        assert judged(*frame[:left], *frame[left + 1 :], comment) == {UNKNOWN}
        assert judged(*frame, frame[left]) == {UNKNOWN}


@pytest.mark.parametrize(
    "text",
    [
        "SET standard_conforming_strings = 'off';",
        "SET client_encoding = 'SJIS';",
        "SET client_encoding = 'UTF8';",
        "SELECT pg_catalog.set_config('search_path', '', false);",
        f"COMMENT ON SCHEMA public IS E'a'\n{HIDDEN[3:]}",
        f"COMMENT ON SCHEMA public IS E'a' -- more\n{HIDDEN[3:]}",
        f"COMMENT ON SCHEMA public IS 'a'\n{HIDDEN[3:]}",
        "CREATE VIEW v AS SELECT \u00a0E'\\'; COPY public.t TO PROGRAM $$id$$; --';",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS begin; END; COPY public.t TO PROGRAM 'id';",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 case; END; COPY public.t TO PROGRAM 'id';",
        "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC END; COPY public.t TO PROGRAM 'id';",
        "CREATE OR REPLACE FUNCTION f() RETURNS void BEGIN ATOMIC END; COPY public.t TO PROGRAM 'id';",
        "CREATE VIEW function AS SELECT begin atomic FROM (SELECT 1 AS begin) t; COPY public.t TO PROGRAM 'id';",
        "CREATE OR REPLACE VIEW procedure AS SELECT begin atomic FROM t; COPY public.t TO PROGRAM 'id';",
        "CREATE TABLE t AS SELECT pg_catalog.lo_export(1, '/tmp/x');",
        "CREATE UNLOGGED TABLE IF NOT EXISTS t (a, b) WITH (fillfactor = 10) AS EXECUTE p;",
    ],
)
@pytest.mark.parametrize("desc", ["TABLE", "FUNCTION"])
def test_no_statement_hides_behind_another(text: str, desc: str) -> None:
    """Neither in a string, nor in a body, nor in a setting that changes how the next is read."""
    assert UNKNOWN in kinds(entry(text, desc))


@pytest.mark.parametrize(
    "text",
    [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN CASE 1 WHEN 1 THEN 2 END END; END;",
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); SELECT 1 AS begin; END;",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC END;",
        "CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql RETURN CASE a WHEN 1 THEN 2 END;",
    ],
)
def test_bodies_of_functions_are_read_to_their_end(text: str) -> None:
    """One statement each, whatever is in it."""
    assert len(list(statements(text))) == 1
    assert kinds(entry(text, "FUNCTION")) == set()


def test_only_some_kinds_have_several_statements() -> None:
    """A comment is one; a table may be followed by what belongs to it."""
    text = "CREATE TABLE t (a int GENERATED ALWAYS AS (1) STORED); ALTER TABLE t FORCE ROW LEVEL SECURITY;"
    assert kinds(entry(text)) == set()
    assert kinds(entry(text, "FUNCTION")) == {UNKNOWN}
    assert kinds(entry("COMMENT ON TABLE t IS 'a'; COMMENT ON TABLE u IS 'b';", "COMMENT", drop="")) == {UNKNOWN}


def test_an_entry_of_the_schema_copies_no_rows() -> None:
    """pg_restore would execute its COPY statement, whatever that is."""
    table = entry("CREATE TABLE t();")
    assert kinds(replace(table, has_data=True)) == {UNKNOWN}
    assert kinds(replace(table, copy="COPY t TO PROGRAM 'id';")) == {UNKNOWN}


def _number(value: int) -> bytes:
    return struct.pack("<bi", value < 0, abs(value))


def _text(value: str | None) -> bytes:
    return _number(-1) if value is None else _number(len(value.encode())) + value.encode()


def archive_bytes(
    version: int = 14,
    numbers: Sequence[int] = (5,),
    tag: str = "t",
    desc: str = "TABLE",
    defn: str = "CREATE TABLE t();",
) -> bytes:
    """A small archive, as pg_dump of the versions 12 to 18 writes them."""
    count = len(numbers)
    head = b"PGDMP" + bytes([1, version, 0, 4, 8, 1]) + (b"\0" if version >= 15 else _number(0)) + _number(0) * 7
    head += _text("db") + _text("15.1") + _text("15.1 (Debian)") + _number(count)
    body = _number(0) + _text("1259") + _text("16384") + _text(tag) + _text(desc) + _number(2)
    body += _text(defn) + _text("DROP TABLE t;") + _text("") + _text("public") + _text("") + _text("heap")
    body += (
        (_number(114) if version >= 16 else b"") + _text("me") + _text("false") + _text("3") + _text(None) + bytes(9)
    )
    return head + b"".join(_number(number) + body for number in numbers)


@pytest.mark.parametrize("version", [14, 15, 16])
def test_archives_of_every_version_are_read(version: int) -> None:
    """The table of contents, and where it ends."""
    data = archive_bytes(version)
    archive = read_archive(lambda offset, size: data[offset : offset + size])
    (one,) = archive.entries
    assert (one.number, one.tag, one.desc, one.section, one.owner, one.depends) == (5, "t", "TABLE", 2, "me", (3,))
    assert (one.defn, one.drop, archive.size) == ("CREATE TABLE t();", "DROP TABLE t;", len(data))


@pytest.mark.parametrize("numbers", [(5, 5), (1, 2, 1), (0,), (-3,)])
def test_numbers_of_entries_are_their_own(numbers: Sequence[int]) -> None:
    """pg_restore executes every entry of a number that it is given."""
    data = archive_bytes(numbers=numbers)
    with pytest.raises(IntegrityError, match="not its own"):
        read_archive(lambda offset, size: data[offset : offset + size])


@pytest.mark.parametrize("part", ["tag", "desc", "defn"])
def test_no_text_of_an_archive_holds_a_nul(part: str) -> None:
    """pg_restore reads up to it."""
    text = "COMMENT\0; x"
    data = {"tag": archive_bytes(tag=text), "desc": archive_bytes(desc=text), "defn": archive_bytes(defn=text)}[part]
    with pytest.raises(IntegrityError, match="holds a NUL"):
        read_archive(lambda offset, size: data[offset : offset + size])
    odd = archive_bytes(desc="TABLE\nx")
    with pytest.raises(IntegrityError, match="no word"):
        read_archive(lambda offset, size: odd[offset : offset + size])


def test_the_head_of_a_fed_archive_is_read_once() -> None:
    """Block by block, and no further than its table of contents takes."""
    data = archive_bytes(numbers=range(1, 20_000)) + bytes(4_000_000)
    blocks = iter([data[start : start + 1000] for start in range(0, len(data), 1000)])
    head, archive = _read_head(blocks)
    assert len(archive.entries) == 19_999
    assert archive.size <= len(b"".join(head)) < archive.size + 300_000
    assert b"".join(head) + b"".join(blocks) == data


@given(cut=st.integers(0, 200), flip=st.integers(0, 200), value=st.integers(0, 255))
def test_damaged_archives_are_refused_or_read(cut: int, flip: int, value: int) -> None:
    """Never another exception, and never much memory."""
    data = bytearray(archive_bytes())
    data[flip % len(data)] = value
    short = bytes(data[: cut or None])
    try:
        read_archive(lambda offset, size: short[offset : offset + size])
    except IntegrityError:
        return


@given(st.text(max_size=200))
def test_any_text_is_split_or_unclear(text: str) -> None:
    """And what is split holds no statement end outside of quotes."""
    try:
        found = list(statements(text))
    except Unclear:
        return
    assert all(statement.tokens for statement in found)


@given(st.text(min_size=1).filter(lambda t: "\0" not in t), st.text(min_size=1).filter(lambda t: "\0" not in t))
def test_labels_and_quotes_are_unambiguous(schema: str, name: str) -> None:
    """Every table has one label, and every label one table."""
    try:
        (schema + name).encode()
    except UnicodeEncodeError:
        return
    assert parse_label(label(schema, name)) == (schema, name)
    (statement,) = statements(f"SELECT {quoted(schema, name)}, {literal(name)}")
    assert [token.text for token in statement.tokens if token.kind != "mark"] == ["select", schema, name, name]


def heard(*pieces: bytes) -> bool:
    """Whether what pg_restore says is only of the setting that the server does not know."""
    complaints = Complaints()
    for piece in pieces:
        complaints.hear(piece)
    return complaints.are_benign


def test_errors_are_counted_and_not_looked_for() -> None:
    """What a command of the archive quotes adds to the lines, but not to the number at the end."""
    last = b"pg_restore: warning: errors ignored on restore: %d\n"
    assert heard(SETTING, QUOTED, last % 1)
    assert heard(*(bytes([one]) for one in SETTING + QUOTED + last % 1))
    other = b"pg_restore: error: could not execute query: ERROR:  function f() does not exist\n"
    assert not heard(SETTING, QUOTED, other, b"Command was: " + b"x" * 100_000 + b"\n", last % 2)
    assert not heard(SETTING, other, b"Command was: \n" + SETTING, last % 2)
    assert not heard(SETTING, other, b"Command was: \n" + last % 1, last % 2)
    assert not heard(SETTING, SETTING, last % 2)
    assert not heard(SETTING, QUOTED)
    assert not heard(other.replace(b"function f()", b'relation "' + SETTING.strip() + b'"'), last % 1)
    assert not heard()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.DiskFull(), StorageRefused),
        (psycopg.errors.AdminShutdown(), Unreachable),
        (psycopg.OperationalError("the line"), Unreachable),
        (psycopg.errors.CheckViolation(), Failed),
        (psycopg.ProgrammingError("of the driver"), Failed),
    ],
)
def test_a_full_disk_and_a_broken_line_are_not_the_snapshots_fault(
    error: psycopg.Error, kind: type[BackupdError]
) -> None:
    """A drill that met one of them has not been tried, and says nothing of the snapshot."""
    assert type(target_error(error, "the rows were refused", "t")) is kind
