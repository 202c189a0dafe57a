"""Puts a daemon together from its parts, and takes it apart again in order, however it ends."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec
from backupd.config.paths import daemon_environment
from backupd.config.version import VERSION
from backupd.daemon.books import Books
from backupd.daemon.child import Process
from backupd.daemon.commands import Here, arguments
from backupd.daemon.drills import has_snapshot
from backupd.daemon.inforce import InForce
from backupd.daemon.instance import only_one
from backupd.daemon.logs import Logger
from backupd.daemon.options import Options
from backupd.daemon.planner import Planner, Timer
from backupd.daemon.postman import Postman, Teller
from backupd.daemon.presence import Presence
from backupd.daemon.recovery import Recovery
from backupd.daemon.service import Loop, Parts, State, run
from backupd.daemon.serving import Place, serve
from backupd.daemon.signals import Signals
from backupd.daemon.steward import Steward
from backupd.daemon.systemd import Systemd
from backupd.daemon.view import Viewer
from backupd.daemon.workers import Command, Workers, worker_name
from backupd.errors import BackupdError, Failed, UsageError
from backupd.jobs.standings import Standings
from backupd.jobs.status import SourceStatus
from backupd.jobs.undofiles import remove_old
from backupd.policy.model import Policy
from backupd.wiring import CATALOG, open_catalog

CATALOG_WAIT = 10.0
"""Seconds to wait for another writer: a round waits twice at most, and the service manager's watchdog no longer than a minute."""


def run_daemon(
    options: Options, clock: Callable[[], datetime], ticks: Callable[[], float], systemd: Systemd, log: Logger
) -> None:
    """Run until somebody asks for an end.

    Raises:
        Busy: another one is at work with this state folder.
        UsageError: the policies are not valid, or there is no token where one is needed.
        BackupdError: the catalog or the address cannot be had.
    """
    name = worker_name(os.uname().nodename)
    with ExitStack() as stack:
        before = stack.enter_context(only_one(options.state, options.roles, name))
        catalog = stack.enter_context(open_catalog(options.state, options.catalog, timeout=CATALOG_WAIT))
        _bury(catalog, before, clock(), log)
        signals = Signals()
        stack.callback(signals.close)
        parts = Parts(catalog, clock, ticks, log, systemd, State(last_step=ticks()), name=name)
        if options.catalog is None:
            parts.check = Presence(options.state / CATALOG, "the catalog").check
        _equip(options, parts, signals, stack)
        loop = Loop(options, parts)
        loop.load()
        address = _serve(options, parts, stack)
        policies = parts.state.policies
        count = sum(len(policy.sources) for policy in policies or ())
        log.info("ready", version=VERSION, roles=sorted(options.roles), sources=count, page=address)
        systemd.ready(f"{count} sources; {address}" if address else f"{count} sources")
        run(loop, parts, signals, options)
        _part(parts)
    log.info("ended")


def _bury(catalog: Catalog, before: Mapping[str, str], now: datetime, log: Logger) -> None:
    """Whoever had this state folder before is gone: what it held need not wait until its lease is over."""
    for name in sorted(set(before.values())):
        catalog.heartbeats.forget(name)
    if "worker" in before and (jobs := catalog.queue.disown(before["worker"], now)):
        log.warning("the daemon before this one left jobs behind", worker=before["worker"], jobs=jobs)


def _part(parts: Parts) -> None:
    """The last words: where they cannot be written down, that is no reason to end otherwise than asked."""
    try:
        parts.catalog.heartbeats.forget(parts.name)
        parts.catalog.audit.append("backupd", "stop", VERSION, parts.clock())
    except BackupdError as error:
        parts.log.error("the end cannot be written down", reason=error.message)


def _equip(options: Options, parts: Parts, signals: Signals, stack: ExitStack) -> None:
    """Give the loop what its roles need."""
    catalog, state = parts.catalog, parts.state
    named = partial(_named, state)
    teller = Teller(catalog, signals.wake)
    steward: Steward | None = None
    if "scheduler" in options.roles:
        timer = Timer(signals.wake)
        timer.start()
        stack.callback(timer.stop)
        postman = Postman(catalog, named, parts.clock, parts.log)
        postman.start()
        stack.callback(postman.stop)
        teller = postman.teller
        steward = Steward(catalog, partial(_statuses, catalog), teller.tell)
        ready = partial(has_snapshot, catalog)
        parts.planner, parts.timer = Planner(catalog.queue, catalog.plans, ready), timer.take
        parts.look = steward.look
    books = Books(catalog, named, teller.tell, lambda: state.draining)
    if "scheduler" in options.roles:
        parts.recover = Recovery(catalog, books.lost, parts.log).look
    if "worker" in options.roles:
        start = partial(_start, options)
        command = partial(_command, options, state)
        parts.workers = Workers(parts.name, options.slots, catalog.queue, command, start, books, parts.log, parts.ticks)
    parts.adopted = partial(_adopted, catalog, steward, parts.clock)
    parts.tidy = partial(_tidy, options.state, catalog, parts.log)


def _adopted(catalog: Catalog, steward: Steward | None, clock: Callable[[], datetime], found: InForce) -> None:
    """Other policies are in force: it is written down which."""
    names = [policy.policy for policy in found]
    catalog.audit.append("backupd", "policies", found.digest, clock(), {"policies": names, "version": VERSION})
    if steward is not None:
        steward.adopt(found, clock())


def _tidy(state: Path, catalog: Catalog, log: Logger, now: datetime) -> None:
    """Undo files hold customers' records: those whose time is over go."""
    for path in remove_old(state, now):
        log.info("an undo file is removed, as its time is over", file=path.name)
        catalog.audit.append("backupd", "undo-removed", path.name, now)


def _named(state: State, name: str) -> Policy | None:
    return state.policies.named(name) if state.policies else None


def _statuses(catalog: Catalog, policies: list[Policy], now: datetime) -> list[tuple[Policy, list[SourceStatus]]]:
    standings = Standings(catalog, now, strips=False)
    return [(policy, standings.of(policy)) for policy in policies]


def _start(options: Options, command: Command) -> Process:
    folder = options.state / "daemon"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Failed(f"the job cannot be started: {error.strerror}", object_name=str(folder)) from None
    return Process(command.arguments, folder, command.environment, options.job_memory)


def _command(options: Options, state: State, spec: JobSpec) -> Command:
    """The command of a job, of the policies in force.

    Raises:
        UsageError: its policy is not in force any more.
    """
    policies = state.policies
    policy = policies.named(spec.policy) if policies else None
    if policies is None or policy is None:
        raise UsageError(f"there is no policy {spec.policy!r} any more", object_name=spec.policy)
    here = Here(policies.folder, options.state, options.catalog)
    return Command(arguments(spec.kind, policy, spec.source, spec.payload, here), daemon_environment())


def _serve(options: Options, parts: Parts, stack: ExitStack) -> str | None:
    """Serve the page, health and metrics; returns where."""
    if "web" not in options.roles:
        return None
    viewer = Viewer(parts.catalog, parts.state, parts.clock, parts.ticks)
    place = Place(options.host, options.port, token=options.token)
    served = serve(viewer.overview, viewer.health, place)
    stack.callback(served.close)
    if not served.page:
        parts.log.warning("there is no status page: install backupd[web]")
    return served.url
