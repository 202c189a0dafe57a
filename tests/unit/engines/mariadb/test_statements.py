"""What a dump's text would execute is known statement by statement, and everything else is refused."""

import pytest

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb import splitting, statements
from backupd.engines.mariadb.client import Server, explain, parse_version, quote_text
from backupd.engines.mariadb.findings import is_vulnerable
from backupd.engines.mariadb.formats import Column, encoding_of, known_encodings
from backupd.engines.mariadb.load import values, whole_rows
from backupd.errors import BackupdError, Failed, SafetyRefused, StorageRefused, Unreachable


def read(text: str) -> list[statements.Definition]:
    """What the text would execute."""
    return statements.read(splitting.split(text))


@pytest.mark.parametrize(
    "text",
    [
        "\\! touch /tmp/owned\n",
        "\\! touch /tmp/owned;",
        "system touch /tmp/owned;",
        "source /etc/passwd;",
        "tee /tmp/owned;",
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB;\n\\! id\n",
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB; \\! id;",
        "DELIMITER $$\nCREATE TABLE `a` (`b` int) ENGINE=InnoDB$$",
        "GRANT ALL ON *.* TO `x`@`%`;",
        "/*!50000 GRANT ALL ON *.* TO `x`@`%` */;",
        "/*M!100000 CREATE USER x */;",
        "CREATE/**/USER `x`;",
        "INSERT INTO mysql.user VALUES (1);",
        "INSERT INTO `a` VALUES (1);",
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE `a`;",
        "SELECT 1 INTO OUTFILE '/tmp/x';",
        "INSTALL PLUGIN x SONAME 'x.so';",
        "INSTALL SONAME 'x';",
        "SET GLOBAL local_infile = 1;",
        "SET GLOBAL sql_mode = '';",
        "SET PASSWORD = 'x';",
        "SET @x = (SELECT 1);",
        "SET sql_mode = (SELECT 1);",
        "SET sql_mode = '', GLOBAL general_log = 1;",
        "USE mysql;",
        "DROP DATABASE `a`;",
        "CREATE DATABASE `a`;",
        "CREATE TABLE mysql.`a` (`b` int) ENGINE=InnoDB;",
        "CREATE TABLE `mysql`.`a` (`b` int) ENGINE=InnoDB;",
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB AS SELECT * FROM mysql.user;",
        "CREATE TABLE `a` LIKE mysql.user;",
        "CREATE TABLE `a` (`b` int) ENGINE=InnoDB SELECT 1;",
        "CREATE SERVER `s` FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x');",
        "CREATE SEQUENCE `s` start with 1 ENGINE=CONNECT;",
        "DO SLEEP(1000);",
        "DO SETVAL(`s`, (SELECT 1), 0);",
        "CALL `p`();",
        "PREPARE x FROM 'DROP DATABASE a';",
        "SHUTDOWN;",
        "CREATE 'DEFINER' PROCEDURE `p`() SELECT 1;",
        "CREATE /* DEFINER=`a`@`b` */ USER `p`;",
        "ALTER DATABASE `a` CHARACTER SET utf8mb4 COLLATE x; DROP TABLE `b`;",
        "CREATE TABLE `a` (`b` int",
        "CREATE TABLE `a` (`b` varchar(9) DEFAULT 'x",
    ],
)
def test_unknown_statements_are_refused(text: str) -> None:
    """Client commands, accounts, plugins, files, queries, and what ends in the middle."""
    with pytest.raises(SafetyRefused) as raised:
        read(text)
    assert "/tmp" not in raised.value.message
    assert "/etc" not in raised.value.message


