"""Bringing a catalog to this program's version, in one transaction: wholly or not at all.

A catalog that is newer, or whose tables are not those of its version, is refused and left as it is: this program must
never guess what another one meant.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError

from backupd.catalog.database import REBUILD, Database, damaged
from backupd.catalog.tables import meta, metadata
from backupd.errors import BackupdError, IntegrityError, SafetyRefused

NEWEST = "0001"
_VERSIONS = Path(__file__).parent / "migrations"
_VERSION_TABLE = "alembic_version"
_Columns = frozenset[tuple[str, str]]


def bring_up(database: Database, *, versions: Path = _VERSIONS, newest: str = NEWEST) -> str:
    """Make or upgrade the catalog if it needs that, and check that it is whole; returns its id.

    Args:
        database: where it is.
        versions: the folder with one migration for each version.
        newest: the version to bring it to.

    Raises:
        IntegrityError: it is half-migrated, or no catalog.
        SafetyRefused: it is newer than this program.
        BackupdError: as the database says.
    """
    if (found := current(database, versions=versions, newest=newest)) is not None:
        return found
    with database.write() as connection:
        if not _is_current(connection, database, _known(versions), newest):  # another process may have been faster
            _upgrade(connection, database, versions, newest)
        return _id(connection, database)


def current(database: Database, *, versions: Path = _VERSIONS, newest: str = NEWEST) -> str | None:
    """The id of a catalog that is of this version and whole; None if it is empty or older. Changes nothing.

    Raises:
        IntegrityError, SafetyRefused, BackupdError: as `bring_up`.
    """
    with database.read() as connection:
        return _id(connection, database) if _is_current(connection, database, _known(versions), newest) else None


def _known(versions: Path) -> list[str]:
    return [path.stem.removeprefix("v") for path in versions.glob("v*.py")]


def _is_current(connection: Connection, database: Database, known: Sequence[str], newest: str) -> bool:
    """Whether it is of this version, and whole; False if it is empty or older."""
    columns = _columns(connection, database)
    if not columns:
        return False
    if (_VERSION_TABLE, "version_num") not in columns:
        raise damaged(database.name)
    versions = [str(version) for (version,) in connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}"))]  # noqa: S608
    if versions == [newest]:
        if columns != _expected():
            raise half_migrated(database)
        return True
    if any(version not in known for version in versions):
        raise SafetyRefused(
            f"the catalog {database.name} was made by a newer version of this program",
            object_name=database.name,
            hint=f"upgrade this program, or {REBUILD}",
        )
    if len(versions) != 1:
        raise half_migrated(database)
    return False


def half_migrated(database: Database) -> BackupdError:
    """The error of a catalog whose tables are not those of the version that it names."""
    return IntegrityError(
        f"the catalog {database.name} is half-migrated: its tables are not those of the version that it names",
        object_name=database.name,
        hint=REBUILD,
    )


def _columns(connection: Connection, database: Database) -> _Columns:
    """All columns of all tables that there are."""
    if database.sqlite:
        query = (
            "SELECT m.name, p.name FROM sqlite_master m JOIN pragma_table_info(m.name) p"
            " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
    else:
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
    return frozenset((str(table), str(column)) for table, column in connection.execute(text(query)))


def _expected() -> _Columns:
    ours = {(table.name, column.name) for table in metadata.tables.values() for column in table.columns}
    return frozenset(ours | {(_VERSION_TABLE, "version_num")})


def _id(connection: Connection, database: Database) -> str:
    found = connection.execute(select(meta.c.value).where(meta.c.key == "id")).scalar()
    if found is None:
        raise half_migrated(database)
    return str(found)


def _upgrade(connection: Connection, database: Database, versions: Path, newest: str) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(versions), version_locations=[str(versions)])
    context = MigrationContext.configure(
        connection,
        opts={
            "fn": lambda revision, _: scripts._upgrade_revs(newest, revision),
            "transactional_ddl": True,  # SQLite's is, once its driver leaves transactions alone
        },
    )
    made = not _columns(connection, database)
    try:
        with Operations.context(context):
            context.run_migrations()
    except DBAPIError as error:
        if database.has_other_tables(error):  # what was begun here is undone
            raise half_migrated(database) from None
        raise
    if made:
        connection.execute(insert(meta).values(key="id", value=secrets.token_hex(16)))
    if _columns(connection, database) != _expected():
        raise half_migrated(database)
