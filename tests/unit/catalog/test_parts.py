"""The parts of the catalog, on a file and on a server: what was written is read back, and the rules hold."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backupd.catalog.audit import Broken, Head
from backupd.catalog.checks import Drill, Verification
from backupd.catalog.opening import Catalog
from backupd.catalog.queue import JobSpec
from backupd.catalog.runs import RunEnd
from backupd.catalog.snapshots import Snapshot, Standing
from backupd.catalog.totals import DURATION_BOUNDS
from backupd.wiring import open_catalog
from tests.catalogs import Fresh, on_server
from tests.servers.postgres import PostgresServer

NOW = datetime(2026, 3, 1, 2, 30, 0, 123456, tzinfo=UTC)
DONE = RunEnd("done", snapshot="3f2a", read_bytes=2**40, stored_bytes=7, rows=5, seconds=1.5, warnings=2)
FAILED = RunEnd("failed", "unreachable", 14, "no connection")
ONE = Snapshot("aa", "ww", "crm", 1, "01", NOW, NOW, "snapshot", 5, 2**40, 7, (), None, NOW)


@pytest.fixture(scope="module")
def server_catalog(postgres_servers: Callable[[int], PostgresServer]) -> Iterator[Fresh]:
    """A catalog on a real server; each call empties it."""
    with on_server(postgres_servers(18)) as fresh:
        yield fresh


@pytest.fixture(params=["file", "server"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """A fresh, empty catalog of each kind."""
    if request.param == "server":
        yield request.getfixturevalue("server_catalog")()[0]
        return
    with open_catalog(tmp_path) as opened:
        yield opened


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_run_from_its_start_to_its_end(catalog: Catalog) -> None:
    """Every field comes back, times in UTC to the microsecond; an end is written once."""
    berlin = timezone(timedelta(hours=1))
    number = catalog.runs.start("p", "crm", "run", NOW.astimezone(berlin), job="7", attempt=2)
    run = catalog.runs.get(number)
    assert run is not None
    assert (run.policy, run.source, run.kind, run.job, run.attempt) == ("p", "crm", "run", "7", 2)
    assert (run.started, run.started.utcoffset(), run.ended, run.end) == (NOW, timedelta(0), None, None)
    assert catalog.runs.unfinished() == [run]
    assert catalog.runs.finish(number, later(2), DONE)
    assert not catalog.runs.finish(number, later(3), FAILED)
    assert catalog.runs.get(number) == replace(run, ended=later(2), end=DONE)
    assert catalog.runs.unfinished() == []
    assert catalog.runs.get(999) is None
    assert not catalog.runs.finish(999, NOW, DONE)


def test_a_time_without_a_zone_is_refused(catalog: Catalog) -> None:
    with pytest.raises(Exception, match="without a zone"):
        catalog.runs.start("p", "crm", "run", datetime(2026, 3, 1))  # noqa: DTZ001
    assert catalog.runs.list() == []


def test_the_same_attempt_is_one_run(catalog: Catalog) -> None:
    """However often it is told; runs without a job are each their own."""
    first = catalog.runs.start("p", "crm", "run", NOW, job="7")
    assert catalog.runs.start("p", "crm", "run", later(1), job="7") == first
    assert len({first, *(catalog.runs.start("p", None, "prune", NOW) for _ in range(3))}) == 4
    assert catalog.runs.lose("7", 1, later(9))
    assert not catalog.runs.lose("7", 1, later(9))
    assert not catalog.runs.lose("7", 2, later(9))
    lost = catalog.runs.get(first)
    assert lost is not None
    assert lost.end == RunEnd("lost")


def test_the_newest_runs_of_each_source(catalog: Catalog) -> None:
    """last_good passes over what failed; sources of two policies, and runs about no source, are never mixed."""
    for n, (policy, source, end) in enumerate(
        [("p", "crm", DONE), ("p", "crm", DONE), ("p", "crm", FAILED), ("q", "crm", FAILED), ("p", None, DONE)]
    ):
        catalog.runs.finish(catalog.runs.start(policy, source, "run", later(n)), later(n + 0.5), end)
    catalog.runs.finish(catalog.runs.start("p", "crm", "drill", later(9)), later(9), DONE)
    good = catalog.runs.last_good()
    assert {key: run.started for key, run in good.items()} == {("p", "crm"): later(1), ("p", None): later(4)}
    last = catalog.runs.last(2)
    assert {key: [run.started for run in runs] for key, runs in last.items()} == {
        ("p", "crm"): [later(2), later(1)],
        ("q", "crm"): [later(3)],
        ("p", None): [later(4)],
    }


def test_runs_are_listed_newest_first_and_chosen(catalog: Catalog) -> None:
    numbers = [catalog.runs.start("p", f"s{n % 2}", ("run", "drill")[n // 3], later(n)) for n in range(6)]
    catalog.runs.finish(numbers[0], later(9), FAILED)
    assert [run.id for run in catalog.runs.list(limit=4)] == numbers[:1:-1]
    assert [run.id for run in catalog.runs.list(source="s1", kinds=["run"])] == [numbers[1]]
    assert [run.id for run in catalog.runs.list(policy="p", outcomes=["failed"])] == [numbers[0]]
    assert [run.id for run in catalog.runs.list(since=later(4))] == [numbers[5], numbers[4]]
    assert catalog.runs.list(policy="q") == []


def test_a_purge_keeps_the_newest_good_run_of_each_source(catalog: Catalog) -> None:
    """However old it is: status must not forget when a source was last well. What runs is kept too."""
    for n, (source, end) in enumerate([("a", DONE), ("a", DONE), ("a", FAILED), ("b", FAILED)]):
        catalog.runs.finish(catalog.runs.start("p", source, "run", later(n)), later(n), end)
    catalog.runs.start("p", "c", "run", NOW)
    assert catalog.runs.purge(later(1e6)) == 3
    assert [(run.source, run.started) for run in catalog.runs.list()] == [("a", later(1)), ("c", NOW)]


def test_snapshots_of_one_repository_are_replaced_whole(catalog: Catalog) -> None:
    """What is not among the new ones goes, another repository's stay, and each field comes back."""
    other = replace(ONE, repository="bb", holds=("case 1", "näme"), drilled_at=later(1), rows=None, stored_at=None)
    unclear = replace(ONE, id="02", seq=2, taken_at=None, kind="checkpoint")
    assert catalog.snapshots.replace("bb", [other]) == 1
    assert catalog.snapshots.replace("aa", [ONE, unclear]) == 2
    assert set(catalog.snapshots.list()) == {other, ONE, unclear}
    assert catalog.snapshots.replace("aa", [unclear]) == 1
    assert catalog.snapshots.list(repository="aa") == [unclear]
    assert catalog.snapshots.list(repository="bb") == [other]
    assert catalog.snapshots.replace("aa", []) == 0
    assert catalog.snapshots.list() == [other]


