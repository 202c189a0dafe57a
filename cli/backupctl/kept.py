"""Lines of an answer that wait, sealed, until it is known that all went well."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backupd.jobs.spill import SealedFile

_BLOCK = 256 * 1024


class Kept:
    """Lines in memory, and more than a few of them in a sealed file without a name.

    Args:
        folder: where such a file may be.
    """

    def __init__(self, folder: Path = Path()) -> None:
        self.folder = folder
        self._spool: SealedFile | None = None
        self._lines: list[str] = []
        self._size = 0

    def add(self, text: str) -> None:
        """One more."""
        from backupd.jobs.spill import SealedFile

        self._lines.append(text)
        self._size += len(text)
        if self._size > _BLOCK:
            self._spool = self._spool or SealedFile(self.folder)
            self._spool.write(json.dumps(self._lines).encode())
            self._lines, self._size = [], 0

    def __iter__(self) -> Iterator[str]:
        if self._spool is not None:
            for number in range(len(self._spool)):
                yield from json.loads(self._spool.read(number))
        yield from self._lines

    def close(self) -> None:
        """Give the file back."""
        if self._spool is not None:
            self._spool.close()
