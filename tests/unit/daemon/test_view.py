"""The overview is made of what the catalog knows, whatever names, policies and histories are in it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backupd.catalog.checks import Drill, Verification
from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec
from backupd.catalog.repositories import Brake, Seen
from backupd.catalog.runs import RunEnd
from backupd.catalog.snapshots import Snapshot
from backupd.config.policies import PolicyFile
from backupd.daemon.inforce import InForce
from backupd.daemon.metrics import exposition
from backupd.daemon.overview import Overview, SourceView
from backupd.daemon.page import render
from backupd.daemon.service import State
from backupd.daemon.view import STALLED, Viewer
from backupd.jobs.standings import Standings
from backupd.policy.model import Policy
from backupd.wiring import open_catalog

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REPOSITORY = "ab" * 32


def policy(name: str, *sources: str | dict[str, Any], **more: Any) -> Policy:
    """A policy of nightly runs into one folder that all share."""
    named = [{"name": s, "url": f"sqlite:////srv/{s}.db"} if isinstance(s, str) else s for s in sources]
    values: dict[str, Any] = {
        "repository": {"url": "/backup/all"},
        "keys": {"write": "file:/keys/write.key"},
        "schedule": {"cron": "0 2 * * *"},
        "objectives": {"rpo": "26h"},
    }
    return Policy.model_validate({"policy": name, "sources": named, **values, **more})


SERVER = {"name": "srv", "url": "postgresql://backup@db1/*"}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog that holds nothing."""
    with open_catalog(tmp_path) as opened:
        yield opened


See = Callable[..., Overview]


@pytest.fixture
def see(catalog: Catalog) -> See:
    """Makes the overview of some policies."""

    def overview(*policies: Policy) -> Overview:
        files = tuple(PolicyFile(p, Path(f"{p.policy}.yaml")) for p in policies)
        return Viewer(catalog, State(InForce(files, Path(), "digest")), lambda: NOW, lambda: 0.0).overview()

    return overview


def looked_at(catalog: Catalog, name: str, *brakes: Brake) -> None:
    catalog.repositories.put(Seen(name, REPOSITORY, "file:///backup/all", NOW - HOUR, 1000, brakes=brakes))


def stored(catalog: Catalog, source: str, *ages: timedelta) -> None:
    for age in ages:
        taken = NOW - age
        one = Snapshot(REPOSITORY, "w", source, 1, f"{source}{age}", taken, taken, "snapshot", 1, 9, 9, (), None, taken)
        catalog.snapshots.add(one)


def ran(catalog: Catalog, name: str, source: str, age: timedelta, outcome: str) -> None:
    run = catalog.runs.start(name, source, "run", NOW - age)
    catalog.runs.finish(run, NOW - age + timedelta(minutes=1), RunEnd(outcome))


def one(overview: Overview, name: str, source: str) -> SourceView:
    (found,) = [s for s in overview.sources if (s.policy, s.name) == (name, source)]
    return found


def samples(overview: Overview) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Name and labels of every sample, as Prometheus reads them."""
    families = text_string_to_metric_families(exposition(overview).decode())
    return [(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples]


def test_no_policy_and_an_empty_catalog(see: See) -> None:
    """Nothing at all is a picture too."""
    seen = see()
    assert seen.verdict == "warn"
    assert render(seen)
    assert samples(seen)


def test_names_that_several_policies_use_make_no_sample_twice(catalog: Catalog, see: See) -> None:
    """Prometheus refuses a whole scrape for one sample that comes twice."""
    tells = {"notify": [{"on": ["failure"], "to": "ops"}], "notifiers": {"ops": {"ping": "env:PING"}}}
    both = [policy("a", "crm", "x" * 128, **tells), policy("b", "crm", SERVER, **tells)]
    for each in both:
        looked_at(catalog, each.policy, *(Brake("crm", writer, NOW - DAY, "rows gone", "r") for writer in ("w1", "w2")))
        ran(catalog, each.policy, "crm", HOUR, "done")
        catalog.outbox.enqueue(f"{each.policy}/ops", each.policy, "ops", "failure", {}, NOW)
    stored(catalog, "crm", HOUR)
    stored(catalog, "srv.one", HOUR)
    stored(catalog, "srv.two", HOUR)
    ran(catalog, "b", "srv", HOUR, "done")
    found = samples(see(*both))
    assert len(found) == len(set(found))
    assert {"a", "b"} == {
        labels[0][1] for name, labels in found if name == "backupd_snapshots" and ("source", "crm") in labels
    }


def test_a_brake_is_shown_with_the_policy_of_its_source_only(catalog: Catalog, see: See) -> None:
    """Policies that share a repository see each other's records, and own their sources only."""
    brake = Brake("crm", "w", NOW - DAY, "rows gone", "r")
    for name in ("a", "b"):
        looked_at(catalog, name, brake)
    seen = see(policy("a", "crm"), policy("b", "shop"))
    assert [(shown.policy, shown.source) for shown in seen.brakes] == [("a", "crm")]