def test_a_replacement_that_fails_changes_nothing(catalog: Catalog) -> None:
    catalog.snapshots.replace("aa", [ONE])
    with pytest.raises(ValueError, match="another repository"):
        catalog.snapshots.replace("aa", [replace(ONE, repository="bb")])
    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        catalog.snapshots.replace("aa", [replace(ONE, id="02"), replace(ONE, id="02")])
    assert catalog.snapshots.list() == [ONE]


def test_snapshots_are_added_and_removed(catalog: Catalog) -> None:
    catalog.snapshots.add(ONE)
    catalog.snapshots.add(replace(ONE, holds=("case",)))
    assert catalog.snapshots.list() == [replace(ONE, holds=("case",))]
    assert catalog.snapshots.remove("bb", ["01"]) == 0
    assert catalog.snapshots.remove("aa", ["01", "02", "01"]) == 1
    assert catalog.snapshots.list() == []


def test_a_snapshot_that_a_drill_proved_says_so(catalog: Catalog) -> None:
    """And counts as seen then: a look at its repository that began before does not undo it."""
    catalog.snapshots.replace("aa", [ONE, replace(ONE, id="02", seq=2, taken_at=later(5))])
    assert not catalog.snapshots.proven("bb", "01", later(9))
    assert catalog.snapshots.proven("aa", "01", later(9))
    assert replace(ONE, drilled_at=later(9), last_seen=later(9)) in catalog.snapshots.list()
    assert catalog.snapshots.standing() == {("aa", "crm"): Standing(later(5), ONE.taken_at, later(9), 2)}


