"""Drill: prove by doing it that a snapshot comes back. Restored into a scratch place, checked there, told in signed evidence.

What fails of the snapshot (damage, a refusal, an assertion, the time it took) is a verdict and leaves evidence. What keeps the
drill from being tried at all (no key, no scratch server, a full disk) is an error, and leaves none. Evidence and reports hold
numbers and sentences about them: never a record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol

from backupd.config.clock import fine_stamp, parse_stamp, stamp
from backupd.config.version import VERSION
from backupd.crypto.chunks import Kind
from backupd.crypto.keyring import Signer
from backupd.engines.base import RuleOf
from backupd.errors import (
    BackupdError,
    Exit,
    Failed,
    IntegrityError,
    MissingRight,
    ObjectiveMissed,
    SafetyRefused,
    UsageError,
)
from backupd.jobs.appending import append_record
from backupd.jobs.drillrecords import PROVERS, is_evidence
from backupd.jobs.restore import RestoreResult, open_content
from backupd.jobs.select import refuse_older, select_snapshot
from backupd.model import Answer
from backupd.policy.asserting import judge, number_in
from backupd.policy.model import Assertion
from backupd.policy.words import written
from backupd.repo.format import dump_json
from backupd.repo.records import Record
from backupd.repo.repository import History, Repository, SnapshotView
from backupd.report import Reporter, size

SIGNERS = tuple(sorted(PROVERS))
"""Who may sign the report, which is a statement; evidence records these may sign as well."""
KIND = "backupd drill report"
_MOST_SQL = 200


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `detail` holds numbers, and no value of a record."""

    name: str
    passed: bool
    detail: str

    def values(self) -> dict[str, Any]:
        """As in documents."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail}


class Scratch(Protocol):
    """A place that is made for one restore and goes with everything in it."""

    @property
    def what(self) -> str:
        """What it is, for people: "a private file", "a server of our own", "a database on scratch1"."""

    @property
    def version(self) -> str | None:
        """Of its server's program."""

    def restore(self, repo: Repository, view: SnapshotView, erased: RuleOf | None, report: Reporter) -> RestoreResult:
        """Restore into it, with every check that a restore can do.

        Raises:
            IntegrityError, SafetyRefused, Failed: the snapshot does not come back.
            BackupdError: it could not be tried.
        """

    def references(self) -> Sequence[str]:
        """What refers to rows that are not there, in sentences without values; asked after the restore.

        Raises:
            Failed: it cannot be found out.
        """

    def ask(self, statement: str) -> Answer:
        """What the restored database answers: the first column of the only row.

        Raises:
            UsageError, Failed: nothing that can be used.
        """


@dataclass(frozen=True, slots=True)
class Promised:
    """What a policy promises of a source's restores.

    Attributes:
        policy: its name; None without one.
        rto: how long a restore may take.
        assertions: what the restored database must answer.
    """

    policy: str | None = None
    rto: timedelta | None = None
    assertions: tuple[Assertion, ...] = ()


@dataclass(slots=True)
class Drilled:
    """What came of a drill.

    Attributes:
        numbers: what assertions were answered, for the next drill to be compared with.
        error: why the restore failed.
    """

    snapshot: str
    source: str
    scratch: str
    version: str | None
    checks: list[Check] = field(default_factory=list)
    restored: RestoreResult | None = None
    numbers: dict[str, int | float] = field(default_factory=dict)
    error: BackupdError | None = None

    @property
    def passed(self) -> bool:
        """Whether all is as it must be."""
        return all(check.passed for check in self.checks)

    @property
    def restore_seconds(self) -> float | None:
        """How long the restore took, from the unlocked key to a database that could be used."""
        return round(self.restored.seconds, 3) if self.restored else None

    def exit(self) -> Exit:
        """The exit code that says it."""
        failed = [check.name for check in self.checks if not check.passed]
        if not failed:
            return Exit.DONE
        if isinstance(self.error, IntegrityError):
            return Exit.INTEGRITY
        return Exit.OBJECTIVE_MISSED if failed == ["rto"] else Exit.FAILED

    def failure(self) -> BackupdError | None:
        """The same as an error; None if it passed."""
        failed = [check for check in self.checks if not check.passed]
        if not failed:
            return None
        kinds = {Exit.INTEGRITY: IntegrityError, Exit.OBJECTIVE_MISSED: ObjectiveMissed}
        first, more = failed[0], f" (and {len(failed) - 1} more checks)" if len(failed) > 1 else ""
        return kinds.get(self.exit(), Failed)(
            f"the drill of {self.source} failed: {first.name}: {first.detail}{more}",
            object_name=self.error.object_name if self.error and self.error.object_name else self.snapshot,
            hint=(self.error.hint if self.error else None)
            or "this source may not come back as it should: find out why",
        )


