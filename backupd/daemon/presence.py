"""Whether a file is still the one that was there: one that was moved away takes what is written to it along, and says nothing."""

from pathlib import Path

from backupd.errors import Failed


class Presence:
    """A file at its place, as it was when this was made. It is looked at and never opened: only SQLite may do that.

    Args:
        path: the file, which exists.
        what: what messages call it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._known = self._look()

    def check(self) -> None:
        """Whether it is still there.

        Raises:
            Failed: it is gone, or another one is in its place.
        """
        found = self._look()
        if found != self._known or found is None:
            word = "gone" if found is None else "another file now"
            raise Failed(
                f"{self._what} {self._path} is {word}: nothing that happens can be written down",
                object_name=str(self._path),
                hint="stop backupd, bring the file back (or move its -wal and -shm away too), and start backupd again",
            )

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino
