"""Rows as text: which of many rows may have one of many texts in a field. No Python object is made for the others.

A filter in front of an exact look: what it leaves out has none of the texts, and what it lets through may, rarely, have none.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

_TAB, _NEWLINE = np.uint8(9), np.uint8(10)
_PADDING = b"\xff" * 8
_WORD = 8
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(_WORD + 1)], dtype=np.uint64)
_FIRST, _LAST = 0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F
_Words = NDArray[np.uint64]


class FieldSearch:
    """Finds rows by one field. Safe for several threads.

    Args:
        at: the field's place in a row.
        columns: how many fields a row has.
        texts: what may stand there, as it is written.
    """

    def __init__(self, at: int, columns: int, texts: Collection[bytes]) -> None:
        self._at, self._columns = at, columns
        self._marks = np.array(sorted({_mark(text) for text in texts}), dtype=np.uint64)

    def rows(self, chunks: Sequence[bytes]) -> list[bytes] | None:
        """The rows of chunks that may have one of the texts; None unless every row has all its fields and its newline."""
        if any(chunk[-1:] != b"\n" for chunk in chunks):
            return None
        data = b"".join([_PADDING, *chunks, _PADDING])
        block = np.frombuffer(data, dtype=np.uint8)
        places = np.flatnonzero(block <= _NEWLINE)  # a row with other bytes below is seen to be none of this kind
        if len(places) % self._columns:
            return None
        kinds, ends = block[places].reshape(-1, self._columns), places.reshape(-1, self._columns)
        if not ((kinds[:, -1] == _NEWLINE).all() and (kinds[:, :-1] == _TAB).all()):
            return None
        begins = np.empty(len(ends), dtype=np.int64)
        begins[:1], begins[1:] = _WORD, ends[:-1, -1] + 1
        starts = ends[:, self._at - 1] + 1 if self._at else begins
        marks = self._marks_of(data, starts, ends[:, self._at])
        near = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        found = np.flatnonzero(self._marks[near] == marks)
        return [data[begins[n] : ends[n, -1] + 1] for n in found]

    @staticmethod
    def _marks_of(data: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> _Words:
        """`_mark` of many fields."""
        words: _Words = np.ndarray((len(data) - _WORD + 1,), dtype="<u8", buffer=data, strides=(1,))
        lengths = ends - starts
        marks: _Words = (words[starts] & _MASKS[np.minimum(lengths, _WORD)]) * np.uint64(_FIRST)
        longer = lengths > _WORD
        if longer.any():
            marks += np.where(longer, words[ends - _WORD], np.uint64(0)) * np.uint64(_LAST)
        marks += lengths.astype(np.uint64)
        return marks


def _mark(text: bytes) -> int:
    """A text's beginning, end and length in 64 bits."""
    first, last = (int.from_bytes(part, "little") for part in (text[:_WORD], text[-_WORD:]))
    return (first * _FIRST + (last * _LAST if len(text) > _WORD else 0) + len(text)) % (1 << 64)