def test_the_command_that_releases_a_brake_names_the_whole_address(catalog: Catalog, see: See) -> None:
    """Region and endpoint are part of it, wherever the policy writes them."""
    place = {"url": "s3://acme/crm", "endpoint": "https://s3.example.com", "region": "eu"}
    looked_at(catalog, "a", Brake("crm", "w", NOW - DAY, "rows gone", "r"))
    (brake,) = see(policy("a", "crm", repository=place)).brakes
    assert "endpoint=https" in brake.command
    assert "region=eu" in brake.command


def test_databases_of_a_server_share_the_runs_of_their_source(catalog: Catalog, see: See) -> None:
    """`postgresql://host/*` runs as one source: each of its databases shows that run's failure, and its next start."""
    whole = policy("p", SERVER, schedule={"cron": "0 2 * * *", "jitter": "1h"})
    looked_at(catalog, "p")
    stored(catalog, "srv.crm", 3 * DAY)
    ran(catalog, "p", "srv", DAY, "failed")
    seen = one(see(whole), "p", "srv.crm")
    assert [day.state for day in seen.days][-4:-1] == ["ok", "missed", "failed"]
    assert seen.next_run == whole.timing("srv").next_start(NOW)


def test_a_run_that_nobody_planned_keeps_its_time(catalog: Catalog, see: See) -> None:
    """Where the scheduler stands still the next run is in the past, or no alert could ever notice."""
    catalog.plans.remember({"p/crm": NOW - DAY})
    assert one(see(policy("p", "crm")), "p", "crm").next_run == datetime(2026, 11, 28, 2, 0, tzinfo=UTC)
    catalog.plans.remember({"p/crm": NOW - 10 * HOUR})
    assert one(see(policy("p", "crm")), "p", "crm").next_run == datetime(2026, 11, 29, 2, 0, tzinfo=UTC)


def test_a_source_without_a_schedule(catalog: Catalog, see: See) -> None:
    """It has no next run, and no day on which one was missed."""
    looked_at(catalog, "p")
    stored(catalog, "crm", 5 * DAY)
    seen = one(see(policy("p", "crm", schedule=None)), "p", "crm")
    assert seen.next_run is None
    assert {day.state for day in seen.days} == {"none", "ok"}


def test_a_verification_without_its_key_is_not_called_overdue(catalog: Catalog, see: See) -> None:
    """It is left to the host that has the key, and nothing of it is known here."""
    wants = {"verify": [{"level": "structure", "every": "1d"}]}
    catalog.plans.remember({"since:p/crm": NOW - 9 * DAY})
    assert see(policy("p", "crm", **wants)).verifications == ()
    catalog.alerts.open("verify_failed", "p", "level structure", "it found 2 problems", NOW)
    (told,) = see(policy("p", "crm", **wants)).verifications
    assert told.failed, "of a catalog that hosts share"
    catalog.alerts.close("verify_failed", "p", "level structure", NOW)
    keys = {"write": "file:/keys/write.key", "check": "file:/keys/check.key"}
    (known,) = see(policy("p", "crm", **wants, keys=keys)).verifications
    assert known.overdue


VERIFIED = {
    "verify": [{"level": "bytes", "every": "7d"}],
    "keys": {"write": "file:/keys/write.key", "check": "file:/keys/check.key"},
}


