"""The steward: alerts open once, are told daily, and close when what they are about is well again, or is gone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backupd.catalog.opening import Catalog
from backupd.catalog.repositories import Brake, Seen
from backupd.daemon.steward import Steward
from backupd.jobs.standings import Standings
from backupd.jobs.status import SourceStatus
from backupd.policy.model import Policy
from backupd.wiring import open_catalog
from tests.unit.daemon.kit import NOW, REPOSITORY, WRITER, Told, policy

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@dataclass
class Watch:
    """A steward whose sources stand as it is told."""

    catalog: Catalog
    newest: dict[str, datetime | None] = field(default_factory=dict)
    told: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        self.steward = Steward(self.catalog, self._statuses, self.told)

    def _statuses(self, policies: list[Policy], now: datetime) -> list[tuple[Policy, list[SourceStatus]]]:
        return [
            (p, [SourceStatus(s.name, p.policy, p.objectives.rpo, self.newest.get(s.name)) for s in p.sources])
            for p in policies
        ]

    def look(self, at: datetime, *policies: Policy) -> list[tuple[str, bool]]:
        self.steward.look(policies, at)
        return self.told.take()

    def open(self) -> list[tuple[str, str, str | None]]:
        return [(a.event, a.policy, a.source) for a in self.catalog.alerts.list_open()]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    with open_catalog(tmp_path) as catalog:
        yield Watch(catalog)


def promised(name: str = "crm", *sources: str, **more: object) -> Policy:
    return policy(name, *sources, **{"objectives": {"rpo": "24h"}, **more})


def test_a_breach_is_opened_once_told_daily_and_closed(watch: Watch) -> None:
    crm = promised()
    watch.steward.adopt([crm], NOW - 30 * DAY)
    watch.newest["db"] = NOW
    assert watch.look(NOW + 24 * HOUR, crm) == []
    at = NOW + 25 * HOUR
    assert watch.look(at, crm) == [("rpo_breach", False)]
    for hours in range(1, 24):
        assert watch.look(at + hours * HOUR, crm) == []
    assert watch.look(at + DAY, crm) == [("rpo_breach", False)]
    assert watch.open() == [("rpo_breach", "crm", "db")]
    assert watch.catalog.alerts.list_open()[0].told == 2
    watch.newest["db"] = at + DAY
    assert watch.look(at + DAY + HOUR, crm) == [("rpo_breach", True)]
    assert watch.open() == []
    assert watch.look(at + DAY + 2 * HOUR, crm) == []


def test_of_what_was_never_backed_up_the_time_counts_from_the_promise(watch: Watch) -> None:
    """Not from the daemon's start, however often it starts."""
    crm = promised()
    watch.steward.adopt([crm], NOW)
    assert watch.look(NOW + 23 * HOUR, crm) == []
    watch.steward.adopt([crm], NOW + 23 * HOUR)
    assert watch.look(NOW + 25 * HOUR, crm) == [("rpo_breach", False)]


def test_a_clock_put_back_by_years_does_not_silence_an_alert(watch: Watch) -> None:
    crm = promised()
    ahead = NOW + 5000 * DAY
    watch.newest["db"] = NOW - 10 * DAY
    watch.steward.adopt([crm], NOW)
    assert watch.look(ahead, crm) == [("rpo_breach", False)]
    assert watch.look(NOW, crm) == [("rpo_breach", False)]
    assert watch.look(NOW + HOUR, crm) == []
    assert watch.look(NOW + DAY, crm) == [("rpo_breach", False)]


def test_what_nobody_promises_any_more_is_no_alert(watch: Watch) -> None:
    """A policy that is gone, a source, an objective, a verification, drills, a notifier: each takes its alerts along."""
    more = {
        "verify": [{"level": "bytes", "every": "1d"}],
        "notifiers": {"ops": {"webhook": "env:X"}},
        "drill": {"every": "7d"},
    }
    before = promised("crm", "db", "old", **more)
    gone = promised("web")
    watch.steward.adopt([before, gone], NOW - 30 * DAY)
    watch.look(NOW, before, gone)
    for event, source in [
        ("failure", "old"),
        ("failure", "db"),
        ("failure", "prune"),
        ("brake", "old"),
        ("verify_failed", "level bytes"),
        ("drill_failed", "db"),
        ("notify_failed", "ops"),
    ]:
        watch.catalog.alerts.open(event, "crm", source, "s", NOW)
    watch.catalog.repositories.put(Seen("web", REPOSITORY, "/x", NOW))
    assert len(watch.open()) == 10
    after = promised("crm", "db", retention={"keep": {"daily": 3}})
    watch.steward.adopt([after], NOW)
    assert watch.open() == [("rpo_breach", "crm", "db"), ("failure", "crm", "db"), ("failure", "crm", "prune")]
    assert watch.catalog.repositories.all() == {}
    watch.told.take()
    assert watch.look(NOW + DAY, policy("crm", "db")) == []
    assert watch.open() == [("failure", "crm", "db"), ("failure", "crm", "prune")]
    watch.steward.adopt([policy("crm", "db")], NOW)
    assert watch.open() == [("failure", "crm", "db")], "nothing is pruned without a rule"