@pytest.mark.parametrize(
    ("text", "danger"),
    [
        ("CREATE TABLE `a` (`b` int) ENGINE=FEDERATED CONNECTION='mysql://x@y/z/t';", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) ENGINE=CONNECT TABLE_TYPE=CSV FILE_NAME='/etc/passwd';", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) ENGINE='SPIDER';", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) /*!50000 ENGINE=SPIDER */;", "foreign-server"),
        ("CREATE TABLE `a` (`b` int);", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) ENGINE=MRG_MyISAM UNION=(`mysql`.`user`);", "foreign-server"),
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB DATA DIRECTORY='/tmp';", "directory"),
        ("CREATE TABLE `a` (`b` int) ENGINE=InnoDB PARTITION BY HASH(`b`) (PARTITION `p` DATA DIRECTORY = '/tmp');", "directory"),
        ("CREATE FUNCTION `f` RETURNS INTEGER SONAME 'lib.so';", "library"),
        ("CREATE AGGREGATE FUNCTION f RETURNS INTEGER SONAME 'lib.so';", "library"),
        ("CREATE VIEW `v` AS SELECT * FROM mysql.user;", "definer"),
        ("CREATE VIEW `v` AS SELECT NULL AS `x` INTO OUTFILE '/tmp/x';", "definer"),
        ("CREATE DEFINER=CURRENT_USER TRIGGER `t` BEFORE INSERT ON `a` FOR EACH ROW SET @x = 1;", "definer"),
    ],
)  # fmt: skip
def test_dangerous_statements_are_known(text: str, danger: str) -> None:
    """Tables elsewhere, files elsewhere, libraries, and what would run as whoever restores."""
    assert danger in read(text)[0].dangers


def test_harmless_words_in_strings_are_not_dangerous() -> None:
    """Only what is outside of strings, names and comments counts."""
    text = (
        "CREATE TABLE `a` (\n  `data directory` int COMMENT 'ENGINE=FEDERATED; SELECT',\n"
        "  `select` int DEFAULT 'CONNECTION=' -- LIKE\n"
        ") ENGINE=InnoDB COMMENT='DATA DIRECTORY=''/tmp''; \\'union=(';"
    )
    (table,) = read(text)
    assert (table.kind, table.name, table.dangers) == ("table", "a", frozenset())


def test_a_wrapped_trigger_is_opened_and_its_body_kept() -> None:
    """The comments that the server executes go; comments of the body stay, whatever is in them."""
    text = (
        "/*!50003 SET sql_mode = 'ANSI_QUOTES' */ ;\nDELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`a``b`@`%`*/ "
        "/*!50003 TRIGGER `t` BEFORE INSERT ON `x` FOR EACH ROW "
        'BEGIN /* ;; no */ SET @a = ";;"; /*!40000 SET @b = 1; */ -- it\'s ;;\n END\n*/;;\nDELIMITER ;\n'
    )
    (trigger,) = read(text)
    assert (trigger.kind, trigger.name, trigger.definer, trigger.as_definer) == ("trigger", "t", "a`b@%", True)
    assert trigger.context.sql_mode == "ANSI_QUOTES"
    assert "/* ;; no */" in trigger.piece.text
    assert "/*!40000 SET @b = 1; */ -- it's ;;\n END" in trigger.piece.text
    assert "/*!500" not in trigger.piece.text
    assert trigger.owned_by_us().split()[1] == "DEFINER=CURRENT_USER"


