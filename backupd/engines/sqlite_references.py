"""What the tables of a database file are and what refers to what, as its own schema says; no statement of it is run."""

from backupd.engines.sqlite_lazy import lazy_connection
from backupd.engines.sqlite_schema import read_live_schema
from backupd.model import Bytes, LiveSchema


def read_relations(data: Bytes) -> LiveSchema:
    """The tables and foreign keys of the database whose bytes these are.

    Raises:
        IntegrityError: it is no sound database.
    """
    if data.size == 0:
        return LiveSchema({}, ())
    with lazy_connection(data) as link:
        return read_live_schema(link)[0]
