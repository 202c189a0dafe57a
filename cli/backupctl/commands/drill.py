"""`backupctl drill`: prove that a snapshot comes back."""

import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.policies import find_policy, joined_failure, password_of, settings_for, sources_of
from backupctl.progress import TerminalReporter
from backupctl.scratch import Wanted, clear_leftovers, make_base, scratch_base, scratch_place
from backupctl.servers import build_options, server_options
from backupctl.session import opened
from backupctl.statements import check_file, require_folder, signed_with_trust, signers_of, write_new
from backupd.errors import BackupdError, Exit, Interrupted, UsageError

if TYPE_CHECKING:
    from backupctl.session import Session
    from backupd.config.urls import DatabaseUrl
    from backupd.jobs.drill import Drilled, Promised
    from backupd.jobs.erasure import Ledger
    from backupd.policy.model import Drill as DrillModel
    from backupd.policy.model import Policy, Source
    from backupd.repo.repository import History, SnapshotView
    from backupd.wiring import ServerOptions

REPORTS = "evidence"


@click.command(epilog="Example: backupctl drill crm-nightly --key keys/read.key")
@click.argument("policy", required=False)
@click.argument("name_in_policy", metavar="[SOURCE]", required=False)
@option(
    "--snapshot", metavar="SNAPSHOT", help="This one (default: the newest of each source; without a policy: latest)."
)
@option(
    "--into",
    metavar="URL",
    help="A server on which the drill may make a database of its own, such as postgresql://drill@scratch/postgres."
    " Without: a server is started for it, from the programs on this machine.",
)
@option(
    "--scratch", metavar="DIR", help="Files and servers of the drill are here while it lasts (default: in --state)."
)
@option("--allow", metavar="KIND", multiple=True, help="Kinds of objects that may come along, as of `restore`.")
@option("--out", metavar="DIR", help="Write signed reports here (default: evidence in --state).")
@option(
    "--verify",
    "check",
    metavar="FILE",
    help="Check a report instead, without the repository: its pin is that of --key.",
)
@option("--queue", is_flag=True, help="Have the daemon do it, by its queue; for a policy that promises drills only.")
@option("--wait", is_flag=True, help="With --queue: wait for the end, and end with its code.")
@option("--catalog", metavar="URL", help="With --queue: the daemon's, if it is not catalog.sqlite in --state.")
@server_options
@verb
def command(
    settings: Settings,
    policy: str | None,
    name_in_policy: str | None,
    snapshot: str | None,
    into: str | None,
    scratch: str | None,
    allow: tuple[str, ...],
    out: str | None,
    check: str | None,
    queue: bool,
    wait: bool,
    catalog: str | None,
    server: dict[str, Any],
) -> None:
    """Restore the newest snapshot of each source of POLICY into a scratch place, check what came, and sign the evidence.

    The place is a private file, or a server that is started for the drill without a network and with no rights, and goes with
    everything in it. Every table is read back and compared, people who were erased must stay away, the policy's assertions are
    asked, and the time is compared with its RTO. What was found is a signed report (JSON) and a record in the repository: by
    it retention keeps the newest snapshot that a drill has proven, and `status` knows. Without POLICY, one snapshot of
    --repository. Needs the read right.
    """
    from backupd.config.urls import parse_database

    if queue or wait:
        from backupctl.commands.run_queue import refuse_own_options, run_by_daemon

        refuse_own_options("drill", policy if queue else None)
        run_by_daemon(settings, policy or "", name_in_policy, catalog, wait=wait, kind="drill")
        return
    if check:
        _check(settings, Path(check))
        return
    place = None if into is None else parse_database(into)
    if place is not None and place.engine == "sqlite":
        raise UsageError("--into names a server; a file is made without being named")
    kinds = frozenset(kind.strip() for text in allow for kind in text.split(",") if kind.strip())
    asked = _Asked(snapshot, place, scratch, kinds, out, server)
    if policy is None:
        done = _of_snapshot(settings, asked)
    else:
        done = _of_policy(settings, find_policy(settings, policy).policy, name_in_policy, asked)
    _tell(settings, done)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options."""

    snapshot: str | None
    into: "DatabaseUrl | None"
    scratch: str | None
    allow: frozenset[str]
    out: str | None
    server: dict[str, Any]

    def wanted(self, session: "Session", policy: "Policy | None", engine: str) -> Wanted:
        """The scratch place for a snapshot of an engine: by the options, else by the policy."""
        served, into = build_options(self.server), self.into
        drill, places = policy.drill if policy else None, session.opened.places
        if engine == "sqlite":
            into = None
        elif into is None and drill is not None:
            into, served = _named(drill, engine, served)
        return Wanted(
            scratch_base(places.state, engine, self.scratch),
            served,
            self.server["lock_timeout"],
            into,
            self.allow or (_allowed(drill, engine) if drill else frozenset()),
            places.cache if session.remote else None,
        )


def _allowed(drill: "DrillModel", engine: str) -> frozenset[str]:
    """What a policy lets in, as far as it means something for an engine: its sources may be of several."""
    from backupd.policy.allowing import EVERYTHING, KINDS, family

    return frozenset(drill.allow) & (KINDS[family(engine)] | {EVERYTHING})


def _named(drill: "DrillModel", engine: str, served: "ServerOptions") -> "tuple[DatabaseUrl | None, ServerOptions]":
    """The server that a policy names for drills of an engine, and how to reach it; None if one is to be started."""
    from backupd.config.urls import parse_database

    for named in drill.scratch:
        url = parse_database(named.url)
        if (url.engine == "postgresql") == (engine == "postgresql"):
            return url, replace(served, password=password_of(named))
    return None, served


@dataclass(frozen=True, slots=True)
class _Drill:
    """A drill to be done: of which snapshot, what must hold, and by which policy."""

    view: "SnapshotView"
    promised: "Promised"
    policy: "Policy | None" = None


@dataclass(frozen=True, slots=True)
class _Done:
    """What came of one: its document, and the error that says why it is not well."""

    values: dict[str, Any]
    error: BackupdError | None = None


def _of_snapshot(settings: Settings, asked: _Asked) -> list[_Done]:
    """Without a policy: one snapshot, of which nothing was promised."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.drill import Promised
    from backupd.jobs.select import select_snapshot

    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        history, ledger = _read(session, report)
        view = select_snapshot(history, asked.snapshot or "latest")
        return [_drill(settings, session, history, ledger, _Drill(view, Promised()), asked, report)]