@pytest.mark.parametrize(
    ("text", "as_definer"),
    [
        ("CREATE DEFINER=`a`@`b` PROCEDURE `p`()\n    SQL SECURITY INVOKER\nSELECT 1", False),
        (
            "CREATE DEFINER=`a`@`b` PROCEDURE `p`(IN `x)` ENUM(')','('))\n NO SQL\n SQL SECURITY INVOKER\n COMMENT 'x'\nSELECT 1",
            False,
        ),
        (
            "CREATE DEFINER=`a`@`b` FUNCTION `p`(x int) RETURNS int(11)\n    DETERMINISTIC\n    SQL SECURITY INVOKER\nRETURN 1",
            False,
        ),
        ("CREATE DEFINER=`a`@`b` PROCEDURE `p`()\nBEGIN CREATE SQL SECURITY INVOKER VIEW x AS SELECT 1; END", True),
        ("CREATE DEFINER=`a`@`b` PROCEDURE `p`()\n    COMMENT 'SQL SECURITY INVOKER'\nSELECT 1", True),
        ("CREATE DEFINER=`a`@`b` PROCEDURE `p`() /* SQL SECURITY INVOKER */ SELECT 1", True),
        ("CREATE ALGORITHM=UNDEFINED DEFINER=`a`@`b` SQL SECURITY INVOKER VIEW `p` AS SELECT 1", False),
        ("CREATE DEFINER=`a`@`b` EVENT `p` ON SCHEDULE EVERY 1 DAY DO SELECT 'SQL SECURITY INVOKER'", True),
        ('CREATE DEFINER="a"@"b" PACKAGE BODY "p" AS x', True),
    ],
)
def test_whose_rights_a_stored_object_has(text: str, as_definer: bool) -> None:
    """Its definer's, unless its head says otherwise; what its body says does not count."""
    (stored,) = read(f"DELIMITER ;;\n{text};;\n")
    assert (stored.name, stored.definer, stored.as_definer) == ("p", "a@b", as_definer)


def test_backslashes_by_mode() -> None:
    """Under NO_BACKSLASH_ESCAPES a string ends where the server ends it."""
    head = "DELIMITER ;;\nCREATE DEFINER=`a`@`b` PROCEDURE `p`() SELECT '\\'"
    assert len(read("SET sql_mode = 'NO_BACKSLASH_ESCAPES';\n" + head + ";;\n")) == 1
    with pytest.raises(SafetyRefused, match="in the middle"):
        read(head + ";;\n")


def test_indexes_are_deferred_unless_a_counter_needs_them() -> None:
    """Plain indexes and foreign keys go; what makes rows unique stays."""
    table = (
        "CREATE TABLE `a` (\n  `id` int(11) NOT NULL{auto},\n  `b` int(11) DEFAULT NULL COMMENT 'x\\n  KEY `y` (`z`)',\n"
        "  PRIMARY KEY (`{key}`),\n"
        "  UNIQUE KEY `u` (`b`),\n  KEY `id` (`id`),\n  KEY `k` (`b`,`id`) COMMENT 'a, b',\n"
        "  CONSTRAINT `f` FOREIGN KEY (`b`) REFERENCES `a` (`id`),\n"
        "  CONSTRAINT `c` CHECK (`b` > 0)\n) ENGINE=InnoDB;"
    )
    (plain,) = read(table.format(auto="", key="b"))
    text, later = statements.defer(plain.piece)
    assert later == [
        "KEY `id` (`id`)",
        "KEY `k` (`b`,`id`) COMMENT 'a, b'",
        "CONSTRAINT `f` FOREIGN KEY (`b`) REFERENCES `a` (`id`)",
    ]
    assert "UNIQUE KEY `u`" in text
    assert text.endswith("  CONSTRAINT `c` CHECK (`b` > 0)\n) ENGINE=InnoDB")
    (counting,) = read(table.format(auto=" AUTO_INCREMENT", key="id"))
    assert len(statements.defer(counting.piece)[1]) == 3
    (needed,) = read(table.format(auto=" AUTO_INCREMENT", key="b"))
    assert statements.defer(needed.piece) == (needed.piece.text, [])


def test_a_default_follows_its_sequence() -> None:
    """Only the source's own database is renamed."""
    text = (
        "nextval(`a``b`.`s`), NEXTVAL(`other`.`s`), lastval(`a``b`.`s`), setval(`a``b`.`s`, 1), 'nextval(`a``b`.`s`)'"
    )
    (piece,) = splitting.split(text + ";")
    moved = statements.sequence_owner(piece, "a`b", "n`wx")
    assert moved.text == (
        "nextval(`n``wx`.`s`), NEXTVAL(`other`.`s`), lastval(`n``wx`.`s`), setval(`n``wx`.`s`, 1), 'nextval(`a``b`.`s`)'"
    )
    assert len(moved.mask) == len(moved.text)


