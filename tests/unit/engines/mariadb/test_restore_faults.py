"""A hostile text of definitions hides nothing from the restore, and a good one comes back whole or says what did not."""

import time
from collections.abc import Callable, Iterator

import pytest

from backupd.engines.mariadb import client, load, publish, splitting, statements
from backupd.engines.mariadb.guard import Guard
from backupd.errors import Failed, IntegrityError, SafetyRefused, Unreachable
from tests.servers.mariadb import MariaServer
from tests.unit.engines.mariadb import kit

DEFINER = frozenset({"definer"})


def read(text: str) -> list[statements.Definition]:
    """What the text would execute."""
    return statements.read(splitting.split(text))


@pytest.mark.parametrize(
    "text",
    [
        "CREATE OR REPLACE DEFINER=`g`@`%` SQL SECURITY INVOKER VIEW `other`.`v` AS SELECT 1",
        "CREATE DEFINER=`g`@`%` SQL SECURITY INVOKER VIEW `other` /* x */ . `v` AS SELECT 1",
        "CREATE DEFINER=`g`@`%` SQL SECURITY INVOKER VIEW `other` # x\n.`v` AS SELECT 1",
        "CREATE DEFINER=`g`@`%` SQL SECURITY INVOKER VIEW `ot``her`.`v` AS SELECT 1",
        "CREATE DEFINER=`g`@`%` PROCEDURE other.p() SQL SECURITY INVOKER SELECT 1",
        "CREATE DEFINER=`g`@`%` PROCEDURE `other`/*!50000 .*/`p`() SQL SECURITY INVOKER SELECT 1",
        "CREATE DEFINER=`g`@`%` PROCEDURE `other`/*!99999 x*/.`p`() SQL SECURITY INVOKER SELECT 1",
        "CREATE DEFINER=`g`@`%` FUNCTION `other`.`f`() RETURNS int RETURN 1",
        "CREATE DEFINER=`g`@`%` TRIGGER `other`.`t` BEFORE INSERT ON `a` FOR EACH ROW SET @x = 1",
        "CREATE DEFINER=`g`@`%` EVENT `other`.`e` ON SCHEDULE EVERY 1 DAY DO SELECT 1",
    ],
)
def test_nothing_is_made_in_another_database(text: str) -> None:
    """However the two parts of its name are set apart."""
    with pytest.raises(SafetyRefused):
        read(f"DELIMITER ;;\n{text};;\n")


@pytest.mark.parametrize(
    "text",
    [
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB /*!999999 ' */ ENGINE=CONNECT /*!999999 ' */;",
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB /*M!999999 ' */ ENGINE=CONNECT /*M!999999 ' */;",
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB /*! COMMENT='x' */;",
        "/*!50000 CREATE TABLE `a` (`b` int) ENGINE=InnoDB COMMENT /*!50000 ' */ ' */ ENGINE=CONNECT COMMENT '' */;",
        "SET sql_mode='NO_BACKSLASH_ESCAPES';\nCREATE TABLE `a` (`b` int) ENGINE=InnoDB COMMENT='\\' ENGINE=CONNECT COMMENT='';",
        "SET SESSION sql_mode='ANSI_QUOTES';\nCREATE TABLE `a` (`b` int) ENGINE=InnoDB;",
        "SET SESSION sql_mode='NO_BACKSLASH_ESCAPES';\nCREATE DEFINER=`g`@`%` PROCEDURE `p`() SELECT 1;",
        "SET sql_mode='NO_BACKSLASH_ESCAPES ';\nCREATE DEFINER=`g`@`%` PROCEDURE `p`() SELECT 1;",
        "SET sql_mode=ANSI_QUOTES;\nCREATE DEFINER=`g`@`%` PROCEDURE `p`() SELECT 1;",
        "SET sql_mode='ANSI';\nCREATE DEFINER=`g`@`%` SQL SECURITY INVOKER VIEW `v` AS SELECT 1;",
        "CREATE TABLE `a` (`b` int)\x00 ENGINE=InnoDB;",
        "CREATE TABLE `a` (`b` int) # \x00\n ENGINE=InnoDB;",
        "CREATE TABLE `a` (`b` int) TABLE mysql.user;",
        "CREATE TABLE `a` ( /**/ LIKE mysql.user);",
    ],
)
def test_what_servers_may_read_otherwise_is_refused(text: str) -> None:
    """Comments that some servers execute, strings that end elsewhere in another mode, characters that end a statement."""
    with pytest.raises(SafetyRefused):
        read(text)


