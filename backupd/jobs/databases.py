"""All databases of a server as sources: their names, and which of them are gone since they were looked at last.

A database becomes the source NAME.DATABASE, NAME being what the policy calls the server. What was there last is remembered in the
state folder, sealed under a key of the writer's: names of databases are the customer's.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backupd.crypto.chunks import open_part, seal_part
from backupd.crypto.keyfile import Key
from backupd.crypto.primitives import Unauthentic, expand
from backupd.engines.base import Listing
from backupd.errors import BackupdError, Unreachable, UsageError
from backupd.policy.model import SOURCE_NAME


@dataclass(frozen=True, slots=True)
class DatabaseSource:
    """One database as a source; `error` says why no snapshot of it can be taken."""

    name: str
    database: str
    error: BackupdError | None = None


def as_sources(server: str, listing: Listing) -> list[DatabaseSource]:
    """The databases of a listing as sources of a server that a policy calls `server`; none is left out silently."""
    found = []
    for one in listing.databases:
        name = f"{server}.{one.name}"
        error: BackupdError | None = None
        if one.refused:
            error = Unreachable(
                f"database {one.name!r} is not backed up: {one.refused}",
                object_name=one.name,
                hint="let the backup role connect, or drop the database",
            )
        elif not re.fullmatch(SOURCE_NAME, name) or not name.isprintable():
            error = UsageError(
                f"database {one.name!r} is not backed up: {server}.DATABASE would be no name for a source",
                object_name=one.name,
                hint="make it a source of its own in the policy, with a name of 1 to 128 characters without / @ and \\",
            )
        found.append(DatabaseSource(name, one.name, error))
    return found


def gone_since(folder: Path, key: Key, server: str, names: Sequence[str], *, keep: bool = True) -> list[str]:
    """Databases that were there when this was asked last and are not now; with `keep`, remember those of now.

    Args:
        folder: the state folder of the repository.
        key: the write key.
        server: what the policy calls the server.
        names: the databases that are there.

    Raises:
        OSError: they cannot be remembered.
    """
    secret, about = key.secrets["cache"], server.encode()
    path = folder / "databases" / expand(secret, b"backupd/databases" + about, 16).hex()
    try:
        before = json.loads(open_part(secret, "databases", about, path.read_bytes()))
    except (OSError, ValueError, Unauthentic):
        before = []
    if keep and before != sorted(names):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(seal_part(secret, "databases", about, json.dumps(sorted(names)).encode()))
        fresh.replace(path)
    return [name for name in before if name not in names]