def test_the_newest_snapshot_of_each_source(catalog: Catalog) -> None:
    """Checkpoints and those without a time do not count; two writers' sources of one name are two."""
    chosen = [
        replace(ONE, id="02", seq=2, taken_at=later(5)),
        replace(ONE, id="03", seq=3, taken_at=later(5)),
        replace(ONE, id="04", seq=4, taken_at=later(9), kind="checkpoint"),
        replace(ONE, id="05", seq=5, taken_at=None),
        replace(ONE, id="06", writer="xx", taken_at=later(1)),
        replace(ONE, id="07", source="shop"),
        replace(ONE, id="01", repository="bb"),
    ]
    catalog.snapshots.replace("aa", [ONE, *chosen[:-1]])
    catalog.snapshots.replace("bb", chosen[-1:])
    assert {(s.repository, s.id) for s in catalog.snapshots.newest()} == {
        ("aa", "03"),
        ("aa", "06"),
        ("aa", "07"),
        ("bb", "01"),
    }
    assert [s.id for s in catalog.snapshots.newest("bb")] == ["01"]
    assert catalog.snapshots.counts() == {("aa", "crm"): 5, ("aa", "shop"): 1, ("bb", "crm"): 1}
    assert [s.id for s in catalog.snapshots.list(repository="aa", source="crm", limit=3)][:1] != ["01"]


def test_the_newest_verifications_and_drills(catalog: Catalog) -> None:
    """Of each policy and level, or source; with only the good ones among them if that is asked."""
    good = Verification("p", "structure", NOW, later(1), True)
    bad = Verification("p", "structure", later(2), later(3), False, 4)
    content = Verification("p", "content", NOW, later(1), False, 1)
    for verification in (good, bad, content):
        catalog.verifications.add(verification)
    assert catalog.verifications.newest() == {("p", "structure"): bad, ("p", "content"): content}
    assert catalog.verifications.newest(ok_only=True) == {("p", "structure"): good}
    assert catalog.verifications.list(policy="p", limit=1) == [bad]
    passed = Drill("p", "crm", "3f2a", NOW, later(9), True, 8.5, {"checks": [{"name": "rows", "passed": True}]})
    failed = Drill("p", "crm", None, later(10), later(11), False)
    for drill in (failed, passed):
        catalog.drills.add(drill)
    assert catalog.drills.newest() == {("p", "crm"): failed}
    assert catalog.drills.newest(passed_only=True) == {("p", "crm"): passed}
    assert catalog.drills.list(policy="p", source="crm") == [failed, passed]
    assert catalog.drills.list(source="shop") == []
    assert (catalog.drills.purge(later(10)), catalog.drills.list()) == (1, [failed])


def test_of_one_thing_one_alert_is_open(catalog: Catalog) -> None:
    """Noticed again it is not new, and says the newer sentence; once closed, the next one is another."""
    first = catalog.alerts.open("rpo_breach", "p", "crm", "26 hours old", NOW)
    again = catalog.alerts.open("rpo_breach", "p", "crm", "27 hours old", later(60))
    assert (first.new, again.new) == (True, False)
    assert again.alert == replace(first.alert, sentence="27 hours old")
    assert catalog.alerts.open("rpo_breach", "p", None, "all of it", NOW).new
    assert catalog.alerts.open("failure", "p", "crm", "failed", NOW).new
    assert len(catalog.alerts.list_open()) == 3
    closed = catalog.alerts.close("rpo_breach", "p", "crm", later(90))
    assert closed == replace(again.alert, closed=later(90))
    assert catalog.alerts.close("rpo_breach", "p", "crm", later(91)) is None
    assert len(catalog.alerts.list_open()) == 2
    fresh = catalog.alerts.open("rpo_breach", "p", "crm", "again", later(100))
    assert fresh.new
    assert fresh.alert.id != first.alert.id
    assert [alert.opened for alert in catalog.alerts.list(source="crm", limit=1)] == [later(100)]


