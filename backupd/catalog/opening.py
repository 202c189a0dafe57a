"""Opening a catalog: the one door. A file (SQLite, for one host), or a PostgreSQL server (for several).

What opens is of this program's version and whole: an older catalog is brought up to date in one transaction, a newer, damaged or
half-migrated one is refused.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from backupd.catalog.alerts import Alerts
from backupd.catalog.audit import Audit
from backupd.catalog.checks import Drills, Verifications
from backupd.catalog.database import Database
from backupd.catalog.embedded import EmbeddedQueue
from backupd.catalog.heartbeats import Heartbeats
from backupd.catalog.migration import bring_up, current
from backupd.catalog.outbox import Outbox
from backupd.catalog.places import Server, open_file, open_file_there, open_server, open_server_there, share
from backupd.catalog.plans import Plans
from backupd.catalog.queue import Queue
from backupd.catalog.repositories import Repositories
from backupd.catalog.runs import Runs
from backupd.catalog.snapshots import Snapshots
from backupd.catalog.totals import Day, Totals, days, totals


class Catalog:
    """An opened catalog. Its parts may be used from any number of threads, and the database by any number of processes.

    Not across a fork: a child opens its own.
    """

    def __init__(self, database: Database, queue: Queue, id: str) -> None:  # noqa: A002
        self._database = database
        self.id = id
        """Random, since the catalog was made: another id means that history was lost."""
        self.queue: Queue = queue
        self.runs = Runs(database)
        self.snapshots = Snapshots(database)
        self.verifications = Verifications(database)
        self.drills = Drills(database)
        self.alerts = Alerts(database)
        self.outbox = Outbox(database)
        self.audit = Audit(database)
        self.heartbeats = Heartbeats(database)
        self.plans = Plans(database)
        self.repositories = Repositories(database)

    def totals(self, bounds: Sequence[float]) -> list[Totals]:
        """See `backupd.catalog.totals`."""
        return totals(self._database, bounds)

    def days(self, since: datetime) -> list[Day]:
        """See `backupd.catalog.totals`."""
        return days(self._database, since)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_catalog(place: Path | Server, *, timeout: float = 30.0) -> Catalog:
    """Open a catalog; one that is not there is made, with its folder.

    Args:
        place: a file or a server's database.
        timeout: seconds to wait for another writer, or for a connection.

    Raises:
        IntegrityError: it is damaged or half-migrated.
        SafetyRefused: it is newer than this program.
        Unreachable: the server cannot be reached, or refuses.
        StorageRefused: the file cannot be opened or written.
        TryAgain: another process kept it locked for too long.
    """
    database = open_file(place, timeout) if isinstance(place, Path) else open_server(place, timeout)
    try:
        made = bring_up(database)
        if isinstance(place, Path):
            share(database, timeout)  # not before it is known to be a catalog: this changes the file
    except BaseException:
        database.close()
        raise
    return Catalog(database, EmbeddedQueue(database), made)


def find_catalog(place: Path | Server, *, timeout: float = 5.0) -> Catalog | None:
    """Open a catalog that is there and of this program's version, and neither make nor upgrade one.

    Args:
        place: a file or a server's database.
        timeout: seconds to wait for another writer, or for a connection.

    Returns:
        None if there is none, or an older one.

    Raises:
        BackupdError: as `open_catalog`.
    """
    if isinstance(place, Path) and not place.exists():
        return None
    database = open_file_there(place, timeout) if isinstance(place, Path) else open_server_there(place, timeout)
    try:
        found = current(database)
    except BaseException:
        database.close()
        raise
    if found is None:
        database.close()
        return None
    return Catalog(database, EmbeddedQueue(database), found)
