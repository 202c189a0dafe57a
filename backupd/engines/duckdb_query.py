"""SQL over tables that lie somewhere else, by DuckDB: the columns that a statement reads are loaded into memory, then it runs.

For sums and joins over whole tables. Nothing goes to a disk and nothing is read from one: no files, no extensions, no other
databases, no settings, and one statement that reads. What is not known by its type stays text; a column with a value that its
type has no word for is text as a whole, and that is told. Must never put a value into a message.
"""

import json
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backupd.engines.sqlite_database import quoted
from backupd.engines.sqlite_virtual import distinct
from backupd.errors import Failed, UsageError
from backupd.model import Answered, Cell, Cells, Columnar

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GiB"
_MOST_BYTES = 2 << 30
"""The process may take so much more: one list or text is not bound by DuckDB's own limit."""
_DATA = re.compile(r"^VmData:\s+(\d+) kB$", re.MULTILINE)
_FETCHED = 10_000
_OWN = '"-"'
"""The schema of what is loaded: no snapshot can be attached under this name."""
_SETTINGS: dict[str, str | int | float | list[str]] = {
    "temp_directory": "",
    "memory_limit": MEMORY,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
}
_LAST = ("SET TimeZone = 'UTC'", "SET enable_external_access = false")
_AS_IT_IS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"} | {"UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
)
_ALSO = frozenset({"FLOAT", "DOUBLE", "VARCHAR", "BLOB"})
_NUMBERS = frozenset({"FLOAT", "DOUBLE"})
_EXACT = 2**53
_UNESCAPED = "replace({0}, '\\\\', '\\')"


@contextmanager
def analysed(schemas: Mapping[str, Sequence[Columnar]], statement: str) -> Iterator[Answered]:
    """Run one statement.

    Args:
        schemas: the tables by the name of their schema; those of `main` need none.
        statement: SQL of DuckDB.

    Raises:
        UsageError: it is no such statement, or DuckDB refuses it, or DuckDB is not installed.
        Failed: it needs more memory than is allowed.
    """
    try:
        import duckdb
    except ImportError:
        raise UsageError(
            "--engine duckdb needs DuckDB, which is not installed",
            hint="pip install 'backupd[duckdb]', or leave it out",
        ) from None
    with _explained():
        threads = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        link = duckdb.connect(":memory:", config={**_SETTINGS, "threads": threads})
    try:
        with _bounded():
            yield _answered(link, schemas, statement)
    finally:
        link.close()


def _answered(link: "duckdb.DuckDBPyConnection", schemas: Mapping[str, Sequence[Columnar]], statement: str) -> Answered:
    with _explained():
        text = _one_statement(statement)
        for setting in _LAST:
            link.execute(setting)
        tables = _make(link, schemas)
        used = _used(link, text)
        link.execute("SET lock_configuration = true")
        remarks = [said for n, columns in used.items() for said in tables[n].load(link, columns)]
        link.execute("BEGIN TRANSACTION READ ONLY")
        columns = _run(link, text)
    return Answered(columns, _rows(link), tuple(remarks))