def _of_policy(settings: Settings, policy: "Policy", name: str | None, asked: _Asked) -> list[_Done]:
    """The newest snapshot of each source; one that fails does not keep the others from being tried."""
    from backupd.crypto.keyring import Right

    meant = sources_of(policy, name)
    done = []
    with opened(settings_for(settings, policy, "read"), Right.READ) as session:
        report = TerminalReporter(settings)
        history, ledger = _read(session, report)
        for source in _names(meant, history, name):
            report = TerminalReporter(settings)
            try:
                one = _Drill(_chosen(history, source, asked.snapshot), _promised(policy, source), policy)
                done.append(_drill(settings, session, history, ledger, one, asked, report))
            except Interrupted:
                raise
            except BackupdError as error:
                report.clear()
                done.append(_Done({"source": source, "policy": policy.policy}, error))
    return done


def _read(session: "Session", report: TerminalReporter) -> "tuple[History, Ledger]":
    """What the repository holds, and the erasure ledger, which must be whole."""
    from backupd.jobs.erasure import read_ledger

    repo = session.opened.repo
    history = repo.history()
    for problem in history.problems:
        report.warning(f"{problem.object}: {problem.detail} (not needed unless it is the snapshot you want)")
    return history, read_ledger(repo, history)


def _names(meant: "list[Source]", history: "History", name: str | None) -> list[str]:
    """The sources that are meant; in place of one that stands for all databases of a server those that have snapshots."""
    found = []
    for source in meant:
        seen = {view.source for view in history.views if source.covers(view.source)} if source.all_databases else set()
        found += sorted(one for one in seen if name in {None, source.name, one}) or [name or source.name]
    return found


def _chosen(history: "History", source: str, snapshot: str | None) -> "SnapshotView":
    from backupd.jobs.drill import newest_of
    from backupd.jobs.select import select_snapshot

    if snapshot is None:
        return newest_of(history, source)
    view = select_snapshot(history, snapshot)
    if view.source != source:
        raise UsageError(f"snapshot {view.id[:12]} is of {view.source}, and not of {source}", object_name=view.id)
    return view


def _promised(policy: "Policy", source: str) -> "Promised":
    from backupd.jobs.drill import Promised

    asserted = policy.drill.assertions if policy.drill else ()
    mine = tuple(one for one in asserted if one.source is None or _covers(policy, one.source, source))
    return Promised(policy.policy, policy.objectives.rto, mine)


def _covers(policy: "Policy", name: str, source: str) -> bool:
    return name == source or any(one.name == name and one.covers(source) for one in policy.sources)


def _drill(
    settings: Settings,
    session: "Session",
    history: "History",
    ledger: "Ledger",
    one: _Drill,
    asked: _Asked,
    report: TerminalReporter,
) -> _Done:
    """Do one, and leave its evidence."""
    from backupd.config.clock import now
    from backupd.jobs.audit import audited, snapshot_facts
    from backupd.jobs.drill import answered_before, drill, signer_of
    from backupd.jobs.restore import open_content

    repo, view, began = session.opened.repo, one.view, time.monotonic()
    content = open_content(repo, view)
    wanted = asked.wanted(session, one.policy, content["engine"])
    if settings.dry_run:
        return _Done(_would(one, wanted, report))
    signer_of(repo)
    folder = Path(asked.out).absolute() if asked.out else session.opened.places.state / REPORTS
    require_folder(folder)
    make_base(wanted.folder, content["engine"])
    clear_leftovers(wanted, report)
    erasures = ledger.of_snapshots([view])
    before = answered_before(history.records, history.views, view)
    with (
        audited(repo, "drill", {**snapshot_facts(view), "engine": content["engine"]}, now, report),
        scratch_place(content, view, wanted, report) as scratch,
    ):
        rule = erasures.rule if erasures else None
        found = drill(repo, view, scratch, one.promised, erased=rule, before=before, report=report)
    path, record = _evidence(session, one, found, folder)
    report.clear()
    values = {
        **_values(one),
        "passed": found.passed,
        "checks": [check.values() for check in found.checks],
        "restore_seconds": found.restore_seconds,
        "scratch": found.scratch,
        "erased": found.restored.erased if found.restored else None,
        "evidence": str(path),
        "record": record,
        "seconds": round(time.monotonic() - began, 3),
        "warnings": [*report.warnings, *(found.restored.warnings if found.restored else ())],
    }
    return _Done(values, found.failure())


