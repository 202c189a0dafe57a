"""The bookkeeper: what each ending leads to, in the catalog, in the queue and for people."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from backupd.catalog.repositories import Seen
from backupd.daemon.books import Books
from backupd.daemon.recovery import Recovery
from backupd.daemon.workers import TAKEN
from backupd.errors import Exit, TryAgain, UsageError
from backupd.policy.retrying import ENDINGS
from tests.unit.daemon.kit import NOW, REPOSITORY, Office, document, later, policy, quiet, spec

SECRET_TABLE = "patients_with_hiv"


def test_a_run_that_is_done_is_written_down_and_told(office: Office) -> None:
    claim = office.claim()
    assert [n.started for _, n in office.told.notices] == [True]
    office.end(claim, 0, document())
    assert (office.state(), office.outcome()) == ("done", "done")
    (snapshot,) = office.catalog.snapshots.list()
    assert (snapshot.id, snapshot.repository, snapshot.rows) == ("cc" * 32, REPOSITORY, 42)
    assert office.told.take() == [("success", False)]
    (run,) = office.catalog.runs.list()
    assert run.end is not None
    assert (run.end.snapshot, run.end.seconds, run.end.stored_bytes) == ("cc" * 32, 3.5, 100)


def test_each_exit_code_is_tried_again_or_told(office: Office) -> None:
    """As `retrying` says; what is tried again is told once it failed for good."""
    for code in [*(c for c in Exit if c is not Exit.DONE), 137, 139, 77, 255]:
        claim = office.claim(f"job-{code}", lock=f"lock-{code}")
        again = ENDINGS[Exit(code)].again if code in list(Exit) else True
        office.end(claim, code, {"error": {"code": "some_word", "exit": code, "message": "It failed."}})
        final = "incomplete" if code == Exit.INCOMPLETE else "failed"
        assert office.catalog.queue.list(limit=1)[0].state == ("queued" if again else final)
        assert office.outcome() == final
        assert office.told.take() == ([] if again else [("failure", False)])
        assert office.alerts() == ([] if again else [("failure", "db")])
        if not again:
            office.catalog.alerts.close("failure", "crm", "db", NOW)


def test_people_hear_once_all_attempts_failed_and_once_it_works_again(office: Office) -> None:
    claim = office.claim()
    for attempt in (1, 2):
        office.end(claim, 14, seconds=attempt * 1000)
        assert office.told.take() == []
        claim = office.again(attempt * 1000 + 900)
    office.end(claim, 14, seconds=3000)
    assert (office.state(), office.told.take(), office.alerts()) == (
        "failed",
        [("failure", False)],
        [("failure", "db")],
    )
    office.end(office.claim("next"), 14, seconds=4000)  # one attempt failed: nothing new
    assert office.told.take() == []
    office.end(office.claim("later"), 0, document(), seconds=5000)
    assert office.told.take() == [("success", False), ("failure", True)]
    assert office.alerts() == []


def test_whoever_lost_its_claim_writes_nothing_down_as_done(office: Office) -> None:
    """But the snapshot, which is there. Nobody hears of either."""
    claim = office.claim()
    assert office.catalog.queue.recover(later(200))
    office.told.notices.clear()
    office.end(claim, 0, document(), 201)
    assert (office.state(), office.outcome()) == ("queued", "lost")
    assert len(office.catalog.snapshots.list()) == 1
    assert office.told.notices == []


def test_a_job_that_was_cancelled_is_no_failure(office: Office) -> None:
    claim = office.claim()
    office.catalog.queue.cancel(claim.id, NOW)
    office.end(claim, 143, None, why=TAKEN)
    assert (office.state(), office.outcome()) == ("cancelled", "cancelled")
    assert office.told.take() == []
    assert office.alerts() == []


def test_what_the_ending_daemon_stops_is_put_back(office: Office) -> None:
    """What failed by itself is not, and neither is a last attempt: people hear of that."""
    office.ending = True
    office.end(office.claim(), 143, None, why="the daemon ends")
    assert office.state() == "queued"
    claim = office.again(10)
    office.end(claim, 143, None, 20)  # the service manager has told everybody at once
    assert office.state() == "queued"
    office.end(office.again(30), 143, None, 40, why="the daemon ends")
    assert (office.state(), office.told.take()) == ("failed", [("failure", False)])


def test_what_fails_while_the_daemon_ends_fails(office: Office) -> None:
    office.ending = True
    office.end(office.claim(), Exit.INTEGRITY)
    assert (office.state(), office.told.take()) == ("failed", [("failure", False)])


def test_a_job_of_a_policy_that_is_gone_ends_quietly(office: Office) -> None:
    claim = office.claim()
    office.policy = None
    office.books.refused(claim, UsageError("there is no policy 'crm' any more"), later(1))
    assert (office.state(), office.outcome()) == ("failed", "failed")
    assert office.alerts() == []


@pytest.mark.parametrize("failing", ["start", "finish", "add", "append"])
def test_an_end_that_was_half_written_down_is_written_once(
    office: Office, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog is locked in the middle of it; the second call ends it as the first one would have."""
    claim = office.claim()
    office.told.notices.clear()
    places: dict[str, Any] = {"add": office.catalog.snapshots, "append": office.catalog.audit}
    part = places.get(failing, office.catalog.runs)

    def locked(*_: object, **__: object) -> None:
        raise TryAgain("locked")

    with monkeypatch.context() as patch:
        patch.setattr(part, failing, locked)
        with pytest.raises(TryAgain):
            office.end(claim, 0, document())
    office.end(claim, 0, document())
    assert (office.state(), office.outcome()) == ("done", "done")
    assert len(office.catalog.snapshots.list()) == 1
    assert [entry.action for entry in office.catalog.audit.newest()] == ["run"]
    assert office.told.take() == [("success", False)]


