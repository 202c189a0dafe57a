"""Which tables of two moments can be compared, on which columns, and what has changed of their shape rather than their rows.

Equal rows are equal texts only where the row format's fingerprint is equal. Where it is not, either the columns explain
it, and the columns that both sides write alike are compared; or it is said that the rows cannot be compared by text.
Never are differences of writing told as changes of data.
"""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from backupd.errors import SafetyRefused, UsageError
from backupd.records.shapes import Projection, TextShape
from backupd.records.values import Decode, hexadecimal, integer, text_decoder

_INTEGERS = re.compile(r"(tiny|small|medium|big)?int(eger)?(\(\d+\))?( unsigned)?")
_TEXTS = re.compile(r"^((tiny|medium|long)?text|(character varying|varchar)(\(\d+\))?)(?= |$)")
_PG_CODECS = {
    "SQL_ASCII": "utf-8",
    "EUC_JIS_2004": "euc_jis_2004",
    "UHC": "cp949",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
}


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """Something about a table's shape (or, without a table, about other definitions) that is not what it was."""

    table: str | None
    change: str
    object: str | None = None
    old: str | None = None
    new: str | None = None

    def values(self) -> dict[str, str | None]:
        """As JSON."""
        return {"table": self.table, "change": self.change, "object": self.object, "old": self.old, "new": self.new}


