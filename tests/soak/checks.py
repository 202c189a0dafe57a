"""What must hold in the simulated month: by the catalog, beside what the world knows."""

from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import ENDED, Job
from backupd.config.clock import parse_stamp, stamp
from backupd.daemon.timetable import Task, tasks_of
from backupd.policy.schedule import PROMPT
from tests.soak.hosts import Host, Log
from tests.soak.world import World

REMEMBERED = timedelta(days=29)
"""The queue keeps what has ended for thirty days."""


def objectives(host: Host, catalog: Catalog, world: World) -> None:
    """A broken RPO has an alert, a kept one has none: right after a look of the steward, by the newest snapshots known then."""
    if host.state.policies is None:
        return
    now = world.now()
    newest: dict[tuple[str, str], datetime] = {}
    for one in catalog.snapshots.newest():
        assert one.taken_at is not None
        newest[one.repository, one.source] = one.taken_at
    since = catalog.plans.planned()
    alerts = {(alert.policy, alert.source) for alert in catalog.alerts.list_open() if alert.event == "rpo_breach"}
    for policy in host.state.policies:
        rpo, storage = policy.objectives.rpo, world.storage(policy)
        assert rpo is not None
        for source in policy.sources:
            begun = since.get(f"since:{policy.policy}/{source.name}", now)
            age = now - newest.get((storage.id, source.name), begun)
            there = (policy.policy, source.name) in alerts
            if there != (age > rpo):
                world.count("looks at which an alert and an RPO did not agree")
                world.wrong.append(f"{source.name} at {now}: {age} old, promised {rpo}, alert: {there}")
            world.count("looks at an RPO")


def at_the_end(hosts: list[Host], catalog: Catalog, world: World, log: Log, begin: datetime) -> None:
    """Everything that must hold once all is quiet again."""
    policies = hosts[0].state.policies
    assert policies is not None
    jobs = catalog.queue.list(limit=1_000_000)
    world.count("jobs", len(jobs))
    for task in tasks_of(policies):
        mine = [job for job in jobs if job.spec.key.startswith(f"{task.name}:")]
        own = [job for job in mine if not job.spec.payload.get("again")]
        _fire_times(task, own, hosts[0].looks, log, world, begin)
        _tried_again(task, mine, world)
    _jobs(jobs, catalog, world)
    _snapshots(hosts, catalog, world)
    _told(catalog, world)
    for job in world.children:
        if job.over and not job.closed:
            world.wrong.append(f"the process of {job.spec.key} was never let go of")
    names = catalog.heartbeats.all()
    if len(names) > 20:
        world.wrong.append(f"{len(names)} workers are remembered, of which {len(hosts)} live")


def _fire_times(task: Task, jobs: list[Job], looks: list[datetime], log: Log, world: World, begin: datetime) -> None:
    """Each fire time has one job, or a reason to have none; and there is no job of any other time."""
    now = world.now()
    prefix = len(task.name) + 1
    asked = {job.spec.key[prefix:] for job in jobs}
    if len(asked) != len(jobs):
        world.wrong.append(f"{task.name}: two jobs of one time")
    times = []
    for planned in task.timing.upcoming(task.begins(begin) - timedelta(days=1)):
        times.append(planned)
        if planned.at > now + timedelta(days=1):
            break
    known = {stamp(planned.at) for planned in times}
    if task.kind == "refresh":  # and one that nobody planned: the first look
        asked -= {min(asked, default="")} - known
    for text in asked - known:
        world.wrong.append(f"{task.name}: a job for {text}, at which nothing was due")
    when = {key[prefix:]: at for key, at in log.planned if key.startswith(f"{task.name}:")}
    for planned, following in pairwise(times):
        text = stamp(planned.at)
        if text in asked:
            world.count("fire times with a job")
            continue
        if planned.start < now - REMEMBERED:
            world.count("fire times so long ago that the queue has forgotten their jobs")
            continue
        until = min(following.at, planned.start + PROMPT) if task.timing.catch_up == "never" else following.at
        waited = world.waiting.get(task.name, begin)
        seen = [at for at in looks if max(planned.start, waited) <= at < until]
        later = any(parse_stamp(other) > planned.at for other in asked)
        if planned.at <= begin or planned.start > now or not seen:
            world.count(
                "fire times that had passed when somebody looked again" if begin < planned.at <= now else "not due"
            )
        elif later and _overtaken(planned.at, seen[0], when):
            world.count("fire times before one that was planned already, when the clock was put back")
        else:
            world.wrong.append(f"{task.name}: nothing for {text}, though somebody looked at {seen[0]}")


def _overtaken(at: datetime, seen: datetime, when: dict[str, datetime]) -> bool:
    """Whether a later time had been planned before somebody looked."""
    return any(parse_stamp(other) > at and done - seen < timedelta(hours=4) for other, done in when.items())


