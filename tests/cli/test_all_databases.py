"""A policy for all databases of a server, over real servers that nobody else uses."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kit import Ran, User
from tests.conftest import do_without
from tests.servers import postgres
from tests.servers.mariadb import MariaServer
from tests.servers.packages import Unavailable

pytestmark = pytest.mark.slow
POLICY = """\
policy: every
sources: [{{name: shop, url: "{url}"{more}, exclude: [secret_notes]}}]
repository: {{url: "file://{home}/repo"}}
keys: {{write: "file:{home}/keys/write.key", check: "file:{home}/keys/check.key", prune: "file:{home}/keys/prune.key"}}
objectives: {{rpo: 2h}}
retention: {{keep: {{last: 1}}}}
"""


@dataclass
class Server:
    """A server: the URL for all of its databases, how to run statements on it, and what a run needs besides."""

    url: str
    sql: Callable[[str, str | None], str]
    words: list[str]
    more: str = ""
    own: tuple[str, ...] = ()

    def fill(self, name: str) -> None:
        self.sql(f"create database {name}", None)
        self.sql("create table people(id int primary key, name varchar(20));", name)
        self.sql("insert into people values (1, 'Ada')", name)
        self.sql("create table secret_notes(id int primary key);", name)
        self.sql("insert into secret_notes values (1)", name)


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with the databases crm and sales."""
    if request.param == "mariadb":
        maria: MariaServer = request.getfixturevalue("start_mariadb")("--max-connections=77")
        words = ["--tools", str(maria.bin)]
        made = Server(
            maria.url("*"), lambda s, d: maria.sql(s, d), words, f', password: "file:{maria.root_password_file}"'
        )
        made.fill("crm")
        made.fill("sales")
        yield made
        return
    try:
        context = postgres.running(18)
        running = context.__enter__()
    except Unavailable as error:
        do_without("PostgreSQL 18", error)
    try:
        words = ["--tools", str(running.bin)]
        made = Server(running.url("*"), lambda s, d: running.psql(d or "postgres", s), words, own=("postgres",))
        made.fill("crm")
        made.fill("sales")
        yield made
    finally:
        context.__exit__(None, None, None)


@pytest.fixture
def user(tmp_path: Path, server: Server) -> User:
    """A user with a policy for the whole server."""
    made = User(tmp_path)
    made.init()
    (tmp_path / "every.yaml").write_text(POLICY.format(url=server.url, home=tmp_path, more=server.more))
    return made


def run(user: User, server: Server, *more: str) -> Ran:
    return user.run("run", "every.yaml", *more, "--json", *server.words)


def names(user: User) -> list[str]:
    listed: list[dict[str, Any]] = user.run("snapshots", "--json", key="check").document["snapshots"]
    return sorted(s["source"] for s in listed)


def test_each_database_is_a_source(user: User, server: Server) -> None:
    """One snapshot for each, without templates and the server's own; excluded tables are left out in each; one alone; status,
    prune and plan know them."""
    done = run(user, server)
    assert done.code == 0, done.out + done.err
    wanted = sorted(f"shop.{name}" for name in ("crm", "sales", *server.own))
    assert sorted(r["source"] for r in done.document["runs"]) == names(user) == wanted
    tables = user.run("show", "latest:shop.crm", "--json", key="read").document["tables"]
    assert {t["name"]: t["rows"] for t in tables if t["rows"]} == {"people": 1}
    alone = run(user, server, "shop.sales")
    assert [r["source"] for r in alone.document["runs"]] == ["shop.sales"]
    assert run(user, server, "shop.nonsense").code == 2
    assert run(user, server, "other").code == 2
    status = user.run("status", "--config", "every.yaml", "--json")
    assert sorted(s["name"] for s in status.document["sources"]) == wanted
    assert status.code == 0
    pruned = user.run("prune", "every.yaml", "--dry-run", "--json").document
    assert [len(pruned["forget"]), len(pruned["keep"])] == [1, len(wanted)]
    one = user.run("prune", "every.yaml", "--source", "shop.crm", "--dry-run", "--json").document
    assert one["forget"] == []