@pytest.mark.parametrize(
    ("text", "danger"),
    [
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB --\x01 '\n ENGINE=CONNECT COMMENT='' ;", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB COMMENT=--\u00a0'\n' DATA DIRECTORY='/tmp';", "directory"),
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB DATA /*!50000 */ DIRECTORY='/tmp';", "directory"),
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB /*!50100 ENGINE /*!50000 = */ CONNECT */;", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB CONNECTION 'x';", "foreign-server"),
    ],
)
def test_dangers_are_not_hidden_by_comments(text: str, danger: str) -> None:
    """What the server takes for a comment is one here, and nothing else is."""
    assert danger in read(text)[0].dangers


def test_comments_that_dumps_print_are_taken() -> None:
    """Those of attributes that other servers do not know, and of partitions."""
    text = (
        "CREATE TABLE `a` (\n  `b` blob /*M!100301 COMPRESSED*/,\n  `c` int /*!80023 INVISIBLE */\n) ENGINE=InnoDB "
        "COMMENT='''; /*!999999 ' /*!80016 ENCRYPTION='N' */\n/*!50100 PARTITION BY LIST (`c`)\n"
        "(PARTITION `p'` VALUES IN (-1) ENGINE = InnoDB) */;"
    )
    (table,) = read(text)
    assert not table.dangers
    assert len(table.piece.mask) == len(table.piece.text)
    assert text.startswith(table.piece.text)


def test_tables_with_like_are_tables() -> None:
    """In a CHECK, a generated column and a partition."""
    text = (
        "CREATE TABLE `a` (\n  `b` varchar(9) CHECK (`b` like 'x%'),\n"
        "  `c` int GENERATED ALWAYS AS (`b` LIKE 'y') STORED\n) ENGINE=InnoDB;"
    )
    assert read(text)[0].kind == "table"


@pytest.mark.parametrize(
    ("head", "as_definer"),
    [
        ('SQL SECURITY INVOKER COMMENT "x" SQL SECURITY DEFINER', True),
        ("SQL SECURITY INVOKER COMMENT 'x' 'y' SQL SECURITY DEFINER", True),
        ("SQL SECURITY INVOKER /*!50000 SQL SECURITY DEFINER */", True),
        ("SQL SECURITY INVOKER /*!100000 SQL SECURITY DEFINER */", True),
        ("SQL SECURITY INVOKER SQL/**/SECURITY DEFINER", True),
        ('COMMENT "x" SQL SECURITY INVOKER', False),
        ("COMMENT 'SQL SECURITY DEFINER' SQL SECURITY INVOKER", False),
    ],
)
def test_the_last_word_on_rights_counts(head: str, as_definer: bool) -> None:
    """And what is not understood is the definer's."""
    (routine,) = read(f"DELIMITER ;;\nCREATE DEFINER=`a`@`b` PROCEDURE `p`() {head}\nSELECT 1;;\n")
    assert routine.as_definer == as_definer


