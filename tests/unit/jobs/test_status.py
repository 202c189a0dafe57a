"""Where things stand: what is called well, what is not, and that nothing unseen is."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backupd.crypto.keyfile import Role
from backupd.jobs.status import Level, SourceStatus, age, sentence, unseen, worst_first
from backupd.jobs.statusread import of_policy, of_repository
from backupd.policy.model import Policy
from backupd.repo.records import Record
from backupd.repo.repository import SnapshotView

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def policy(**more: Any) -> Policy:
    base = {
        "policy": "p",
        "sources": [{"name": "crm", "url": "sqlite:////srv/a.db"}],
        "repository": {"url": "/backup"},
        "schedule": {"cron": "30 2 * * *"},
        "objectives": {"rpo": "26h"},
    }
    return Policy.model_validate({**base, **more})


@dataclass
class Taken:
    """A snapshot, as far as status looks at one."""

    taken: datetime
    source: str = "crm"
    kind: str = "snapshot"

    @property
    def id(self) -> str:
        return self.taken.isoformat()

    @property
    def structure(self) -> Any:
        return SimpleNamespace(taken_at=self.taken.strftime("%Y-%m-%dT%H:%M:%SZ"), kind=self.kind)


def views(*hours: float, **more: Any) -> list[SnapshotView]:
    return cast("list[SnapshotView]", [Taken(NOW - timedelta(hours=h), **more) for h in hours])


def evidence(view: SnapshotView, hours: float, *, passed: bool = True) -> Record:
    created = (NOW - timedelta(hours=hours)).isoformat()
    return cast(
        "Record",
        SimpleNamespace(
            type="evidence", role=Role.READ, document={"snapshot": view.id, "passed": passed, "created": created}
        ),
    )


def only(found: list[SourceStatus]) -> SourceStatus:
    (status,) = found
    return status


def test_all_is_well() -> None:
    status = only(of_policy(policy(), views(9.5, 33.5), [], NOW))
    assert (status.level, status.why) == (Level.OK, [])
    document = status.as_json(NOW)
    assert document["rpo_seconds"] == 26 * 3600
    assert document["rpo_used"] == pytest.approx(9.5 / 26, abs=1e-4)
    assert document["last_good"] == "2026-11-23T02:30:00Z"
    assert document["next_run"] == "2026-11-24T02:30:00Z"
    assert document["days"][-2:] == [1, 1]
    assert sentence([status], NOW) == "All is well: 1 source, and no newest snapshot is older than 9 hours."


def test_an_objective_is_missed() -> None:
    status = only(of_policy(policy(), views(30), [], NOW))
    assert status.level is Level.BREACH
    assert status.used(NOW) == pytest.approx(30 / 26)
    assert "30 hours old, promised are 26h" in sentence([status], NOW)
    assert "left no snapshot" in status.why[1]


def test_never() -> None:
    """No snapshot, only checkpoints, or only those of another source: not protected."""
    for some in ([], views(1, kind="checkpoint"), views(1, source="other")):
        status = only(of_policy(policy(), some, [], NOW))
        assert status.level is Level.BREACH
        assert status.as_json(NOW)["last_good"] is None


def test_a_run_that_left_nothing() -> None:
    """Without an objective a missed run is a warning; while it may still be running it is none."""
    relaxed = policy(objectives={})
    assert only(of_policy(relaxed, views(34), [], NOW)).level is Level.WARN
    morning = NOW.replace(hour=3)
    at_night = views(33.4)
    assert only(of_policy(relaxed, at_night, [], morning)).level is Level.OK
    assert only(of_policy(relaxed, at_night, [], NOW.replace(hour=4))).level is Level.WARN
    slow = policy(objectives={}, schedule={"cron": "30 2 * * *", "max_duration": "4h", "jitter": "10m"})
    assert only(of_policy(slow, at_night, [], NOW.replace(hour=6))).level is Level.OK


def test_every_ten_minutes_and_once_a_year() -> None:
    often = policy(schedule={"every": "10m", "max_duration": "10m"}, objectives={"rpo": "15m"})
    assert only(of_policy(often, views(0.1), [], NOW)).level is Level.OK
    assert only(of_policy(often, views(0.4), [], NOW)).level is Level.BREACH
    yearly = policy(schedule={"cron": "0 3 1 1 *"}, objectives={})
    assert only(of_policy(yearly, views(24 * 200), [], NOW)).level is Level.OK
    assert only(of_policy(yearly, views(24 * 400), [], NOW)).level is Level.WARN
    assert only(of_policy(policy(schedule=None), views(1), [], NOW)).next_run is None


def test_drills() -> None:
    """A promised drill that never was is a warning until there was time enough; an overdue one is a promise not kept, and one
    that did not pass proves that the source may not come back."""
    drilled = policy(drill={"every": "7d"})
    some = views(9.5, 33.5)
    assert only(of_policy(drilled, some, [], NOW)).level is Level.WARN
    assert only(of_policy(drilled, some, [evidence(some[0], 5)], NOW)).level is Level.OK
    bad = only(of_policy(drilled, some, [evidence(some[0], 9), evidence(some[0], 5, passed=False)], NOW))
    assert (bad.level, bad.why) == (Level.BREACH, ["its newest drill, 5 hours ago, did not pass"])
    mended = [evidence(some[0], 5, passed=False), evidence(some[1], 4)]
    assert only(of_policy(drilled, some, mended, NOW)).level is Level.OK
    assert only(of_policy(policy(), some, mended[:1], NOW)).level is Level.BREACH, "whoever drilled it"
    assert only(of_repository(some, mended[:1], NOW)).level is Level.BREACH
    old = only(of_policy(drilled, [*some, *views(24 * 10.5)], [], NOW))
    assert (old.level, old.drill_overdue) == (Level.WARN, False)
    old = only(of_policy(drilled, [*some, *views(24 * 10.6)], [], NOW))
    assert (old.level, old.drill_overdue) == (Level.BREACH, True)
    assert old.why == ["no drill has proven a restore yet, promised every 1w"]
    late = only(of_policy(drilled, some, [evidence(some[1], 24 * 20)], NOW))
    assert late.level is Level.BREACH
    assert "20 days ago" in late.why[0]


def test_what_is_worst_is_said_first() -> None:
    status = SourceStatus("crm")
    for level, why in ((Level.WARN, "a"), (Level.BREACH, "b"), (Level.WARN, "c"), (Level.BREACH, "d")):
        status.worse(level, why)
    assert (status.level, status.why) == (Level.BREACH, ["b", "d", "a", "c"])


def test_from_the_future() -> None:
    status = only(of_policy(policy(), views(-48), [], NOW))
    assert status.level is Level.WARN
    assert status.used(NOW) == 0


def test_what_cannot_be_seen_is_not_well() -> None:
    found = unseen(policy(), "the bucket is gone")
    assert only(found).level is Level.BREACH
    assert "cannot be seen: the bucket is gone" in sentence(found, NOW)


def test_without_a_policy() -> None:
    found = of_repository([*views(1), *views(2, source="shop")], [], NOW)
    assert [s.name for s in found] == ["crm", "shop"]
    assert all(s.level is Level.OK and s.rpo is None for s in found)
    assert sentence([], NOW).startswith("Nothing is protected")


def test_the_worst_come_first() -> None:
    good, bad = only(of_policy(policy(), views(9.5), [], NOW)), only(unseen(policy(), "x"))
    assert worst_first([good, bad], NOW) == [bad, good]
    assert sentence([good, bad], NOW).startswith("1 of 2 sources is not protected")


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(seconds=30), "a minute"),
        (timedelta(minutes=1), "a minute"),
        (timedelta(hours=5), "5 hours"),
        (timedelta(days=4), "4 days"),
        (timedelta(hours=-5), "less than nothing"),
    ],
)
def test_lengths_of_time(length: timedelta, text: str) -> None:
    assert age(length) == text
