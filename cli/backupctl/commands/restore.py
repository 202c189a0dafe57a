"""`backupctl restore`: bring a snapshot back."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.erased import erased_options, erasures_of, reason_facts
from backupctl.memory import keep_memory, share_memory
from backupctl.options import LEVEL_WORDS, Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.servers import build_options, server_options, table_names
from backupctl.session import opened

if TYPE_CHECKING:
    from backupctl.session import Session
    from backupd.config.urls import DatabaseUrl
    from backupd.engines.base import LoadOptions, RuleOf, ServerTarget
    from backupd.jobs.restore import RestoreResult
    from backupd.repo.repository import SnapshotView
    from backupd.wiring import ServerOptions


@click.command(
    epilog="Example: backupctl restore latest ./app-restored.db --repository /backup/app --key keys/read.key"
)
@click.argument("snapshot")
@click.argument("target")
@option("--overwrite", metavar="NAME", help="Replace the existing database of this name.")
@option(
    "--check",
    type=click.Choice(["none", "quick", "full"]),
    default="quick",
    words=LEVEL_WORDS,
    show_default=True,
    help="SQLite: its own check; servers: every table is read back and compared with the snapshot.",
)
@option("--tables", metavar="TABLE", multiple=True, help="Servers: only these tables; several or separated by commas.")
@option(
    "--allow",
    metavar="KIND",
    multiple=True,
    help="Servers: a kind of object that runs code with more rights than yours and may come along, or all. PostgreSQL:"
    " event-trigger, extension, language, c-function, foreign-server, subscription, unknown-statement, missing-roles,"
    " superuser-role. MariaDB: definer, foreign-server, directory.",
)
@option("--with-globals", is_flag=True, help="Servers: restore roles as well, if the snapshot holds them.")
@erased_options
@server_options
@verb
def command(
    settings: Settings,
    snapshot: str,
    target: str,
    overwrite: str | None,
    check: str,
    tables: tuple[str, ...],
    allow: tuple[str, ...],
    with_globals: bool,
    server: dict[str, Any],
    with_erased: str | None,
) -> None:
    """Restore a snapshot to a new file or a new database.

    SNAPSHOT is an id or the beginning of one, latest, latest:SOURCE or SOURCE@2026-11-21T23:00. TARGET is a path,
    postgresql://user@host/db or mariadb://user@host/db. What is written has another name until it is whole and checked;
    an existing file, or a database that is not empty, is never touched unless --overwrite names it. Rows that the erasure
    ledger hides do not come back.
    """
    from backupd.config.urls import parse_database
    from backupd.crypto.keyring import Right
    from backupd.engines.base import LoadOptions
    from backupd.errors import UsageError
    from backupd.jobs.select import select_snapshot

    url = parse_database(target)
    names = table_names(tables)
    if url.engine == "sqlite" and (names or allow or with_globals):
        raise UsageError("--tables, --allow and --with-globals mean nothing for a SQLite file")
    kinds = frozenset(kind.strip() for text in allow for kind in text.split(",") if kind.strip())
    options = LoadOptions(names, overwrite, kinds, with_globals, server["jobs"])
    place = _Place(url, options, build_options(server), server["lock_timeout"])
    place.prepare()
    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        history = session.opened.repo.history()
        for problem in history.problems:
            report.warning(f"{problem.object}: {problem.detail} (not needed unless it is the snapshot you want)")
        view = select_snapshot(history, snapshot)
        erasures = erasures_of(session.opened.repo, history, [view], with_erased, report)
        place = replace(place, erased=None if erasures is None else erasures.rule, reason=with_erased)
        if settings.dry_run:
            place.rehearse(session, view, report)
            _would(settings, view, url, report.warnings)
            return
        with place.noted(session, view, report):
            result = place.restore(session, view, check, report)
    report.clear()
    _tell(settings, view, url, result, session.unlock_seconds, check, report)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a restore goes: a file, or a database on a server."""

    url: "DatabaseUrl"
    options: "LoadOptions"
    served: "ServerOptions"
    timeout: float
    erased: "RuleOf | None" = None
    reason: str | None = None

    def prepare(self) -> None:
        """Refuse early what needs no snapshot to be refused."""
        from backupd.jobs.load import check_allowed
        from backupd.wiring import open_target

        if self.url.engine == "sqlite":
            open_target(self.url).prepare(overwrite=self.options.overwrite)
        else:
            check_allowed(self._database(), self.options)

    def restore(
        self, session: "Session", view: "SnapshotView", check: Any, report: TerminalReporter
    ) -> "RestoreResult":
        """Restore."""
        from backupd.jobs.load import load
        from backupd.jobs.restore import restore
        from backupd.wiring import open_target

        if self.url.engine == "sqlite":
            keep_memory()
        else:
            share_memory()
        repo = session.opened.repo
        spool = session.opened.places.cache if session.remote else None
        if self.url.engine == "sqlite":
            file = open_target(self.url)
            file.prepare(overwrite=self.options.overwrite)
            return restore(repo, view, file, check=check, report=report, spool_folder=spool, erased=self.erased)
        return load(
            repo,
            view,
            self._database(),
            self._engines(),
            self.options,
            check=check,
            report=report,
            spool_folder=spool,
            erased=self.erased,
        )

    def noted(self, session: "Session", view: "SnapshotView", report: TerminalReporter) -> AbstractContextManager[None]:
        """Leave a note in the repository of what is done, and of how it ended."""
        from backupd.config.clock import now
        from backupd.jobs.audit import audited, snapshot_facts

        facts = {
            **snapshot_facts(view),
            "engine": self.url.engine,
            "tables": len(self.options.tables) if self.options.tables else None,
            **reason_facts(self.reason),
        }
        return audited(session.opened.repo, "restore", facts, now, report)

    def rehearse(self, session: "Session", view: "SnapshotView", report: TerminalReporter) -> None:
        """Refuse what a restore to a server would refuse before it writes anything, and warn as it would."""
        from backupd.jobs.load import rehearse

        if self.url.engine != "sqlite":
            rehearse(session.opened.repo, view, self._database(), self._engines(), self.options, report, self.erased)

    def _database(self) -> "ServerTarget":
        from backupd.wiring import open_server_target

        return open_server_target(self.url, timeout=self.timeout, options=self.served)

    def _engines(self) -> list[str]:
        return ["postgresql"] if self.url.engine == "postgresql" else ["mariadb", "mysql"]


