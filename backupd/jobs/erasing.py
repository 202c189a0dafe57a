"""Adds an erasure to the ledger: looks through every snapshot of the source for what belongs to the subject, and keeps hashes.

The clear key is looked for and forgotten: no key, no value and no name goes into the record, a message or the result.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from backupd.config.clock import fine_stamp
from backupd.crypto.erasure import ErasureHash
from backupd.crypto.primitives import random_bytes
from backupd.engines.live import Live
from backupd.errors import BackupdError, Failed, MissingRight, UsageError
from backupd.jobs.appending import append_record
from backupd.jobs.computed import with_computed
from backupd.jobs.erasure import ROLES
from backupd.jobs.stored import StoredTable, StoredTables
from backupd.jobs.tableshapes import Opaque
from backupd.model import CELLS, Cells, Equality, LiveSchema, Reference
from backupd.records.belonging import Belongings, follow_down
from backupd.records.leading import Leading
from backupd.records.subject import Subject
from backupd.repo.erasures import Action, ErasedReference, ErasedTable, Erasure, documents
from backupd.repo.repository import Repository, SnapshotView
from backupd.report import Reporter

OpenTables = Callable[[SnapshotView], AbstractContextManager[StoredTables]]
"""Opens a snapshot's tables, rows that are hidden already among them."""
SchemaOf = Callable[[SnapshotView], LiveSchema]
"""What refers to what in a snapshot, and what is known of the columns of its tables."""
_UNSURE = re.compile(r"(char|varchar|(tiny|medium|long)?text)\b.* [a-z0-9]+|citext|.*\.citext")
_MODIFIER = re.compile(r"\([0-9, ]*\)")
_WHOLE = frozenset({"smallint", "integer", "bigint"})
_TEXTS = frozenset({"text", "character varying", "name"})
_NUMBERS = re.compile(r"(numeric|real|double precision|float|double)\b.*|.* zerofill")