@contextmanager
def _bounded() -> Iterator[None]:
    """The kernel refuses what is too much: DuckDB asks for one list or text of any length outside of its own limit."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        taken = _DATA.search(status.read())
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(taken[1]) * 1024 + _MOST_BYTES if taken else resource.RLIM_INFINITY
    if before != resource.RLIM_INFINITY:
        wanted = before if wanted == resource.RLIM_INFINITY else min(wanted, before)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def _one_statement(statement: str) -> str:
    import duckdb

    try:
        found = duckdb.extract_statements(statement.encode().decode())
    except UnicodeError:
        raise UsageError("the statement holds what is no text of SQL") from None
    if len(found) > 1:
        raise UsageError("only one statement is run at a time")
    if not found or found[0].type != duckdb.StatementType.SELECT:
        raise UsageError("only statements that read rows are run", hint="begin with SELECT, WITH, FROM or VALUES")
    return found[0].query.strip().rstrip(";")


@dataclass(slots=True)
class _Table:
    """A table that may be loaded: under a number, with a view of the name that people know.

    Attributes:
        types: of its columns, as DuckDB calls them.
    """

    number: int
    view: str
    source: Columnar
    types: list[str]
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Names that differ for DuckDB as they do for SQLite."""
        self.names = [name for name, _ in distinct([(name or "_", "") for name, _ in self.source.kinds])]

    @property
    def place(self) -> str:
        """Where its rows are."""
        return f"{_OWN}.t{self.number}"

    def make(self, link: "duckdb.DuckDBPyConnection") -> None:
        """Make it, without rows."""
        made = ", ".join(f"c{n} {kind}" for n, kind in enumerate(self.types)) or "c0 VARCHAR"
        shown = ", ".join(f"c{n} AS {quoted(name)}" for n, name in enumerate(self.names)) or "c0 AS _"
        link.execute(f"CREATE OR REPLACE TABLE {self.place} ({made})")
        link.execute(f"CREATE OR REPLACE VIEW {self.view} AS SELECT {shown} FROM {self.place}")  # noqa: S608

    def load(self, link: "duckdb.DuckDBPyConnection", used: Sequence[int]) -> Iterator[str]:
        """Fill some columns of it; tells what became text."""
        used = used or [0]
        while unfit := self._filled(link, used):
            for at in unfit:
                yield (
                    f"{self.source.name}.{self.source.kinds[at][0]} is text here:"
                    f" some of its values are none of DuckDB's {self.types[at]}"
                )
                self.types[at] = "VARCHAR"
            self.make(link)

    def _filled(self, link: "duckdb.DuckDBPyConnection", used: Sequence[int]) -> list[int]:
        """Fill it; the columns that were no values of their types, if there are any."""
        import duckdb

        into = f"INSERT INTO {self.place} ({', '.join(f'c{n}' for n in used)})"
        for batch in self.source.columnar(used):
            given: list[object] = []
            if isinstance(batch, str):
                fields, given = _split(batch, used), [batch.removesuffix("\n")]
            else:
                unfit = [at for at, cells in zip(used, batch, strict=True) if not _fits(self.types[at], cells)]
                if unfit:
                    return unfit
                fields, given = _lists(len(used)), [_texts(cells) for cells in batch]
            pairs = [(text, self.types[at]) for text, at in zip(fields.texts, used, strict=True)]
            source = f"FROM (SELECT {fields.made}{fields.source}) AS given"
            try:
                link.execute(f"{into} SELECT {', '.join(_cast(*pair) for pair in pairs)} {source}", given)
            except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException):
                return self._unfit(link, pairs, source, given, used)
            except duckdb.OutOfMemoryException:
                raise _too_much() from None
        return []

    def _unfit(
        self,
        link: "duckdb.DuckDBPyConnection",
        pairs: Sequence[tuple[str, str]],
        source: str,
        given: Sequence[object],
        used: Sequence[int],
    ) -> list[int]:
        tests = [f"bool_or({text} IS NOT NULL AND TRY({_cast(text, kind)}) IS NULL)" for text, kind in pairs]
        found = link.execute(f"SELECT {', '.join(tests)} {source}", given).fetchone()
        unfit = [at for at, wrong in zip(used, found or (), strict=True) if wrong]
        if not unfit:
            raise Failed(f"the rows of {self.source.name} could not be loaded", object_name=self.source.name)
        return unfit


@dataclass(slots=True)
class _Fields:
    """How the fields of a batch are had in SQL: what is selected, from where, and each column's text."""

    made: str
    source: str
    texts: list[str] = field(default_factory=list)


def _split(batch: str, used: Sequence[int]) -> _Fields:
    """Of rows as they are stored: fields between tabs; no other escapes than a doubled backslash and that of NULL."""
    found = _Fields("string_split(x, chr(9)) AS f", " FROM (SELECT unnest(string_split($1, chr(10))) AS x)")
    texts = [f"nullif(f[{at + 1}], '\\N')" for at in used]
    found.texts = [_UNESCAPED.format(text) for text in texts] if "\\\\" in batch else texts
    return found


def _lists(count: int) -> _Fields:
    """Of a list of texts for each column."""
    made = ", ".join(f"unnest(${n + 1}::VARCHAR[]) AS f{n}" for n in range(count))
    return _Fields(made, "", [f"f{n}" for n in range(count)])


def _cast(text: str, kind: str) -> str:
    if kind == "VARCHAR":
        return text
    if kind == "BLOB":
        return f"unhex(CASE WHEN starts_with({text}, '\\x') THEN substr({text}, 3) ELSE {text} END)"
    return f"CAST({text} AS {kind})"


def _fits(kind: str, cells: Sequence[Cell]) -> bool:
    """Whether values can be of a type, as far as Python's types tell."""
    if kind == "VARCHAR":
        return True
    wanted: tuple[type, ...] = (str,)
    if kind in _AS_IT_IS:
        wanted = (int,)
    elif kind in _NUMBERS:
        wanted = (int, float, str)
        if any(isinstance(cell, int) and abs(cell) > _EXACT for cell in cells):
            return False
    elif kind == "BLOB":
        wanted = (bytes,)
    return all(cell is None or isinstance(cell, wanted) for cell in cells)