@dataclass(frozen=True, slots=True)
class Moment:
    """What a snapshot, or a live source, says of its tables.

    Attributes:
        tables: as a manifest lists them, by name; of those whose rows it has.
        left_out: tables whose rows were not captured.
    """

    engine: str
    facts: Mapping[str, Any]
    tables: Mapping[str, Mapping[str, Any]]
    left_out: Set[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Match:
    """A table, and how it is compared.

    Attributes:
        projections: of the old and the new side's rows; None where the rows are compared as they stand.
        reason: why it cannot be compared; None if it can.
    """

    name: str
    shape: TextShape
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    projections: tuple[Projection, Projection] | None = None
    reason: str | None = None
    changes: tuple[SchemaChange, ...] = field(default=())


class Opaque(UsageError):
    """A snapshot is an archive of the server's own tool: nothing can be looked up in it."""


def moment_of(content: Mapping[str, Any]) -> Moment:
    """What a snapshot's content part says.

    Raises:
        UsageError: it holds nothing that could be compared.
    """
    stored = {s["name"] for s in content["streams"] if s["kind"] == "rows"}
    if not stored and any(s["kind"] == "schema" and s["name"] == "native" for s in content["streams"]):
        raise Opaque("the snapshot is one opaque archive, whose records cannot be compared")
    tables = {t["name"]: t for t in content["tables"]}
    kept = {name: table for name, table in tables.items() if name in stored}
    named = {str(name) for key in ("excluded", "skipped") for name in content["facts"].get(key) or ()}
    return Moment(content["engine"], content["facts"], kept, (named | set(tables)) - stored)


def check_engines(old: str, new: str) -> None:
    """Both sides are of one engine.

    Raises:
        SafetyRefused: they are not.
    """
    if old != new:
        raise SafetyRefused(
            f"one side is a {old} database and the other one a {new} database",
            hint="compare snapshots of one source, or of copies of it on the same kind of server",
        )


def match_tables(old: Moment, new: Moment, wanted: str | None = None) -> Iterator[Match]:
    """Every table of both sides, or one of them, and how its rows are to be compared.

    Raises:
        UsageError: neither side has the table that is wanted.
    """
    known = sorted({*old.tables, *new.tables})
    if wanted is not None and wanted not in known:
        left_out = wanted in old.left_out | new.left_out
        raise UsageError(
            f"the rows of table {wanted} were not captured" if left_out else f"neither side has a table {wanted}",
            object_name=wanted,
            hint="`backupctl show SNAPSHOT` lists the tables of a snapshot",
        )
    for name in known if wanted is None else [wanted]:
        before, after = old.tables.get(name), new.tables.get(name)
        if before is not None and after is not None:
            yield _both(name, before, after, old, new)
        else:
            yield _one(name, before, after, old, new)


def _one(
    name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, old: Moment, new: Moment
) -> Match:
    """A table that only one side has."""
    here, there = (old, new) if before is not None else (new, old)
    table = here.tables[name]
    shape = _shape(here, table, [c for c, _ in table["columns"]], table["key"])
    if name in there.left_out:
        reason = "its rows were left out of one of the two"
        return Match(name, shape, before, after, reason=reason)
    change = SchemaChange(name, "table removed" if after is None else "table added")
    return Match(name, shape, before, after, changes=(change,))


def _both(name: str, before: Mapping[str, Any], after: Mapping[str, Any], old: Moment, new: Moment) -> Match:
    changes = list(_changes(name, before, after))
    was, now = dict(before["columns"]), dict(after["columns"])
    if before["format"] == after["format"] and before["columns"] == after["columns"]:
        names = [column for column, _ in after["columns"]]
        shape = _shape(new, after, names, _key(before, after, names))
        return Match(name, shape, before, after, changes=tuple(changes))
    ways_was, ways_now = ways_of(old, before), ways_of(new, after)
    names = [c for c in now if c in was and _family(was[c]) == _family(now[c]) and ways_was.get(c) == ways_now.get(c)]
    shape = _shape(new, after, names, _key(before, after, names))
    reason = None
    if _context(old) != _context(new):
        reason = "the two servers write rows in different ways (another version or character set)"
    elif before["columns"] == after["columns"]:
        reason = "the columns are the same, but what their types mean, or how they are written, has changed"
    elif not names:
        reason = "the two have no column in common"
    if reason is not None:
        return Match(name, shape, before, after, reason=f"cannot be compared by text: {reason}", changes=tuple(changes))
    projections = (
        Projection([[c for c, _ in before["columns"]].index(n) for n in names]),
        Projection([[c for c, _ in after["columns"]].index(n) for n in names]),
    )
    return Match(name, shape, before, after, projections, changes=tuple(changes))


def _changes(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[SchemaChange]:
    yield from column_changes(name, dict(before["columns"]), dict(after["columns"]))
    if list(before["key"]) != list(after["key"]):
        yield SchemaChange(name, "key changed", None, ", ".join(before["key"]), ", ".join(after["key"]))


def column_changes(name: str, was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[SchemaChange]:
    """Columns that came, went, or have another type.

    Args:
        name: of the table.
        was, now: types by the columns' names.
    """
    for column, kind in was.items():
        if column not in now:
            yield SchemaChange(name, "column removed", column, kind, None)
        elif now[column] != kind:
            yield SchemaChange(name, "column retyped", column, kind, now[column])
    for column, kind in now.items():
        if column not in was:
            yield SchemaChange(name, "column added", column, None, kind)


def _key(before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    """The key by which rows are paired: today's, or the former one, if its columns are compared."""
    for table in (after, before):
        if table["key"] and set(table["key"]) <= set(names):
            return list(table["key"])
    return []


def _family(kind: str) -> str:
    """A type, or the word for all types whose equal values are equal texts."""
    return "integer" if _INTEGERS.fullmatch(kind) else _TEXTS.sub("text", kind)


def _context(moment: Moment) -> object:
    """What decides how a server writes every row."""
    facts = moment.facts
    if moment.engine == "postgresql":
        number = facts.get("server_version_num")
        return number // 10_000 if isinstance(number, int) else None, _encoding(moment)
    version = facts.get("version")
    return facts.get("vendor"), list(version)[:2] if isinstance(version, Sequence) else None


def _encoding(moment: Moment) -> str:
    database = moment.facts.get("database")
    return str(database.get("encoding", "")) if isinstance(database, Mapping) else ""


def ways_of(moment: Moment, table: Mapping[str, Any]) -> dict[str, str]:
    """How MariaDB writes each column."""
    tables = moment.facts.get("tables")
    found = tables.get(table["name"]) if isinstance(tables, Mapping) else None
    words = found.get("encodings") if isinstance(found, Mapping) else None
    if moment.engine == "postgresql" or not isinstance(words, Sequence):
        return {}
    return {column: str(word) for (column, _), word in zip(table["columns"], words, strict=False)}


def codec_of(moment: Moment) -> str:
    """In which character set, as Python calls it, texts stand in rows."""
    return codec(_encoding(moment)) if moment.engine == "postgresql" else "utf-8"


def is_utf8(moment: Moment) -> bool:
    """Whether texts stand in rows as UTF-8, without exception."""
    return moment.engine != "postgresql" or _encoding(moment) == "UTF8"


def decoders_of(moment: Moment, table: Mapping[str, Any], names: Sequence[str]) -> list[Decode]:
    """What the cells of columns mean."""
    kinds, ways = dict(table["columns"]), ways_of(moment, table)
    text = text_decoder(codec_of(moment))
    return [_decoder(kinds[name], ways.get(name, ""), text) for name in names]


def _shape(moment: Moment, table: Mapping[str, Any], names: Sequence[str], key: Sequence[str]) -> TextShape:
    decoders = decoders_of(moment, table, names)
    known = [name for name in key if name in names]
    return TextShape(names, [names.index(name) for name in known] if len(known) == len(key) else (), decoders)


def _decoder(kind: str, way: str, text: Decode) -> Decode:
    if way == "index" or (way in ("plain", "") and _INTEGERS.fullmatch(kind)):
        return integer
    return hexadecimal if way == "hex" or kind == "bytea" else text


def codec(encoding: str) -> str:
    """What Python calls a character set of PostgreSQL's; UTF-8 for what it does not know."""
    name = _PG_CODECS.get(encoding, encoding.replace("WIN", "cp"))
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"
