"""The command line over real database servers: doctor, run, show, verify, restore, export, and back by native tools."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.kit import User
from tests.servers.mariadb import MariaServer
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.slow
EXTRACT = Path(__file__).resolve().parents[2] / "deploy/backupd-extract.py"
CANARY = "Joanna Canary-Finch"
SHOP = """
create table customers(id int primary key, name varchar(100) not null, born date, note text);
insert into customers values (1,'Ada','1815-12-10',null),(2,'Grace','1906-12-09',''),(3,'JOANNA','2000-02-29','tab\tand \\\\N');
create table calls(id int primary key, customer int not null, seconds int,
  constraint whose foreign key (customer) references customers(id));
insert into calls values (1,1,60),(2,1,0),(3,3,null);
create index by_customer on calls(customer);
create table empty_one(a int);
create table no_key(a int, b varchar(5)); insert into no_key values (1,'x'),(1,'x'),(null,null);
""".replace("JOANNA", CANARY)


@dataclass
class Postgres:
    """A PostgreSQL server and its programs."""

    server: PostgresServer
    engine: str = "postgresql"
    role: str = "postgres"

    def url(self, database: str) -> str:
        return self.server.url(database, self.role)

    def sql(self, database: str, statement: str) -> str:
        return self.server.psql(database, statement)

    def create(self) -> str:
        return self.server.create_database()

    def drop(self, database: str) -> None:
        self.server.psql("postgres", f'drop database if exists "{database}"')

    def databases(self) -> set[str]:
        return set(self.server.psql("postgres", "select datname from pg_database").split())

    def words(self) -> list[str]:
        return ["--tools", str(self.server.bin)]

    def natively(self, folder: Path, database: str) -> None:
        """As `export` says."""
        base = ["-h", self.server.host, "-p", str(self.server.port), "-U", "postgres"]
        self.server.psql("postgres", f'create database "{database}"')
        for program, *words in (
            ("pg_restore", "--exit-on-error", "--section=pre-data", "-d", database, "schema.dump"),
            ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "load.sql"),
            ("pg_restore", "--exit-on-error", "--section=post-data", "-d", database, "schema.dump"),
        ):
            subprocess.run([self.server.bin / program, *base, *words], cwd=folder, check=True, capture_output=True)


@dataclass
class Maria:
    """A MariaDB server and its programs."""

    server: MariaServer
    folder: Path
    engine: str = "mariadb"
    made: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        return self.server.url(database)

    def sql(self, database: str, statement: str) -> str:
        return self.server.sql(statement, database)

    def create(self) -> str:
        return self.server.create_database()

    def drop(self, database: str) -> None:
        self.server.sql(f"drop database if exists `{database}`")

    def databases(self) -> set[str]:
        return set(self.server.sql("show databases").split())

    def words(self) -> list[str]:
        return ["--tools", str(self.server.bin), "--password-file", str(self.server.root_password_file)]

    def natively(self, folder: Path, database: str) -> None:
        """As `export` says."""
        base = ["-h", self.server.host, "-P", str(self.server.port), "-u", self.server.root]
        environment = {**os.environ, "MYSQL_PWD": self.server.root_password}
        self.server.sql(f"create database `{database}`")
        for name, *more in (("schema.sql",), ("load.sql", "--local-infile=1"), ("after.sql",)):
            with (folder / name).open("rb") as script:
                command = [self.server.bin / "mariadb", "--no-defaults", *base, *more, database]
                subprocess.run(command, cwd=folder, stdin=script, check=True, capture_output=True, env=environment)


Desk = Postgres | Maria


@pytest.fixture(params=["postgresql-14", "postgresql-15", "postgresql-18", "mariadb"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    """One server after the other."""
    name, _, major = request.param.partition("-")
    if name == "mariadb":
        return Maria(request.getfixturevalue("mariadb_server"), tmp_path)
    factory: Callable[[int], PostgresServer] = request.getfixturevalue("postgres_servers")
    return Postgres(factory(int(major)))


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with a repository."""
    home = tmp_path / "user"
    home.mkdir()
    made = User(home)
    made.init()
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def dropped(desk: Desk, *names: str) -> Iterator[None]:
    """Drop these databases at the end."""
    try:
        yield
    finally:
        for name in names:
            desk.drop(name)


