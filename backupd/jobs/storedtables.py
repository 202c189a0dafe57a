"""Opens the tables of a snapshot, whatever its engine, to look records up in."""

from collections.abc import Iterator
from contextlib import contextmanager

from backupd.jobs.compare import FETCHERS, StoredSide
from backupd.jobs.pagefile import Groups
from backupd.jobs.stored import Erased
from backupd.jobs.storedfile import OpenFile, StoredFileTable, StoredFileTables
from backupd.jobs.storedrows import StoredRows, StoredRowTables
from backupd.repo.reading import PackCache
from backupd.repo.repository import Repository, SnapshotView

OpenTable = StoredRows | StoredFileTable
OpenTables = StoredRowTables | StoredFileTables


def open_tables(
    repo: Repository,
    view: SnapshotView,
    cache: PackCache,
    *,
    open_file: OpenFile,
    erased: Erased | None,
    kept: Groups | None = None,
) -> OpenTables:
    """The tables of a snapshot; close them in the end.

    Args:
        repo: the repository, with the read right.
        view: a verified snapshot.
        cache: where packs come from; a sparse one.
        open_file: opens a database file (`wiring.open_file_database`).
        erased: what the erasure ledger hides of the snapshot's source; None if it hides nothing.
        kept: pages that were read already, for several snapshots of files.

    Raises:
        UsageError: it holds no tables that could be read.
        IntegrityError: an object that is needed is missing, damaged or forged.
    """
    side = StoredSide(repo, view, cache)
    if side.content["engine"] == "sqlite":
        return StoredFileTables(side, open_file, erased, Groups() if kept is None else kept)
    return StoredRowTables(side, erased)


@contextmanager
def opened_tables(
    repo: Repository, view: SnapshotView, *, open_file: OpenFile, erased: Erased | None, kept: Groups | None = None
) -> Iterator[OpenTables]:
    """The same with a cache of its own, closed at the end."""
    cache = PackCache(repo, sparse=True, fetchers=FETCHERS)
    try:
        tables = open_tables(repo, view, cache, open_file=open_file, erased=erased, kept=kept)
        try:
            yield tables
        finally:
            tables.close()
    finally:
        cache.close()