def drill(
    repo: Repository,
    view: SnapshotView,
    scratch: Scratch,
    promised: Promised,
    *,
    erased: RuleOf | None,
    before: Mapping[str, float],
    report: Reporter,
) -> Drilled:
    """Restore a snapshot into a scratch place and look at what came.

    Args:
        repo: the repository, with the read right.
        view: the verified snapshot.
        scratch: where to; empty.
        promised: what must hold.
        erased: which rows must not come back.
        before: what drills of the source that passed were answered, see `answered_before`.
        report: progress.

    Raises:
        BackupdError: the restore could not be tried.
    """
    found = Drilled(view.id, view.source, scratch.what, scratch.version)
    try:
        found.restored = scratch.restore(repo, view, erased, report)
    except (IntegrityError, SafetyRefused, Failed) as error:
        found.error = error
        found.checks.append(Check("restore", passed=False, detail=error.message))
        return found
    is_file = all(stream.kind is Kind.PAGES for stream in view.structure.streams)
    found.checks += _of_restore(found.restored, is_file=is_file, ledger=erased is not None)
    report.phase("asking the restored database")
    found.checks.append(_references(scratch))
    taken_at = parse_stamp(view.structure.taken_at)
    for asserted in promised.assertions:
        found.checks.append(_asserted(scratch, asserted, before, taken_at, found.numbers))
    if promised.rto is not None:
        taken = found.restored.seconds
        found.checks.append(
            Check("rto", taken <= promised.rto.total_seconds(), f"{taken:.1f} s, promised {written(promised.rto)}")
        )
    return found


def _of_restore(done: RestoreResult, *, is_file: bool, ledger: bool) -> list[Check]:
    rows = "rows not counted" if done.rows is None else f"{done.rows:,} rows"
    detail = f"{done.tables:,} tables, {rows}, {size(done.bytes)} in {done.seconds:.1f} s"
    checks = [Check("restore", passed=True, detail=detail)]
    if is_file:
        what = "what was written is what was captured, and SQLite's full check passed"
    elif done.tables:
        what = f"{done.compared:,} of {done.tables:,} tables read back, all as in the snapshot"
    else:
        what = (
            "no table to read back and compare: there is none, or the snapshot is an archive of the server's own tool"
        )
    if whole := is_file or done.compared >= done.tables:
        what = f"{what}; {done.check_seconds:.1f} s"
    else:
        what += "; the others may not be read: as a rule row security hides rows from this role"
    checks.append(Check("content", passed=whole, detail=what))
    if ledger:
        checks.append(Check("erasures", passed=True, detail=f"{done.erased:,} rows of erased people left out"))
    return checks


def _references(scratch: Scratch) -> Check:
    """Nothing refers to what is not there. What the source itself let happen is told, and fails nothing."""
    try:
        broken = list(scratch.references())
    except Failed as error:
        return Check("references", passed=False, detail=error.message)
    told = "; ".join(broken[:3]) + (f"; and {len(broken) - 3} more" if len(broken) > 3 else "")
    detail = f"as the source had them: {told}" if broken else "every reference leads to a row"
    return Check("references", passed=True, detail=detail)


def _asserted(
    scratch: Scratch,
    asserted: Assertion,
    before: Mapping[str, float],
    taken_at: datetime,
    numbers: dict[str, int | float],
) -> Check:
    name, key = f"assert: {asserted.sql[:_MOST_SQL]}", fingerprint(asserted.sql)
    try:
        answer = scratch.ask(asserted.sql)
    except (Failed, UsageError) as error:
        return Check(name, passed=False, detail=error.message)
    if asserted.max_drop is not None and (number := number_in(answer)) is not None:
        numbers[key] = number
    passed, detail = judge(asserted, answer, before=before.get(key), taken_at=taken_at)
    return Check(name, passed, detail)


def fingerprint(sql: str) -> str:
    """The name under which evidence keeps the number that a statement was answered."""
    return sha256(b"backupd/v1/assertion\0" + sql.encode()).hexdigest()[:16]


# ---- evidence


