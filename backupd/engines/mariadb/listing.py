"""The databases of a server, for whoever protects all of them. The server's own schemas are left out by nature."""

from backupd.engines.base import Listed, Listing, ServerPlace
from backupd.engines.mariadb.catalog import SYSTEM_SCHEMAS
from backupd.engines.mariadb.client import connect, discard, run, server_errors

_SEES_ALL = """
SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SHOW DATABASES'
AND GRANTEE = CONCAT(CHAR(39), REPLACE(CURRENT_USER(), '@', CONCAT(CHAR(39), '@', CHAR(39))), CHAR(39))
"""


def databases(place: ServerPlace, *, timeout: float) -> Listing:
    """List the databases that this account sees, with a warning if there may be others.

    Raises:
        Unreachable: nobody there, or the user is refused.
    """
    link = connect(place, timeout=timeout)
    try:
        with server_errors(place, "listing the databases"):
            names = sorted(str(name) for (name,) in run(link, "SHOW DATABASES"))
            ((sees_all,),) = run(link, _SEES_ALL)
    finally:
        discard(link)
    hidden = f"{place.user or 'this account'} sees only databases that it has rights on: grant SHOW DATABASES"
    found = tuple(Listed(name) for name in names if name.lower() not in SYSTEM_SCHEMAS)
    return Listing(found, () if sees_all else (hidden,))
