"""Drills of the daemon: what each ending leads to, when they are tried again, and when there is nothing to drill yet."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from backupd.catalog.repositories import Seen
from backupd.catalog.snapshots import Snapshot
from backupd.daemon.drills import has_snapshot
from backupd.daemon.endings import snapshot_of
from backupd.daemon.timetable import tasks_of
from backupd.daemon.verdicts import verdicts_in
from backupd.errors import TryAgain
from backupd.jobs.standings import Standings
from backupd.jobs.status import Level
from tests.unit.daemon.kit import NOW, REPOSITORY, Office, document, later, policy, spec

HOURS = 3600
ID = "cc" * 32
SECRET = "Ada Lovelace"
SERVER = {"name": "srv", "url": "postgresql://backup@db1/*"}


def drilled(*failed: str, source: str = "db", names: Sequence[str] = ("restore", "content", "rto"), **more: Any) -> Any:
    """What `backupctl drill` prints of one source."""
    checks = [{"name": name, "passed": name not in failed, "detail": SECRET} for name in names]
    return {
        "schema": "backupctl/drill/1",
        "ok": not failed,
        "source": source,
        "policy": "crm",
        "snapshot": ID,
        "passed": not failed,
        "checks": checks,
        "restore_seconds": 90.0,
        "seconds": 100.0,
        "evidence": "/state/report.json",
        **more,
    }


class Yard:
    """Drills of an office, each tried once by the queue; the repository has been looked at, and holds a snapshot."""

    def __init__(self, office: Office, **more: Any) -> None:
        self.office, self.count = office, 0
        wanted = {"drill": {"every": "7d"}, "objectives": {"rto": "1m"}, **more}
        office.policy = policy("crm", *([] if "sources" in more else ["db"]), **wanted)
        office.catalog.repositories.put(Seen("crm", REPOSITORY, "/backup/repo", NOW))
        snapshot = snapshot_of(document(), NOW)
        assert snapshot is not None
        office.catalog.snapshots.add(snapshot)
        office.told.notices.clear()

    def end(
        self, code: int, printed: Any, seconds: float = 0, *, again: bool = False, source: str = "db", attempts: int = 1
    ) -> None:
        self.count += 1
        payload = {"due": "2026-03-01T02:30:00Z", **({"again": True} if again else {})}
        claim = self.office.claim(f"d{self.count}", kind="drill", source=source, payload=payload, max_attempts=attempts)
        self.office.end(claim, code, printed, seconds)

    def again(self, source: str = "db") -> float | None:
        """Seconds after the beginning."""
        at = self.office.catalog.plans.planned().get(f"again:drill:crm:{source}")
        return None if at is None else (at - NOW).total_seconds()

    def sentence(self) -> str:
        (alert,) = self.office.catalog.alerts.list_open()
        return alert.sentence

    def told(self) -> str:
        """The text of the last notice."""
        return self.office.told.notices[-1][1].text

    def snapshot(self) -> Snapshot:
        (found,) = self.office.catalog.snapshots.list()
        return found

    def why(self, seconds: float) -> tuple[Level, list[str]]:
        """How the source stands, without what is said of its backups."""
        assert self.office.policy is not None
        (status,) = Standings(self.office.catalog, later(seconds)).of(self.office.policy)
        found = [(level, why) for level, why in zip(status.levels, status.why, strict=True) if "drill" in why]
        return max((level for level, _ in found), default=Level.OK), [why for _, why in found]


@pytest.fixture
def yard(office: Office) -> Yard:
    return Yard(office)


def test_a_drill_that_passed_is_known_at_once(yard: Yard) -> None:
    """Before anybody looks at the repository again; what was being read of it meanwhile does not undo it."""
    catalog = yard.office.catalog
    yard.end(0, drilled(), 500)
    assert (yard.office.state(), yard.office.outcome(), yard.again()) == ("done", "done", None)
    (row,) = catalog.drills.list()
    assert (row.source, row.snapshot, row.passed, row.restore_seconds) == ("db", ID, True, 90.0)
    assert (row.started, row.ended) == (later(400), later(500))
    assert row.detail == {"checks": [{"name": n, "passed": True} for n in ("restore", "content", "rto")]}
    before = yard.snapshot()
    assert before.drilled_at == later(500)
    catalog.snapshots.replace(REPOSITORY, [], since=later(300))
    assert yard.snapshot() == before
    assert yard.why(500) == (Level.OK, [])
    assert (yard.office.told.take(), yard.office.alerts()) == ([], [])
    assert SECRET not in yard.office.everything()


def test_a_snapshot_that_the_catalog_has_not_heard_of_proves_the_source_too(yard: Yard) -> None:
    yard.end(0, drilled(snapshot="dd" * 32), 500)
    assert yard.snapshot().drilled_at is None
    assert yard.why(500) == (Level.OK, [])


@pytest.mark.parametrize(
    ("code", "failed", "sentence", "told"),
    [
        (4, ["restore"], "the restore itself failed", "the restore itself failed."),
        (1, ["assert: a", "content"], "2 of 4 checks failed: content, assert: a", "2 of 4 checks failed."),
        (5, ["rto"], "the restore took 90 seconds, promised are 1m", "the restore took 90s; promised: 1m."),
    ],
)
def test_a_drill_that_did_not_pass_is_told_once_a_day_until_one_passes(
    yard: Yard, code: int, failed: list[str], sentence: str, told: str
) -> None:
    """With its checks by name and no data; it is not tried again at once, but daily: the next snapshot may pass."""
    checks = drilled(*failed, names=("restore", "content", "rto", "assert: a"))
    yard.end(code, checks, attempts=3)
    assert (yard.office.state(), yard.office.outcome(), yard.again()) == ("failed", "failed", 24 * HOURS)
    assert (yard.sentence(), yard.office.alerts()) == (sentence, [("drill_failed", "db")])
    assert told in yard.told()
    assert "It is tried again at 2026-03-02 02:30 UTC." in yard.told()
    assert yard.office.told.notices[-1][1].level == "breach"
    assert yard.snapshot().drilled_at is None
    level, why = yard.why(1)
    assert (level, why[0]) == (
        Level.BREACH,
        f"its drill failed: {sentence}; the next one is at 2026-03-02T02:30:00Z",
    )
    yard.office.told.take()
    yard.end(code, checks, 23 * HOURS, again=True)
    assert yard.office.told.take() == []
    yard.end(code, checks, 48 * HOURS, again=True)
    assert yard.office.told.take() == [("drill_failed", False)]
    yard.end(0, drilled(), 50 * HOURS, again=True)
    assert (yard.office.told.take(), yard.office.alerts(), yard.again()) == ([("drill_failed", True)], [], None)
    assert [row.passed for row in yard.office.catalog.drills.list()] == [True, False, False, False]
    assert yard.why(50 * HOURS) == (Level.OK, [])
    assert SECRET not in yard.office.everything()


@pytest.mark.parametrize(("code", "wait"), [(14, HOURS), (137, HOURS), (1, HOURS), (12, 24 * HOURS), (2, 24 * HOURS)])
def test_a_drill_that_could_not_be_tried_is_no_verdict_and_an_alert(yard: Yard, code: int, wait: float) -> None:
    """Tried again after an hour where it may pass by itself, and daily; its alert says why, and people hear of it."""
    error = {"error": {"code": "some_word", "exit": code, "message": "there is no scratch server"}}
    yard.end(code, error)
    assert yard.office.catalog.drills.list() == []
    assert (yard.again(), yard.sentence()) == (wait, "it could not be tried: there is no scratch server")
    assert f"could not be tried: some_word (exit {code})." in yard.told()
    assert yard.office.told.notices[-1][1].level == "warn"
    level, why = yard.why(1)
    assert (level, len(why)) == (Level.WARN, 2)
    assert "its drill failed: it could not be tried: there is no scratch server; the next one is at" in why[1]
    yard.office.told.take()
    yard.end(code, error, wait, again=True)
    assert (yard.again(), yard.office.told.take()) == (wait + 24 * HOURS, [("drill_failed", False)] * (wait > HOURS))


def test_the_queue_tries_first_what_may_pass(yard: Yard) -> None:
    yard.end(14, {"error": {"code": "unreachable", "message": "m"}}, attempts=3)
    assert (yard.office.state(), yard.again(), yard.office.told.take()) == ("queued", None, [])


def test_what_a_second_try_finds_is_told_at_once_and_stays_the_subject(yard: Yard) -> None:
    """A scratch server that is away afterwards does not hide it."""
    away = {"error": {"code": "unreachable", "message": "it is away"}}
    yard.end(14, away)
    yard.end(1, drilled("content"), HOURS, again=True)
    assert yard.office.told.take() == [("drill_failed", False)] * 2
    yard.end(14, away, 2 * HOURS, again=True)
    assert yard.sentence() == "it did not pass at 2026-03-01 03:30 UTC, and could not be tried since: it is away"
    assert yard.why(2 * HOURS)[0] is Level.BREACH
    assert yard.office.told.take() == []


def test_an_end_that_was_half_written_down_is_told_once(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog is locked in the middle of it."""
    office = yard.office
    yard.end(14, {"error": {"code": "unreachable", "message": "m"}})
    office.told.take()
    claim = office.claim("w", kind="drill", payload={"again": True}, max_attempts=1)

    def busy(*_: object) -> None:
        raise TryAgain("the catalog is locked")

    with monkeypatch.context() as patched:
        patched.setattr(office.catalog.alerts, "open", busy)
        with pytest.raises(TryAgain):
            office.end(claim, 1, drilled("content"), HOURS)
    office.end(claim, 1, drilled("content"), HOURS)
    assert office.told.take() == [("drill_failed", False)]


