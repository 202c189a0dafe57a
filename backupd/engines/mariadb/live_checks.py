"""What is checked when rows were written, and what the server's refusals mean: by number and by name, never by a value."""

import re

from backupd.engines.mariadb.client import BUSY, DENIED, LOST, Connection, error_number, quote_name, run
from backupd.errors import BackupdError, Failed, SafetyRefused, TryAgain, Unreachable
from backupd.model import Reference

_TAKEN = frozenset({1022, 1062, 1169, 1586})
# What a message says besides values: the constraint's or the column's name.
_NAMED = re.compile(r"CONSTRAINT `([^`]{1,64})`")
_CONSTRAINTS = frozenset({1216, 1217, 1451, 1452, 3819, 4025})
_KEY = re.compile(r".* for key '([^']{1,129})'\Z", re.DOTALL)
_COLUMN = re.compile(r"(?:Column|Field) '([^']{1,64})' (?:cannot be null|doesn't have a default value)\Z")


def explained(error: BaseException, table: str) -> BackupdError:
    """Why the database refused: the number, and the names that its message holds; never a value."""
    number = 0 if isinstance(error, OSError) else error_number(error)
    if number in LOST or number == 0:
        said = f"{table}: the connection was lost (error {number})"
        return Unreachable(said, object_name=table, hint="check the server and the network; nothing was committed")
    message = f"{table}{_name_in(number, error)}: the server refused it (error {number})"
    if number in BUSY:
        return TryAgain(message, object_name=table, hint="somebody else is at work on the same rows: try again later")
    if number in _TAKEN:
        return SafetyRefused(message, object_name=table, hint="another row has that key: plan again")
    hint = "grant the user what it lacks" if number in DENIED else "nothing was changed; see the server's manual"
    return Failed(message, object_name=table, hint=hint)


def moved_on(link: Connection, table: str, column: str, sequence: str) -> bool:
    """Move a sequence on to the last number that a row has; the server itself moves none back."""
    look = f"SELECT next_not_cached_value, increment FROM {sequence}"
    ((before, step),) = run(link, look)
    function = "MIN" if isinstance(step, int) and step < 0 else "MAX"
    ((last,),) = run(link, f"SELECT {function}({quote_name(column)}) FROM {quote_name(table)}")
    if not isinstance(last, int):
        return False
    run(link, f"SELECT SETVAL({sequence}, {last})")
    return run(link, look)[0][0] != before


def _name_in(number: int, error: BaseException) -> str:
    text = str(error.args[1]) if len(error.args) > 1 else ""
    if number in _TAKEN and (found := _KEY.match(text)):
        return f", key {found[1]}"
    if number in _CONSTRAINTS and (found := _NAMED.search(text)):
        return f", constraint {found[1]}"
    return f", column {found[1]}" if (found := _COLUMN.match(text)) else ""


def orphan(reference: Reference) -> str:
    """The query that finds a row whose parent is missing."""
    return f"SELECT 1 {_orphans(reference)} LIMIT 1"


def count_orphans(reference: Reference) -> str:
    """The query that counts the rows whose parent is missing."""
    return f"SELECT COUNT(*) {_orphans(reference)}"


def _orphans(reference: Reference) -> str:
    """The rows whose parent is missing; a key with a NULL in it refers to nothing."""
    child = [f"c.{quote_name(name)}" for name in reference.columns]
    parent = [f"p.{quote_name(name)}" for name in reference.parent_columns]
    whole = " AND ".join(f"{name} IS NOT NULL" for name in child)
    match = " AND ".join(f"{left} = {right}" for left, right in zip(parent, child, strict=True))
    none = f"NOT EXISTS (SELECT 1 FROM {quote_name(reference.parent)} AS p WHERE {match})"
    return f"FROM {quote_name(reference.table)} AS c WHERE {whole} AND {none}"
