"""One condition of SQL, asked of rows some at a time: which of them it holds for.

A condition looks at one row of one table: it has no statement in it, reads no other table and changes nothing. What it holds
for is the caller's to keep; rows are not kept here. Must never put a value of a row into a message.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import apsw

from backupd.engines.sqlite_database import quoted
from backupd.engines.sqlite_query import MEMORY, checked, explained, made
from backupd.engines.sqlite_virtual import distinct
from backupd.errors import UsageError
from backupd.model import Cells, Look

_TOKENS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|/\*|[^\W\d]\w*|\s+|.", re.DOTALL
)
_STATEMENTS = frozenset({"select", "values"})
_HINT = "such as --where \"status = 'open' and total > 100\"; `backupctl query` runs whole statements"
Taken = Callable[[Sequence[int]], Sequence[Cells]]
"""Gives the rows: of each the columns at these positions."""


def require_condition(text: str) -> None:
    """See that a text is one condition in SQL, as far as its brackets and words tell.

    Raises:
        UsageError: it is none.
    """
    tokens = [
        t for t in _TOKENS.findall(text) if not t.isspace() and not t.startswith("--") and t[:2] + t[-2:] != "/**/"
    ]
    depth = 0 if tokens else 1
    for token, following in zip(tokens, [*tokens[1:], ""], strict=False):
        word = token.lower()
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth < 0 or token in {";", "'", '"', "`", "[", "/*"}:
            raise UsageError("--where is not one condition", hint=_HINT)
        if word in _STATEMENTS or (word == "in" and following != "("):
            raise UsageError("--where looks at one row at a time: there is no statement or table in it", hint=_HINT)
    if depth:
        raise UsageError("--where is not one condition", hint=_HINT)


class _Held:
    """The rows that are asked about, as a table; its last column is a row's number among them."""

    count = 1000
    quick: Sequence[Sequence[int]] = ()
    orders: Sequence[Sequence[int]] = ()
    sorts = False

    def __init__(self, name: str, columns: Sequence[tuple[str, str]]) -> None:
        self.name = name
        self.columns = [*columns, ("", "INTEGER")]
        self.taken: Taken = lambda _: ()

    def batches(self, look: Look) -> Iterator[Sequence[Cells]]:
        """See `Queried`."""
        yield [(*row, n) for n, row in enumerate(self.taken(look.used[:-1]))]


class RowTest:
    """A condition.

    Args:
        name: of the table.
        columns: their names, and INTEGER, REAL, NUMERIC, TEXT, BLOB or nothing.
        condition: what somebody wrote.

    Raises:
        UsageError: it is no condition over these columns.
    """

    def __init__(self, name: str, columns: Sequence[tuple[str, str]], condition: str) -> None:
        require_condition(condition)
        self._held = _Held(name, columns)
        *_, (number, _) = distinct(self._held.columns)
        apsw.hard_heap_limit(MEMORY)
        self._link = apsw.Connection(":memory:")
        try:
            with explained():
                (table,) = made(self._link, {"main": [self._held]}, None)
                self._statement = f"SELECT {quoted(number)} FROM {table} WHERE (\n{condition}\n)"  # noqa: S608
                checked(self._link, self._statement)
        except BaseException:
            self.close()
            raise

    def fitting(self, taken: Taken) -> list[int]:
        """The numbers, from 0, of the rows for which it holds.

        Raises:
            UsageError: it cannot be said of some row.
        """
        self._held.taken = taken
        try:
            return [int(str(n)) for (n,) in self._link.execute(self._statement)]
        except apsw.SQLError:  # whose words may have a value in them
            raise UsageError(
                f"the condition cannot be said of some row of {self._held.name}",
                object_name=self._held.name,
                hint="such as JSON functions of what is no JSON: test it with json_valid, or narrow the condition",
            ) from None
        except (apsw.NoMemError, MemoryError, apsw.TooBigError):
            raise UsageError("the condition needs too much memory", object_name=self._held.name) from None

    def close(self) -> None:
        """Let go of it."""
        self._link.close(True)
        apsw.hard_heap_limit(0)
