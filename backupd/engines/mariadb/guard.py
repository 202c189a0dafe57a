"""What a restore is refused for: the place it would go to, and objects that would run with another account's rights."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from backupd.engines.base import LoadOptions, ServerPlace
from backupd.engines.mariadb.accounts import existing
from backupd.engines.mariadb.catalog import is_system
from backupd.engines.mariadb.client import Connection, Server, run, server_errors
from backupd.engines.mariadb.findings import read_rights
from backupd.engines.mariadb.statements import DEFINER, LIBRARY, Definition
from backupd.errors import IntegrityError, SafetyRefused

_NAMED = 10


class Guard:
    """Judges one target."""

    def __init__(self, place: ServerPlace, link: Connection, server: Server) -> None:
        self._place = place
        self._link = link
        self._server = server
        self.warnings: list[str] = []

    def require_place(self, options: LoadOptions, facts: Mapping[str, object]) -> None:
        """The server and the database are such that this snapshot may go there.

        Raises:
            SafetyRefused: another vendor, an older server, a read-only one, a database that is not empty.
        """
        database = self._place.database
        if not database or is_system(database):
            raise SafetyRefused(
                f"{database!a} is not a database for restoring to", object_name=database, hint="name another one"
            )
        vendor = facts.get("vendor")
        if vendor != self._server.vendor:
            raise SafetyRefused(
                f"the snapshot is of {vendor}, the server is {self._server.vendor}: types and collations differ",
                object_name=database,
                hint="restore to a server of the same kind",
            )
        version = version_of_facts(facts)
        if version[:2] > self._server.version[:2]:
            old = ".".join(str(part) for part in self._server.version)
            new = ".".join(str(part) for part in version)
            raise SafetyRefused(
                f"the server's version {old} is older than the snapshot's {new}", hint="restore to a newer server"
            )
        with server_errors(self._place, "looking at the target"):
            if str(run(self._link, "SELECT @@GLOBAL.read_only")[0][0]) not in ("0", "OFF"):
                self.warnings.append("the server is set to read_only")
        if options.overwrite != database and (what := self._first_object()) is not None:
            raise SafetyRefused(
                f"database {database} is not empty: it has {what}",
                object_name=database,
                hint=f"name another database, or repeat its name: --overwrite {database}",
            )

    def _first_object(self) -> str | None:
        """Something that is in the target's database; None if it is empty or does not exist."""
        places = (
            ("table", "TABLES", "TABLE_NAME", "TABLE_SCHEMA"),
            ("routine", "ROUTINES", "ROUTINE_NAME", "ROUTINE_SCHEMA"),
            ("event", "EVENTS", "EVENT_NAME", "EVENT_SCHEMA"),
        )
        with server_errors(self._place, "looking at the target"):
            for kind, view, name, schema in places:
                statement = f"SELECT {name} FROM information_schema.{view} WHERE {schema} = %s LIMIT 1"
                if rows := run(self._link, statement, (self._place.database,)):
                    return f"{kind} {rows[0][0]}"
        return None

    def permit(self, definitions: Sequence[Definition], allow: frozenset[str], coming: Set[str]) -> list[Definition]:
        """The definitions that may be executed, with us for their definer where another cannot be set.

        Args:
            coming: accounts that will be there before the definitions are executed.

        Raises:
            SafetyRefused: something needs a word of `allow` that is not there.
        """
        with server_errors(self._place, "asking for the account"):
            me = str(run(self._link, "SELECT CURRENT_USER()")[0][0])
        rights = read_rights(self._place, self._link)
        can_set = rights.has_everywhere("SUPER", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER")
        powerful = bool(rights.everywhere - {"USAGE"})
        refused: dict[str, list[str]] = {}
        kept = []
        for definition in definitions:
            dangers = set(definition.dangers)
            foreign = definition.definer is not None and definition.definer != me
            if foreign and (definition.as_definer or not can_set):
                dangers.add(DEFINER)
            if definition.kind == "event" and powerful:
                dangers.add(DEFINER)  # it runs by itself, with rights on the whole server
            for danger in dangers:
                if danger == LIBRARY or not allow & {danger, "all"}:
                    refused.setdefault(danger, []).append(definition.label)
            if foreign and not can_set:
                self.warnings.append(f"{definition.label} runs as {me} now, not as {definition.definer}")
                owned = replace(definition.piece, text=definition.owned_by_us())
                definition = replace(definition, piece=owned, definer=me)
            kept.append(definition)
        if refused:
            raise _refusal(refused)
        self._warn_of_missing(kept, coming)
        return kept

    def _warn_of_missing(self, definitions: Sequence[Definition], coming: Set[str]) -> None:
        there = existing(self._place, self._link)
        if there is None:
            return
        for definition in definitions:
            definer = definition.definer
            if definer is not None and not {definer, f"{definer}@"} & (there | coming):
                self.warnings.append(f"the definer {definer} of {definition.label} is no account of this server")


def version_of_facts(facts: Mapping[str, object]) -> tuple[int, ...]:
    """The version of the server that was captured.

    Raises:
        IntegrityError: the facts hold none.
    """
    version = facts.get("version")
    numbers = tuple(part for part in version if isinstance(part, int)) if isinstance(version, list | tuple) else ()
    if len(numbers) < 2 or len(numbers) != len(version if isinstance(version, list | tuple) else ()):
        raise IntegrityError("the snapshot does not say of which version it is", hint="verify the snapshot")
    return numbers


def charset_clause(facts: Mapping[str, object]) -> str:
    """The CHARACTER SET and COLLATE of CREATE DATABASE.

    Raises:
        IntegrityError: the facts hold no names of these.
    """
    charset, collation = str(facts.get("charset", "")), str(facts.get("collation", ""))
    if not (
        charset.replace("_", "").isalnum() and collation.replace("_", "").isalnum() and (charset + collation).isascii()
    ):
        raise IntegrityError(
            "the snapshot does not say in which character set the database was", hint="verify the snapshot"
        )
    return f"CHARACTER SET {charset} COLLATE {collation}"


def _refusal(refused: Mapping[str, Sequence[str]]) -> SafetyRefused:
    named = []
    for danger, labels in sorted(refused.items()):
        more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
        named.append(f"{danger}: {', '.join(labels[:_NAMED])}{more}")
    words = [danger for danger in sorted(refused) if danger != LIBRARY]
    hint = " ".join(f"--allow {word}" for word in words)
    if LIBRARY in refused:
        hint = "functions in libraries are never restored; export the snapshot"
    return SafetyRefused(f"the snapshot holds what runs with another's rights: {'; '.join(named)}", hint=hint)