def _jobs(jobs: "list[Job] | tuple[Job, ...]", catalog: Catalog, world: World) -> None:
    """Every job has ended, and its runs tell the same."""
    runs = catalog.runs.list(limit=1_000_000)
    world.count("runs", len(runs))
    good = Counter(run.job for run in runs if run.end is not None and run.end.outcome == "done")
    alerts = catalog.alerts.list(limit=1_000_000)
    for job in jobs:
        world.count(f"jobs that ended as {job.state}" if job.state in ENDED else f"jobs that are {job.state}")
        if job.state not in ENDED and world.now() - job.due > timedelta(hours=1):
            world.wrong.append(f"{job.spec.key} is {job.state} since {job.due}")
        if job.state == "done" and good[job.id] != 1:
            world.wrong.append(f"{job.spec.key} is done, and {good[job.id]} of its runs are")
        if job.state != "done" and good[job.id]:
            world.wrong.append(f"{job.spec.key} is {job.state}, but {good[job.id]} of its runs are done")
        if job.state in {"failed", "lost", "incomplete"} and job.spec.kind in {"run", "prune", "refresh"}:
            about = job.spec.source or job.spec.kind
            told = [a for a in alerts if (a.event, a.policy, a.source) == ("failure", job.spec.policy, about)]
            if not any(a.opened <= (job.ended or a.opened) + timedelta(hours=4) for a in told):
                world.wrong.append(f"{job.spec.key} ended as {job.state}, and nobody was told")
    for run in catalog.runs.unfinished():
        if world.now() - run.started > timedelta(hours=4):
            world.wrong.append(f"run {run.id} ({run.kind} of {run.source}) has no end since {run.started}")


def _snapshots(hosts: list[Host], catalog: Catalog, world: World) -> None:
    """The catalog's snapshots are the repositories', and each source has one that is new enough."""
    policies = hosts[0].state.policies or ()
    for policy in policies:
        storage = world.storage(policy)
        here = {one.id for one in catalog.snapshots.list(repository=storage.id)}
        fresh = world.now() - timedelta(hours=37)
        old = {one.id for one in storage.snapshots.values() if one.taken_at is not None and one.taken_at < fresh}
        if missing := old - here:
            world.wrong.append(f"{len(missing)} snapshots of {policy.policy} are not in the catalog")
        if strange := here - storage.snapshots.keys():
            world.wrong.append(f"{len(strange)} snapshots of {policy.policy} are in the catalog only")
        for source in policy.sources:
            newest = max(
                (one.taken_at for one in storage.snapshots.values() if one.source == source.name), default=None
            )
            if newest is None or world.now() - newest > (policy.objectives.rpo or timedelta(0)):  # type: ignore[operator]
                world.wrong.append(f"{source.name} is not protected at the end: {newest}")
            world.count("sources that are protected at the end")
            _drilled(catalog, policy.policy, source.name, world)


def _drilled(catalog: Catalog, policy: str, source: str, world: World) -> None:
    """The newest drill of a source passed, and is not older than a time and a bit."""
    newest = catalog.drills.list(policy=policy, source=source, limit=1)
    if not newest or not newest[0].passed or world.now() - newest[0].ended > timedelta(days=8):
        world.wrong.append(f"{source} is not proven at the end: {newest}")
    world.count("sources that are proven at the end")


def _tried_again(task: Task, jobs: list[Job], world: World) -> None:
    """What failed for good is tried again within a day and a bit, and nothing is tried again but that."""
    late = timedelta(days=1, hours=15)  # the machine may sleep for nine hours, and no daemon be there for three
    bad = [job for job in jobs if job.state in {"failed", "lost", "incomplete"}]
    for job in jobs:
        if job.spec.payload.get("again"):
            world.count(f"jobs of kind {task.kind} that were tried again")
            known = [other for other in bad if other.submitted < job.submitted + timedelta(hours=3)]
            if not known and job.submitted > world.now() - REMEMBERED:
                world.wrong.append(f"{job.spec.key} was tried again, though nothing had failed")
    for job in bad if task.kind in {"verify", "drill"} else []:
        assert job.ended is not None
        later = [other for other in jobs if int(other.id) > int(job.id) and other.submitted < job.ended + late]
        if not later and world.now() > job.ended + late:
            world.wrong.append(f"{job.spec.key} failed at {job.ended}, and was not tried again")


def _told(catalog: Catalog, world: World) -> None:
    """Nobody waits to be told, and nothing is wrong any more."""
    for alert in catalog.alerts.list_open():
        world.wrong.append(f"{alert.event} of {alert.policy}/{alert.source} is open since {alert.opened}")
    waiting = catalog.outbox.list(waiting_only=True, limit=10_000)
    if len(waiting) > 5:
        world.wrong.append(f"{len(waiting)} notices wait, the oldest since {waiting[-1].enqueued}")
    for (notifier, outcome), count in catalog.outbox.counts().items():
        world.count(f"notices to {notifier}: {outcome or 'waiting'}", count)
    world.count("alerts", len(catalog.alerts.list(limit=1_000_000)))