def test_one_that_cannot_be_named_does_not_keep_the_others(user: User, server: Server) -> None:
    """A database whose name is no source's is an error by its name; the others have their snapshots; the first error's code."""
    quote = '"' if server.own else "`"
    server.sql(f"create database {quote}odd@name{quote}", None)
    try:
        done = run(user, server)
    finally:
        server.sql(f"drop database {quote}odd@name{quote}", None)
    assert done.code == 2
    failed = [r for r in done.document["runs"] if "error" in r]
    assert [r["source"] for r in failed] == ["shop.odd@name"]
    assert "odd@name" in failed[0]["error"]["message"]
    assert {"shop.crm", "shop.sales"} <= set(names(user))


def test_one_that_is_gone_is_told_once(user: User, server: Server) -> None:
    """The run after a database went says so; what was remembered is not in clear on this machine."""
    server.fill("passing")
    try:
        assert run(user, server).code == 0
    finally:
        server.sql("drop database passing", None)
    told = run(user, server)
    assert (told.code, "database 'passing' of shop is gone" in told.err) == (0, True)
    assert "is gone" not in run(user, server).err
    assert "shop.passing" in names(user)
    kept = list((user.folder / "state").rglob("databases/*"))
    assert len(kept) == 1
    assert b"passing" not in kept[0].read_bytes()
    assert kept[0].stat().st_mode & 0o777 == 0o600


def test_a_server_that_cannot_be_listed(user: User, server: Server) -> None:
    """Nobody there is 14 under the server's name; without a policy a * is usage."""
    policy = (user.folder / "every.yaml").read_text().replace(server.url, server.url.rsplit(":", 1)[0] + ":1/*")
    (user.folder / "every.yaml").write_text(policy)
    done = run(user, server)
    assert done.code == 14
    assert [r["source"] for r in done.document["runs"]] == ["shop"]
    assert user.run("run", "--source", server.url, key="write").code == 2


def test_a_database_that_lets_nobody_in(user: User, server: Server) -> None:
    """PostgreSQL: without connections, or without the right to connect, it is an error by name (14); templates are none."""
    if not server.own:
        return
    server.sql("create database shut allow_connections false", None)
    server.sql("create database masked is_template true", None)
    server.sql("create database guarded", None)
    server.sql("revoke connect on database guarded from public; create role nightly login", None)
    try:
        done = run(user, server)
        assert done.code == 14
        failed = {r["source"]: r["error"]["message"] for r in done.document["runs"] if "error" in r}
        assert failed.keys() == {"shop.shut"}
        assert "allows no connections" in failed["shop.shut"]
        policy = (user.folder / "every.yaml").read_text().replace("postgres@", "nightly@")
        (user.folder / "every.yaml").write_text(policy)
        weak = {r["source"]: r.get("error") for r in run(user, server).document["runs"]}
        assert "may not connect" in weak["shop.guarded"]["message"]
        assert "shop.masked" not in weak
    finally:
        server.sql("alter database masked is_template false", None)
        for name in ("shut", "masked", "guarded"):
            server.sql(f"drop database {name}", None)
        server.sql("drop role nightly", None)


def test_an_account_that_may_not_see_all(user: User, server: Server) -> None:
    """MariaDB: without SHOW DATABASES there is a warning that others may be hidden."""
    if server.own:
        return
    server.sql("create user half identified by 'pw'; grant all on crm.* to half", None)
    (user.folder / "pw").write_text("pw")
    (user.folder / "pw").chmod(0o600)
    text = (user.folder / "every.yaml").read_text()
    root = server.url.split("//")[1].split("@")[0]
    text = text.replace(f"//{root}@", "//half@").replace(server.more, f', password: "file:{user.folder}/pw"')
    (user.folder / "every.yaml").write_text(text)
    try:
        done = run(user, server)
    finally:
        server.sql("drop user half", None)
    assert "grant SHOW DATABASES" in done.err
    assert [r["source"] for r in done.document["runs"]] == ["shop.crm"]
