"""What somebody writes about a recovery: which side wins a conflict, values for new columns, and references nobody declared.

Whether a name with a dot is a table in a schema or a table and its column is for the live database to say.
"""

from collections.abc import Sequence
from typing import cast, get_args

from backupd.errors import UsageError
from backupd.jobs.tableshapes import codec
from backupd.model import Cell, LiveSchema
from backupd.records.plan import OnConflict, Rules


def parse_rules(conflicts: Sequence[str], values: Sequence[str], schema: LiveSchema, engine: str) -> Rules:
    """Rules from `POLICY`, `TABLE=POLICY`, `TABLE.COLUMN=overwrite`, and from `TABLE.COLUMN=VALUE`.

    Raises:
        UsageError: one is none of these, or names what is not there.
    """
    default: OnConflict = "fail"
    tables: dict[str, OnConflict] = {}
    columns: set[tuple[str, str]] = set()
    for text in conflicts:
        name, equals, word = text.rpartition("=")
        if word not in get_args(OnConflict):
            raise UsageError("a conflict is answered with fail, skip or overwrite", hint="such as orders=skip")
        policy = cast(OnConflict, word)
        if not equals:
            default = policy
        elif name in schema.tables:
            tables[name] = policy
        elif policy == "overwrite":
            columns.add(_column(name, schema))
        else:
            raise UsageError(f"the live database has no table {name}", object_name=name)
    added: dict[tuple[str, str], Cell] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError("a value is given as TABLE.COLUMN=VALUE")
        table, column = _column(name, schema)
        try:
            added[table, column] = _cell(engine, _type(schema, table, column), value, codec(schema.encoding))
        except UnicodeEncodeError:
            raise UsageError(
                f"the database's character set, {schema.encoding}, cannot hold what is given for {name}",
                object_name=name,
            ) from None
    return Rules(default, tables, frozenset(columns), added)


def _column(name: str, schema: LiveSchema) -> tuple[str, str]:
    table, _, column = name.rpartition(".")
    if table not in schema.tables or column not in {c.name for c in schema.tables[table].columns}:
        raise UsageError(f"the live database has no table or column {name}", object_name=name)
    return table, column


def _type(schema: LiveSchema, table: str, column: str) -> str:
    return next(c.type for c in schema.tables[table].columns if c.name == column)


def _cell(engine: str, kind: str, text: str, encoding: str) -> Cell:
    """A value as a cell: of a server its text in the server's character set.

    SQLite would turn a text into a number where the column is for numbers.
    """
    if engine != "sqlite":
        return text.encode(encoding)
    word = kind.upper()
    if not word or (any(part in word for part in ("CHAR", "CLOB", "TEXT", "BLOB")) and "INT" not in word):
        return text
    number: float | int
    try:
        number = int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            return text
    return float(number) if any(part in word for part in ("REAL", "FLOA", "DOUB")) else number
