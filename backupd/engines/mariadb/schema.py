"""Definitions as SQL: what the native dump program prints."""

import re
from collections.abc import Mapping, Sequence

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb import splitting, statements
from backupd.engines.mariadb.catalog import Catalog
from backupd.engines.mariadb.client import NO_LIMIT, Server, quote_name
from backupd.engines.mariadb.tools import Tools, run_dump
from backupd.errors import SafetyRefused, SourceIncomplete

_LIMIT = 256 << 20
_LAST_LINES = (b"SET SQL_NOTES=@OLD_SQL_NOTES */;", b"SET NOTE_VERBOSITY=@OLD_NOTE_VERBOSITY */;")
"""How a dump ends; the latter, if MariaDB's program is a newer one (11.8 is)."""
_SANDBOX = (b"/*M!999999\\- enable the sandbox mode */", b"/*!999999\\- enable the sandbox mode */")
_PLAIN = (
    "--skip-comments",
    "--skip-add-drop-table",
    "--skip-lock-tables",
    "--default-character-set=utf8mb4",
    "--quote-names",
)
_MYSQL = ("--set-gtid-purged=OFF", "--column-statistics=0", "--no-tablespaces")
_MASKS = "--masking-policies"
_MASKED = re.compile(r"(?<![\w`])MASKING\s+POLICY\b", re.IGNORECASE)


def dump(tools: Tools, place: ServerPlace, server: Server, exclude: Sequence[str]) -> bytes:
    """The definitions of everything but the excluded tables, as one SQL text that native tools can load.

    Raises:
        SourceIncomplete: the dump program failed, or its text does not end as it should.
    """
    words = [*_PLAIN, "--no-data", "--routines", "--events", "--triggers"]
    words += [f"--ignore-table={place.database}.{name}" for name in exclude]
    words += _own_words(tools, server)
    return _finished(
        run_dump(tools, [*words, "--", place.database], limit=_LIMIT, subject=place.database), place.database
    )


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
    words += _own_words(tools, server)
    return _finished(
        run_dump(tools, [*words, "--", place.database], limit=_LIMIT, subject=place.database), place.database
    )


def _own_words(tools: Tools, server: Server) -> list[str]:
    """What MySQL's program is told and MariaDB's does not know."""
    if server.vendor != "mysql":
        return []
    return [*_MYSQL, *(["--skip" + _MASKS.removeprefix("-")] if tools.dump_knows(_MASKS) else [])]


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
    text = run_dump(
        tools, [*words, "--no-data", "--no-create-info", "--", "mysql"], limit=_LIMIT, subject="the accounts"
    )
    return _finished(text, "the accounts")


def require_all_rows(settings: Mapping[str, object]) -> None:
    """The accounts are rows, and the dump program would print no more of them than the server lets a SELECT give.

    Raises:
        SourceIncomplete: the server has a global sql_select_limit.
    """
    if settings.get("sql_select_limit") != str(NO_LIMIT):
        raise SourceIncomplete(
            "the server's global sql_select_limit may hide accounts from the dump program",
            object_name="the accounts",
            hint="SET GLOBAL sql_select_limit = DEFAULT, or back up without the globals",
        )


def check(text: bytes, triggers: bytes, catalog: Catalog) -> str | None:
    """Compare the dumped definitions with the catalogue; a warning if a restore would refuse them as they are.

    Args:
        text: all definitions.
        triggers: those of the triggers alone.

    Raises:
        SourceIncomplete: an object of the catalogue is missing.
    """
    warning = None
    try:
        known = _names(text)
        missing = [label for label, name, kind in _expected(catalog) if (kind, name.casefold()) not in known]
    except SafetyRefused as refusal:
        warning = f"a restore would refuse the definitions: {refusal.message}"
        missing = [label for label, name, _ in _expected(catalog) if not _mentions(text, name)]
    missing += [
        f"trigger {stored.name}"
        for stored in catalog.stored
        if stored.kind == "trigger" and not _mentions(triggers, stored.name)
    ]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise SourceIncomplete(
            f"the dump program left out {', '.join(missing[:8])}{more}",
            object_name=missing[0],
            hint="see whether the server has a global sql_select_limit, and what the backup user may read",
        )
    return warning


def _names(text: bytes) -> set[tuple[str, str]]:
    """The kinds and names of what a text of definitions makes."""
    pieces = list(splitting.split(text.decode("utf-8", "surrogateescape")))
    if masked := next((piece for piece in pieces if _MASKED.search(piece.mask)), None):
        found = re.search(r"`((?:[^`]|``)+)`", masked.text)
        name = found[1].replace("``", "`") if found else ""
        raise SourceIncomplete(
            f"table {name} has a masking policy: what the backup user reads may be masked", object_name=name
        )
    definitions = statements.read(pieces)
    return {(definition.kind, definition.name.casefold()) for definition in definitions}


def _expected(catalog: Catalog) -> list[tuple[str, str, str]]:
    """Of every object, what to call it, its name, and what kind of definition it must have."""
    tables = [(f"table {name}", name, "table") for name in catalog.tables]
    others = [
        (f"{engine} {name}", name, "sequence" if engine == "sequence" else "table")
        for name, engine in catalog.others.items()
    ]
    kinds = {"view": "view", "trigger": "trigger", "event": "event"}
    stored = [
        (f"{stored.kind} {stored.name}", stored.name, kinds.get(stored.kind, "routine")) for stored in catalog.stored
    ]
    return tables + others + stored


def _mentions(text: bytes, name: str) -> bool:
    """Whether a name is in a text, in either kind of quotes or, as triggers have it, in none."""
    plain, quoted = (re.escape(word.encode("utf-8", "surrogateescape")) for word in (name, quote_name(name)))
    return re.search(rb"(?<!\w)%b(?!\w)|%b" % (plain, quoted), text) is not None


def _finished(text: bytes, subject: str) -> bytes:
    """The text without the line that old clients trip over.

    Raises:
        SourceIncomplete: the last line is missing.
    """
    if not text.rstrip().endswith(_LAST_LINES):
        raise SourceIncomplete(f"the dump of {subject} ended early", object_name=subject, hint="run again")
    for line in _SANDBOX:
        if text.startswith(line):
            text = text[len(line) :].lstrip()
    return text