def test_a_drill_whose_worker_died_is_tried_again(yard: Yard) -> None:
    yard.office.books.lost(spec(kind="drill"), "7", NOW, "its worker was gone")
    assert (yard.again(), yard.sentence()) == (HOURS, "it could not be tried: its worker was gone")
    assert yard.office.told.take() == [("drill_failed", False)]


def test_a_drill_that_nobody_promises_any_more_is_not_tried_again(yard: Yard) -> None:
    yard.end(1, drilled("content"))
    assert yard.again() == 24 * HOURS
    yard.office.policy = policy("crm", "db")
    yard.end(1, drilled("content"), HOURS)
    assert yard.again() is None


@pytest.mark.parametrize(
    "printed",
    [
        None,
        {},
        drilled(source="other"),
        drilled("content"),
        drilled(checks=[]),
        drilled(checks=[{"name": "restore", "passed": False}]),
        drilled(checks=[{"name": "restore", "passed": True}, {"name": "content"}]),
        drilled(snapshot="latest"),
        drilled(dry_run=True),
        {"drills": [], "passed": True},
    ],
)
def test_what_cannot_be_believed_proves_nothing(yard: Yard, printed: Any) -> None:
    """Whatever the exit code says: nothing is called restored that was not seen to be."""
    yard.end(0, printed)
    assert yard.office.catalog.drills.list() == []
    assert yard.snapshot().drilled_at is None
    assert yard.office.alerts() == [("drill_failed", "db")]


