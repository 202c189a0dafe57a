"""Values that refer, as their parents' columns spell them, where the two columns are of different types.

A date that refers to a timestamp has another text than the timestamp has, and is the same value. Some of these spellings are
plain; the others only the database knows, which is asked for many values at a time. Must never put a cell into a message.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from backupd.model import Cell, Cells, Reference, Spelling

_KEPT = 200_000
"""So many answers of the database at most: a table may have as many values as rows."""
_TOGETHER = 1000
_MIDNIGHT = b" 00:00:00"
_BEFORE = b" BC"
_ASKED: frozenset[Spelling] = frozenset({"asked", "zoned"})


class Across(Protocol):
    """A live database that knows how values of one type become those of another."""

    def spellings(self, reference: Reference) -> Sequence[Spelling]:
        """How each of a reference's columns spells its parent's values; nothing where nobody knows."""

    def as_parents(self, reference: Reference, values: Collection[Cells]) -> Mapping[Cells, Cells | None]:
        """The referring side's values as the parent's side spells them; None for what equals nothing there."""


class Respelling:
    """How the values of references become those of parents, as far as a live database says that they have to."""

    def __init__(self, across: Across | None = None) -> None:
        self._across = across
        self._words: dict[Reference, tuple[Spelling, ...]] = {}
        self._told: dict[Reference, dict[Cells, Cells | None]] = {}
        self._untold: dict[Reference, None] = {}

    def of(self, reference: Reference) -> tuple[Spelling, ...]:
        """How its columns spell their parents' values; empty where nobody knows."""
        if self._across is None:
            return ()
        if reference not in self._words:
            words = tuple(self._across.spellings(reference))
            if not reference.declared and _ASKED & {*words}:
                self._untold[reference] = None
                words = ()
            self._words[reference] = words
        return self._words[reference]

    def is_own(self, reference: Reference) -> bool:
        """Whether the referring side spells values in a way of its own."""
        return any(self.of(reference))

    def asked(self, reference: Reference) -> tuple[bool, ...]:
        """Of each column, whether only the database knows."""
        return tuple(word in _ASKED for word in self.of(reference))

    def near(self, reference: Reference) -> Callable[[Cells], Cells | None]:
        """What tells, without asking anybody, what a value becomes; columns of which only the database knows stay as they are."""
        words = self.of(reference)

        def become(cells: Cells) -> Cells | None:
            found = tuple(_become(cell, word) for cell, word in zip(cells, words, strict=True))
            return None if None in found else found

        return become

    def led(self, reference: Reference, values: Collection[Cells]) -> dict[Cells, Cells]:
        """What values become; without those that equal nothing on the parent's side."""
        if not self.is_own(reference):
            return {value: value for value in values}
        if not any(self.asked(reference)):
            become = self.near(reference)
            return {value: found for value in values if (found := become(value)) is not None}
        assert self._across is not None
        known = self._told.setdefault(reference, {})
        if len(known) > _KEPT:
            known.clear()
        open_ = iter([value for value in values if value not in known and None not in value])
        while some := list(islice(open_, _TOGETHER)):
            known.update(self._across.as_parents(reference, some))
        return {value: found for value in values if (found := known.get(value)) is not None}

    def remarks(self) -> Iterator[str]:
        """Sentences about references that were followed and that not everybody's session follows in the same way."""
        for reference in self._untold:
            yield (
                f"{reference.name} refers to {reference.parent} by columns of other types, and no foreign key says how they"
                " compare: only equal texts were followed"
            )
        for reference, words in self._words.items():
            if "zoned" in words and self._told.get(reference):
                yield (
                    f"which rows of {reference.table} refer to {reference.parent} depends on the time zone of whoever wrote them:"
                    " they were found by the zone that sessions of this database have unless they choose another"
                )


def _become(cell: Cell, word: Spelling) -> Cell:
    """What a cell becomes; None if it equals nothing on the parent's side."""
    if not isinstance(cell, bytes) or not word or word in _ASKED:
        return cell
    if word == "trimmed":
        return cell.rstrip(b" ")
    body, before = (cell.removesuffix(_BEFORE), _BEFORE) if cell.endswith(_BEFORE) else (cell, b"")
    if body.endswith(b"infinity"):
        return cell
    if word == "timed":
        return body + _MIDNIGHT + before
    return body.removesuffix(_MIDNIGHT) + before if body.endswith(_MIDNIGHT) else None
