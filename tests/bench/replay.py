"""`backupctl run` on a database that is not there: tables come from files, as a server would have sent them.

So what our side of a night costs is measured without the server's work, as the peers are measured with a dump from a file.
`python replay.py FOLDER WORDS...` is `backupctl WORDS...` with the files of FOLDER as the source: `<table>.rows` are
tables with their key first, `schema.sql` is a schema.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_BUFFER = 1 << 20


class FileView:
    """The files as one moment of a database."""

    pressing = False
    warnings: Sequence[str] = ()
    parallel = 2
    facts: Mapping[str, object] = {"engine_version": "files"}

    def __init__(self, folder: Path) -> None:
        from backupd.engines.base import StreamInfo, TableInfo

        files = sorted(folder.glob("*.rows"), key=lambda path: -path.stat().st_size)
        self._paths = {path.stem: path for path in files} | {"schema.sql": folder / "schema.sql"}
        self.streams = [StreamInfo("schema.sql", "schema", self._paths["schema.sql"].stat().st_size)]
        self.streams += [StreamInfo(path.stem, "rows", path.stat().st_size, key=(0,)) for path in files]
        self.tables = [TableInfo(path.stem, ("id",), None, (("id", "bigint"),), "files", True) for path in files]

    def read(self, stream: object) -> Iterator[bytes]:
        """A file's bytes."""
        with self._paths[stream.name].open("rb", buffering=0) as file:  # type: ignore[attr-defined]
            while data := file.read(_BUFFER):
                yield data

    def counted(self, stream: object, rows: int) -> None:
        """Nothing to compare with."""

    def finish(self) -> None:
        """Files do not change."""


class FileSource:
    """A folder that stands for a database."""

    engine = "postgresql"
    default_name = "files"

    def standstill(self) -> None:
        return None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def view(self, *, check: bool = False) -> Iterator[FileView]:
        """The files."""
        yield FileView(self._folder)


def _main() -> None:
    import backupd.wiring
    from backupctl.__main__ import main

    folder = Path(sys.argv[1])
    backupd.wiring.open_source = lambda *_, **__: FileSource(folder)  # type: ignore[assignment, return-value]
    sys.argv = ["backupctl", *sys.argv[2:]]
    main()


if __name__ == "__main__":
    _main()
