"""`backupctl status`: is everything protected as promised? In one sentence, then source by source, the worst first."""

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.known import Known, by_catalog
from backupctl.options import Settings, option, verb
from backupctl.policies import folder_of
from backupctl.progress import TerminalReporter
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.jobs.status import SourceStatus
    from backupd.policy.model import Policy

_UNKNOWN = 3


@click.command(epilog="Example: backupctl status --config /etc/backupd/policies.d")
@option(
    "--output",
    "how",
    type=click.Choice(["table", "nagios"]),
    default="table",
    show_default=True,
    help="nagios: one line with numbers, and the exit codes of a check: 0, 1, 2, 3.",
)
@option("--direct", is_flag=True, help="Ask the repositories themselves, whatever the daemon's catalog knows.")
@option("--catalog", metavar="URL", help="The daemon's, if it is not catalog.sqlite in --state.")
@verb
def command(settings: Settings, how: str, direct: bool, catalog: str | None) -> int | None:
    """Tell whether everything is protected as promised.

    The sources are those of the policies in --config; with --repository and without policies, those that are in it. While a
    daemon keeps its catalog up to date, that is asked. Otherwise, and with --direct or --repository, the repositories are asked
    themselves, with the keys that the policies name. Exit code 5 means that an objective is missed.
    """
    from backupd.config.clock import now, stamp
    from backupd.config.paths import state_base
    from backupd.errors import BackupdError, ObjectiveMissed
    from backupd.jobs.status import Level, sentence, worst_first
    from backupd.jobs.undofiles import undo_files

    moment = now()
    try:
        known = _look(settings, moment, direct=direct, catalog=catalog)
    except BackupdError as failed:
        if how == "nagios":
            output.say(f"BACKUPD UNKNOWN - {failed.message}")
            return _UNKNOWN
        raise
    sources = worst_first(known.sources, moment)
    worst = max((source.level for source in sources), default=Level.WARN)
    said = sentence(sources, moment)
    undo = list(undo_files(state_base(settings.state)))
    if how == "nagios":
        _nagios(worst, said, sources, moment)
        return int(worst)
    values: dict[str, Any] = {
        "verdict": worst.word,
        "sentence": said,
        "sources": [source.as_json(moment) for source in sources],
        "version_cache_bytes": known.cache_bytes,
        "undo_files": [{"file": str(file.path), "until": stamp(file.until)} for file in undo],
        "from": known.where,
        "as_of": stamp(known.as_of),
    }
    if settings.json and worst is Level.BREACH:
        error = ObjectiveMissed(said)
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document("status", values)
        return None
    output.say(said)
    if sources and not settings.quiet:
        output.say("")
        _table(sources, moment)
        output.say(f"version cache on this machine: {output.size(known.cache_bytes)}")
        if undo:
            last = max(file.until for file in undo)
            many = output.plural(len(undo), "undo file")
            output.say(f"{many} on this machine, with records in the clear; kept until {stamp(last)}")
        output.say(known.told(moment))
    return int(ObjectiveMissed.exit) if worst is Level.BREACH else None


def _look(settings: Settings, moment: datetime, *, direct: bool, catalog: str | None) -> Known:
    """All sources, as the catalog or the repositories know them."""
    from backupd.config.policies import load_valid, policy_files
    from backupd.errors import UsageError

    folder = folder_of(settings)
    if settings.config or (not settings.repository and folder.exists()):
        policies = [loaded.policy for loaded in load_valid(policy_files([folder]))]
        why = ""
        if not direct and not settings.repository:
            answer = by_catalog(settings, catalog, policies, moment)
            if isinstance(answer, Known):
                return answer
            why = answer
        caches: dict[str, int] = {}
        found = [status for policy in policies for status in _of_policy(settings, policy, moment, caches)]
        return Known(found, sum(caches.values()), "repositories", moment, why)
    if not settings.repository:
        raise UsageError(
            f"there are no policies in {folder}", hint="name a folder with --config, or a repository with --repository"
        )
    from backupd.jobs.statusread import of_repository

    views, records, problems, cache = _read(settings)
    return Known(_with_problems(of_repository(views, records, moment), problems), cache, "repositories", moment)


def _of_policy(settings: Settings, policy: "Policy", moment: datetime, caches: dict[str, int]) -> "list[SourceStatus]":
    from backupctl.policies import reading_settings
    from backupd.errors import BackupdError
    from backupd.jobs.status import unseen
    from backupd.jobs.statusread import of_policy

    try:
        there = reading_settings(settings, policy)
        views, records, problems, cache = _read(there)
    except BackupdError as error:
        return unseen(policy, error.message)
    caches[str(there.repository)] = cache
    return _with_problems(of_policy(policy, views, records, moment), problems)


def _with_problems(sources: "list[SourceStatus]", problems: list[str]) -> "list[SourceStatus]":
    """What is wrong with a repository is a matter of all sources in it."""
    from backupd.jobs.status import Level

    for source in sources if problems else []:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        source.worse(Level.WARN, f"its repository is not whole: {problems[0]}{more}")
    return sources


def _read(settings: Settings) -> "tuple[list[Any], list[Any], list[str], int]":
    """Snapshots and records of a repository, what is wrong with it, and the bytes of its version caches here."""
    from backupd.crypto.keyring import Right
    from backupd.disk import folder_bytes

    report = TerminalReporter(replace(settings, quiet=True))
    with opened(settings, Right.LIST) as session:
        repo = session.opened.repo
        history = repo.history()
        problems = [f"{p.object}: {p.detail}" for p in history.problems if p.kind != "unknown"]
        for problem in history.record_problems:
            report.problem(problem)
        return history.views, history.records, problems, folder_bytes(session.opened.places.state / "versions")


def _table(sources: "list[SourceStatus]", moment: datetime) -> None:
    from backupd.jobs.status import age

    rows = []
    for source in sources:
        used = source.used(moment)
        rows.append(
            [
                source.name,
                {"ok": "ok", "warn": "LOOK", "breach": "BREACH"}[source.level.word],
                f"{age(moment - source.last_good)} ago" if source.last_good else "never",
                f"{used * 100:.0f} %" if used is not None else "-",
                f"{source.next_run:%Y-%m-%d %H:%M}" if source.next_run else "-",
                f"{source.drilled_at:%Y-%m-%d}" if source.drilled_at else "never",
                "".join("." if not n else "#" if n < 10 else "+" for n in source.strip),
            ]
        )
    output.table(
        ["source", "state", "newest", "of RPO", "next run (UTC)", "drilled", "the last 30 days"], rows, right=[3]
    )
    for source in sources:
        for why in source.why:
            output.say(f"{source.name}: {why}")


def _nagios(worst: int, said: str, sources: "list[SourceStatus]", moment: datetime) -> None:
    """One line: the word, the sentence, and of each source the age with its bound."""
    word = ("OK", "WARNING", "CRITICAL")[worst]
    numbers = []
    for source in sources:
        if source.last_good is None:
            continue
        seconds = max(0, int((moment - source.last_good).total_seconds()))
        bound = int(source.rpo.total_seconds()) if source.rpo else ""
        name = source.name.replace("'", "").replace("=", "_")
        numbers.append(f"'{name}'={seconds}s;;{bound};0")
    output.say(f"BACKUPD {word} - {said.replace('|', '/')}" + (f" | {' '.join(numbers)}" if numbers else ""))
