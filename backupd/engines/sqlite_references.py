"""What refers to what in a database file, as its own schema says; no statement of it is run."""

from backupd.engines.sqlite_lazy import lazy_connection
from backupd.model import Bytes, OnDelete, Reference

_FOUND = (
    'SELECT s.name, f.id, f."table", f."from", f."to", f.on_delete FROM sqlite_schema AS s,'
    " pragma_foreign_key_list(s.name, 'main') AS f WHERE s.type = 'table' ORDER BY s.name, f.id, f.seq"
)
_KEY = "SELECT name FROM pragma_table_xinfo(?, 'main') WHERE pk > 0 ORDER BY pk"
_ACTIONS: dict[str, OnDelete] = {"CASCADE": "cascade", "SET NULL": "set null", "SET DEFAULT": "set default"}


def read_references(data: Bytes) -> tuple[Reference, ...]:
    """The foreign keys of the database whose bytes these are.

    Raises:
        IntegrityError: it is no sound database.
    """
    if data.size == 0:
        return ()
    grouped: dict[tuple[str, int], list[tuple[str, str, str | None, str]]] = {}
    found: list[Reference] = []
    with lazy_connection(data) as link:
        for name, number, parent, mine, there, action in link.execute(_FOUND).fetchall():
            place = str(name), int(str(number))
            column = None if there is None else str(there)
            grouped.setdefault(place, []).append((str(parent), str(mine), column, str(action).upper()))
        known = {
            str(n).casefold(): str(n) for (n,) in link.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        for (name, number), parts in grouped.items():
            parent = known.get(parts[0][0].casefold(), parts[0][0])
            mine = tuple(part[1] for part in parts)
            there = tuple(part[2] for part in parts if part[2] is not None)
            there = there or tuple(str(key) for (key,) in link.execute(_KEY, (parent,)).fetchall())
            if len(there) == len(mine):
                action = _ACTIONS.get(parts[0][3], "restrict")
                found.append(Reference(f"{name} {number}", name, mine, parent, there, action))
    return tuple(found)