def _texts(cells: Sequence[Cell]) -> list[str | None]:
    return [
        cell if cell is None or isinstance(cell, str) else "\\x" + cell.hex() if isinstance(cell, bytes) else repr(cell)
        for cell in cells
    ]


def _make(link: "duckdb.DuckDBPyConnection", schemas: Mapping[str, Sequence[Columnar]]) -> list[_Table]:
    link.execute(f"CREATE SCHEMA {_OWN}")
    found: list[_Table] = []
    for schema, tables in schemas.items():
        if schema != "main":
            link.execute(f"CREATE SCHEMA {quoted(schema)}")
        names = [name for name, _ in distinct([(table.name or "_", "") for table in tables])]
        for name, table in zip(names, tables, strict=True):
            view = f"{quoted(schema)}.{quoted(name)}"
            found.append(_Table(len(found), view, table, [kind for _, kind in table.kinds]))
            found[-1].make(link)
    return found


def _used(link: "duckdb.DuckDBPyConnection", text: str) -> dict[int, list[int]]:
    """Which columns of which tables a statement reads, as its plan says; the tables have no rows yet."""
    names = [name for (name,) in link.execute("SELECT * FROM duckdb_optimizers()").fetchall()]
    link.execute(f"SET disabled_optimizers = '{','.join(name for name in names if name != 'unused_columns')}'")
    plan = link.execute(f"EXPLAIN (FORMAT json) {text}").fetchall()
    link.execute("RESET disabled_optimizers")
    found: dict[int, set[int]] = {}
    waiting: list[Any] = [node for _, one in plan for node in json.loads(one)]
    while waiting:
        node = waiting.pop()
        waiting += node.get("children", ())
        facts = node.get("extra_info", {})
        if isinstance(facts, dict) and str(facts.get("Table", "")).startswith(f"memory.{_OWN}.t"):
            read = facts.get("Projections") or []
            numbers = [read] if isinstance(read, str) else read
            found.setdefault(int(facts["Table"].rpartition(".t")[2]), set()).update(int(n[1:]) for n in numbers)
    return {number: sorted(columns) for number, columns in found.items()}


def _run(link: "duckdb.DuckDBPyConnection", text: str) -> tuple[str, ...]:
    """Start a statement; what is no number, text or bytes comes as DuckDB writes it."""
    about = link.execute(f"SELECT * FROM ({text}\n) LIMIT 0").description or []  # noqa: S608
    kinds = [str(column[1]) for column in about]
    wanted = ", ".join(
        f"c{n}" if kind in _AS_IT_IS | _ALSO else f"CAST(c{n} AS VARCHAR)" for n, kind in enumerate(kinds)
    )
    link.execute(f"SELECT {wanted} FROM ({text}\n) AS r({', '.join(f'c{n}' for n in range(len(kinds)))})")  # noqa: S608
    return tuple(str(column[0]) for column in about)


def _rows(link: "duckdb.DuckDBPyConnection") -> Iterator[Cells]:
    with _explained():
        while rows := link.fetchmany(_FETCHED):
            yield from rows


def _too_much() -> Failed:
    return Failed(
        f"the statement needs more than {MEMORY} of memory",
        hint="nothing is kept on disk: ask for fewer columns, or leave --engine duckdb out",
    )


@contextmanager
def _explained() -> Iterator[None]:
    """What DuckDB says of a statement, as an error of this project; where it could speak of values, without its words."""
    import duckdb

    try:
        yield
    except (duckdb.OutOfMemoryException, MemoryError):
        raise _too_much() from None
    except (duckdb.PermissionException, duckdb.TransactionException):
        raise UsageError(
            "the statement does more than to read the tables of the snapshot",
            hint="files, other databases, extensions and settings are out of its reach; `backupctl show` lists the tables",
        ) from None
    except (duckdb.ParserException, duckdb.SyntaxException, duckdb.BinderException, duckdb.CatalogException) as error:
        said = str(error).partition("\n")[0]
        raise UsageError(f"DuckDB refuses the statement: {said}", hint="`backupctl show` lists the tables") from None
    except duckdb.Error as error:
        raise UsageError(
            f"DuckDB cannot run the statement ({type(error).__name__})",
            hint="often some value cannot be made what the statement wants: TRY_CAST gives NULL then",
        ) from None