def test_an_alert_is_told_and_acknowledged(catalog: Catalog) -> None:
    number = catalog.alerts.open("failure", "p", "crm", "failed", NOW).alert.id
    catalog.alerts.mark_told(number, later(1))
    catalog.alerts.mark_told(number, later(2))
    assert catalog.alerts.acknowledge(number, "anna", later(3))
    assert not catalog.alerts.acknowledge(number, "bert", later(4))
    (alert,) = catalog.alerts.list_open()
    assert (alert.told, alert.told_at, alert.acknowledged, alert.acknowledged_by) == (2, later(2), later(3), "anna")
    catalog.alerts.close("failure", "p", "crm", later(5))
    assert not catalog.alerts.acknowledge(number, "anna", later(6))
    assert catalog.alerts.purge(later(5)) == 0
    assert catalog.alerts.purge(later(6)) == 1


def put(catalog: Catalog, key: str, **values: Any) -> int:
    number = catalog.outbox.enqueue(key, "p", "ops", "failure", {"subject": "näme"}, NOW, **values)
    assert number is not None
    return number


def test_a_message_is_taken_once_and_sent(catalog: Catalog) -> None:
    """Whoever takes it has it until its lease is over; once sent it is over, and its key is not taken again."""
    alert = catalog.alerts.open("failure", "p", None, "failed", NOW).alert.id
    run = catalog.runs.start("p", None, "run", NOW)
    number = put(catalog, "a", alert=alert, run=run)
    assert catalog.outbox.enqueue("a", "p", "ops", "failure", {}, NOW) is None
    (taken,) = catalog.outbox.due(NOW, lease_seconds=60)
    assert (taken.id, taken.key, taken.attempts, taken.message) == (number, "a", 1, {"subject": "näme"})
    assert (taken.alert, taken.run, taken.enqueued, taken.outcome) == (alert, run, NOW, None)
    assert catalog.outbox.due(later(59)) == []
    catalog.outbox.done(number, later(2))
    assert catalog.outbox.due(later(1e6)) == []
    assert [(one.outcome, one.next_try) for one in catalog.outbox.list()] == [("sent", None)]
    assert catalog.outbox.enqueue("a", "p", "ops", "failure", {}, NOW) is None
    assert catalog.outbox.purge(later(3)) == 1


def test_the_sums_of_runs_never_fall(catalog: Catalog) -> None:
    """Runs that are purged are still counted, with their bytes and times: by outcome and by class of duration."""

    def sums() -> tuple[dict[tuple[str, int], int], int, float]:
        found = catalog.totals(DURATION_BOUNDS)
        counts: dict[tuple[str, int], int] = {}
        for one in found:
            counts[one.outcome, one.place] = counts.get((one.outcome, one.place), 0) + one.count
        return counts, sum(one.stored_bytes for one in found), sum(one.seconds for one in found)

    for second, end in enumerate((DONE, FAILED, DONE, DONE)):
        catalog.runs.finish(catalog.runs.start("p", "crm", "run", later(second)), later(second + 2), end)
    before = sums()
    assert before == ({("done", 1): 3, ("failed", 1): 1}, 21, 6.5)
    for second in (2.5, 3.5, 3.5, 99):
        catalog.runs.purge(later(second))
        assert sums() == before
    assert len(catalog.runs.list()) == 1


def test_the_number_of_messages_never_falls(catalog: Catalog) -> None:
    """What a purge forgets is still counted: a counter that falls looks like one that began anew, and no alert could use it."""
    for second, key in enumerate("abc"):
        catalog.outbox.done(put(catalog, key), later(second))
    expected: dict[tuple[str, str | None], int] = {("ops", "sent"): 3}
    assert catalog.outbox.counts() == expected
    for second in (1, 1, 2):
        catalog.outbox.purge(later(second))
        assert catalog.outbox.counts() == expected
    put(catalog, "d")
    assert catalog.outbox.counts() == expected | {("ops", None): 1}


