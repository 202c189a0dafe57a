"""Signs of life of the daemon and its workers."""

from datetime import datetime

from sqlalchemy import delete, select, update

from backupd.catalog.database import Database
from backupd.catalog.tables import heartbeats


class Heartbeats:
    """Who lives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def beat(self, name: str, now: datetime) -> None:
        """Somebody (the daemon, a worker) is alive."""
        with self._database.write() as connection:
            if not self._database.insert_new(connection, heartbeats, name=name, at=now):
                connection.execute(update(heartbeats).where(heartbeats.c.name == name).values(at=now))

    def all(self) -> dict[str, datetime]:
        """Of everybody the newest sign of life."""
        with self._database.read() as connection:
            return {row.name: row.at for row in connection.execute(select(heartbeats))}

    def forget(self, name: str) -> None:
        """Somebody ended in order."""
        with self._database.write() as connection:
            connection.execute(delete(heartbeats).where(heartbeats.c.name == name))