def test_a_verdict_and_an_exit_code_that_contradict_each_other_are_none() -> None:
    assert [v.passed for v in verdicts_in(drilled(), 0)] == [True]
    for code in (1, 4, 5, 14, 137):
        assert verdicts_in(drilled(), code) == []
    for code in (0, 12, 14, 75, 143):
        assert verdicts_in(drilled("rto"), code) == []


def test_each_database_of_a_server_has_its_own_verdict(office: Office) -> None:
    """One that could not be tried is told of, and does not hide the others; what the server's own alert said is over."""
    yard = Yard(office, sources=[SERVER])
    yard.end(14, {"error": {"code": "unreachable", "message": "m"}}, source="srv")
    assert office.alerts() == [("drill_failed", "srv")]
    error = {"code": "unreachable", "exit": 14, "message": "no server for it"}
    several = [drilled(source="srv.a"), drilled("content", source="srv.b"), {"source": "srv.c", "error": error}]
    yard.end(1, {"drills": several, "passed": False}, HOURS, source="srv")
    assert office.alerts() == [("drill_failed", "srv.b"), ("drill_failed", "srv.c")]
    assert {(row.source, row.passed) for row in office.catalog.drills.list()} == {("srv.a", True), ("srv.b", False)}
    assert yard.again("srv") == 2 * HOURS
    office.told.take()
    yard.end(0, {"drills": [drilled(source="srv.b")], "passed": True}, 2 * HOURS, again=True, source="srv")
    assert (office.alerts(), office.told.take()) == ([], [("drill_failed", True)])