def test_a_verification_that_failed_is_no_all_is_well(catalog: Catalog, see: See) -> None:
    """The sentence, the source and the page say so, and when it is tried again; damage is a breach."""
    looked_at(catalog, "p")
    stored(catalog, "crm", HOUR)
    crm = policy("p", "crm", **VERIFIED)
    catalog.plans.remember(
        {"since:p/crm": NOW - 9 * DAY, "verify:p:bytes:100": NOW - HOUR, "again:p:bytes": NOW + HOUR}
    )
    catalog.alerts.open("verify_failed", "p", "level bytes", "the storage is away", NOW)
    seen = see(crm)
    said = "its verification (level bytes) failed: the storage is away; the next one is at 2026-11-28T13:00:00Z"
    assert (seen.verdict, seen.sources[0].why) == ("warn", (said,))
    assert said in seen.sentence
    (shown,) = seen.verifications
    assert (shown.failed, shown.next_at) == (True, NOW + HOUR)
    assert "tried again <time" in render(seen)
    bad = Verification("p", "bytes", NOW, NOW, ok=False, problems=3)
    catalog.verifications.add(bad)
    catalog.verifications.add(replace(bad, ended=NOW + HOUR, problems=0))
    assert see(crm).verdict == "breach"
    catalog.queue.submit(JobSpec("verify", "p", None, "k", "l", payload={"level": "bytes"}), NOW)
    (shown,) = see(crm).verifications
    assert shown.next_at == NOW
    assert "due now" in see(crm).sentence
    catalog.verifications.add(replace(bad, ended=NOW + 2 * HOUR, ok=True, problems=0))
    catalog.alerts.close("verify_failed", "p", "level bytes", NOW)
    assert see(crm).verdict == "ok"


def test_a_drill_is_shown_as_it_ended(catalog: Catalog, see: See) -> None:
    """When, in what time, whether it passed; what took too long is no drill that passed, and its time is shown all the same."""
    looked_at(catalog, "p")
    stored(catalog, "crm", HOUR, 2 * DAY)
    drilled = policy("p", "crm", drill={"every": "7d"}, objectives={"rpo": "26h", "rto": "1m"})
    never = one(see(drilled), "p", "crm")
    assert (never.verdict, never.drilled_at, never.drill_overdue, never.restore_seconds) == ("warn", None, False, None)
    good = Drill("p", "crm", f"crm{HOUR}", NOW - 2 * HOUR, NOW - HOUR, True, 30.0)
    catalog.drills.add(good)
    shown = one(see(drilled), "p", "crm")
    assert (shown.verdict, shown.drilled_at, shown.restore_seconds) == ("ok", NOW - HOUR, 30.0)
    assert "passed <time" in render(see(drilled)).replace("</span>", "").replace("\n", " ")
    catalog.drills.add(replace(good, ended=NOW, passed=False, restore_seconds=90.0))
    slow = one(see(drilled), "p", "crm")
    assert (slow.verdict, slow.drilled_at, slow.drill_failed_at) == ("breach", NOW - HOUR, NOW)
    assert slow.why == ("its drill failed: a minute ago; the next one is on another host",)
    for word in ("did not pass", "restored in 90 seconds", "promised 60 seconds", "slower than promised"):
        assert word in render(see(drilled))
    assert ("backupd_drill_failed", (("policy", "p"), ("source", "crm"))) in samples(see(drilled))


def test_what_fails_besides_runs_is_no_all_is_well(catalog: Catalog, see: See) -> None:
    """A prune, a notifier; not a run, of which its missing snapshot tells; and nothing of other policies."""
    looked_at(catalog, "p")
    stored(catalog, "crm", HOUR)
    for event, name, source in [
        ("failure", "p", "crm"),
        ("failure", "p", "prune"),
        ("notify_failed", "p", "ops"),
        ("failure", "q", "prune"),
    ]:
        catalog.alerts.open(event, name, source, "the storage refused", NOW)
    seen = see(policy("p", "crm"))
    assert seen.sources[0].why == (
        "its job prune fails since 2026-11-28T12:00:00Z: the storage refused",
        "the notifier ops fails since 2026-11-28T12:00:00Z, and whoever it tells hears of nothing",
    )
    assert seen.sentence.startswith("1 of 1 source needs a look: crm: its job prune fails")


