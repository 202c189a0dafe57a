"""Which rows of a stored table somebody means with `--where`: COLUMN=VALUE as it stands, or a condition of SQL.

What is written COLUMN=VALUE, with the name of a column, no blank around the equals sign and no quote behind it, means the value
as the server prints it, and is looked for by it; everything else is SQL. Must never put a value into a message.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Protocol

from backupd.errors import UsageError
from backupd.jobs.query import RowTable, fitting
from backupd.jobs.stored import StoredTable
from backupd.jobs.storedfile import StoredFileTable
from backupd.jobs.storedrows import StoredRows
from backupd.model import Cells

_BATCH = 1000
_WORD = re.compile(r"[^\W\d]\w*")
_LIKE_SQL = re.compile(r"\s(and|or)\s.*([=<>]|\b(in|is|like|between)\b)", re.IGNORECASE | re.DOTALL)
Pairs = tuple[tuple[str, str], ...]


class RowTest(Protocol):
    """A condition of SQL over the rows of one table."""

    def fitting(self, taken: Callable[[Sequence[int]], Sequence[Cells]]) -> list[int]:
        """The numbers of the rows for which it holds; `taken` gives columns of all rows, by their positions."""

    def close(self) -> None:
        """Let go of it."""


AskRows = Callable[[str, Sequence[tuple[str, str]], str], RowTest]
"""Makes one, of a table's name, its columns and a text; the engine's."""


def no_sql(name: str, columns: Sequence[tuple[str, str]], condition: str) -> RowTest:  # noqa: ARG001 - an `AskRows`
    """For those who take COLUMN=VALUE only."""
    raise UsageError("--where is not COLUMN=VALUE", object_name=name)


@dataclass(frozen=True, slots=True)
class Where:
    """What somebody wrote: a text, and the pairs of columns and values that it is if it is COLUMN=VALUE."""

    text: str = field(repr=False)
    pairs: Pairs = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Meant:
    """What it means for one table.

    Attributes:
        by, value: columns, and the cells that they hold.
        sql: a condition that holds too; None if there is none.
        doubtful: columns whose value looks like SQL, and was taken as it stands.
    """

    by: tuple[str, ...] = ()
    value: Cells = field(default=(), repr=False)
    sql: str | None = field(default=None, repr=False)
    doubtful: tuple[str, ...] = ()


def parse_where(text: str) -> Where:
    """Read what stands behind `--where` where the table is known."""
    column, equals, value = text.partition("=")
    return Where(text, ((column, value),) if equals and column else ())


def meant(table: StoredTable, wheres: Sequence[Where], ask_rows: AskRows) -> Meant:
    """Understand conditions that shall all hold for a row of a table.

    Raises:
        UsageError: they are no conditions of this table.
    """
    pairs: list[tuple[str, str]] = []
    cells: Cells = ()
    written: list[str] = []
    for where in wheres:
        found = _cells(table, where)
        quotes = any(value.startswith("'") for _, value in where.pairs)
        wrong = _wrong(table, where, ask_rows) if quotes or not isinstance(found, tuple) else None
        if isinstance(found, tuple) and (wrong or not quotes):
            cells += found
            pairs += where.pairs
        elif wrong:
            raise found if isinstance(found, UsageError) and _is_plain(table, where) else wrong
        else:
            written.append(f"({where.text}\n)")
    by = tuple(column for column, _ in pairs)
    if len(set(by)) != len(by):
        raise UsageError("--where names a column twice", object_name=table.name)
    doubtful = tuple(column for column, value in pairs if _LIKE_SQL.search(value))
    return Meant(by, cells, " AND ".join(written) or None, doubtful)


def _wrong(table: StoredTable, where: Where, ask_rows: AskRows) -> UsageError | None:
    """Why it is no condition of SQL; None if it is one."""
    try:
        ask_rows(table.name, sql_columns(table), where.text).close()
    except UsageError as error:
        return error
    return None


def _cells(table: StoredTable, where: Where) -> Cells | UsageError:
    """The cells of COLUMN=VALUE, or why it is none."""
    columns = [column for column, _ in where.pairs]
    if unknown := [column for column in columns if column not in dict(table.columns)]:
        return UsageError(f"{table.name} has no column {unknown[0]}", object_name=table.name)
    try:
        return tuple(table.cell(column, value) for column, value in where.pairs) or UsageError("no COLUMN=VALUE")
    except UsageError as error:
        return error


def _is_plain(table: StoredTable, where: Where) -> bool:
    """Whether it was meant as COLUMN=VALUE in all likelihood: then it is told what is wrong with that."""
    named = bool(where.pairs) and all(_WORD.fullmatch(c) or c in dict(table.columns) for c, _ in where.pairs)
    return named and not any(_LIKE_SQL.search(value) or "'" in value for _, value in where.pairs)


def doubt(column: str) -> str:
    """What is said where a value looks like SQL."""
    return f"--where was taken for a value of {column} as it stands: blanks around the equals sign make it a condition of SQL"


def sql_columns(table: StoredTable) -> list[tuple[str, str]]:
    """A table's columns as SQL knows them."""
    if isinstance(table, StoredRows):
        return RowTable(table).columns
    return table.affinities if isinstance(table, StoredFileTable) else list(table.columns)


def matching(table: StoredTable, what: Meant, ask_rows: AskRows) -> Iterator[Cells]:
    """The rows that are meant, of those that may be shown; every row is asked."""
    rows = table.rows(what.by, [what.value]) if what.by else table.rows()
    if what.sql is None:
        yield from rows
        return
    with closing(ask_rows(table.name, sql_columns(table), what.sql)) as test:
        rows = iter(rows)
        while batch := list(islice(rows, _BATCH)):
            yield from (batch[n] for n in test.fitting(partial(_taken, table, batch)))


def _taken(table: StoredTable, rows: Sequence[Cells], used: Sequence[int]) -> Sequence[Cells]:
    """The columns wanted of rows, as SQL knows them."""
    if not isinstance(table, StoredFileTable):
        shown = [table.shown(row) for row in rows]
        return [tuple([fitting(row[at]) for at in used]) for row in shown]
    if len(used) > 1:  # a file's values are SQLite's own
        return list(map(itemgetter(*used), rows))
    return [tuple([row[at] for at in used]) for row in rows]
