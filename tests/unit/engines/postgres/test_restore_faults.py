"""A restore that loses something fails, one that is interrupted keeps what was there, and no snapshot takes a server over."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backupd.engines.base import LoadOptions
from backupd.engines.postgres import open_source, open_target
from backupd.engines.postgres.roles import restore_roles
from backupd.engines.postgres.scratch import Databases
from backupd.errors import BackupdError, Failed, SafetyRefused
from tests.servers.postgres import PostgresServer
from tests.unit.engines.postgres import kit

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("postgres", [15], indirect=True)]


@pytest.fixture
def small(postgres: PostgresServer) -> Iterator[kit.Snapshot]:
    """A snapshot of a small database; databases that begin with `back_` are dropped at the end."""
    name = postgres.create_database()
    postgres.psql(name, "CREATE TABLE t(a serial); INSERT INTO t VALUES (1), (2)")
    yield kit.capture(kit.source(postgres, name))
    for database in kit.databases(postgres):
        if database.startswith("back_") or database == name:
            postgres.drop_database(database)


def leftovers(server: PostgresServer) -> set[str]:
    """Databases that a restore has left behind."""
    return {name for name in kit.databases(server) if "_backupd_" in name}


def changed(snapshot: kit.Snapshot, **facts: Any) -> kit.Snapshot:
    """The same with other facts."""
    return replace(snapshot, facts={**snapshot.facts, **facts})


def test_newer_tools_lose_nothing_on_an_older_server(
    postgres: PostgresServer, small: kit.Snapshot, postgres_servers: Any, tmp_path: Path
) -> None:
    """A trigger of 20 KiB whose function is missing fails the restore, though its words push all others out of sight."""
    newer = postgres_servers(18)
    name = postgres.create_database("back_wide")
    postgres.psql(name, "CREATE TABLE t(a int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'")
    arguments = ", ".join(f"'{'x' * 50}'" for _ in range(380))
    postgres.psql(name, f"CREATE TRIGGER wide BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f({arguments})")
    taken = open_source(kit.place(postgres, name), bin_folders=[str(newer.bin)], timeout=20.0)
    snapshot = kit.capture(taken)
    only_newer = open_target(kit.place(postgres, "back_again"), timeout=20.0, bin_folders=[str(newer.bin)])
    only_newer.prepare(kit.ALLOWED, snapshot.facts)
    only_newer.load(
        kit.stored(snapshot), snapshot.tables, facts=snapshot.facts, check="none", compare=lambda n, r: None
    )
    assert postgres.psql("back_again", "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == "wide"
    schema = snapshot.stream("schema.dump").replace(b"FUNCTION public.f('x", b"FUNCTION public.g('x")
    broken = snapshot.with_stream("schema.dump", schema)
    only_newer = open_target(kit.place(postgres, "back_lost"), timeout=20.0, bin_folders=[str(newer.bin)])
    only_newer.prepare(kit.ALLOWED, broken.facts)
    with pytest.raises(Failed, match="pg_restore failed at"):
        only_newer.load(kit.stored(broken), broken.tables, facts=broken.facts, check="none", compare=lambda n, r: None)
    assert "back_lost" not in kit.databases(postgres)
    assert leftovers(postgres) == set()


def test_a_comment_that_hides_a_program_runs_nothing(
    postgres: PostgresServer, small: kit.Snapshot, tmp_path: Path
) -> None:
    """An archive that does not say how its strings are read is refused before anything is created (H64)."""
    made = tmp_path / "made"
    name = postgres.create_database("back_comment")
    room = "x" * 200
    postgres.psql(name, f"CREATE TABLE t(a int); COMMENT ON TABLE t IS '{room}'")
    snapshot = kit.capture(kit.source(postgres, name))
    old = snapshot.stream("schema.dump")
    # Same length: nothing else in the archive moves.
    hidden = f"\\''; COPY public.t TO PROGRAM $$touch {made}$$; --"
    data = old.replace(room.encode(), hidden.encode().ljust(len(room)))
    strings = b"SET standard_conforming_strings = 'on';\n"
    assert strings in data
    kind = struct.pack("<bi", 0, len("STDSTRINGS")) + b"STDSTRINGS"
    assert data.count(kind) == 2
    data = data.replace(kind, kind.replace(b"STDSTRINGS", b"OTHERTHING"), 2)
    bad = snapshot.with_stream("schema.dump", data)
    with pytest.raises(SafetyRefused, match="0 STDSTRINGS"):
        kit.restore(postgres, "back_hidden", bad, LoadOptions())
    assert not made.exists()
    assert "back_hidden" not in kit.databases(postgres)


HOSTILE_ROLES = [
    "ALTER ROLE CURRENT_USER PASSWORD 'evil'",
    "ALTER ROLE postgres WITH PASSWORD 'evil'",
    "ALTER ROLE U&\"\\0070ostgres\" WITH PASSWORD 'evil'",
    "ALTER ROLE ALL SET session_preload_libraries TO 'evil'",
    "CREATE ROLE evil; ALTER ROLE evil SET session_preload_libraries TO 'evil'",
    "CREATE ROLE evil; ALTER ROLE evil SET plperl.on_init TO 'evil'",
    "GRANT postgres TO GROUP webapp",
    "GRANT postgres TO webapp",
    "CREATE ROLE evil; GRANT postgres TO evil, webapp",
    "CREATE ROLE evil; GRANT postgres TO evil",
    "CREATE ROLE evil; GRANT pg_execute_server_program TO evil WITH ADMIN OPTION",
    "CREATE ROLE evil IN ROLE postgres",
    "CREATE ROLE evil WITH SUPERUSER",
    "CREATE ROLE evil; ALTER ROLE evil superuser",
    "CREATE ROLE evil; ALTER ROLE evil WITH superuser LOGIN",
    "CREATE ROLE evil PASSWORD 'SUPERUSER' SUPERUSER",
    "CREATE ROLE evil; ALTER ROLE evil WITH PASSWORD 'SUPERUSER' SUPERUSER",
    "CREATE USER evil SUPERUSER",
    "CREATE ROLE evil; ALTER ROLE evil RENAME TO x",
    "CREATE ROLE evil; ALTER ROLE evil IN DATABASE postgres SET work_mem TO '1MB'",
    "DO $$BEGIN CREATE ROLE evil SUPERUSER; END$$",
]


@pytest.mark.parametrize("text", HOSTILE_ROLES)
def test_roles_of_a_snapshot_take_nothing_over(postgres: PostgresServer, text: str) -> None:
    """Existing roles keep their passwords, settings and members, and no new role gets what only a superuser gives."""
    postgres.psql("postgres", "CREATE ROLE webapp")
    state = """SELECT rolname, rolsuper, rolpassword FROM pg_authid WHERE rolname <> 'evil' ORDER BY 1;
        SELECT * FROM pg_db_role_setting; SELECT * FROM pg_auth_members ORDER BY 1, 2, 3;
        SELECT 1 FROM pg_authid WHERE rolname = 'evil' AND rolsuper"""
    before = postgres.psql("postgres", state)
    existing = set(postgres.psql("postgres", "SELECT rolname FROM pg_roles").split("\n"))
    try:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as session:
            try:
                restore_roles(session, f"{text};\n".encode(), existing, ())
            except SafetyRefused as error:
                assert "does not belong there" in error.message  # noqa: PT017 (either is right)
        assert postgres.psql("postgres", state) == before
    finally:
        postgres.psql("postgres", "DROP ROLE IF EXISTS evil; DROP ROLE webapp")


def test_roles_come_back_as_they_were(postgres: PostgresServer) -> None:
    """Attributes, passwords, settings, comments and memberships; a superuser only if that is allowed."""
    names = ("one_role", 'two "big" roles', "power")
    drop = "".join('DROP ROLE IF EXISTS "{}";'.format(name.replace('"', '""')) for name in names)
    text = """
    CREATE ROLE one_role; ALTER ROLE one_role WITH NOSUPERUSER INHERIT CREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS
      CONNECTION LIMIT 7 PASSWORD 'md50123456789abcdef0123456789abcdef' VALID UNTIL '2040-01-01 00:00:00+00';
    CREATE ROLE "two ""big"" roles"; ALTER ROLE "two ""big"" roles" WITH NOSUPERUSER NOLOGIN CONNECTION LIMIT -1;
    ALTER ROLE one_role SET search_path TO 'a', 'b c'; ALTER ROLE one_role SET "my.x" TO E'it''s \\\\';
    COMMENT ON ROLE one_role IS 'it''s'; CREATE ROLE power; ALTER ROLE power WITH SUPERUSER LOGIN;
    GRANT one_role TO "two ""big"" roles" WITH ADMIN OPTION GRANTED BY postgres; GRANT power TO one_role;
    """
    state = """SELECT a.rolname, a.rolsuper, a.rolcanlogin, a.rolcreaterole, a.rolconnlimit, a.rolpassword, r.rolconfig,
      a.rolvaliduntil, shobj_description(a.oid, 'pg_authid'), (SELECT array_agg(m.roleid::regrole::text || m.admin_option)
      FROM pg_auth_members m WHERE m.member = a.oid) FROM pg_authid a JOIN pg_roles r ON r.oid = a.oid
      WHERE a.rolname IN ('one_role', 'two "big" roles', 'power') ORDER BY 1"""
    postgres.psql("postgres", text)
    expected = postgres.psql("postgres", state)
    postgres.psql("postgres", drop)
    try:
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as session:
            assert restore_roles(session, text.encode(), {"postgres"}, {"superuser-role"}) == (set(names), [])
            assert postgres.psql("postgres", state) == expected
            postgres.psql("postgres", drop)
            created, warnings = restore_roles(session, text.encode(), {"postgres"}, ())
        assert created == set(names)
        assert warnings == ["the role power was a superuser and is none here; --allow superuser-role keeps it"]
        assert postgres.psql("postgres", state) == expected.replace("power|t", "power|f")
    finally:
        postgres.psql("postgres", drop)


def test_settings_that_load_code_are_left_out(postgres: PostgresServer, small: kit.Snapshot) -> None:
    """Also those of languages; a superuser who is there keeps the settings that it has."""
    names = ["session_preload_libraries", "Extension_Control_Path", "plperl.on_init", "plperlu.x", "pltcl.start_proc"]
    names += ["pltclu.start_proc", "plv8.start_proc", "plperl.on_plperlu_init"]
    settings = [[None, [*(f"{name}=evil" for name in names), "work_mem=7MB"]], ["postgres", ["work_mem=9MB"]]]
    bad = changed(small, database={**small.facts["database"], "settings": settings})
    result = kit.restore(postgres, "back_settings", bad, LoadOptions())
    left = [warning for warning in result.warnings if "makes the server load code" in warning]
    assert len(left) == len(names)
    assert any("settings of the superuser postgres" in warning for warning in result.warnings)
    query = "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname LIKE 'back_%'"
    assert postgres.psql("postgres", query) == "{work_mem=7MB}"


class Interrupted:
    """Databases whose second renaming never comes about."""

    def __init__(self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        whole = Databases._run
        renamed: list[str] = []

        def run(databases: Databases, statement: str, name: str) -> None:
            if "RENAME TO" in statement:
                renamed.append(name)
                if len(renamed) == 2 and how == "ctrl-c":
                    raise KeyboardInterrupt
                if len(renamed) == 2:
                    pid = databases._session.info.backend_pid
                    server.psql("postgres", f"SELECT pg_terminate_backend({pid}, 5000)")
            whole(databases, statement, name)

        monkeypatch.setattr(Databases, "_run", run)


@pytest.mark.parametrize("how", ["line", "ctrl-c"])
@pytest.mark.parametrize("options", [LoadOptions(overwrite="back_old"), LoadOptions()])
def test_an_interrupted_end_leaves_the_old_database_under_its_name(
    postgres: PostgresServer, small: kit.Snapshot, monkeypatch: pytest.MonkeyPatch, how: str, options: LoadOptions
) -> None:
    """Between the two renamings: neither has happened, nothing is left behind, and the error says so."""
    postgres.create_database("back_old")
    if options.overwrite:
        postgres.psql("back_old", "CREATE TABLE precious(a int)")
    oid = "SELECT oid FROM pg_database WHERE datname = 'back_old'"
    before = postgres.psql("postgres", oid)
    Interrupted(postgres, monkeypatch, how)
    with pytest.raises((BackupdError, KeyboardInterrupt)) as caught:
        kit.restore(postgres, "back_old", small, options)
    said = f"{getattr(caught.value, 'hint', '')}{getattr(caught.value, '__notes__', '')}"
    assert "the database back_old is as it was" in said
    assert postgres.psql("postgres", oid) == before
    assert leftovers(postgres) == set()


def test_a_database_that_fills_at_the_very_end_is_put_back(
    postgres: PostgresServer, small: kit.Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked into once more under its other name, before it is dropped."""
    postgres.create_database("back_late")
    whole = Databases.swap

    def swap(databases: Databases, scratch: str, name: str, aside: str | None, *rest: Any) -> list[str]:
        if name == "back_late" and rest:
            postgres.psql("back_late", "CREATE TABLE precious(a int)")
        return whole(databases, scratch, name, aside, *rest)

    monkeypatch.setattr(Databases, "swap", swap)
    with pytest.raises(SafetyRefused, match="back_late is not empty any more"):
        kit.restore(postgres, "back_late", small, LoadOptions())
    assert postgres.psql("back_late", "SELECT count(*) FROM precious") == "0"
    assert leftovers(postgres) == set()