class Killed(BaseException):
    """The daemon's process is gone."""


@pytest.mark.parametrize(("part", "call"), [("alerts", "open"), ("runs", "finish"), ("audit", "append")])
def test_a_failure_is_told_though_the_daemon_dies_while_it_writes_it_down(
    office: Office, part: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of its steps: another daemon finds the run open, and sees to it that people hear of it."""
    claim = office.claim(max_attempts=1)

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(getattr(office.catalog, part), call, killed)
        with pytest.raises(Killed):
            office.end(claim, Exit.STORAGE_REFUSED)
    later_books = Books(office.catalog, lambda name: office.policy, office.told)
    log, _ = quiet()
    Recovery(office.catalog, later_books.lost, log).look(later(900))
    assert (office.state(), office.outcome()) == ("failed", "failed")
    assert office.alerts() == [("failure", "db")]
    assert ("failure", False) in office.told.take()


HOSTILE: list[Any] = [
    {},
    {"snapshot": None},
    document(taken_at="yesterday"),
    document(taken_at=None),
    document(taken_at="0001-01-01T00:00:00+23:00"),
    document(repository=7),
    document(repository=["x"], writer={}),
    document(seq="many"),
    document(seq=10**40),
    document(rows=-1, read_bytes=10**30, stored_bytes="x"),
    document(rows=True, read_bytes=1.5, stored_bytes=[]),
    document(seconds=float("nan")),
    document(seconds=float("inf")),
    document(seconds="soon", warnings=7),
    document(warnings={"a": 1}),
    document(source=None),
    document(source="x" * 10_000),
    document(snapshot="../../etc/passwd"),
    document(snapshot="\ud800"),
    document(brake="all of them"),
    document(brake=[None, 7, {"reason": None}, {"reason": ["x"]}, {}]),
    document(brake=[{"reason": "9 % of rows are gone", "table": SECRET_TABLE}], source={"a": 1}),
    {"runs": 7},
    {"runs": [None, 7, "x", {}, document(), document(taken_at=[])]},
    {"error": "no"},
    {"error": {"code": 7, "message": ["x"], "exit": "x"}},
    {"error": {"code": "\n", "message": "x" * 100_000}},
    {"problems": 7, "forget": 7},
    {"problems": {"a": 1}, "forget": [None, 7, {}, {"snapshot": 7}, {"snapshot": "\ud800"}]},
    {"forget": None, "problems": None},
    {"drills": 7, "passed": True},
    {"drills": [None, 7, {}, {"source": "db"}, {"source": "db", "passed": True}, {"source": "\ud800", "error": {}}]},
    {"source": "db", "passed": True, "snapshot": "cc", "checks": [{"name": SECRET_TABLE, "passed": None}]},
    {"source": "db", "passed": False, "snapshot": "cc", "checks": [{"name": "\ud800\0" * 500, "passed": False}]},
    {
        "source": "db",
        "passed": True,
        "snapshot": "cc",
        "checks": [{"name": "restore", "passed": True, "detail": SECRET_TABLE}],
        "restore_seconds": float("nan"),
        "seconds": 10**30,
    },
    {"source": "db", "passed": True, "snapshot": ["x"], "checks": {"a": 1}, "restore_seconds": "soon"},
]


@pytest.mark.parametrize("kind", ["run", "verify", "prune", "drill"])
def test_no_document_can_stop_the_daemon(office: Office, kind: str) -> None:
    """Whatever it holds, the job has an outcome, and the catalog is as readable as before."""
    office.catalog.repositories.put(Seen("crm", REPOSITORY, "/backup/repo", NOW))
    payload = {"level": "bytes", "due": "whenever"} if kind == "verify" else {}
    for n, printed in enumerate(HOSTILE):
        for code in (0, 4):
            source = "db" if kind in {"run", "drill"} else None
            claim = office.claim(f"{n}-{code}", kind=kind, source=source, payload=payload)
            office.end(claim, code, printed)
            assert office.catalog.queue.list(limit=1)[0].state in {"done", "failed", "queued"}
    json.dumps([run.end.outcome for run in office.catalog.runs.list() if run.end], allow_nan=False)
    office.catalog.totals([1.0])
    assert SECRET_TABLE not in office.everything()


def test_a_run_without_a_snapshot_is_not_done(office: Office) -> None:
    """Whatever its exit code says: only what was seen is claimed."""
    for n, printed in enumerate([None, {}, document(dry_run=True), document(snapshot="")]):
        office.end(office.claim(str(n)), 0, printed)
        assert (office.catalog.queue.list(limit=1)[0].state, office.outcome()) == ("queued", "failed")


def test_a_table_of_a_sudden_change_is_told_to_nobody(office: Office) -> None:
    signs = [{"kind": "rows", "reason": "9 % of the rows are gone", "table": SECRET_TABLE, "record": "r"}] * 2
    office.end(office.claim(), 0, document(brake=signs))
    assert office.told.take() == [("brake", False), ("success", False)]
    (alert,) = office.catalog.alerts.list_open()
    assert (alert.event, alert.source, alert.sentence) == ("brake", "db", "9 % of the rows are gone")
    assert SECRET_TABLE not in office.everything()


def test_last_words_of_a_process_stay_out_of_the_catalog(office: Office) -> None:
    """What a database said when it failed may quote a record."""
    office.end(office.claim(), 139, None)
    (run,) = office.catalog.runs.list()
    assert run.end is not None
    assert run.end.error_message == "it was ended by signal 11"


def test_a_policy_with_several_sources_has_several_snapshots(office: Office) -> None:
    runs = [document(), document(snapshot="dd" * 32, source="other", seq=8), {"source": "bad", "error": {}}]
    office.end(office.claim(), 0, {"policy": "crm", "runs": runs, "seconds": 9})
    assert {s.source for s in office.catalog.snapshots.list()} == {"db", "other"}
    (run,) = office.catalog.runs.list()
    assert run.end is not None
    assert (run.end.read_bytes, run.end.rows, run.end.seconds) == (2000, 84, 9.0)


def test_of_several_sources_those_that_were_taken_count_though_another_failed(office: Office) -> None:
    office.end(office.claim(), 14, {"error": {"code": "unreachable", "message": "m"}, "runs": [document()]})
    assert len(office.catalog.snapshots.list()) == 1
    assert office.outcome() == "failed"


def test_a_verification_with_problems_is_an_alert_until_one_finds_none(office: Office) -> None:
    def verify(key: str, code: int, printed: dict[str, Any]) -> None:
        office.end(office.claim(key, kind="verify", source=None, payload={"level": "bytes"}), code, printed)

    verify("a", Exit.INTEGRITY, {"problems": [{"object": "packs/x", "kind": "damaged", "detail": "d"}] * 3})
    assert (office.alerts(), office.told.take()) == ([("verify_failed", "level bytes")], [("verify_failed", False)])
    (found,) = office.catalog.verifications.list()
    assert (found.ok, found.problems, found.level) == (False, 3, "bytes")
    verify("b", Exit.UNREACHABLE, {})
    assert office.told.take() == [], "it is tried again first"
    assert len(office.catalog.verifications.list()) == 1
    verify("c", Exit.DONE, {"problems": []})
    assert (office.alerts(), office.told.take()) == ([], [("verify_failed", True)])
    assert len(office.catalog.verifications.newest(ok_only=True)) == 1


WEEK = {"verify": [{"level": "bytes", "every": "7d"}]}
AWAY, DAMAGE = Exit.STORAGE_REFUSED, Exit.INTEGRITY
PROBLEMS = {"problems": [{"object": "packs/x", "kind": "damaged", "detail": "d"}] * 3}
HOURS = 3600


class Checks:
    """Verifications of an office, each tried once by the queue."""

    def __init__(self, office: Office, **verify: Any) -> None:
        self.office, self.count = office, 0
        office.policy = policy("crm", "db", **{**WEEK, **verify})

    def end(self, code: int, seconds: float, printed: dict[str, Any] | None = None, *, again: bool = False) -> None:
        self.count += 1
        payload = {"level": "bytes", **({"again": True} if again else {})}
        claim = self.office.claim(f"v{self.count}", kind="verify", source=None, payload=payload, max_attempts=1)
        self.office.end(claim, code, printed, seconds)

    def again(self) -> float | None:
        """Seconds after the beginning."""
        at = self.office.catalog.plans.planned().get("again:crm:bytes")
        return None if at is None else (at - NOW).total_seconds()

    def sentence(self) -> str:
        (alert,) = self.office.catalog.alerts.list_open()
        return alert.sentence


def test_a_verification_that_could_not_be_done_is_tried_after_an_hour_and_then_daily(office: Office) -> None:
    """People hear of it once a day, and once it is done."""
    checks = Checks(office)
    checks.end(AWAY, 0)
    assert (checks.again(), office.told.take()) == (HOURS, [("verify_failed", False)])
    checks.end(AWAY, HOURS, again=True)
    assert (checks.again(), office.told.take()) == (25 * HOURS, [])
    checks.end(AWAY, 25 * HOURS, again=True)
    assert (checks.again(), office.told.take()) == (49 * HOURS, [("verify_failed", False)])
    checks.end(Exit.DONE, 49 * HOURS, {"problems": []}, again=True)
    assert (checks.again(), office.told.take(), office.alerts()) == (None, [("verify_failed", True)], [])


def test_damage_is_looked_at_daily_and_stays_the_alerts_subject(office: Office) -> None:
    """Though the storage be away meanwhile: what is not mended is not called anything else. Each notice says when it is next."""
    checks = Checks(office)
    checks.end(DAMAGE, 0, PROBLEMS)
    assert (checks.again(), checks.sentence()) == (24 * HOURS, "it found 3 problems")
    assert "It is looked at again at 2026-03-02 02:30 UTC." in office.told.notices[-1][1].text
    office.told.take()
    checks.end(AWAY, 24 * HOURS, again=True)
    assert checks.again() == 48 * HOURS
    assert checks.sentence().startswith("it found 3 problems at 2026-03-01 02:30 UTC, and could not be done since: ")
    assert office.told.notices[-1][1].level == "breach"
    office.told.take()
    checks.end(Exit.DONE, 48 * HOURS, {"problems": []}, again=True)
    assert (office.alerts(), office.told.take()) == ([], [("verify_failed", True)])
    checks.end(DAMAGE, 50 * HOURS, {"error": {"code": "integrity", "message": "the trust is forged"}})
    assert (checks.again(), checks.sentence()) == (74 * HOURS, "the trust is forged")
    assert office.catalog.verifications.damage("crm", "bytes") is not None


def test_damage_that_a_second_try_finds_is_told_at_once(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the catalog did not answer in the middle of writing it down, and it is done again."""
    checks = Checks(office)
    checks.end(AWAY, 0)
    office.told.take()
    claim = office.claim("w", kind="verify", source=None, payload={"level": "bytes", "again": True}, max_attempts=1)
    with monkeypatch.context() as patched:

        def busy(*_: object) -> None:
            raise TryAgain("the catalog is locked")

        patched.setattr(office.catalog.alerts, "open", busy)
        with pytest.raises(TryAgain):
            office.end(claim, DAMAGE, PROBLEMS, HOURS)
    office.end(claim, DAMAGE, PROBLEMS, HOURS)
    assert office.told.take() == [("verify_failed", False)]


def test_a_verification_whose_own_time_comes_first_is_not_tried_again(office: Office) -> None:
    """Nor one that nobody promises any more; a job that was lost is."""
    checks = Checks(office, verify=[{"level": "bytes", "every": "30m"}])
    checks.end(AWAY, 0)
    assert checks.again() is None
    checks = Checks(office)
    office.books.lost(spec(kind="verify", source=None, payload={"level": "bytes"}), "7", NOW, "gone")
    assert checks.again() == HOURS
    Checks(office, verify=[])
    office.end(office.claim("w", kind="verify", source=None, payload={"level": "bytes"}, max_attempts=1), AWAY)
    assert checks.again() is None


def test_what_is_no_run_is_tried_again_though_a_run_comes_before(office: Office) -> None:
    """The next backup makes no verification needless."""
    office.policy = policy("crm", "db", schedule={"every": "1m"})
    office.end(office.claim("r"), Exit.UNREACHABLE)
    assert office.catalog.queue.list(["failed"])
    office.end(office.claim("v", kind="verify", source=None, payload={"level": "bytes"}), Exit.UNREACHABLE)
    assert [job.spec.key for job in office.catalog.queue.list(["queued"])] == ["v"]


def test_what_a_prune_forgot_is_no_snapshot_any_more(office: Office) -> None:
    office.catalog.repositories.put(Seen("crm", REPOSITORY, "/backup/repo", NOW))
    office.end(office.claim(), 0, document())
    office.end(office.claim("2"), 0, document(snapshot="dd" * 32, seq=8))
    forget = [{"snapshot": "cc" * 32, "source": "db", "reasons": []}]
    office.end(office.claim("dry", kind="prune", source=None), 0, {"forget": forget, "dry_run": True})
    assert len(office.catalog.snapshots.list()) == 2
    office.end(office.claim("real", kind="prune", source=None), 0, {"forget": forget})
    assert [s.id for s in office.catalog.snapshots.list()] == ["dd" * 32]


def test_a_job_about_the_repository_that_fails_is_not_called_a_backup(office: Office) -> None:
    office.told.notices.clear()
    office.end(office.claim(kind="prune", source=None), Exit.SAFETY, {})
    ((_, notice),) = office.told.notices
    assert notice.title == "The job prune of crm failed"
    assert office.alerts() == [("failure", "prune")]
    office.told.notices.clear()
    office.end(office.claim("2", kind="prune", source=None), 0, {"forget": []})
    assert office.told.take() == [("failure", True)]
    assert office.alerts() == []


def test_a_job_whose_every_worker_died_is_told_as_failed(office: Office) -> None:
    claim = office.claim(max_attempts=1)
    office.told.notices.clear()
    (lost,) = office.catalog.queue.recover(later(500))
    office.books.lost(lost.spec, lost.id, later(500), "its worker was gone")
    assert claim.id == lost.id
    assert (office.told.take(), office.alerts()) == ([("failure", False)], [("failure", "db")])
    office.books.lost(spec(kind="verify", source=None, payload={"level": "bytes"}), "7", later(500), "gone")
    assert (office.told.take(), office.alerts()[-1]) == ([("verify_failed", False)], ("verify_failed", "level bytes"))
    office.books.lost(spec(kind="prune", source=None), "8", later(500), "gone")
    assert (office.told.take(), office.alerts()[-1]) == ([("failure", False)], ("failure", "prune"))


def test_a_start_is_told_once_however_often_it_is_tried(office: Office) -> None:
    claim = office.claim()
    office.end(claim, 14)
    office.again(1000)
    assert [n.started for _, n in office.told.notices] == [True]


def test_the_message_of_an_alert_is_bounded(office: Office) -> None:
    office.end(office.claim(), 20, {"error": {"code": "refused", "message": "x" * 5000}})
    (alert,) = office.catalog.alerts.list_open()
    assert len(alert.sentence) == 1000


def test_the_time_of_a_retry_is_the_policys(office: Office) -> None:
    office.policy = policy("crm", "db", retries={"attempts": 2, "backoff": "10m"})
    claim = office.claim()
    office.end(claim, 14)
    (job,) = office.catalog.queue.list()
    assert timedelta(minutes=10) <= job.due - later(5) <= timedelta(minutes=12.5)
    assert replace(claim.spec, key="") == replace(job.spec, key="")