@dataclass(slots=True)
class Found:
    """What belongs to a subject, over all snapshots, as hashes.

    Attributes:
        tables: by table, columns, and whether these are all that it has.
        references: by referring table, columns, what becomes of the row, and of which columns if it is not all of them.
        counts: of each table, the most rows that one snapshot had.
        snapshots: those that have the subject's row, oldest first; of `looked` that were looked through.
        apart: sentences about what may not have been found.
        subject: the hash of its key; `key` and `cells` are the key's columns, and what was looked for.
    """

    tables: dict[tuple[str, tuple[str, ...], bool], set[bytes]] = field(default_factory=dict)
    references: dict[tuple[str, tuple[str, ...], Action, tuple[str, ...]], set[bytes]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    snapshots: list[SnapshotView] = field(default_factory=list)
    looked: int = 0
    apart: dict[str, None] = field(default_factory=dict)
    subject: bytes = b""
    key: tuple[str, ...] = ()
    cells: Cells = field(default=(), repr=False)


def records_hash(repo: Repository) -> tuple[ErasureHash, bytes]:
    """What hashes for records that are written now, and the id of its key.

    Raises:
        MissingRight: no key at hand seals records.
    """
    from backupd.crypto.envelope import structure_key_id

    key = repo.keyring.records_key()
    if key is None:
        raise MissingRight("no key at hand seals records", hint="use read.key, recovery.key or root.key")
    return ErasureHash.of(key), structure_key_id(key)


def look_for(
    views: Iterable[SnapshotView],
    subject: Subject,
    open_tables: OpenTables,
    schema_of: SchemaOf,
    hasher: ErasureHash,
    report: Reporter,
    live: Live | None = None,
) -> Found:
    """Look through snapshots for everything that belongs to a subject, in whatever spelling it refers to it.

    Args:
        views: of the snapshots.
        subject: whose rows are looked for.
        open_tables: opens a snapshot.
        schema_of: what refers to what in it.
        hasher: hashes what is found.
        report: progress, and what could not be told.
        live: the live database, which is asked which values it takes for one; None if there is none.

    Raises:
        Failed: none of them has it.
        UsageError: its table has no key, or another number of columns in it, in each of them.
    """
    found = Found()
    doubts: set[tuple[str, Cells]] = set()
    remarks: dict[str, None] = {}
    strange: list[BackupdError] = []
    for view in views:
        report.phase(f"looking through the snapshot of {view.structure.taken_at}")
        found.looked += 1
        try:
            with open_tables(view) as tables:
                sought = _sought(tables, subject)
                if isinstance(sought, BackupdError):
                    strange.append(sought)
                    continue
                schema = schema_of(view)
                leading = _leading(tables, schema, live)
                if _look_in(found, tables, *sought, schema, leading, hasher, live):
                    found.snapshots.append(view)
                doubts |= leading.doubts
                remarks |= dict.fromkeys(leading.remarks())
        except Opaque:
            report.warning(
                f"the snapshot of {view.structure.taken_at} is an opaque archive: nothing of it comes back at all"
            )
    for text in (*remarks, *found.apart):
        report.warning(text)
    for table, count in sorted(Counter(table for table, _ in doubts).items()):
        report.warning(
            f"{count:,} values in {table} are perhaps this record's in another spelling, and what has them is not hidden:"
            " name the live database with --from, which knows"
        )
    if not found.snapshots:
        raise next((error for error in strange if isinstance(error, UsageError)), _unknown(subject))
    if strange:
        report.warning(
            f"{len(strange):,} of {found.looked:,} snapshots have no table {subject.table}, or one with another key:"
            " if the record was called otherwise there, it is not hidden; add it as they call it, too"
        )
    return found


def _unknown(subject: Subject) -> Failed:
    return Failed(
        f"no snapshot of the source has this record of {subject.table}",
        object_name=subject.table,
        hint="see that table and key are right; what no snapshot holds need not be erased",
    )


def _sought(tables: StoredTables, subject: Subject) -> tuple[StoredTable, Cells] | BackupdError:
    """A subject's table and key in one snapshot, or why it is not known there."""
    table = tables.tables.get(subject.table)
    try:
        return _unknown(subject) if table is None else (table, _key(table, subject))
    except UsageError as error:
        return error


def _leading(tables: StoredTables, schema: LiveSchema, live: Live | None) -> Leading:
    """How the values of a snapshot compare: as the schema says, or as far as their types tell."""
    known = {
        (name, column): _by_type(kind)
        for name, table in tables.tables.items()
        for column, kind in (table.columns if tables.engine != "sqlite" else ())
    }
    known |= {(t.name, c.name): c.equality for t in schema.tables.values() for c in t.columns}
    return Leading(
        known, live.alike if live else None, wide=tables.engine == "sqlite", across=live.across if live else None
    )


def _apart(tables: StoredTables, references: Iterable[Reference]) -> Iterator[str]:
    """Sentences about references between types of which equal values may have other texts, where nobody can be asked."""
    for r in references if tables.engine == "postgresql" else ():
        child, parent = (dict(tables.tables[name].columns) for name in (r.table, r.parent))
        for column, to in zip(r.columns, r.parent_columns, strict=True):
            kinds = _family(child[column]), _family(parent[to])
            if kinds[0] != kinds[1] and kinds != ("integer", "numeric"):
                yield (
                    f"{r.table}.{column} refers to {r.parent}.{to} of another type, so only what has equal texts was found:"
                    " name the live database with --from, which knows"
                )


def _family(kind: str) -> str:
    """A type, or the word for all types whose equal values have equal texts."""
    bare = _MODIFIER.sub("", kind)
    return "integer" if bare in _WHOLE else "text" if bare in _TEXTS else bare


def _by_type(kind: str) -> Equality:
    """What a server's type says of which values are one; of a text's collation it says nothing."""
    if _NUMBERS.fullmatch(kind):
        return Equality("numbers")
    if _UNSURE.fullmatch(kind) and not kind.startswith("character"):
        return Equality("letters", proven=False)
    return Equality("padded") if kind.startswith("character(") else CELLS


def _look_in(
    found: Found,
    tables: StoredTables,
    table: StoredTable,
    key: Cells,
    schema: LiveSchema,
    leading: Leading,
    hasher: ErasureHash,
    live: Live | None,
) -> bool:
    """Note what one snapshot has of a subject; returns whether it has it."""
    itself = Reference("", table.name, table.key, table.name, table.key)
    there = with_computed(tables.tables, live.across if live else None, schema, schema.references)
    rows = list(leading.parents(itself, there[table.name], [key]))
    if rows:
        columns = {name: [c for c, _ in t.columns] for name, t in there.items()}
        cells = tuple(rows[0][columns[table.name].index(column)] for column in table.key)
        found.subject = hasher.rows(table.name, table.key)(cells)
        found.key, found.cells = table.key, cells

        def look(reference: Reference, values: Collection[Cells]) -> Iterator[Cells]:
            return leading.children(reference, there[reference.table], values)

        belongings = follow_down(table.name, rows, columns, schema.references, look, leading.is_plain, leading.is_own)
        _note(found, belongings, tables, hasher)
        found.apart |= dict.fromkeys(_unfollowed(schema.references, belongings, columns))
        if live is None:
            found.apart |= dict.fromkeys(_apart(tables, (*belongings.deleting, *belongings.emptying)))
    return bool(rows)


def _unfollowed(
    references: Iterable[Reference], belongings: Belongings, columns: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Sentences about references to rows that belong to a subject, where a snapshot has no values to follow them by."""
    for r in references:
        if r.parent not in belongings.rows or r.table not in columns:
            continue
        for name, needed in ((r.table, r.columns), (r.parent, r.parent_columns)):
            if missing := [column for column in needed if column not in columns[name]]:
                yield (
                    f"rows of {r.table} that belong to those of {r.parent} were not looked for, and are not hidden: a snapshot"
                    f" has no values of {name}.{missing[0]}"
                )


def _key(table: StoredTable, subject: Subject) -> Cells:
    if not table.key:
        raise UsageError(f"the table {table.name} has no key by which a subject could be named", object_name=table.name)
    if len(table.key) != len(subject.key):
        raise UsageError(
            f"the key of {table.name} has {len(table.key)} columns ({', '.join(table.key)}), not {len(subject.key)}",
            hint="write the values separated by commas; a backslash keeps a comma in a value",
        )
    return tuple(table.cell(column, text) for column, text in zip(table.key, subject.key, strict=True))


def _note(found: Found, belongings: Belongings, tables: StoredTables, hasher: ErasureHash) -> None:
    for name, rows in belongings.rows.items():
        table = tables.tables[name]
        names = tuple(column for column, _ in table.columns)
        wanted = table.key or names
        places = [names.index(column) for column in wanted]
        digest = hasher.rows(name, wanted)
        hashes = {digest(tuple(row[at] for at in places)) for row in rows}
        found.tables.setdefault((name, wanted, not table.key), set()).update(hashes)
        found.counts[name] = max(found.counts[name], len(rows))
    actions: tuple[tuple[Action, dict[Reference, set[Cells]]], ...] = (
        ("delete", dict(belongings.deleting)),
        ("null", dict(belongings.emptying)),
    )
    for action, followed in actions:
        for reference, values in followed.items():
            if not {*reference.columns} <= {column for column, _ in tables.tables[reference.table].columns}:
                continue  # rows that are restored have no values of what is computed: each is known by itself
            digest = hasher.rows(reference.table, reference.columns)
            cleared = reference.cleared if action == "null" else ()
            place = reference.table, reference.columns, action, cleared
            found.references.setdefault(place, set()).update(map(digest, values))


def is_live(live: Live, subject: Subject, found: Found) -> bool:
    """Whether a live database still has the subject's row.

    Raises:
        Unreachable, SourceIncomplete: it cannot be read.
    """
    table = live.schema().tables.get(subject.table)
    there = {column.name for column in table.columns} if table else set()
    return set(found.key) <= there and any(live.rows(subject.table, found.key, found.key, [found.cells]))


def erasure_from(repo: Repository, found: Found, subject: Subject, reason: str, now: datetime) -> Erasure:
    """The ledger's entry for what was found."""
    hasher, key_id = records_hash(repo)
    newest = found.snapshots[-1]
    policy = repo.trust.policy
    tables = [
        ErasedTable(hasher.name(t), tuple(map(hasher.name, columns)), whole, frozenset(rows))
        for (t, columns, whole), rows in sorted(found.tables.items())
    ]
    references = [
        ErasedReference(
            hasher.name(t), tuple(map(hasher.name, columns)), frozenset(rows), action, tuple(map(hasher.name, cleared))
        )
        for (t, columns, action, cleared), rows in sorted(found.references.items())
        if rows
    ]
    return Erasure(
        random_bytes(16).hex(),
        fine_stamp(now),
        newest.object.writer,
        newest.source,
        reason,
        hasher.name(subject.table),
        found.subject,
        tuple(tables),
        tuple(references),
        tuple(view.id for view in found.snapshots),
        {
            "base_max_age_days": policy.base_max_age_days,
            "grace_hours": policy.grace_hours,
            "undo_days": policy.undo_days,
        },
        key=key_id,
    )


def add_erasure(repo: Repository, erasure: Erasure) -> list[str]:
    """Write an erasure to the ledger; returns the names of its records.

    Raises:
        MissingRight: no key at hand may.
        BackupdError: a record could not be stored; those before it count already.
    """
    signer = repo.keyring.signer(sorted(ROLES))
    if signer is None:
        raise MissingRight("no key at hand signs erasures", hint="use read.key, recovery.key or root.key")
    return [append_record(repo, signer, document) for document in documents(erasure)]
