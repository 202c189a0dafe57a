"""What refers to what in a database file, as its own schema says; no statement of it is run."""

from backupd.engines.sqlite_lazy import lazy_connection
from backupd.engines.sqlite_schema import read_live_schema
from backupd.model import Bytes, Reference


def read_references(data: Bytes) -> tuple[Reference, ...]:
    """The foreign keys of the database whose bytes these are.

    Raises:
        IntegrityError: it is no sound database.
    """
    if data.size == 0:
        return ()
    with lazy_connection(data) as link:
        return read_live_schema(link)[0].references
