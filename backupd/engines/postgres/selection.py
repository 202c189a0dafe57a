"""Which entries of an archive belong to chosen tables: the tables, what they need, and what hangs on them.

An entry that would bring in a table that was not chosen (a foreign key, a view) is left out.
"""

from collections.abc import Collection, Iterable, Sequence

from backupd.engines.postgres.archive import Entry

_TABLES = frozenset({"TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW"})
_OF_OBJECTS = frozenset({"ACL", "COMMENT", "SECURITY LABEL"})
_OF_MANY = frozenset({"PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA"})


class Selection:
    """Chooses entries.

    Args:
        entries: all that could be restored, in their order.
        chosen: schema and name of each chosen table.
        through_root: those of them that are partitioned, and need all of their partitions.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        chosen: Collection[tuple[str, str]],
        through_root: Collection[tuple[str, str]],
    ) -> None:
        self._by_number = {entry.number: entry for entry in entries}
        self._taken: set[int] = set()
        self.left_out: list[str] = []
        tables = {(entry.namespace, entry.tag): entry.number for entry in entries if entry.desc in _TABLES}
        self.missing = sorted(set(chosen) - tables.keys())
        for place in chosen:
            if place in tables:
                self._take(self._needs(tables[place]))
        self._ours = {tables[place] for place in chosen if place in tables}
        self._attach(entries, {tables[place] for place in through_root if place in tables})
        self._follow(entries)
        self.entries = [entry for entry in entries if entry.number in self._taken]

    def _needs(self, number: int) -> set[int]:
        """An entry and all that it depends on."""
        found: set[int] = set()
        waiting = [number]
        while waiting:
            one = waiting.pop()
            if one not in found and one in self._by_number:
                found.add(one)
                waiting += self._by_number[one].depends
        return found

    def _take(self, numbers: Iterable[int]) -> None:
        self._taken.update(numbers)

    def _attach(self, entries: Sequence[Entry], roots: set[int]) -> None:
        """The partitions of partitioned tables, at every depth."""
        grown = True
        while grown:
            grown = False
            for entry in entries:
                if entry.desc == "TABLE ATTACH" and roots & set(entry.depends) and not set(entry.depends) <= roots:
                    roots |= set(entry.depends)
                    grown = True
        for root in roots:
            self._take(self._needs(root))
        self._ours |= roots

    def _follow(self, entries: Sequence[Entry]) -> None:
        """What hangs on the tables that were taken: defaults, constraints, indexes, triggers, comments, grants."""
        refused: set[int] = set()
        grown = True
        while grown:
            grown = False
            for entry in entries:
                if entry.number in refused or entry.number in self._ours or not self._hangs_on_ours(entry):
                    continue
                needs = self._needs(entry.number)
                if entry.desc in _OF_MANY or any(self._is_strange(number) for number in needs):
                    refused.add(entry.number)
                    self.left_out.append(f"{entry.desc} {entry.tag}")
                    continue
                self._take(needs)
                self._ours.add(entry.number)
                grown = True

    def _is_strange(self, number: int) -> bool:
        """Whether it is a table that nobody asked for."""
        return number not in self._taken and self._by_number[number].desc in _TABLES

    def _hangs_on_ours(self, entry: Entry) -> bool:
        if entry.desc in _TABLES:
            return False
        ours = self._taken if entry.desc in _OF_OBJECTS else self._ours
        return any(number in ours for number in entry.depends)