def test_the_whole_way(desk: Desk, user: User) -> None:
    """Doctor, run, show, verify at every level, restore to a new database, and compare it with the snapshot."""
    shop = desk.create()
    back = f"{shop}_back"
    desk.sql(shop, SHOP)
    with dropped(desk, shop, back):
        done = user.run("doctor", "--source", desk.url(shop), *desk.words())
        assert done.code == 0, done.out + done.err
        run = user.back_up(desk.url(shop), *desk.words())
        assert run["rows"] == 9
        assert run["source"] == shop
        shown = user.run("show", "latest", "--json", key="read").document
        assert {t["name"]: t["rows"] for t in shown["tables"]} == {
            "customers": 3,
            "calls": 3,
            "empty_one": 0,
            "no_key": 3,
        }
        assert {t["name"]: t["key"] for t in shown["tables"]}["calls"] == ["id"]
        assert "content" not in {s["kind"] for s in shown["streams"]}
        for level, key in (("structure", "check"), ("bytes", "check"), ("content", "read")):
            done = user.run("verify", "--level", level, key=key)
            assert done.code == 0, done.err
        done = user.run("restore", "latest", desk.url(back), *desk.words(), "--json", key="read")
        assert done.code == 0, done.err + done.out
        assert (done.document["tables"], done.document["rows"]) == (4, 9)
        compare = ["verify", "--against-source", *desk.words(), "--json", "--source"]
        for name in (shop, back):
            done = user.run(*compare, desk.url(name), key="read")
            assert (done.code, done.document["problems"]) == (0, []), done.out
        desk.sql(back, "update calls set seconds=61 where id=1")
        done = user.run(*compare, desk.url(back), key="read")
        assert done.code == 1
        assert [(p["object"], p["kind"]) for p in done.document["problems"]] == [("calls", "differs")]
        assert not {d for d in desk.databases() if "_backupd_" in d}


def test_a_second_run_stores_nothing_and_recovery_is_enough(desk: Desk, user: User) -> None:
    """An unchanged database costs a manifest; the recovery key and the storage alone bring it back."""
    shop = desk.create()
    back = f"{shop}_back"
    desk.sql(shop, SHOP)
    with dropped(desk, shop, back):
        user.back_up(desk.url(shop), *desk.words())
        again = user.back_up(desk.url(shop), *desk.words())
        assert again["chunks"]["full"] <= 2  # the archive of the schema names its time
        done = user.run("restore", "latest", desk.url(back), *desk.words(), key="recovery")
        assert done.code == 0, done.err
        assert "every table was read back" in done.out


def test_what_is_there_is_not_touched(desk: Desk, user: User) -> None:
    """A database that is not empty is refused with 20 and stays as it is, until its name is given."""
    shop, other = desk.create(), desk.create()
    desk.sql(shop, SHOP)
    desk.sql(other, "create table precious(a int); insert into precious values (7)")
    with dropped(desk, shop, other):
        user.back_up(desk.url(shop), *desk.words())
        restore = ["restore", "latest", desk.url(other), *desk.words()]
        for more in ([], ["--overwrite", "another"]):
            done = user.run(*restore, *more, key="read")
            assert done.code == 20, done.err
        assert desk.sql(other, "select a from precious").split()[-1] == "7"
        done = user.run(*restore, "--overwrite", other, key="read")
        assert done.code == 0, done.err
        assert CANARY in desk.sql(other, "select name from customers where id=3")


def test_chosen_tables(desk: Desk, user: User) -> None:
    """--tables brings back these tables only; a name that the snapshot does not have is a usage error."""
    shop = desk.create()
    back = f"{shop}_back"
    desk.sql(shop, SHOP)
    with dropped(desk, shop, back):
        user.back_up(desk.url(shop), *desk.words())
        done = user.run("restore", "latest", desk.url(back), *desk.words(), "--tables", "customers,no_key", key="read")
        assert done.code == 0, done.err
        assert desk.sql(back, "select count(*) from customers").split()[-1] == "3"
        done = user.run("restore", "latest", desk.url(f"{back}2"), *desk.words(), "--tables", "nope", key="read")
        assert done.code == 2
        assert f"{back}2" not in desk.databases()


