"""Whether the foreign keys of a restored MariaDB or MySQL database hold, which its restore does not have the server check.

A source need not hold them either: this server takes rows unchecked from whoever turns foreign_key_checks off. So what is
found here may be as it was in the source. Reads only; names and counts alone are told.
"""

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import connect, discard, read_server, run, server_errors
from backupd.engines.mariadb.live_checks import count_orphans
from backupd.engines.mariadb.live_schema import read_shape


def check_references(place: ServerPlace, *, timeout: float) -> list[str]:
    """Which foreign keys within the database do not hold, and how many rows break each.

    Args:
        place: the database.
        timeout: seconds to wait for the connection; counting takes what it takes.

    Raises:
        Unreachable, TryAgain, Failed.
    """
    link = connect(place, timeout=timeout, database=place.database, read_timeout=0)
    try:
        shape = read_shape(place, link, read_server(place, link))
        found = []
        for key in shape.schema.references:
            with server_errors(place, f"checking constraint {key.name}", subject=key.table):
                ((count,),) = run(link, count_orphans(key))
            if count != 0:
                what = f"constraint {key.name} of table {key.table}"
                found.append(f"{what}: {count} rows refer to rows of {key.parent} that are not there")
        return found
    finally:
        discard(link)