def test_a_verification_that_never_came_is_told_once_it_is_overdue(catalog: Catalog, see: See) -> None:
    looked_at(catalog, "p")
    stored(catalog, "crm", HOUR)
    catalog.plans.remember({"since:p/crm": NOW - 10 * DAY})
    assert see(policy("p", "crm", **VERIFIED)).sources[0].why == ()
    catalog.plans.remember({"since:p/crm": NOW - 11 * DAY})
    seen = see(policy("p", "crm", **VERIFIED))
    (why,) = seen.sources[0].why
    assert seen.verdict == "breach"  # an objective that is missed
    assert why == "no verification (level bytes) has passed yet, promised every 1w"


def test_workers_of_daemons_long_gone_are_no_workers(catalog: Catalog, see: See) -> None:
    """Each start of a daemon is a worker of its own: those of last week are no alert."""
    for name, age in (("db1:7", DAY * 7), ("db1:8", HOUR), ("db1:9", timedelta(seconds=9))):
        catalog.heartbeats.beat(name, NOW - age)
    assert [(worker.name, worker.stale) for worker in see().workers] == [("db1:8", True), ("db1:9", False)]


def test_what_nobody_looked_at_is_not_told(catalog: Catalog, see: See) -> None:
    """Nothing reads the locks of stored objects yet: neither a metric nor the page says how they are."""
    looked_at(catalog, "p")
    seen = see(policy("p", "crm"))
    assert not {name for name, _ in samples(seen) if "lock" in name}
    assert "not locked" not in render(seen)


def test_health_asks_nobody(catalog: Catalog) -> None:
    """It comes from the loop's own state, so that it is there when the catalog is not."""
    ticks, state = [1000.0], State(last_step=1000.0)
    viewer = Viewer(None, state, lambda: NOW, lambda: ticks[0])  # type: ignore[arg-type]  # any use of it would fail
    assert viewer.health().word == "starting"
    state.policies = InForce((), Path(), "digest")
    assert (viewer.health().alive, viewer.health().ready) == (True, True)
    state.draining = True
    assert (viewer.health().alive, viewer.health().ready) == (True, False)
    ticks[0] += STALLED + 1
    assert (viewer.health().alive, viewer.health().word) == (False, "stalled")


class Late:
    """Snapshots of a catalog into which a run writes while they are read."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.snapshots = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catalog, name)

    def standing(self) -> Any:
        found = self._catalog.snapshots.standing()
        stored(self._catalog, "new", HOUR)
        return found

    def days(self, since: datetime) -> Any:
        return self._catalog.snapshots.days(since)


def test_the_first_snapshot_of_a_source_may_come_at_any_moment(catalog: Catalog) -> None:
    """A run that ends while the overview is being made neither breaks it nor is half in it."""
    looked_at(catalog, "p")
    (status,) = Standings(Late(catalog), NOW).of(policy("p", "new"))  # type: ignore[arg-type]  # of it no more is used
    assert (status.last_good, sum(status.strip)) == (None, 0)


def test_sources_of_one_schedule_share_its_days(catalog: Catalog, see: See) -> None:
    """The days on which runs were due are reckoned once for a schedule, not once for each of two hundred sources."""
    from backupd.daemon.view import _due_days

    _due_days.cache_clear()
    see(policy("p", *(f"s{n}" for n in range(20)), schedule={"cron": "0 2 * * *", "jitter": "10m"}))
    assert _due_days.cache_info().misses == 1


def test_running_and_waiting_jobs_are_shown(catalog: Catalog, see: See) -> None:
    """Also those of a policy that is in force no more."""
    catalog.queue.submit(JobSpec("run", "gone", "crm", "k1", "l1"), NOW - HOUR)
    catalog.queue.submit(JobSpec("prune", "gone", None, "k2", "l2"), NOW - HOUR)
    assert catalog.queue.claim("w", NOW, 60.0) is not None
    seen = see()
    assert [(job.kind, job.policy) for job in seen.running] == [("run", "gone")]
    assert seen.queue.oldest_queued_seconds == 3600.0
