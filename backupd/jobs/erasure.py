"""What the erasure ledger hides: read from the repository's records, and asked for every row that leaves it.

The ledger is believed only as a whole. Where a record that may be an erasure is missing, forged or does not open, nothing is
read as if nobody had been erased. Must never say whose rows are hidden, and never keep a row.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backupd.crypto.erasure import ErasureHash
from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError, MissingRight
from backupd.jobs.recordchain import numbers_listed, record_problems
from backupd.jobs.stored import Hidden
from backupd.model import Cell, Cells, Change
from backupd.repo.erasures import Erasure, erasure_of
from backupd.repo.repository import History, Repository, SnapshotView
from backupd.report import Problem

ROLES = frozenset({Role.READ, Role.RECOVERY, Role.ROOT})
"""Whose records may be erasures."""
_HINT = (
    "find out why (`backupctl audit verify`): without the whole ledger, rows of people who were erased would come back; "
    "restore and export go on without it by --with-erased --reason TEXT, which is recorded"
)


_Places = tuple[tuple[int, ...], tuple[int, ...]]
"""Of cells that are looked at, and of those that count as NULL."""


@dataclass(frozen=True, slots=True)
class _Test:
    """Whether the cells at some places have one of these hashes, and which of them count as NULL then."""

    places: tuple[int, ...]
    emptied: tuple[int, ...]
    digest: Callable[[Cells], bytes]
    rows: frozenset[bytes]

    def __call__(self, cells: Sequence[Cell]) -> bool:
        return self.digest(tuple([cells[at] for at in self.places])) in self.rows


@dataclass(frozen=True, slots=True)
class RowRule:
    """What is to become of the rows of one table.

    Attributes:
        positions: of the cells that are looked at.
    """

    positions: tuple[int, ...]
    _hiding: tuple[_Test, ...] = field(repr=False)
    _emptying: tuple[_Test, ...] = field(repr=False)

    def hides(self, cells: Sequence[Cell]) -> bool:
        """Whether the row must not be shown or brought back."""
        return any(test(cells) for test in self._hiding)

    def judge(self, cells: Sequence[Cell]) -> tuple[int, ...] | None:
        """The positions whose values count as NULL (mostly none); None if the row must not come back."""
        if self.hides(cells):
            return None
        return tuple(at for test in self._emptying if test(cells) for at in test.emptied)


class Erasures:
    """What the ledger hides of one source (`stored.Erased`)."""

    def __init__(self, records: Iterable[Erasure], hashes: Callable[[bytes], ErasureHash]) -> None:
        self.records = tuple(records)
        keys = dict.fromkeys(record.key for record in self.records)
        self._books = [(hashes(key), [r for r in self.records if r.key == key]) for key in keys]

    def rule(self, table: str, columns: Sequence[str]) -> RowRule | None:
        """What is to become of a table's rows, with these columns in this order; None if none of them is concerned."""
        hiding: list[_Test] = []
        emptying: list[_Test] = []
        for hasher, records in self._books:
            book = _Book(hasher, table, columns)
            for record in records:
                for entry in record.tables:
                    book.hide(entry.table, entry.columns, entry.rows, whole=entry.whole)
                for reference in record.references:
                    if reference.action == "delete":
                        book.hide(reference.table, reference.columns, reference.rows, whole=False)
                    else:
                        book.empty(reference.table, reference.columns, reference.rows, reference.cleared)
            hiding += book.tests(book.hiding)
            emptying += book.tests(book.emptying)
        if not hiding and not emptying:
            return None
        positions = sorted({at for test in (*hiding, *emptying) for at in test.places})
        return RowRule(tuple(positions), tuple(hiding), tuple(emptying))

    def hidden(self, table: str, columns: Sequence[str], key: Sequence[str]) -> Hidden | None:  # noqa: ARG002 - a port's
        """See `stored.Erased`: what tells of a table's rows what is hidden. Records say themselves which cells count."""
        rule = self.rule(table, columns)
        return rule.judge if rule is not None else None

    def blind(self, table: str, columns: Sequence[str]) -> bool:
        """Whether some rows of the table are known by other columns too, so that these alone do not tell which are hidden."""
        for hasher, records in self._books:
            name, there = hasher.name(table), {hasher.name(column) for column in columns}
            for record in records:
                if any(entry.table == name and not there.issuperset(entry.columns) for entry in record.tables):
                    return True
                if any(
                    e.table == name and there & {*e.columns} and not there >= {*e.columns} for e in record.references
                ):
                    return True
        return False