def test_rows_become_values() -> None:
    """NULL only for a field of exactly \\N; quotes are doubled, escapes stay."""
    rows = b"1\t\\N\n'\t\\\\N\n\\N\t'\\\\N'\n"
    assert values(rows, b"(") == b"('1',NULL),('''','\\\\N'),(NULL,'''\\\\N''')"
    assert values(b"\n", b"ROW(") == b"ROW('')"


def test_rows_are_cut_behind_rows() -> None:
    """Pieces near the limit, each of whole rows; a longer row is alone."""
    data = b"aa\nbb\n" + b"c" * 50 + b"\ndd\n"
    pieces = list(whole_rows(iter([data[:7], data[7:20], data[20:]]), 8))
    assert b"".join(pieces) == data
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert b"c" * 50 + b"\n" in pieces


@pytest.mark.parametrize(
    ("kind", "whole", "charset", "encoding"),
    [
        ("enum", "enum('a','')", "utf8mb4", "index"),
        ("enum", "enum('','a')", "utf8mb4", "index"),
        ("enum", "enum('''','a,b''')", "utf8mb4", "text"),
        ("enum", "enum(' ')", "utf8mb4", "index"),
        ("enum", "enum('a')", "sjis", "index"),
        ("set", "set('a')", "latin1", "utf8"),
        ("varchar", "varchar(9)", "cp932", "hex"),
        ("varchar", "varchar(9)", "ucs2", "hex"),
        ("varchar", "varchar(9)", "utf16", "utf8"),
        ("varchar", "varchar(9)", "koi8r", "hex"),
        ("blob", "blob", None, "hex"),
        ("polygon", "polygon", None, "hex"),
        ("float", "float(7,3)", None, "float"),
        ("uuid", "uuid", None, "cast"),
        ("newtype", "newtype", None, "hex"),
    ],
)
def test_encodings(kind: str, whole: str, charset: str | None, encoding: str) -> None:
    """By type and character set; what is not known is written as bytes."""
    assert encoding_of(Column("c", kind, whole, charset, True), frozenset({"latin1"})) == encoding


def test_encodings_of_a_manifest_are_words_of_ours() -> None:
    """Anything else is nothing."""
    assert known_encodings(["plain", "hex"], 2) == ("plain", "hex")
    for words in (["plain"], ["plain", "x"], "pl", None, [1, 2], ["plain", ["hex"]]):
        assert known_encodings(words, 2) is None


def test_versions() -> None:
    """MariaDB, MySQL, and what is neither."""
    assert parse_version("10.11.19-MariaDB-0+deb12u1-log") == Server(
        "mariadb", (10, 11, 19), "10.11.19-MariaDB-0+deb12u1-log"
    )
    assert parse_version("5.5.5-10.6.4-MariaDB").version == (10, 6, 4)
    assert parse_version("8.0.36").release == "mysql-8.0"
    with pytest.raises(Unreachable):
        parse_version("hello")
    assert is_vulnerable("mariadb  Ver 15.1 Distrib 10.11.6-MariaDB, for x")
    assert not is_vulnerable("mariadb  Ver 15.1 Distrib 10.11.19-MariaDB, for x")
    assert not is_vulnerable("mariadb from 11.8.2-MariaDB, client 15.2")
    assert quote_text("a'b\\c\n") == "'a''b\\\\c\\n'"


@pytest.mark.parametrize(
    ("number", "kind"), [(1114, StorageRefused), (1021, StorageRefused), (2013, Unreachable), (1062, Failed)]
)
def test_a_full_disk_and_a_broken_line_are_not_the_snapshots_fault(number: int, kind: type[BackupdError]) -> None:
    """A drill that met one of them has not been tried, and says nothing of the snapshot."""
    place = ServerPlace("mariadb", "scratch1", 3306, "drill", "d")
    assert type(explain(number, place, "loading table t", subject="t")) is kind
