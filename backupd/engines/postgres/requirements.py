"""What a target server must offer for a snapshot: its version, roles, extensions, and room for the name."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import psycopg

from backupd.engines.base import LoadOptions
from backupd.engines.postgres.archive import Entry
from backupd.engines.postgres.catalog import Session
from backupd.engines.postgres.client import Server
from backupd.engines.postgres.problems import target_error
from backupd.engines.postgres.sqltext import Token, Unclear, statements
from backupd.errors import SafetyRefused, UsageError

MISSING_ROLES = "missing-roles"
_ROLES = "SELECT rolname, pg_catalog.pg_has_role(oid, %s) FROM pg_catalog.pg_roles"
_OF_EACH_DATABASE = "pg_database_owner"
_TRUSTED = """
SELECT v.name FROM pg_catalog.pg_available_extension_versions v
  JOIN pg_catalog.pg_available_extensions e ON e.name = v.name AND e.default_version = v.version
 WHERE v.trusted OR NOT v.superuser
"""


class Offer:
    """What a target server has; `beyond` are those of its roles that may own nothing that we make."""

    def __init__(self, session: Session, server: Server, name: str) -> None:
        self.server = server
        self._name = name
        try:
            found = session.execute(_ROLES.encode(), ("SET" if server.major >= 16 else "MEMBER",)).fetchall()
            self.roles = {row[0] for row in found}
            self.beyond = {row[0] for row in found if not row[1]} - {_OF_EACH_DATABASE}
            self.trusted_extensions = {row[0] for row in session.execute(_TRUSTED.encode()).fetchall()}
            rows = session.execute(b"SELECT name, default_version FROM pg_catalog.pg_available_extensions").fetchall()
            self.extensions: dict[str, str] = dict(rows)
            row = session.execute(
                b"SELECT rolsuper, rolcreatedb, rolname FROM pg_catalog.pg_roles WHERE rolname = current_user"
            ).fetchone()
            spaces = session.execute(b"SELECT spcname FROM pg_catalog.pg_tablespace").fetchall()
        except psycopg.Error as error:
            raise target_error(error, f"{name} could not be examined", name) from None
        assert row is not None
        self.superuser, self.may_create, self.role = bool(row[0]), bool(row[0] or row[1]), row[2]
        self.tablespaces = {space[0] for space in spaces}

    def refuse_version(self, facts: Mapping[str, Any]) -> None:
        """Refuse a server that is older than the source was.

        Raises:
            SafetyRefused: it is.
        """
        source = int(facts.get("server_version_num") or 0) // 10000
        if self.server.major < source:
            raise SafetyRefused(
                f"{self._name} is PostgreSQL {self.server.major}, the snapshot is of PostgreSQL {source}",
                object_name=self._name,
                hint=f"restore to PostgreSQL {source} or newer",
            )

    def refuse_role(self) -> None:
        """Refuse a role that may not create databases.

        Raises:
            SafetyRefused: it may not.
        """
        if not self.may_create:
            raise SafetyRefused(
                f"the role {self.role} may not create databases", object_name=self._name, hint="grant it CREATEDB"
            )

    def refuse_extensions(self, facts: Mapping[str, Any]) -> list[str]:
        """Refuse if an extension cannot be had; returns warnings of other versions.

        Raises:
            SafetyRefused: the server has not all extensions.
        """
        wanted = {str(name): str(version) for name, version, *_ in facts.get("extensions") or ()}
        missing = sorted(wanted.keys() - self.extensions.keys())
        if missing:
            raise SafetyRefused(
                f"the server lacks the extensions {', '.join(missing)}",
                object_name=missing[0],
                hint="install their packages on the server, then try again",
            )
        return [
            f"the extension {name} has version {self.extensions[name]} here and had {version}"
            for name, version in sorted(wanted.items())
            if self.extensions[name] != version
        ]

    def refuse_roles(
        self, wanted: Iterable[str], options: LoadOptions, owners: Collection[str] = frozenset()
    ) -> set[str]:
        """Refuse if roles are missing that own objects or have grants; returns those that are allowed to be missing.

        Args:
            wanted: the roles.
            options: may allow it.
            owners: those of them that must be able to own what we make: where they cannot, they may as well be missing.

        Raises:
            SafetyRefused: roles are missing.
        """
        missing = {role for role in wanted if role and role not in self.roles}
        beyond = self.beyond.intersection(owners)
        if {MISSING_ROLES, "all"} & options.allow:
            return missing | beyond
        if missing:
            listed = ", ".join(sorted(missing)[:20])
            raise SafetyRefused(
                f"the server lacks roles that own objects or have grants: {listed}",
                object_name=sorted(missing)[0],
                hint=f"create them, or restore with --with-globals, or without them: --allow {MISSING_ROLES}",
            )
        if beyond:
            raise SafetyRefused(
                f"the role {self.role} is no member of roles that own objects: {', '.join(sorted(beyond)[:20])}",
                object_name=min(beyond),
                hint=f"make it one, restore as a superuser, or without owners and grants: --allow {MISSING_ROLES}",
            )
        return missing

    def told(self, missing: set[str]) -> str:
        """What is left out, and why, where roles are allowed to be missing."""
        gone, beyond = sorted(missing - self.beyond), sorted(missing & self.beyond)
        why = [f"there is no role {', '.join(gone)}"] if gone else []
        why += [f"{self.role} is no member of {', '.join(beyond)}"] if beyond else []
        return f"owners and grants were left out: {'; '.join(why)}"

    def possible(self, entries: Sequence[Entry], warnings: list[str]) -> list[Entry]:
        """Leave out what cannot be made here, and what is said about it: nothing of it holds rows or lets more be seen.

        Policies for roles that are not here, whose tables then show fewer rows; and publications that only a superuser makes.

        Args:
            warnings: those that are left out are told there.

        Raises:
            SafetyRefused: without a policy, roles that are here would see more.
        """
        policies = [entry for entry in entries if entry.desc == "POLICY" and not _policy_roles(entry) <= self.roles]
        for entry in policies:
            if _restricts(entry) and not _policy_roles(entry).isdisjoint(self.roles):
                raise SafetyRefused(
                    f"the policy {entry.tag} keeps rows from roles of which only some are here",
                    object_name=entry.tag,
                    hint="create the others, or restore with --with-globals",
                )
        publications = [] if self.superuser else [entry for entry in entries if _is_broad_publication(entry)]
        for left, what in (
            (policies, "policies were left out, because they are for roles that are not there"),
            (publications, "publications were left out, because only a superuser can make them"),
        ):
            if left:
                warnings.append(f"{what}: {', '.join(sorted(entry.tag for entry in left)[:20])}")
        gone = {entry.number for entry in (*policies, *publications)}
        return [entry for entry in entries if entry.number not in gone and gone.isdisjoint(entry.depends)]


def _is_broad_publication(entry: Entry) -> bool:
    """Whether it publishes what will be made later as well."""
    if entry.desc == "PUBLICATION TABLES IN SCHEMA":
        return True
    return entry.desc == "PUBLICATION" and re.search(r" FOR ALL (TABLES|SEQUENCES)\b", entry.defn) is not None


def _policy_tokens(entry: Entry) -> list[Token]:
    """The words of a policy; none if it is of a form that is not known."""
    try:
        (tokens,) = (statement.tokens for statement in statements(entry.defn))
    except (Unclear, ValueError):
        return []
    return list(tokens)


def _restricts(entry: Entry) -> bool:
    """Whether a policy takes rows away that others give; so it says before it says for whom."""
    tokens = _policy_tokens(entry)
    return Token("word", "restrictive") in tokens[: tokens.index(Token("word", "to"))]


def _policy_roles(entry: Entry) -> set[str]:
    """The roles that a policy is for; none if it is for all, or of a form that is not known."""
    tokens = _policy_tokens(entry)
    found: set[str] = set()
    if Token("word", "to") in tokens:
        for token in tokens[tokens.index(Token("word", "to")) + 1 :]:
            if token.kind == "word" and token.text in ("using", "with"):
                break
            found |= {token.text} if token.kind in ("word", "name") else set()
    return found


def refuse_unknown_tables(wanted: Collection[str], facts: Mapping[str, Any]) -> None:
    """Refuse tables that the snapshot has not.

    Raises:
        UsageError: there is one.
    """
    known = facts.get("tables")
    if wanted and not isinstance(known, Mapping):
        raise UsageError(
            "this snapshot is one opaque archive: single tables cannot be restored", hint="restore it whole"
        )
    unknown = sorted(set(wanted) - set(known or ()))
    if unknown:
        raise UsageError(f"the snapshot has no table {unknown[0]}", hint="`backupctl show SNAPSHOT` lists its tables")


def owners(entries: Iterable[Entry]) -> set[str]:
    """The owners that an archive's entries name."""
    return {entry.owner for entry in entries if entry.owner}