@pytest.mark.parametrize(
    "made",
    [
        "CREATE EXTENSION hstore; CREATE TABLE mine(a int); ALTER EXTENSION hstore ADD TABLE mine",
        "CREATE TABLE mine(a int); ALTER EXTENSION plpgsql ADD TABLE mine",
        "CREATE PUBLICATION p FOR ALL TABLES",
        "CREATE FOREIGN DATA WRAPPER w",
        "CREATE SUBSCRIPTION s CONNECTION 'host=none' PUBLICATION p WITH (connect = false, slot_name = NONE)",
    ],
)
def test_what_an_extension_owns_is_something_too(postgres: PostgresServer, small: kit.Snapshot, made: str) -> None:
    """As are publications, foreign servers and subscriptions."""
    postgres.create_database("back_owned")
    postgres.psql("back_owned", made)
    try:
        with pytest.raises(SafetyRefused, match="back_owned is not empty"):
            kit.restore(postgres, "back_owned", small, LoadOptions())
    finally:
        postgres.psql("back_owned", "DROP SUBSCRIPTION IF EXISTS s")


def test_a_long_name_that_is_not_ascii_can_be_replaced(postgres: PostgresServer, small: kit.Snapshot) -> None:
    """Names are as long as their bytes; and it is said that the old properties are gone."""
    name = "back_" + "ä" * 29
    postgres.create_database(name)
    postgres.psql(name, "CREATE TABLE precious(a int)")
    result = kit.restore(postgres, name, small, LoadOptions(overwrite=name))
    assert postgres.psql(name, "SELECT count(*), to_regclass('precious') FROM t") == "2|"
    assert any("owner, grants and settings" in warning for warning in result.warnings)
    assert leftovers(postgres) == set()