def _tell(
    settings: Settings,
    view: "SnapshotView",
    url: "DatabaseUrl",
    result: "RestoreResult",
    unlock_seconds: float,
    check: str,
    report: TerminalReporter,
) -> None:
    target = str(url.path) if url.engine == "sqlite" else str(url)
    if settings.json:
        values = {
            "snapshot": view.id,
            "source": view.source,
            "taken_at": view.structure.taken_at,
            "target": target,
            "tables": result.tables,
            "rows": result.rows,
            "bytes": result.bytes,
            "seconds": round(result.seconds, 3),
            "unlock_seconds": round(unlock_seconds, 3),
            "check": check,
            "check_seconds": round(result.check_seconds, 3),
            "compared": result.compared,
            "fetched_bytes": result.fetched_bytes,
            "erased": result.erased,
            "warnings": [*report.warnings, *result.warnings],
        }
        output.document("restore", values)
        return
    output.say(
        f"restored {view.source} of {view.structure.taken_at} to {target}: "
        f"{output.plural(result.tables, 'table')}, {output.count(result.rows)} rows, {output.size(result.bytes)}"
    )
    if settings.quiet:
        return
    if result.erased:
        output.say(f"left out: {output.plural(result.erased, 'row')} of people who were erased")
    if url.engine == "sqlite":
        checked = (
            f"{check} check passed in {result.check_seconds:.1f} s" if check != "none" else "not checked by SQLite"
        )
        output.say(f"{result.seconds:.1f} s from unlocked key to renamed file; {checked}")
    else:
        which = (
            "every table was"
            if result.compared >= result.tables > 0
            else f"{result.compared} of {result.tables} tables were"
        )
        compared = f"{which} read back in {result.check_seconds:.1f} s, all as in the snapshot"
        checked = compared if check != "none" else "not read back"
        output.say(f"{result.seconds:.1f} s from unlocked key to renamed database; {checked}")
    for warning in result.warnings:
        output.note(f"warning: {warning}")


def _would(settings: Settings, view: "SnapshotView", url: "DatabaseUrl", warnings: Sequence[str]) -> None:
    target = str(url.path) if url.engine == "sqlite" else str(url)
    if settings.json:
        size = view.structure.read_bytes
        values = {"snapshot": view.id, "target": target, "bytes": size, "warnings": list(warnings), "dry_run": True}
        output.document("restore", values)
        return
    output.say(
        f"would restore {view.source} of {view.structure.taken_at} ({view.id[:12]}, {output.size(view.structure.read_bytes)}) "
        f"to {target}"
    )
