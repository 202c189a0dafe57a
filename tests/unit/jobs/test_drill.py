"""A drill's verdict is about the snapshot; what keeps it from being tried is an error; evidence says which was which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Keyring
from backupd.engines.base import RuleOf
from backupd.errors import BackupdError, Exit, Failed, IntegrityError, SafetyRefused, StorageRefused, UsageError
from backupd.jobs.backup import BackupOptions, backup
from backupd.jobs.drill import (
    Drilled,
    Promised,
    answered_before,
    drill,
    fingerprint,
    newest_of,
    record_evidence,
    report_document,
    report_hash,
    signer_of,
)
from backupd.jobs.prune import drilled_snapshots
from backupd.jobs.restore import RestoreResult
from backupd.model import Answer
from backupd.policy.model import Assertion
from backupd.repo.ledger import Ledger
from backupd.repo.records import Record
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.statements import sign_statement, verify_statement
from backupd.report import Reporter, Tally
from tests.jobs_kit import Kit, overwrite
from tests.stores import utc_now
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import rows, take

COUNT = "select count(*) from customers"


@dataclass
class Place:
    """A scratch place that does what it is told."""

    result: RestoreResult | BackupdError = field(
        default_factory=lambda: RestoreResult(2, 1000, 50_000, 1.25, 0.5, 9, ("a role is missing",), 2)
    )
    answers: Mapping[str, Answer | BackupdError] = field(default_factory=dict)
    broken: Sequence[str] | BackupdError = ()
    what: str = "a place"
    version: str | None = "Server 1.2"

    def restore(self, _repo: Repository, _view: SnapshotView, _erased: RuleOf | None, _r: Reporter) -> RestoreResult:
        return _given(self.result)

    def references(self) -> Sequence[str]:
        return _given(self.broken)

    def ask(self, statement: str) -> Answer:
        return _given(self.answers[statement])


def _given(value: Any) -> Any:
    if isinstance(value, BackupdError):
        raise value
    return value


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A repository with one snapshot of tables."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"customers": rows(1000)}))
    return kit


def drilled(kit: Kit, place: Place, *asserted: Assertion, rto: timedelta | None = None, **more: Any) -> Drilled:
    repo = kit.repo(Role.READ, host="reader")
    view = repo.history().views[-1]
    given = {"erased": None, "before": {}, **more}
    return drill(repo, view, place, Promised("p", rto, asserted), report=Tally(), **given)


def outcome(found: Drilled) -> dict[str, bool]:
    return {check.name: check.passed for check in found.checks}


def test_all_is_well(kit: Kit) -> None:
    """Every check that there is has passed, and says in numbers what it saw."""
    place = Place(answers={COUNT: 1000})
    wanted = Assertion.model_validate({"sql": COUNT, "min": 1, "max_drop": "5%"})
    found = drilled(kit, place, wanted, rto=timedelta(hours=1), before={fingerprint(COUNT): 1010})
    assert (found.passed, found.exit(), found.failure()) == (True, Exit.DONE, None)
    assert list(outcome(found)) == ["restore", "content", "references", f"assert: {COUNT}", "rto"]
    assert found.checks[0].detail == "2 tables, 1,000 rows, 50.0 kB in 1.2 s"
    assert found.numbers == {fingerprint(COUNT): 1000}
    assert found.restore_seconds == 1.25


@pytest.mark.parametrize(
    ("error", "code"),
    [(IntegrityError("packs/x is damaged"), 4), (SafetyRefused("an event trigger"), 1), (Failed("refused"), 1)],
)
def test_what_does_not_come_back_is_a_verdict(kit: Kit, error: BackupdError, code: int) -> None:
    """Nothing else is asked then."""
    found = drilled(kit, Place(result=error, answers={}), Assertion(sql=COUNT, min=1), rto=timedelta(hours=1))
    assert outcome(found) == {"restore": False}
    assert int(found.exit()) == code
    failure = found.failure()
    assert failure is not None
    assert (int(failure.exit), error.message in failure.message) == (code, True)
    assert found.restore_seconds is None


def test_what_keeps_it_from_being_tried_is_an_error(kit: Kit) -> None:
    """A full disk says nothing about the snapshot."""
    with pytest.raises(StorageRefused):
        drilled(kit, Place(result=StorageRefused("the disk is full")))


def test_assertions_fail_by_answer_and_by_no_answer(kit: Kit) -> None:
    """Each is a check of its own, and the others are asked all the same."""
    place = Place(answers={"a": 0, "b": UsageError("there is no such table"), "c": Failed("took too long"), "d": 7})
    asserted = [Assertion(sql=sql, min=1) for sql in "abcd"]
    found = drilled(kit, place, *asserted)
    assert [check.passed for check in found.checks[-4:]] == [False, False, False, True]
    failure = found.failure()
    assert failure is not None
    assert failure.message == "the drill of made-up failed: assert: a: 0, at least 1 wanted (and 2 more checks)"
    assert found.exit() is Exit.FAILED


def test_too_slow_alone_is_a_missed_objective(kit: Kit) -> None:
    """Exit 5; with anything else wrong it is that."""
    found = drilled(kit, Place(), rto=timedelta(seconds=1))
    assert (found.exit(), outcome(found)["rto"]) == (Exit.OBJECTIVE_MISSED, False)
    failure = found.failure()
    assert failure is not None
    assert int(failure.exit) == 5
    worse = drilled(kit, Place(answers={"a": 0}), Assertion(sql="a", min=1), rto=timedelta(seconds=1))
    assert worse.exit() is Exit.FAILED


def test_what_was_not_compared_is_not_proven(kit: Kit) -> None:
    """A table that could not be read back fails; where there is none, nothing can."""
    few = RestoreResult(2, 1000, 50_000, 1.25, 0.5, 9, (), 1)
    assert outcome(drilled(kit, Place(result=few)))["content"] is False
    none = drilled(kit, Place(result=RestoreResult(0, 0, 50_000, 1.25, 0.5, 9, (), 0)))
    assert (none.passed, "no table to read back" in none.checks[1].detail) == (True, True)


def test_references_that_lead_nowhere_are_told(kit: Kit) -> None:
    """The source had them, as every row was compared; not being able to look fails."""
    found = drilled(kit, Place(broken=["a: 1 row", "b: 2 rows", "c: 3 rows", "d: 4 rows"]))
    (check,) = [c for c in found.checks if c.name == "references"]
    assert (check.passed, check.detail) == (
        True,
        "as the source had them: a: 1 row; b: 2 rows; c: 3 rows; and 1 more",
    )
    assert not drilled(kit, Place(broken=Failed("gone"))).passed


def test_evidence_is_kept_and_the_report_is_signed(kit: Kit) -> None:
    """By it retention knows what was proven, and the next drill what was answered; a failed one proves nothing."""
    repo = kit.repo(Role.READ, host="reader")
    view = repo.history().views[-1]
    wanted = Promised("p", timedelta(hours=1), (Assertion.model_validate({"sql": COUNT, "max_drop": "5%"}),))
    for answer, passed in ((1000, True), (10, False)):
        before = answered_before(repo.history().records, [view], view)
        place = Place(answers={COUNT: answer})
        found = drill(repo, view, place, wanted, erased=None, before=before, report=Tally())
        assert found.passed is passed
        document = report_document(repo, view, found, wanted, utc_now())
        signed = sign_statement(document, [signer_of(repo)], repository=repo.id)
        stated = verify_statement(signed, repo.trust)
        assert stated.document["passed"] is passed
        assert [t["name"] for t in stated.document["tables"]] == ["customers"]
        name = record_evidence(repo, view, found, wanted, report_hash(signed["statement"]), utc_now())
        assert name.startswith("records/read/")
    records = repo.history().records
    assert [r.document["passed"] for r in records] == [True, False]
    assert {r.document["report"] for r in records} >= {report_hash(signed["statement"])}
    assert drilled_snapshots(records) == {view.id}
    assert answered_before(records, [view], view) == {fingerprint(COUNT): 1000}
    assert answered_before(records, [], view) == {fingerprint(COUNT): 1000}  # it was pruned since


def test_with_what_an_answer_is_compared(kit: Kit) -> None:
    """With that of the newest snapshot of the source before it; not with one that nobody asked, or could not have seen."""
    repo = kit.repo(Role.READ, host="reader")
    first = repo.history().views[-1]
    take(kit, TableSource({"customers": rows(900)}))
    take(kit, TableSource({"other": rows(900)}), name="other")
    views = kit.repo(Role.READ, host="reader").history().views
    second = next(view for view in views if view.source == "made-up" and view.id != first.id)
    other = next(view for view in views if view.source == "other")

    def evidence(view: SnapshotView, value: object, *, role: Role = Role.READ, passed: bool = True) -> Record:
        numbers = {} if value is None else {fingerprint(COUNT): value}
        said = {"snapshot": view.id, "source": view.source, "passed": passed, "created": "2026", "numbers": numbers}
        return Record("records/read/1", role, "evidence", said, view.object.writer, bytes(32), bytes(32))

    def before(view: SnapshotView, *records: Record) -> float | None:
        return answered_before(records, views, view).get(fingerprint(COUNT))

    assert before(second, evidence(second, 1000), evidence(first, 5)) == 1000  # an old one was drilled once more
    assert before(second, evidence(first, 1000), evidence(second, None)) == 1000  # without the policy
    assert before(second, evidence(first, 1000), evidence(second, 1, role=Role.CHECK)) == 1000
    assert before(second, evidence(first, 1000), evidence(second, 1, passed=False), evidence(other, 1)) == 1000
    assert before(second, evidence(first, 1000), evidence(second, 10**400)) == 1000
    assert before(first, evidence(second, 1000)) is None


def test_the_newest_of_a_source_whoever_took_it(kit: Kit) -> None:
    """A damaged one that may be newer is no reason to prove an older one."""
    second = take(kit, TableSource({"customers": rows(1001)}))
    repo = kit.repo(Role.READ, host="reader")
    assert newest_of(repo.history(), "made-up").id == second.snapshot
    with pytest.raises(Failed, match="no snapshot"):
        newest_of(repo.history(), "other")
    name = repo.history().views[-1].object.name
    data = bytearray(kit.store.get(name))
    data[len(data) // 2] ^= 1
    kit.store.delete(name)
    kit.store.put(name, bytes(data))
    with pytest.raises(IntegrityError):
        newest_of(kit.repo(Role.READ, host="other reader").history(), "made-up")


def test_another_writers_damaged_one_may_be_the_newest(kit: Kit) -> None:
    """The host was set up anew, and what it stored is damaged: what the old one had stored is not proven in its place."""
    key = kit.add_writer()
    repo = Repository.open(kit.store, Keyring((key,)), Ledger.load(kit.places("second").state))
    for count in (10, 11):
        options = BackupOptions(name="made-up", threads=2)
        source = TableSource({"customers": rows(count)})
        backup(source, repo, key, folder=kit.places("second"), clock=utc_now, options=options, report=Tally())
    newest = newest_of(kit.repo(Role.READ, host="reader").history(), "made-up")
    assert newest.object.writer == key.header.writer
    take(kit, TableSource({"customers": rows(1001)}))
    overwrite(kit.store, newest.object.name, kit.store.get(newest.object.name)[:-1])
    with pytest.raises(IntegrityError, match="newer"):
        newest_of(kit.repo(Role.READ, host="other reader").history(), "made-up")