def test_the_databases_character_set_goes_with_its_objects() -> None:
    """Until it is set back."""
    text = (
        "ALTER DATABASE `d` CHARACTER SET latin1 COLLATE latin1_swedish_ci ;\n"
        "CREATE DEFINER=`a`@`b` EVENT `e` ON SCHEDULE EVERY 1 DAY DO SELECT 1;\n"
        "ALTER DATABASE `d` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ;\n"
        "CREATE DEFINER=`a`@`b` EVENT `f` ON SCHEDULE EVERY 1 DAY DO SELECT 1;\n"
    )
    assert [one.context.database for one in read(text)] == [
        "CHARACTER SET latin1 COLLATE latin1_swedish_ci",
        "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    ]


@pytest.mark.parametrize("unit", ["/**/", "-- \n", "''", "'\\'", "/*!50000 */"])
def test_long_texts_are_split_in_time(unit: str) -> None:
    """Many comments, many quotes."""
    began = time.monotonic()
    with pytest.raises(SafetyRefused):
        read(unit * 40000 + "x")
    assert time.monotonic() - began < 4


def test_a_long_row_is_searched_once() -> None:
    """In buffers much smaller than the row."""
    began = time.monotonic()
    data = b"x" * (64 << 20)
    buffers = (data[start : start + 4096] for start in range(0, len(data), 4096))
    (row,) = load.whole_rows(buffers, 8)
    assert len(row) == len(data)
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_events_of_a_powerful_account_need_a_word(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """They run by themselves; those of an account that may work in its database only do not."""
    name = make()
    user, password = mariadb_server.create_user(f"ALL ON `{name}%`.*")
    event = "CREATE DEFINER={} EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1"
    mariadb_server.sql(event.format("root@127.0.0.1"), name)
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, name))
    with pytest.raises(SafetyRefused, match="definer: event e"):
        kit.restore(mariadb_server, kept, kit.place(mariadb_server, name + "a"))
    forged = kept.with_schema(kept.schema.replace(b"`root`@`127.0.0.1`", f"`{user}`@`%`".encode()))
    kit.restore(mariadb_server, forged, kit.place(mariadb_server, name + "b", user, password))


