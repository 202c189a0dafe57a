"""Signs of life of the daemon and its workers, and what the catalog says of itself."""

from datetime import datetime

from backupd.catalog.database import Database


class Heartbeats:
    """Who lives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, name: str, now: datetime) -> None:
        """Somebody (the daemon, a worker) is alive."""
        raise NotImplementedError

    def all(self) -> dict[str, datetime]:
        """Of everybody the newest sign of life."""
        raise NotImplementedError

    def forget(self, name: str) -> None:
        """Somebody ended in order."""
        raise NotImplementedError
