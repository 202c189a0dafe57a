"""Accounts come along when they are asked for, and change nobody who is there already."""

from collections.abc import Iterator

import pytest

from backupd.engines.mariadb import accounts, splitting
from backupd.errors import SafetyRefused, SourceIncomplete
from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit


def read(text: str) -> list[accounts.AccountStatement]:
    """What the text would do."""
    return accounts.read(splitting.split(text))


def test_whom_a_statement_is_about() -> None:
    """By its own text; strings and names cannot hide it."""
    text = (
        "CREATE USER IF NOT EXISTS `a``b`@`%` IDENTIFIED BY PASSWORD '*x TO `c`@`d`';\n"
        "/*M!100005 CREATE ROLE IF NOT EXISTS 'r' WITH ADMIN mariadb_dump_import_role */;\n"
        "GRANT SELECT ON `x TO ``y```.* TO 'o\\'b'@'%' IDENTIFIED BY PASSWORD ' TO `c`@`d`' "
        "WITH GRANT OPTION;\nGRANT `r` TO `z`;\n"
        "/*M!100005 SET DEFAULT ROLE 'r' FOR 'o\\'b'@'%' */;\nSET ROLE NONE;\n/*!80001 ALTER USER 'x'@'y' DEFAULT ROLE NONE */;\n"
    )
    assert [(one.who, one.makes) for one in read(text)] == [
        ("a`b@%", True),
        ("r@", True),
        ("o'b@%", False),
        ("z@", False),
        ("o'b@%", False),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "DROP USER `a`@`b`;",
        "INSTALL SONAME 'x';",
        "CREATE TABLE `a` (`b` int);",
        "\\! id;",
        "SET PASSWORD FOR `a`@`b` = 'x';",
        "SET GLOBAL x = 1;",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """No tables, plugins or commands."""
    with pytest.raises(SafetyRefused):
        read(text)


@pytest.fixture
def people(mariadb_server: MariaServer) -> Iterator[None]:
    """Some accounts, which are gone at the end."""
    gone = "DROP USER IF EXISTS 'o''b'@'%', keeper@localhost; DROP ROLE IF EXISTS `re aders`;"
    mariadb_server.sql(gone)
    mariadb_server.sql(
        "CREATE ROLE `re aders`; CREATE USER 'o''b'@'%' IDENTIFIED BY 'x;y'; CREATE USER keeper@localhost IDENTIFIED BY 'old';"
        "GRANT SELECT ON mysql.* TO `re aders`; GRANT `re aders` TO 'o''b'@'%'; SET DEFAULT ROLE `re aders` FOR 'o''b'@'%';"
        "GRANT INSERT ON mysql.event TO 'o''b'@'%' WITH GRANT OPTION;"
    )
    yield
    mariadb_server.sql(gone)


@pytest.mark.slow
def test_accounts_come_back(mariadb_server: MariaServer, people: None) -> None:
    """Those that are missing, with password, roles and grants; another's password stays what it is now."""
    name = mariadb_server.create_database()
    try:
        mariadb_server.sql("CREATE DEFINER='o''b'@'%' VIEW v AS SELECT 1", name)
        kept = kit.capture(mariadb_server, kit.place(mariadb_server, name), globals=True)
        (secret,) = [(info, data) for info, data in kept.streams if info.secret]
        assert secret[0].name == "globals.sql"
        assert b"o'b" in secret[1]
        assert b"IDENTIFIED" not in kept.schema
        query = "SHOW GRANTS FOR 'o''b'@'%'; SHOW GRANTS FOR `re aders`;"
        before = mariadb_server.sql(query)
        mariadb_server.sql(
            "DROP USER 'o''b'@'%'; DROP ROLE `re aders`; SET PASSWORD FOR keeper@localhost = PASSWORD('new');"
        )
        keeper = mariadb_server.sql("SHOW GRANTS FOR keeper@localhost")
        allow = frozenset({"definer"})
        result = kit.restore(mariadb_server, kept, kit.place(mariadb_server, name + "x"), allow=allow)
        assert any("o'b@% of view v is no account" in warning for warning in result.warnings)
        mariadb_server.drop_database(name + "x")
        result = kit.restore(mariadb_server, kept, kit.place(mariadb_server, name + "x"), allow=allow, globals=True)
        assert mariadb_server.sql(query) == before
        assert mariadb_server.sql("SHOW GRANTS FOR keeper@localhost") == keeper
        assert any("keeper@localhost" in warning for warning in result.warnings)
        assert not any("is no account" in warning for warning in result.warnings)
    finally:
        mariadb_server.drop_database(name)
        mariadb_server.drop_database(name + "x")


@pytest.mark.slow
def test_accounts_that_may_not_be_read_are_an_error(mariadb_server: MariaServer) -> None:
    """Not a stream without them."""
    name = mariadb_server.create_database()
    try:
        user, password = mariadb_server.create_user(f"SELECT, TRIGGER, EVENT, SHOW VIEW, EXECUTE ON {name}.*")
        with pytest.raises(SourceIncomplete):
            kit.capture(mariadb_server, kit.place(mariadb_server, name, user, password), globals=True, jobs=1)
    finally:
        mariadb_server.drop_database(name)