def test_a_brake_is_told_daily_until_its_release_was_seen(watch: Watch) -> None:
    crm = policy()
    brake = Brake("db", WRITER, NOW, "9 % of rows are gone", "records/write/1")
    watch.catalog.repositories.put(Seen("crm", REPOSITORY, "/x", NOW - HOUR))
    opened = watch.catalog.alerts.open("brake", "crm", "db", brake.reason, NOW)
    watch.catalog.alerts.mark_told(opened.alert.id, NOW)
    assert watch.look(NOW + HOUR, crm) == [], "a look from before the brake says nothing of its release"
    watch.catalog.repositories.put(Seen("crm", REPOSITORY, "/x", NOW + HOUR, brakes=(brake,)))
    assert watch.look(NOW + 2 * HOUR, crm) == []
    assert watch.look(NOW + DAY, crm) == [("brake", False)]
    assert watch.look(NOW + DAY + HOUR, crm) == []
    watch.catalog.repositories.put(Seen("crm", REPOSITORY, "/x", NOW + 25 * HOUR))
    assert watch.look(NOW + 26 * HOUR, crm) == [("brake", True)]
    assert watch.open() == []


def test_the_sentence_is_that_of_all_policies(watch: Watch) -> None:
    crm = promised()
    watch.newest["db"] = NOW
    assert watch.steward.look([crm], NOW + HOUR).startswith("All is well: 1 source")
    assert "no policy names a source" in watch.steward.look([], NOW)


def test_a_repository_that_was_never_seen_is_a_breach_in_time(tmp_path: Path) -> None:
    """With the real standings: what cannot be seen is not called well."""
    with open_catalog(tmp_path) as catalog:
        crm, told = promised(), Told()
        steward = Steward(catalog, lambda ps, now: [(p, Standings(catalog, now).of(p)) for p in ps], told)
        steward.adopt([crm], NOW)
        steward.look([crm], NOW + HOUR)
        assert told.take() == []
        steward.look([crm], NOW + 25 * HOUR)
        assert told.take() == [("rpo_breach", False)]


def test_a_server_gives_way_to_its_databases(tmp_path: Path) -> None:
    """The alert of a source that stands for all databases ends once they are known; theirs outlive a reload of the policies."""
    with open_catalog(tmp_path) as catalog:
        server = {"name": "srv", "url": "postgresql://backup@db1/*"}
        crm, told, names = promised(sources=[server]), Told(), ["srv"]
        old = NOW - 3 * DAY
        steward = Steward(
            catalog,
            lambda ps, _now: [(p, [SourceStatus(n, p.policy, p.objectives.rpo, old) for n in names]) for p in ps],
            told,
        )
        steward.adopt([crm], NOW - 5 * DAY)
        steward.look([crm], NOW)
        assert [a.source for a in catalog.alerts.list_open()] == ["srv"]
        names[:] = ["srv.crm", "srv.shop"]
        steward.look([crm], NOW)
        assert [a.source for a in catalog.alerts.list_open()] == ["srv.crm", "srv.shop"]
        steward.adopt([crm], NOW)
        assert [a.source for a in catalog.alerts.list_open()] == ["srv.crm", "srv.shop"]


def test_snapshots_that_vanished_are_not_called_well(tmp_path: Path) -> None:
    """What a look at the repository missed stays a warning on each of its sources."""
    with open_catalog(tmp_path) as catalog:
        crm = promised()
        for vanished, words in ((0, []), (2, ["2 snapshots that were there are gone, and no record says why"])):
            catalog.repositories.put(Seen("crm", REPOSITORY, "file:///backup", NOW, 1000, vanished=vanished))
            (status,) = Standings(catalog, NOW).of(crm)
            assert [why for why in status.why if "gone" in why] == [
                f"its repository is not whole: {word}" for word in words
            ]


def seen(at: datetime, until: datetime | None, short: bool | None) -> Seen:
    return Seen("crm", REPOSITORY, "s3://bucket", at, locked_until=until, lock_short=short)


def test_locks_that_end_too_soon_are_told_until_they_do_not(watch: Watch) -> None:
    """What a look could not tell changes nothing; a policy that promises nothing any more has no alert."""
    crm = promised(retention={"keep": {"daily": 60}, "lock": {"mode": "compliance", "days": 30}})
    watch.newest["db"] = NOW + 9 * DAY
    watch.steward.adopt([crm], NOW)
    watch.catalog.repositories.put(seen(NOW, NOW + 30 * DAY, False))
    assert watch.look(NOW, crm) == []
    watch.catalog.repositories.put(seen(NOW, NOW + 3 * DAY, True))
    assert watch.look(NOW, crm) == [("lock_short", False)]
    watch.catalog.repositories.put(seen(NOW, None, None))
    assert watch.look(NOW + HOUR, crm) == []
    assert watch.open() == [("lock_short", "crm", None)]
    watch.catalog.repositories.put(seen(NOW, NOW + 31 * DAY, False))
    assert watch.look(NOW + 2 * HOUR, crm) == [("lock_short", True)]
    assert watch.open() == []
    watch.catalog.repositories.put(seen(NOW, None, True))
    watch.look(NOW + 3 * HOUR, crm)
    assert watch.open() == [("lock_short", "crm", None)]
    watch.look(NOW + 4 * HOUR, promised())
    assert watch.open() == []
