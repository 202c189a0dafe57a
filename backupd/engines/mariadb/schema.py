"""Definitions as SQL: what the native dump program prints."""

from collections.abc import Sequence

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import Server
from backupd.engines.mariadb.tools import Tools, run_dump
from backupd.errors import SourceIncomplete

_LIMIT = 256 << 20
_LAST_LINE = b"SET SQL_NOTES=@OLD_SQL_NOTES */;"
_SANDBOX = (b"/*M!999999\\- enable the sandbox mode */", b"/*!999999\\- enable the sandbox mode */")
_PLAIN = (
    "--skip-comments",
    "--skip-add-drop-table",
    "--skip-lock-tables",
    "--default-character-set=utf8mb4",
    "--quote-names",
)
_MYSQL = ("--set-gtid-purged=OFF", "--column-statistics=0", "--no-tablespaces")


def dump(tools: Tools, place: ServerPlace, server: Server, exclude: Sequence[str]) -> bytes:
    """The definitions of everything but the excluded tables, as one SQL text that native tools can load.

    Raises:
        SourceIncomplete: the dump program failed, or its text does not end as it should.
    """
    words = [*_PLAIN, "--no-data", "--routines", "--events", "--triggers"]
    words += [f"--ignore-table={place.database}.{name}" for name in exclude]
    words += _MYSQL if server.vendor == "mysql" else ()
    return _finished(run_dump(tools, [*words, place.database], limit=_LIMIT, subject=place.database), place.database)


def dump_triggers(tools: Tools, place: ServerPlace, server: Server, exclude: Sequence[str]) -> bytes:
    """The definitions of the triggers alone.

    Raises:
        SourceIncomplete: the dump program failed, or its text does not end as it should.
    """
    words = [
        *_PLAIN,
        "--no-data",
        "--no-create-info",
        "--no-create-db",
        "--triggers",
        "--skip-routines",
        "--skip-events",
    ]
    words += [f"--ignore-table={place.database}.{name}" for name in exclude]
    words += _MYSQL if server.vendor == "mysql" else ()
    return _finished(run_dump(tools, [*words, place.database], limit=_LIMIT, subject=place.database), place.database)


def dump_globals(tools: Tools, server: Server) -> bytes:
    """The accounts, roles and grants of the server, with the hashes of their passwords.

    Raises:
        SourceIncomplete: MySQL, or the user may not read them.
    """
    if server.vendor == "mysql":
        raise SourceIncomplete("accounts and grants are captured from MariaDB only", hint="back up without the globals")
    words = [
        "--system=users",
        "--skip-comments",
        "--skip-lock-tables",
        "--default-character-set=utf8mb4",
        "--insert-ignore",
    ]
    text = run_dump(tools, [*words, "--no-data", "--no-create-info", "mysql"], limit=_LIMIT, subject="the accounts")
    return _finished(text, "the accounts")


def _finished(text: bytes, subject: str) -> bytes:
    """The text without the line that old clients trip over.

    Raises:
        SourceIncomplete: the last line is missing.
    """
    if not text.rstrip().endswith(_LAST_LINE):
        raise SourceIncomplete(f"mariadb-dump of {subject} ended early", object_name=subject, hint="run again")
    for line in _SANDBOX:
        if text.startswith(line):
            text = text[len(line) :].lstrip()
    return text