def test_a_message_that_fails_is_tried_again_until_it_is_given_up(catalog: Catalog) -> None:
    number = put(catalog, "a")
    catalog.outbox.due(NOW)
    catalog.outbox.failed(number, NOW, later(300), "timed out")
    assert catalog.outbox.due(later(299)) == []
    (again,) = catalog.outbox.due(later(300))
    assert (again.attempts, again.reason) == (2, "timed out")
    catalog.outbox.failed(number, later(301), None, "refused")
    assert catalog.outbox.due(later(1e6)) == []
    (over,) = catalog.outbox.list()
    assert (over.outcome, over.reason) == ("failed", "refused")
    catalog.outbox.done(number, later(302))
    assert catalog.outbox.list() == [over], "what is over stays as it is"


def test_a_sender_that_died_delays_a_message_and_loses_none(catalog: Catalog) -> None:
    put(catalog, "a")
    assert len(catalog.outbox.due(NOW, lease_seconds=60)) == 1
    (again,) = catalog.outbox.due(later(60), lease_seconds=60)
    assert again.attempts == 2


def test_a_clock_that_jumps_back_holds_up_no_message(catalog: Catalog) -> None:
    """What was to be tried at a time that is far ahead now is tried at once."""
    number = put(catalog, "a")
    put(catalog, "b")
    catalog.outbox.due(NOW, limit=1)
    catalog.outbox.failed(number, NOW, later(300), "timed out")
    assert [one.key for one in catalog.outbox.due(later(-86400))] == ["a", "b"]
    assert catalog.outbox.due(later(-86399)) == []


def test_messages_go_in_order_and_are_counted(catalog: Catalog) -> None:
    numbers = [put(catalog, f"{n}") for n in range(5)]
    assert [one.id for one in catalog.outbox.due(NOW, limit=3)] == numbers[:3]
    assert [one.id for one in catalog.outbox.due(NOW)] == numbers[3:]
    catalog.outbox.done(numbers[0], NOW)
    catalog.outbox.failed(numbers[1], NOW, None, "refused")
    assert catalog.outbox.counts() == {("ops", None): 3, ("ops", "sent"): 1, ("ops", "failed"): 1}
    assert [one.id for one in catalog.outbox.list(waiting_only=True, limit=2)] == numbers[:2:-1]


def test_a_message_outlives_what_it_is_about(catalog: Catalog) -> None:
    """An alert or a run that is forgotten takes no message with it."""
    alert = catalog.alerts.open("failure", "p", None, "failed", NOW).alert.id
    run = catalog.runs.start("p", None, "run", NOW)
    put(catalog, "a", alert=alert, run=run)
    catalog.runs.finish(run, NOW, FAILED)
    catalog.alerts.close("failure", "p", None, NOW)
    assert (catalog.runs.purge(later(1)), catalog.alerts.purge(later(1))) == (1, 1)
    assert [(one.alert, one.run) for one in catalog.outbox.list()] == [(None, None)]