def test_a_role_may_give_the_database_to_another(postgres: PostgresServer, small: kit.Snapshot) -> None:
    """At the very end, because it has no rights on it afterwards."""
    postgres.psql("postgres", "CREATE ROLE receiver; CREATE ROLE giver LOGIN CREATEDB NOINHERIT IN ROLE receiver")
    database = {**small.facts["database"], "owner": "receiver", "comment": "theirs"}
    database["grants"] = [["receiver", None, "CONNECT", False], ["receiver", "receiver", "CREATE", False]]
    try:
        name = postgres.create_database("back_theirs", owner="giver")
        postgres.psql(name, "SET ROLE giver; CREATE SCHEMA own; CREATE TABLE own.t(a int)")
        theirs = kit.capture(kit.source(postgres, name, "giver"))
        result = kit.restore(postgres, "back_given", changed(theirs, database=database), LoadOptions(), user="giver")
        assert result.warnings == ()
        query = "SELECT datdba::regrole, datacl, shobj_description(oid, 'pg_database') FROM pg_database"
        query += " WHERE datname = 'back_given'"
        assert postgres.psql("postgres", query) == "receiver|{=c/receiver,receiver=C/receiver}|theirs"
    finally:
        for one in ("back_given", "back_theirs"):
            postgres.drop_database(one)
        postgres.psql("postgres", "DROP ROLE giver; DROP ROLE receiver")


def test_what_the_target_lacks_is_named(postgres: PostgresServer, small: kit.Snapshot) -> None:
    """Tablespaces; and sequences, which fail the restore unless tables were left out."""
    result = kit.restore(postgres, "back_spaces", changed(small, tablespaces=["fast", "pg_default"]), LoadOptions())
    assert any("there is no tablespace fast here" in warning for warning in result.warnings)
    more = [*small.facts["sequences"], ["public", "gone", 5, True]]
    with pytest.raises(Failed, match="sequences of the snapshot are missing after the restore: gone"):
        kit.restore(postgres, "back_gone", changed(small, sequences=more), LoadOptions())
    result = kit.restore(postgres, "back_gone", changed(small, sequences=more, excluded=["x"]), LoadOptions())
    assert "these sequences are not there and were not set: gone" in result.warnings
    assert postgres.psql("back_gone", "SELECT last_value FROM t_a_seq") == "1"
