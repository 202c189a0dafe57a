"""Which entries of an archive would run code as a superuser, or do what no dump does.

The rule is a list of what is allowed: a statement that is not known is refused like one that is known to be dangerous.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from backupd.engines.postgres.archive import Archive, Entry
from backupd.engines.postgres.sqltext import Statement, Token, Unclear, statements
from backupd.errors import SafetyRefused

UNKNOWN = "unknown-statement"
KINDS = ("event-trigger", "extension", "language", "c-function", "foreign-server", "subscription", UNKNOWN)
_TRUSTED_LANGUAGES = frozenset({"sql", "plpgsql", "plperl", "pltcl"})
_FRAME = ("ENCODING", "STDSTRINGS", "SEARCHPATH")
_DATABASE_ENTRIES = frozenset({"DATABASE", "DATABASE PROPERTIES"})
_OF_OBJECTS = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})
# Kinds of entries for which pg_dump writes several statements.
_OF_SEVERAL = frozenset(
    {"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "TYPE", "INDEX", "CONSTRAINT", "STATISTICS"}
    | {"TRIGGER", "EVENT TRIGGER", "RULE", "ACL", "DEFAULT ACL", "SECURITY LABEL", "TEXT SEARCH CONFIGURATION"}
    | {"OPERATOR FAMILY", "OPERATOR CLASS"}
)
# Encodings in which the second byte of a character may look like a quote or a backslash.
_UNSAFE_ENCODINGS = frozenset({"SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004"})
_MODIFIERS = frozenset(
    {
        "or",
        "replace",
        "unlogged",
        "unique",
        "constraint",
        "materialized",
        "recursive",
        "trusted",
        "procedural",
        "default",
    }
)
_PLAIN = frozenset(
    {"table", "view", "index", "sequence", "type", "domain", "schema", "collation", "conversion", "cast", "operator"}
    | {"aggregate", "text", "trigger", "rule", "policy", "publication", "statistics", "transform"}
)
_ALTERED = _PLAIN | {"function", "procedure", "routine", "large"}
_DANGEROUS = {
    "event": "event-trigger",
    "extension": "extension",
    "language": "language",
    "access": "c-function",
    "foreign": "foreign-server",
    "server": "foreign-server",
    "user": "foreign-server",
    "subscription": "subscription",
}
_HARMLESS_CALL = re.compile(r"SELECT pg_catalog\.lo_create\('[0-9]+'\)\Z")


@dataclass(frozen=True, slots=True)
class Danger:
    """One object that is refused unless its kind is allowed."""

    kind: str
    object: str


def restorable(archive: Archive) -> list[Entry]:
    """The entries that make up the schema: without rows, and without what belongs to the database as a whole."""
    return [
        entry
        for entry in archive.entries
        if entry.desc not in {*_FRAME, *_DATABASE_ENTRIES}
        and not (entry.desc in _OF_OBJECTS and entry.tag.startswith("DATABASE "))
        and entry.desc not in {"TABLE DATA", "SEQUENCE SET", "BLOBS", "BLOB DATA", "STATISTICS DATA"}
        and entry.defn
    ]


def dangers(archive: Archive, entries: Iterable[Entry], trusted_extensions: Collection[str]) -> list[Danger]:
    """What the entries would do that needs to be allowed.

    Args:
        archive: its frame decides how the server reads all statements.
        entries: those that pg_restore is told to execute.
        trusted_extensions: those that the target lets users create who are no superusers.
    """
    found = [Danger(UNKNOWN, entry.desc) for entry in archive.entries if not _is_sound_frame(entry)]
    present = [entry.desc for entry in archive.entries]
    # What is not set keeps pg_restore's own default, in which a backslash ends no string where it does here.
    found += [Danger(UNKNOWN, f"{present.count(desc)} {desc}") for desc in _FRAME if present.count(desc) != 1]
    for entry in entries:
        found += [Danger(kind, f"{entry.desc} {entry.tag}") for kind in _judge(entry, trusted_extensions)]
    return list(dict.fromkeys(found))


def refuse(found: Iterable[Danger], allow: Collection[str], name: str) -> None:
    """Refuse all dangers that are not allowed, listing each.

    Raises:
        SafetyRefused: there are some.
    """
    if "all" in allow:
        return
    refused = [danger for danger in found if danger.kind not in allow]
    if not refused:
        return
    listed = ", ".join(f"{_printable(danger.object)} ({danger.kind})" for danger in refused[:50])
    more = f" and {len(refused) - 50} more" if len(refused) > 50 else ""
    kinds = sorted({danger.kind for danger in refused})
    raise SafetyRefused(
        f"the snapshot holds objects that run code with a superuser's rights, or are not known: {listed}{more}",
        object_name=name,
        hint="if you trust where it comes from: " + " ".join(f"--allow {kind}" for kind in kinds),
    )


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _is_sound_frame(entry: Entry) -> bool:
    """Whether an entry that pg_restore acts on in any case is what pg_dump writes."""
    if entry.desc == "ENCODING":
        encoding = re.fullmatch(r"SET client_encoding = '([A-Za-z0-9_]+)';\n", entry.defn)
        return encoding is not None and encoding[1].upper() not in _UNSAFE_ENCODINGS
    if entry.desc == "STDSTRINGS":
        return entry.defn == "SET standard_conforming_strings = 'on';\n"
    if entry.desc == "SEARCHPATH":
        return entry.defn == "SELECT pg_catalog.set_config('search_path', '', false);\n"
    return True


def _judge(entry: Entry, trusted: Collection[str]) -> Iterator[str]:
    if entry.desc in {"BLOB", "BLOB METADATA"} and not _is_sound_blob(entry):
        yield UNKNOWN
        return
    if entry.has_data or entry.copy:
        # No entry without rows has either, and pg_restore would execute the statement that is to copy them.
        yield UNKNOWN
    try:
        if entry.desc != "BLOB METADATA":
            found = list(statements(entry.defn))
            if len(found) > 1 and entry.desc not in _OF_SEVERAL:
                yield UNKNOWN
            for statement in found:
                yield from _judge_statement(statement, trusted)
        # pg_restore makes ALTER ... OWNER TO of some of these, so they are executed as well.
        drops = list(statements(entry.drop)) if entry.desc != "BLOB METADATA" else []
        if len(drops) > 1 or any(drop.word(0) not in {"drop", "alter", "select"} for drop in drops):
            yield UNKNOWN
    except Unclear:
        yield UNKNOWN


def _is_sound_blob(entry: Entry) -> bool:
    """Large objects are named by numbers, which pg_restore puts into statements as they are."""
    if entry.desc == "BLOB":
        return entry.tag.isascii() and entry.tag.isdigit()
    return re.fullmatch(r"(?:[0-9]+\n?)*", entry.defn) is not None


def _judge_statement(statement: Statement, trusted: Collection[str]) -> Iterator[str]:
    verb = statement.word(0)
    if verb == "create":
        yield from _judge_create(statement, trusted)
    elif verb == "alter":
        yield from _judge_alter(statement)
    elif verb in {"grant", "revoke"}:
        if "on" not in statement.words:
            yield UNKNOWN
        elif "foreign" in statement.words:
            yield "foreign-server"
    elif verb in {"comment", "security"} or (verb == "refresh" and statement.word(1) == "materialized"):
        return
    elif not _HARMLESS_CALL.match(statement.text):
        yield UNKNOWN


def _judge_create(statement: Statement, trusted: Collection[str]) -> Iterator[str]:
    place = 1
    while statement.word(place) in _MODIFIERS:
        place += 1
    what = statement.word(place)
    if what in {"function", "procedure"}:
        yield from _judge_languages(statement)
    elif what == "extension":
        words = [token.text for token in statement.tokens[place + 1 :]]
        name = words[3] if words[:3] == ["if", "not", "exists"] and len(words) > 3 else words[0] if words else ""
        if name not in trusted or "from" in statement.words:
            yield "extension"
    elif what == "user" and statement.word(place + 1) != "mapping":
        yield UNKNOWN
    elif what in _DANGEROUS:
        yield _DANGEROUS[what]
    elif what not in _PLAIN or (what == "table" and _has_query(statement)):
        yield UNKNOWN


def _has_query(statement: Statement) -> bool:
    """Whether it is CREATE TABLE ... AS, which runs a query at once."""
    depth = 0
    for token in statement.tokens:
        if token.kind == "mark" and token.text in "()":
            depth += 1 if token.text == "(" else -1
        elif depth == 0 and token == Token("word", "as"):
            return True
    return False


def _judge_languages(statement: Statement) -> Iterator[str]:
    """Every language that a function names; a function without one is written in SQL."""
    for place, token in enumerate(statement.tokens[:-1]):
        if token.kind == "word" and token.text == "language":
            language = statement.tokens[place + 1].text
            if language in {"c", "internal"}:
                yield "c-function"
            elif language not in _TRUSTED_LANGUAGES:
                yield "language"


def _judge_alter(statement: Statement) -> Iterator[str]:
    place = 1
    while statement.word(place) in _MODIFIERS - {"default"}:
        place += 1
    what = statement.word(place)
    if what == "default" and statement.word(place + 1) == "privileges":
        return
    if what == "user" and statement.word(place + 1) != "mapping":
        yield UNKNOWN
    elif what in _DANGEROUS:
        yield _DANGEROUS[what]
    elif what not in _ALTERED:
        yield UNKNOWN