def answered_before(
    records: Sequence[Record], views: Sequence[SnapshotView], view: SnapshotView
) -> dict[str, int | float]:
    """What drills of a source that passed were answered, by `fingerprint`: of each statement the one of the newest snapshot.

    A drill that did not ask a statement says nothing of it, one of a later snapshot comes after this one, and who cannot
    restore has seen no answer.

    Args:
        records: the verified records of the repository.
        views: its snapshots.
        view: the one that is drilled.
    """
    known = {one.id: one for one in views}
    found: dict[str, tuple[tuple[tuple[str, str, int], str], int | float]] = {}
    for record in records:
        said = record.document
        if not is_evidence(record):
            continue
        of, made, numbers = known.get(str(said.get("snapshot"))), str(said.get("created")), said.get("numbers")
        source, taken = (of.source, _taken(of)) if of else (said.get("source"), (made, "", 0))
        if source != view.source or (of and taken > _taken(view)) or not isinstance(numbers, dict):
            continue
        for key, value in numbers.items():
            number = number_in(value if isinstance(value, int | float) else None)
            if number is not None and (key not in found or found[key][0] <= (taken, made)):
                found[key] = ((taken, made), number)
    return {key: number for key, (_, number) in found.items()}


def _taken(view: SnapshotView) -> tuple[str, str, int]:
    """When it was taken, to be compared."""
    return view.structure.taken_at, view.structure.stored_at, view.object.seq


def signer_of(repo: Repository) -> Signer:
    """Who signs evidence here.

    Raises:
        MissingRight: no key at hand may.
    """
    signer = repo.keyring.signer(SIGNERS)
    if signer is None:
        raise MissingRight("no key at hand may sign evidence", hint="name a read or recovery key with --key")
    return signer


def report_document(
    repo: Repository, view: SnapshotView, found: Drilled, promised: Promised, now: datetime
) -> dict[str, Any]:
    """The document of a drill's report, to be signed as a statement."""
    content = open_content(repo, view)
    return {
        "statement": KIND,
        "version": 1,
        "made": stamp(now),
        "program": f"backupd {VERSION}",
        "policy": promised.policy,
        "source": view.source,
        "writer": view.object.writer.hex(),
        "snapshot": view.id,
        "seq": view.object.seq,
        "taken_at": view.structure.taken_at,
        "engine": content["engine"],
        "scratch": {"what": found.scratch, "version": found.version},
        "tables": [{"name": table["name"], "rows": table["rows"]} for table in content["tables"]],
        "passed": found.passed,
        "checks": [check.values() for check in found.checks],
        **_numbers(found, promised),
    }


def report_hash(statement: Mapping[str, Any]) -> str:
    """What a record of evidence says of the report that belongs to it: SHA-256 of its statement, as it is signed."""
    return sha256(dump_json(statement)).hexdigest()


def _numbers(found: Drilled, promised: Promised) -> dict[str, Any]:
    done = found.restored
    return {
        "restore_seconds": found.restore_seconds,
        "check_seconds": round(done.check_seconds, 3) if done else None,
        "rto_seconds": promised.rto.total_seconds() if promised.rto else None,
        "rows": done.rows if done else None,
        "bytes": done.bytes if done else None,
        "erased": done.erased if done else None,
    }


def record_evidence(
    repo: Repository, view: SnapshotView, found: Drilled, promised: Promised, report: str, now: datetime
) -> str:
    """Store the evidence; returns its record's name. FORMAT.md, section 11.

    Args:
        report: its hash, see `report_hash`.

    Raises:
        MissingRight: no key at hand may sign it.
        BackupdError: the storage does not take it.
    """
    document = {
        "type": "evidence",
        "created": fine_stamp(now),
        "kind": "drill",
        "snapshot": view.id,
        "source": view.source,
        "passed": found.passed,
        "checks": len(found.checks),
        "failed": sum(not check.passed for check in found.checks),
        "report": report,
        "numbers": found.numbers,
        **_numbers(found, promised),
    }
    return append_record(repo, signer_of(repo), document)


def newest_of(history: History, source: str) -> SnapshotView:
    """The newest snapshot of a source, whichever writer took it: a host that was set up anew is another writer.

    Args:
        history: of the repository.
        source: its name, or WRITER/SOURCE.

    Raises:
        Failed: there is none.
        IntegrityError: a damaged or missing one may be newer.
    """
    mine = [v for v in history.views if v.source == source and v.structure.kind == "snapshot"]
    if not mine:
        return select_snapshot(history, f"latest:{source}")
    mine.sort(key=_taken)
    for newest in {v.object.writer: v for v in mine}.values():
        refuse_older(history, newest, f"latest:{source}")
    return mine[-1]