def _evidence(session: "Session", one: _Drill, found: "Drilled", folder: Path) -> tuple[Path, str]:
    """Write the signed report and store the record that names it; returns both."""
    from backupd.config.clock import now
    from backupd.jobs.drill import record_evidence, report_document, report_hash, signer_of

    repo, view, moment = session.opened.repo, one.view, now()
    signed = signed_with_trust(repo, report_document(repo, view, found, one.promised, moment), signer_of(repo))
    name = re.sub(r"[^A-Za-z0-9._-]", "_", view.source)[:64]
    path = folder / f"drill-{name}-{moment:%Y%m%dT%H%M%S%f}Z-{view.id[:12]}.json"
    write_new(path, json.dumps(signed, indent=1, sort_keys=True) + "\n")
    return path, record_evidence(repo, view, found, one.promised, report_hash(signed["statement"]), moment)


def _values(one: _Drill) -> dict[str, Any]:
    return {
        "policy": one.promised.policy,
        "source": one.view.source,
        "snapshot": one.view.id,
        "taken_at": one.view.structure.taken_at,
    }


def _would(one: _Drill, wanted: Wanted, report: TerminalReporter) -> dict[str, Any]:
    """What a drill would do; nothing is started."""
    place = f"a database on {wanted.into}" if wanted.into else f"a place of its own below {wanted.folder}"
    return {
        **_values(one),
        "scratch": place,
        "assertions": [asserted.sql for asserted in one.promised.assertions],
        "warnings": report.warnings,
        "dry_run": True,
    }


def _tell(settings: Settings, done: list[_Done]) -> None:
    """Print what came of them, and end with an error unless all is well."""
    failed = [one.error for one in done if one.error]
    if not settings.json:
        for one in done:
            _say(settings, one, alone=len(done) == 1)
    if len(done) == 1:
        values = done[0].values
    else:
        values = {"policy": done[0].values["policy"], "drills": list(map(_with_error, done)), "passed": not failed}
    if failed:
        failed.sort(key=lambda error: error.exit is not Exit.INTEGRITY)  # damage is what must be heard first
        raise joined_failure(failed, len(done), values)
    if settings.json:
        output.document("drill", values)


def _with_error(one: _Done) -> dict[str, Any]:
    return {**one.values, "error": output.error_values(one.error)} if one.error else one.values


def _say(settings: Settings, one: _Done, *, alone: bool) -> None:
    values = one.values
    if "checks" not in values and "dry_run" not in values:
        if one.error and not alone:
            output.note(f"{values['source']}: {one.error.message}")
        return
    which = f"{values['source']}, snapshot {values['snapshot'][:12]} of {values['taken_at']}"
    if "dry_run" in values:
        output.say(f"would drill {which} in {values['scratch']}")
        return
    output.say(f"drill of {which}: {'passed' if values['passed'] else 'FAILED'}")
    if not settings.quiet:
        rows = [[c["name"], "passed" if c["passed"] else "FAILED", c["detail"]] for c in values["checks"]]
        output.table(["check", "", "detail"], rows)
        output.say(f"restored into {values['scratch']}; signed report: {values['evidence']}")
        for warning in values["warnings"]:
            output.note(f"warning: {warning}")


def _check(settings: Settings, path: Path) -> None:
    """Check a report by the pin of a key file, which is not opened for it."""
    from backupd.jobs.drill import KIND
    from backupd.repo.statements import parse_carried

    stated, trust = check_file(settings, path, parse_carried, KIND)
    said = stated.document
    values = {
        "file": str(path.resolve()),
        **{name: said.get(name) for name in ("source", "snapshot", "passed", "made", "restore_seconds")},
        "signed_by": signers_of(stated),
        "trust": trust.version,
    }
    if settings.json:
        output.document("drill", values)
        return
    who = ", ".join(f"{one['role']} key {one['key'][:12]}" for one in signers_of(stated))
    outcome = "passed" if said.get("passed") is True else "failed"
    output.say(
        f"{path}: the drill of {said.get('source')} of {said.get('made')} {outcome}; this is what was signed, by {who}"
    )