class _Book:
    """The tests of one table, gathered from the records under one key: one for each set of columns."""

    def __init__(self, hasher: ErasureHash, table: str, columns: Sequence[str]) -> None:
        self._hasher, self._table, self._columns = hasher, table, columns
        self._name = hasher.name(table)
        self._places = {hasher.name(column): at for at, column in enumerate(columns)}
        self.hiding: dict[_Places, set[bytes]] = {}
        self.emptying: dict[_Places, set[bytes]] = {}

    def hide(self, table: bytes, columns: Sequence[bytes], rows: frozenset[bytes], *, whole: bool) -> None:
        """Rows of these hashes are hidden, if they are this table's."""
        places = self._where(table, columns)
        if places is not None and (not whole or len(places) == len(self._columns)):
            self.hiding.setdefault((places, ()), set()).update(rows)

    def empty(self, table: bytes, columns: Sequence[bytes], rows: frozenset[bytes], cleared: Sequence[bytes]) -> None:
        """Cells of these hashes, or some of them, count as NULL, if they are this table's."""
        places = self._where(table, columns)
        emptied = self._where(table, cleared or columns)
        if places is not None and emptied is not None:
            self.emptying.setdefault((places, emptied), set()).update(rows)

    def _where(self, table: bytes, columns: Sequence[bytes]) -> tuple[int, ...] | None:
        if table != self._name or not self._places.keys() >= set(columns):
            return None
        return tuple(sorted(self._places[column] for column in columns))

    def tests(self, found: Mapping[_Places, set[bytes]]) -> Iterator[_Test]:
        """What was gathered."""
        for (places, emptied), rows in found.items():
            digest = self._hasher.rows(self._table, [self._columns[at] for at in places])
            yield _Test(places, emptied, digest, frozenset(rows))


@dataclass(frozen=True, slots=True)
class Ledger:
    """All erasures of a repository."""

    erasures: tuple[Erasure, ...]
    hashes: Callable[[bytes], ErasureHash] = field(repr=False)

    def of_snapshots(self, views: Iterable[SnapshotView]) -> Erasures | None:
        """What is hidden of the sources of some snapshots; None if nothing is."""
        sources = {(view.object.writer, view.source) for view in views}
        mine = [e for e in self.erasures if (e.writer, e.source) in sources]
        return Erasures(mine, self.hashes) if mine else None

    def of_snapshot_id(self, snapshot: str, views: Iterable[SnapshotView]) -> Erasures | None:
        """What is hidden of a snapshot's source; of everything, if the snapshot is gone and nobody knows its source."""
        found = [view for view in views if view.id == snapshot]
        if found:
            return self.of_snapshots(found)
        return Erasures(self.erasures, self.hashes) if self.erasures else None


def tells_of_erased(erasures: Erasures, change: Change) -> bool:
    """Whether a change would write what must not come back."""
    cells = {**change.key, **change.old, **change.new}
    rule = erasures.rule(change.table, list(cells)) if change.new else None
    return rule is not None and rule.judge(list(cells.values())) != ()


def read_ledger(repo: Repository, history: History) -> Ledger:
    """The erasure ledger, once it is known that all of it is there; and remember how much that was.

    Args:
        repo: the repository, with the read right (or root).
        history: as `repo.history()` read it.

    Raises:
        IntegrityError: a record that may be an erasure is missing, damaged or not in its chain.
        MissingRight: one does not open with the keys at hand.
    """
    found = list(_damaged(history)) + record_problems(repo, history.records, ROLES, "an erasure")
    found += _forked(repo, history)
    if found:
        first = found[0]
        raise IntegrityError(
            f"the erasure ledger cannot be believed: {first.object} ({first.kind}): {first.detail}",
            object_name=first.object,
            hint=_HINT,
        )
    sealed = [name for name in history.hidden_records if name.split("/")[1] in ROLES]
    if sealed:
        raise MissingRight(
            f"{len(sealed)} records cannot be opened with the keys at hand, the first is {sealed[0]}: it may be an erasure",
            object_name=sealed[0],
            hint="use a key that was made, or made anew, after it was written",
        )
    _remember(repo, history)
    erasures = tuple(erasure_of(record) for record in history.records if record.type == "erasure")

    def hashes(key_id: bytes) -> ErasureHash:
        key = repo.keyring.records_key(key_id)
        if key is None:
            raise MissingRight("the erasure ledger cannot be opened with the keys at hand")
        return ErasureHash.of(key)

    return Ledger(erasures, hashes)


def _damaged(history: History) -> Iterator[Problem]:
    """Records of these roles that do not verify. What a revoked key signed counts for nothing, and is none of them."""
    for problem in history.record_problems:
        parts = problem.object.split("/")
        if len(parts) == 3 and parts[0] == "records" and parts[1] in ROLES and problem.kind in {"damaged", "missing"}:
            yield problem


def _forked(repo: Repository, history: History) -> Iterator[Problem]:
    """Records that are not those that this machine has read under their names."""
    by_place = {(str(record.role), record.n): record for record in history.records}
    for role, (n, digest) in repo.ledger.marks.items():
        record = by_place.get((role, n))
        if record is not None and record.digest != digest:
            yield Problem(record.name, "forked", "this machine has read another record of this number")


def _remember(repo: Repository, history: History) -> None:
    numbers = {role: max(there) for role, there in numbers_listed(repo, ROLES).items()}
    marks: dict[str, tuple[int, bytes]] = {}
    for record in history.records:
        if record.role in ROLES:
            marks[str(record.role)] = max((record.n, record.digest), marks.get(str(record.role), (0, b"")))
    with contextlib.suppress(OSError):
        repo.ledger.remember(repo.trust.version, {}, records=numbers, marks=marks)
