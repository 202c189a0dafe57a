"""Fixtures for every test: real S3, PostgreSQL and MariaDB servers, started once, and fresh buckets."""

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import pytest
from xdist.remote import Producer

from tests import sharing
from tests.servers import ceph, mariadb, mysql, postgres
from tests.servers.mariadb import MariaServer
from tests.servers.mysql import MysqlServer
from tests.servers.packages import Unavailable
from tests.servers.postgres import PostgresServer

ALLOWED_SKIPS = (
    "changing owners takes root",
    "only root may give files away",
    "root may read everything",
    "root may write everything",
    "root may write everywhere",
    "Debian unstable gives no MySQL server that runs here",
)
"""Skips that continuous integration accepts: what root cannot be refused (the same tests run for ordinary users), and MySQL,
which is in no released Debian."""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI is set, any other skip fails the session."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or hasattr(session.config, "workerinput"):
        return
    reasons = [str(r.longrepr[2]) for r in reporter.stats.get("skipped", []) if isinstance(r.longrepr, tuple)]
    unknown = sorted({reason for reason in reasons if reason.removeprefix("Skipped: ") not in ALLOWED_SKIPS})
    if unknown:
        reporter.write_line(f"skips that are not on the short list: {unknown}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> sharing.ByModule | None:
    """`--dist loadgroup` is tests/sharing.py's: xdist's own marks tests by a private field that pytest 9 no longer reads."""
    if config.getvalue("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False  # the collection is in the order wanted
    return sharing.ByModule(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests in the order in which they are given out."""
    if getattr(config.option, "loadgroup", False):
        items[:] = sharing.in_order(items)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A fresh bucket on the real S3 server; the AWS_* variables are set for it."""

    name: str
    endpoint: str
    region: str


def do_without(what: str, error: Unavailable) -> NoReturn:
    """Skip the test with the reason; where CI is set, fail it."""
    reason = f"{what} cannot be had: {error}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ceph.Server]:
    """The real S3 server. Without it tests skip with the reason; where CI is set they fail.

    Tests that use it carry `pytest.mark.s3server` and are one unit of tests/sharing.py, so that it starts once.
    """
    server = ceph.running()
    try:
        started = server.__enter__()
    except Unavailable as error:
        do_without("the real S3 server", error)
    try:
        yield started
    finally:
        server.__exit__(None, None, None)


@pytest.fixture
def s3_bucket(s3_server: ceph.Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh, empty bucket; credentials are in the environment for as long as the test runs."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    name = f"test-{secrets.token_hex(8)}"
    client = boto3.session.Session().client("s3", endpoint_url=s3_server.endpoint, region_name=s3_server.region)
    client.create_bucket(Bucket=name)
    client.close()
    return Bucket(name, s3_server.endpoint, s3_server.region)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[int], PostgresServer]]:
    """Gives a real PostgreSQL server by its major version (14, 15, 18), started when it is first asked for.

    It serves every test of the session: make databases of your own on it. `postgres.running(18, fsync="on")` is a server
    for one test, `postgres.standby_of(server)` a hot standby.
    """
    servers = postgres.Servers()

    def server(major: int) -> PostgresServer:
        try:
            return servers(major)
        except Unavailable as error:
            do_without(f"PostgreSQL {major}", error)

    yield server
    servers.close()


@pytest.fixture(scope="session", params=postgres.MAJORS, ids=lambda major: f"pg{major}", name="postgres")
def one_postgres(request: pytest.FixtureRequest, postgres_servers: Callable[[int], PostgresServer]) -> PostgresServer:
    """A real PostgreSQL server; the test runs once for each version.

    `@pytest.mark.parametrize("postgres", [18], indirect=True)` chooses among them.
    """
    return postgres_servers(request.param)


@pytest.fixture(scope="session")
def start_mariadb() -> Iterator[Callable[..., MariaServer]]:
    """Gives a real MariaDB server with extra arguments, `start_mariadb("--local-infile=OFF", "--skip-log-bin")`.

    There is one server for each set of arguments; it serves every test of the session.
    """
    servers = mariadb.Servers()

    def server(*arguments: str) -> MariaServer:
        try:
            return servers(*arguments)
        except Unavailable as error:
            do_without("MariaDB", error)

    yield server
    servers.close()


@pytest.fixture(scope="session")
def mariadb_server(start_mariadb: Callable[..., MariaServer]) -> MariaServer:
    """A real MariaDB server that writes a binary log; make databases of your own on it."""
    return start_mariadb()


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[MysqlServer]:
    """A real MySQL server that writes a binary log; make databases of your own on it. One module has its tests."""
    try:
        context = mysql.running()
        server = context.__enter__()
    except Unavailable:
        pytest.skip("Debian unstable gives no MySQL server that runs here")
    yield server
    context.__exit__(None, None, None)