def test_no_customer_stands_in_what_is_stored_or_said(desk: Desk, user: User) -> None:
    """A customer's name is in no stored byte, no name, and no output of any command, failed ones included."""
    shop = desk.create()
    back = f"{shop}_back"
    desk.sql(shop, SHOP)
    with dropped(desk, shop, back):
        said = [user.run("run", "--source", desk.url(shop), *desk.words(), "--debug", key="write")]
        said.append(user.run("show", "latest", "--json", key="read"))
        said.append(user.run("restore", "latest", desk.url(back), *desk.words(), "--debug", "-v", key="read"))
        desk.sql(back, "update customers set name='x' where id=3")
        said.append(user.run("verify", "--against-source", "--source", desk.url(back), *desk.words(), key="read"))
        said.append(user.run("restore", "latest", desk.url(back), *desk.words(), key="read"))
        for done in said:
            assert CANARY not in done.out + done.err
        for path in Path(user.folder).rglob("*"):
            assert CANARY not in str(path)
            assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_servers_that_are_not_there(desk: Desk, user: User) -> None:
    """A dead port, an unknown database and a wrong password end with 14, without a traceback or a snapshot."""
    shop = desk.create()
    wrong = user.folder / "wrong"
    wrong.write_text("hunter2-canary\n")
    with dropped(desk, shop):
        dead = desk.url(shop).replace(str(desk.server.port), "1")
        cases = [(dead, desk.words()), (desk.url("nowhere_at_all"), desk.words())]
        if desk.engine == "mariadb":
            cases.append((desk.url(shop), [*desk.words(), "--password-file", str(wrong)]))
        else:
            assert isinstance(desk, Postgres)
            scram = desk.server.url(shop, desk.server.scram_user)
            cases.append((scram, [*desk.words(), "--password-file", str(wrong)]))
        for url, words in cases:
            for verb in (["run", "--source", url], ["doctor", "--source", url]):
                done = user.run(*verb, *words, key="write")
                assert done.code == (14 if verb[0] == "run" else 1), done.out + done.err
                assert "Traceback" not in done.err
                assert "hunter2-canary" not in done.out + done.err
        assert user.run("snapshots", "--json", key="check").document["snapshots"] == []


def test_native_tools_restore_what_export_writes(desk: Desk, user: User) -> None:
    """What `export` writes is what the standalone script writes, and it goes back by psql and pg_restore, or mariadb, alone."""
    shop = desk.create()
    back = f"{shop}_native"
    desk.sql(shop, SHOP)
    with dropped(desk, shop, back):
        user.back_up(desk.url(shop), *desk.words())
        done = user.run("export", "latest", "--dir", "plain", "--json", key="read")
        assert done.code == 0, done.err + done.out
        assert {"manifest.json", "load.sql"} <= set(done.document["files"])
        extracted = subprocess.run(
            [
                *(sys.executable, "-I", EXTRACT, user.repository, "latest", "--dir", "extracted"),
                *("--key", "keys/read.key", "--passphrase-file", "passphrase"),
            ],
            cwd=user.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert extracted.returncode == 0, extracted.stderr
        assert contents(user.folder / "extracted") == contents(user.folder / "plain")
        desk.natively(user.folder / "extracted", back)
        done = user.run("verify", "--against-source", "--source", desk.url(back), *desk.words(), "--json", key="read")
        assert (done.code, done.document["problems"]) == (0, []), done.out


def test_what_was_warned_of_is_told_though_the_restore_fails(
    postgres_servers: Callable[[int], PostgresServer], user: User
) -> None:
    """A superuser is warned at once, also with --json; if the restore fails then, the document says it as well."""
    desk = Postgres(postgres_servers(15))
    shop = desk.create()
    desk.sql(shop, SHOP)
    with dropped(desk, shop):
        user.back_up(desk.url(shop), *desk.words())
        for pack in (user.folder / "repo/packs").rglob("*"):
            if pack.is_file():
                data = bytearray(pack.read_bytes())
                data[len(data) // 2 - 2000 : len(data) // 2 + 2000] = bytes(4000)
                pack.chmod(0o600)
                pack.write_bytes(data)
        done = user.run("restore", "latest", desk.url(f"{shop}_back"), *desk.words(), "--json", key="read")
        assert done.code == 4, done.out
        assert [text for text in done.document["warnings"] if "superuser" in text]
        assert "superuser" in done.err
        assert (
            "superuser"
            not in user.run(
                "restore", "latest", desk.url(f"{shop}_back"), *desk.words(), "--json", "--quiet", key="read"
            ).err
        )
        assert f"{shop}_back" not in desk.databases()


@pytest.mark.parametrize("url", ["postgresql://u@localhost:1/d", "mariadb://u@localhost:1/d"])
def test_words_of_allow(user: User, url: str) -> None:
    """An unknown kind is a usage error before any key is unlocked; the help names every kind that there is."""
    done = user.run("restore", "latest", url, "--allow", "nonsense", "--json", key="read")
    assert done.code == 2
    assert "nonsense" in done.document["error"]["message"]
    known = done.document["error"]["hint"].removeprefix("known here: ").split(", ")
    assert len(known) > 3
    told = " ".join(user.run("restore", "--help").out.split())
    assert [kind for kind in known if kind not in told] == []


def test_options_that_mean_nothing_for_a_file(user: User) -> None:
    """Options of servers are refused for SQLite, and a password in a URL for everything."""
    assert user.run("run", "--source", "x.db", "--with-globals", key="write").code == 2
    assert user.run("restore", "latest", "x.db", "--tables", "t", key="read").code == 2
    for url in ("postgresql://u:hunter2@h/d", "mariadb://u@h/d?password=hunter2"):
        done = user.run("run", "--source", url, key="write")
        assert done.code == 2
        assert "hunter2" not in done.out + done.err