def test_of_two_writers_sources_of_one_name_the_one_that_did_not_pass_counts() -> None:
    both = [drilled(), drilled("content")]
    for several in (both, both[::-1]):
        (verdict,) = verdicts_in({"drills": several}, 1)
        assert not verdict.passed


def test_a_drill_by_hand_that_passed_since_ends_what_is_said(yard: Yard) -> None:
    """Once the repository was looked at; the alert waits for the daemon's own."""
    yard.end(1, drilled("content"))
    assert yard.why(1)[0] is Level.BREACH
    yard.office.catalog.snapshots.proven(REPOSITORY, ID, later(HOURS))
    assert yard.why(2 * HOURS) == (Level.OK, [])


def test_a_drill_is_overdue_after_one_and_a_half_times_its_promise(yard: Yard) -> None:
    yard.end(0, drilled())
    week = timedelta(days=7).total_seconds()
    assert yard.why(1.5 * week) == (Level.OK, [])
    assert yard.why(1.5 * week + 1) == (Level.BREACH, ["the last drill was 10 days ago, promised every 1w"])


def test_what_was_never_drilled_is_overdue_once_there_was_time_enough(yard: Yard) -> None:
    """Counted from the oldest snapshot that is known."""
    week = timedelta(days=7).total_seconds()
    assert yard.why(week) == (Level.WARN, ["no drill has proven a restore yet"])
    assert yard.why(1.5 * week + 60) == (Level.BREACH, ["no drill has proven a restore yet, promised every 1w"])


def test_there_is_nothing_to_drill_before_the_first_snapshot(office: Office) -> None:
    """Nor before anybody has looked at the repository; a checkpoint is none; a server has one when a database of it has."""
    catalog = office.catalog
    (task,) = [t for t in tasks_of([policy("crm", "db", drill={"every": "7d"})]) if t.kind == "drill"]
    (whole,) = [t for t in tasks_of([policy("crm", sources=[SERVER], drill={"every": "7d"})]) if t.kind == "drill"]
    (run,) = [t for t in tasks_of([policy("crm", "db")]) if t.kind == "run"]
    assert has_snapshot(catalog, run)
    taken = snapshot_of(document(), NOW)
    assert taken is not None
    catalog.snapshots.add(taken)
    assert not has_snapshot(catalog, task)
    catalog.repositories.put(Seen("crm", REPOSITORY, "/backup/repo", NOW))
    assert has_snapshot(catalog, task)
    assert not has_snapshot(catalog, whole)
    of_server = snapshot_of(document(source="srv.crm", snapshot="dd" * 32, seq=8), NOW)
    assert of_server is not None
    catalog.snapshots.add(of_server)
    assert has_snapshot(catalog, whole)