def test_the_audit_is_a_chain(catalog: Catalog) -> None:
    """Numbers without a gap, each entry with the hash of the one before; the hash can be computed by anybody."""
    assert (catalog.audit.head(), catalog.audit.verify(), catalog.audit.page()) == (None, None, [])
    detail = {"b": [1, None], "a": "näme"}
    entries = [catalog.audit.append("anna", "run", f"p/crm {n}", later(n), detail) for n in range(5)]
    assert [entry.n for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.previous for entry in entries] == ["0" * 64, *(entry.hash for entry in entries[:-1])]
    assert (entries[0].at, entries[0].detail) == (NOW, detail)
    document = {
        "n": 1,
        "at": "2026-03-01T02:30:00.123456+00:00",
        "who": "anna",
        "action": "run",
        "object": "p/crm 0",
        "detail": json.dumps(detail, sort_keys=True, separators=(",", ":")),
        "previous": "0" * 64,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert entries[0].hash == hashlib.sha256(text.encode()).hexdigest()
    assert catalog.audit.verify() is None
    assert catalog.audit.page(after=2, limit=2) == entries[2:4]
    assert catalog.audit.newest(2) == entries[:2:-1]
    assert catalog.audit.head() == Head(5, entries[-1].hash)


def test_names_that_are_no_text_stay_in_the_chain(catalog: Catalog) -> None:
    """A file's name may hold bytes that are no characters; the entry is written, and verifies."""
    entry = catalog.audit.append("a\udc80\x00", "run", "x\x00y\udcff", NOW, {"path": "\udc80\x00"})
    assert (entry.who, entry.object_name) == ("a\\udc80\\x00", "x\\x00y\\udcff")
    assert catalog.audit.verify() is None
    assert catalog.queue.submit(JobSpec("run", "p\x00", "s\udc80", "k\x00", "l\x00"), NOW)
    assert catalog.alerts.open("failure", "p\x00", "s\udc80", "x\x00", NOW).new
    assert not catalog.alerts.open("failure", "p\x00", "s\udc80", "x\x00", NOW).new


@pytest.mark.parametrize(
    ("statement", "n", "reason"),
    [
        ("update audit set who = 'nobody' where n = 3", 3, "changed"),
        ("update audit set at = at + 1 where n = 3", 3, "changed"),
        ("update audit set detail = '{}' where n = 3", 3, "changed"),
        ("update audit set detail = 'no json' where n = 1", 1, "changed"),
        ("update audit set hash = previous where n = 3", 3, "changed"),
        ("update audit set previous = hash where n = 3", 3, "does not follow"),
        ("delete from audit where n = 3", 3, "missing"),
        ("delete from audit where n = 1", 1, "missing"),
        ("delete from audit where n >= 4", 4, "missing"),
        ("delete from audit", 1, "missing"),
        ("update audit set n = 99 where n = 3", 3, "missing"),
    ],
)
def test_a_tampered_audit_breaks_where_it_was_tampered_with(
    tmp_path: Path, statement: str, n: int, reason: str
) -> None:
    """A changed, removed or moved entry is named; a missing tail is seen by one who remembers the head."""
    with open_catalog(tmp_path) as catalog:
        head = [catalog.audit.append("anna", "run", "p/crm", later(n), {"n": n}) for n in range(5)][-1]
        remembered = Head(head.n, head.hash)
        assert catalog.audit.verify(remembered) is None
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    db.execute(statement)
    db.commit()
    db.close()
    with open_catalog(tmp_path) as catalog:
        broken = catalog.audit.verify(remembered)
        assert isinstance(broken, Broken)
        assert broken.n == n
        assert reason in broken.reason


def test_a_chain_written_anew_is_seen_by_one_who_remembers(tmp_path: Path) -> None:
    """Somebody who may write the file can make a chain that fits; it is another one."""
    with open_catalog(tmp_path / "a") as catalog:
        for n in range(3):
            head = catalog.audit.append("anna", "run", "p/crm", later(n))
    with open_catalog(tmp_path / "b") as catalog:
        for n in range(4):
            catalog.audit.append("bert", "run", "p/crm", later(n))
        assert catalog.audit.verify() is None
        broken = catalog.audit.verify(Head(head.n, head.hash))
        assert broken is not None
        assert (broken.n, "anew" in broken.reason) == (3, True)


def test_signs_of_life(catalog: Catalog) -> None:
    catalog.heartbeats.beat("daemon", NOW)
    catalog.heartbeats.beat("worker-1", NOW)
    catalog.heartbeats.beat("daemon", later(-5))
    assert catalog.heartbeats.all() == {"daemon": later(-5), "worker-1": NOW}
    catalog.heartbeats.forget("daemon")
    catalog.heartbeats.forget("daemon")
    assert catalog.heartbeats.all() == {"worker-1": NOW}


def test_tokens_are_not_in_the_repr_of_a_claim(catalog: Catalog) -> None:
    catalog.queue.submit(JobSpec("run", "p", "s", "k", "l"), NOW)
    claim = catalog.queue.claim("w", NOW, 60)
    assert claim is not None
    assert len(claim.token) == 32
    assert claim.token not in repr(claim)