@pytest.mark.slow
def test_an_event_keeps_the_character_set_it_was_made_in(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """And the database keeps its own; an event that the server drops at once is named."""
    source = make(
        "CREATE TABLE t (id INT, v VARCHAR(9) CHECK (v LIKE 'a%')); INSERT INTO t VALUES (1, 'ab');"
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 'x';"
        "CREATE EVENT past ON SCHEDULE AT '2037-01-01 00:00:00' DO SELECT 1;"
    )
    mariadb_server.sql(f"ALTER DATABASE {source} CHARACTER SET latin1 COLLATE latin1_german1_ci")
    mariadb_server.sql("CREATE EVENT f ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 'x'", source)
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    kept = kept.with_schema(kept.schema.replace(b"2037-01-01", b"2001-01-01"))
    target = source + "x"
    result = kit.restore(mariadb_server, kept, kit.place(mariadb_server, target), allow=DEFINER)
    query = "SELECT EVENT_NAME, DATABASE_COLLATION FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE() ORDER BY 1"
    assert mariadb_server.sql(query, target).splitlines() == ["e\tutf8mb4_general_ci", "f\tlatin1_german1_ci"]
    assert "latin1_german1_ci" in mariadb_server.sql(f"SHOW CREATE DATABASE {target}")
    assert [one for one in result.warnings if "event past is not there" in one]
    assert not [one for one in result.warnings if "event e " in one]


@pytest.mark.slow
def test_defaults_name_the_new_sequences(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """All functions of sequences; a string that looks like one stays."""
    source = make(
        "CREATE SEQUENCE s; CREATE TABLE t (id INT PRIMARY KEY, a BIGINT DEFAULT (NEXTVAL(s)), b BIGINT DEFAULT (LASTVAL(s)),"
        " c BIGINT DEFAULT (SETVAL(s, 100)));"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    target = source + "x"
    kit.restore(mariadb_server, kept, kit.place(mariadb_server, target))
    mariadb_server.sql("INSERT INTO t (id) VALUES (1)", target)
    text = mariadb_server.sql("SHOW CREATE TABLE t", target)
    assert text.count(f"`{target}`.`s`") == 3
    assert "_backupd_" not in text


@pytest.mark.slow
def test_an_undoing_that_fails_drops_nothing(
    mariadb_server: MariaServer, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first error is told, with the places where the tables are."""
    kept = kit.capture(
        mariadb_server, kit.place(mariadb_server, make("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)"))
    )
    forged = kept.with_schema(
        kept.schema + b"CREATE DEFINER=`root`@`127.0.0.1` SQL SECURITY INVOKER VIEW `w` AS SELECT * FROM nowhere;\n"
    )

    def fails(*_: object) -> None:
        raise Unreachable("gone")

    monkeypatch.setattr(publish.Publisher, "_take_back", fails)
    target = make() + "x"
    with pytest.raises(Failed, match="view w") as raised:
        kit.restore(mariadb_server, forged, kit.place(mariadb_server, target))
    assert f"the tables are in {target} or in" in str(raised.value.hint)
    assert mariadb_server.sql("SELECT id FROM t", target) == "1"


@pytest.mark.slow
def test_a_scratch_database_that_stays_is_a_warning(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """The restore itself is done by then."""
    kept = kit.capture(
        mariadb_server, kit.place(mariadb_server, make("CREATE TABLE t (id INT); INSERT INTO t VALUES (1)"))
    )
    target = make() + "x"

    def compare(table: str, rows: Iterator[bytes | bytearray]) -> None:
        list(rows)
        for name in kit.databases(mariadb_server):
            if name.startswith(target):
                (mariadb_server.data / name / "stray").write_text("x")

    from backupd.engines import mariadb
    from backupd.engines.base import LoadOptions

    opened = mariadb.open_target(kit.place(mariadb_server, target), bin_folders=[mariadb_server.bin])
    opened.prepare(LoadOptions(), kept.facts)
    result = opened.load(kept.stored(), kept.tables, facts=kept.facts, check="full", compare=compare)
    try:
        assert [one for one in result.warnings if "could not be dropped" in one]
        assert mariadb_server.sql("SELECT id FROM t", target) == "1"
    finally:
        for stray in mariadb_server.data.glob(f"{target}*/stray"):
            stray.unlink()


@pytest.mark.slow
def test_accounts_that_stay_are_named(mariadb_server: MariaServer, make: Callable[..., str]) -> None:
    """Where the restore fails after they were made."""
    user, _ = mariadb_server.create_user()
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, make()), globals=True)
    mariadb_server.sql(f"DROP USER {user}@'%'")
    forged = kept.with_schema(
        kept.schema + b"CREATE DEFINER=`root`@`127.0.0.1` SQL SECURITY INVOKER VIEW `w` AS SELECT * FROM nowhere;\n"
    )
    with pytest.raises(Failed, match="view w") as raised:
        kit.restore(mariadb_server, forged, kit.place(mariadb_server, make() + "x"), globals=True)
    assert f"these accounts were made and stay: {user}@%" in str(raised.value.hint)


@pytest.mark.slow
def test_a_forged_version_is_refused(mariadb_server: MariaServer) -> None:
    """It is no version at all."""
    place = kit.place(mariadb_server, "nowhere")
    link = client.connect(place, timeout=10)
    try:
        guard = Guard(place, link, client.read_server(place, link))
        from backupd.engines.base import LoadOptions

        for version in (["x", 1], [10], "10.11", None, [[10], [11]]):
            with pytest.raises(IntegrityError, match="version"):
                guard.require_place(LoadOptions(), {"vendor": "mariadb", "version": version})
    finally:
        client.discard(link)


@pytest.mark.slow
@pytest.mark.parametrize("local", ["ON", "OFF"])
def test_more_warnings_than_an_answer_counts(mariadb_server: MariaServer, make: Callable[..., str], local: str) -> None:
    """Seventy thousand invalid values of an ENUM come back; one value more that is not taken fails."""
    source = make(
        "SET sql_mode = ''; CREATE TABLE t (id INT PRIMARY KEY, e ENUM('a', 'b'), v TINYINT);"
        "INSERT IGNORE INTO t SELECT seq, 'x', 1 FROM seq_1_to_70000;"
    )
    kept = kit.capture(mariadb_server, kit.place(mariadb_server, source))
    mariadb_server.sql(f"SET GLOBAL local_infile = {local}")
    try:
        kit.restore(mariadb_server, kept, kit.place(mariadb_server, source + "x"))
        rows = kept.rows("t").replace(b"70000\t", b"69999\t")
        streams = [(info, rows if info.name == "t" else data) for info, data in kept.streams]
        forged = kit.Kept(streams, kept.facts, kept.tables, ())
        with pytest.raises(Failed):
            kit.restore(mariadb_server, forged, kit.place(mariadb_server, source + "y"), check="none")
    finally:
        mariadb_server.sql("SET GLOBAL local_infile = ON")
    assert mariadb_server.sql("SELECT COUNT(*) FROM t WHERE e + 0 = 0", source + "x") == "70000"
