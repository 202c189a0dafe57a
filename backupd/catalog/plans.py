"""For when each task was planned last: so a restart neither repeats a run nor forgets one."""

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import delete, select, update

from backupd.catalog.database import Database
from backupd.catalog.tables import plans


class Plans:
    """The table of what was planned."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def planned(self) -> dict[str, datetime]:
        """Of each task's name the time."""
        with self._database.read() as connection:
            return dict(connection.execute(select(plans.c.name, plans.c.at)).all())

    def remember(self, times: Mapping[str, datetime]) -> None:
        """That tasks were planned for these times."""
        if not times:
            return
        with self._database.write() as connection:
            for name, at in times.items():
                if not self._database.insert_new(connection, plans, name=name, at=at):
                    connection.execute(update(plans).where(plans.c.name == name).values(at=at))

    def forget(self, name: str) -> None:
        """What was remembered under this name is over."""
        with self._database.write() as connection:
            connection.execute(delete(plans).where(plans.c.name == name))

    def purge(self, before: datetime, keep: Collection[str] = ()) -> int:
        """Forget tasks that were last planned before then, but for those to keep: what a policy still has may be rare."""
        with self._database.write() as connection:
            old = connection.execute(select(plans.c.name).where(plans.c.at < before)).scalars().all()
            gone = sorted(set(old).difference(keep))
            for name in gone:
                connection.execute(delete(plans).where(plans.c.name == name))
        return len(gone)
