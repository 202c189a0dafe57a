"""The brake from end to end: real nights of an SQLite file, an accident, and what prune, a person and later nights do."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Right
from backupd.crypto.primitives import expand
from backupd.errors import IntegrityError, MissingRight, SafetyRefused, TryAgain
from backupd.jobs.backup import BackupResult
from backupd.jobs.brake import BrakeSetter, in_force, release
from backupd.jobs.prune import Prune, PruneResult
from backupd.jobs.status import Level
from backupd.jobs.statusread import of_repository
from backupd.policy.nights import Kind
from backupd.policy.retention import Rule
from backupd.policy.sudden import Alarm
from backupd.repo.brakes import Brake
from backupd.repo.nightbook import NightBook
from backupd.report import Tally
from backupd.store.base import ObjectStore, StoreRefused
from backupd.store.memory import MemoryStore
from tests.doubles import Crash, RecordingStore, Wrapper
from tests.jobs_kit import Kit, names

NAME = "patients_of_ward_9"


class Ward:
    """A database, its nights, and the storage's clock."""

    def __init__(self, root: Path) -> None:
        self.now = datetime(2026, 3, 1, 2, tzinfo=UTC)
        self.kit = Kit(root, MemoryStore(lambda: self.now), pack_bytes=100_000)
        self.file = root / "crm.db"
        self.sql(
            f"create table {NAME}(id integer primary key, name text)",
            "create table visits(id integer primary key, text text)",
            f"with recursive n(i) as (select 1 union all select i + 1 from n where i < 4000) "
            f"insert into {NAME} select i, 'somebody ' || i from n",
            f"insert into visits select id, 'a visit of ' || name from {NAME}",
        )
        self.report = Tally()

    def sql(self, *statements: str) -> None:
        with sqlite3.connect(self.file) as db:
            for statement in statements:
                db.execute(statement)
        db.close()

    def night(self, store: ObjectStore | None = None, name: str = "crm", **options: object) -> BackupResult:
        self.now += timedelta(days=1)
        self.sql("insert into visits(text) values ('another')")
        self.report = Tally()
        return self.kit.backup(self.file, store=store, clock=lambda: self.now, name=name, report=self.report, **options)

    def brakes(self, role: Role = Role.CHECK) -> list[Brake]:
        return in_force(self.kit.repo(role, host="looker").records(lambda _: None))

    def release(self) -> None:
        repo = self.kit.repo(Role.PRUNE, host="pruner")
        release(repo, self.kit.signer(Role.PRUNE), self.brakes(), "it was meant", self.now)

    def prune(self, *, accept_damage: bool = False) -> PruneResult:
        work = Prune(self.kit.repo(Role.PRUNE, host="pruner"), self.now, Tally(), accept_damage=accept_damage)
        return work.by_rule(Rule(last=1), lambda _: True)

    def books(self) -> list[Path]:
        return [p for p in (self.kit.places("writer").state / "nights").rglob("*") if p.is_file()]


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


def delete_most(ward: Ward) -> None:
    ward.sql(f"delete from {NAME} where id > 1000")


def test_a_mass_deletion_sets_the_brake_until_a_person_releases_it(ward: Ward) -> None:
    """The run succeeds and says so, prune and forget leave the source alone, and after the release old snapshots go."""
    first = [ward.night().snapshot for _ in range(3)]
    delete_most(ward)
    done = ward.night()
    assert {told.kind for told in done.brake} == {"table_shrunk", "rows_gone"}
    assert done.brake[0].table == NAME
    assert "3,000 of 4,000 rows are gone (75 %)" in done.brake[0].reason
    assert any("The brake is set" in warning for warning in ward.report.warnings)
    (brake,) = ward.brakes()
    assert (brake.source, brake.snapshot, brake.kinds) == ("crm", done.snapshot, ("table_shrunk", "rows_gone"))
    kept = ward.prune()
    assert [v.keep for v in kept.verdicts] == [True] * 4
    assert f"the brake is set: {brake.reason}" in kept.verdicts[-1].reasons
    work = Prune(ward.kit.repo(Role.PRUNE, host="pruner"), ward.now, Tally())
    with pytest.raises(SafetyRefused, match="brake") as refused:
        work.by_name(next(v for v in work.history.views if v.id == first[0]), "by name")
    assert "brake release crm" in (refused.value.hint or "")
    ward.release()
    assert ward.brakes() == []
    assert [v.keep for v in ward.prune().verdicts] == [True, False, False, False]
    assert ward.kit.verify().problems == []


def test_only_the_source_itself_is_braked(ward: Ward) -> None:
    """Another source of the same writer is pruned as ever."""
    for name in ("crm", "other"):
        ward.night(name=name), ward.night(name=name)
    delete_most(ward)
    ward.night(name="crm")
    kept = {v.snapshot.source[-1]: v for v in ward.prune().verdicts if not v.keep}
    assert kept.keys() == {"other"}


def test_no_table_is_named_where_content_may_not_be(ward: Ward) -> None:
    """Not in the record, not in a warning, not in a status, not in a file's bytes; the run's own result alone names it."""
    ward.night()
    ward.sql(f"drop table {NAME}")
    done = ward.night()
    assert done.brake[0].table == NAME
    assert done.brake[0].kind == "table_missing"
    repo = ward.kit.repo(Role.CHECK, host="looker")
    records = list(repo.records(lambda _: None))
    (status,) = of_repository(repo.history().views, records, ward.now)
    said = [*(str(r.document) for r in records), *ward.report.warnings, str(status.as_json(ward.now)), repr(done)]
    assert not [text for text in said if "ward_9" in text]
    assert not [p for p in ward.books() if b"ward_9" in p.read_bytes() or "ward" in p.name or "crm" in p.name]
    assert status.level is Level.WARN
    assert "the brake is set" in status.why[0]


def test_one_event_is_told_once(ward: Ward) -> None:
    """While the brake is set the same kind adds no record, a new kind does; nights after a release are quiet."""
    for _ in range(3):
        ward.night()
    delete_most(ward)
    ward.night()
    assert ward.night().brake == ()
    ward.sql(f"delete from {NAME} where id > 100")
    again = ward.night()
    (first,) = ward.brakes()
    assert {(told.kind, told.record) for told in again.brake} >= {("table_shrunk", first.record)}
    ward.sql("drop table visits", "create table visits(id integer primary key, text text)", f"drop table {NAME}")
    done = ward.night()
    assert "table_missing" in {told.kind for told in done.brake}
    assert [brake.kinds for brake in ward.brakes()][1:] == [("table_missing",)]
    ward.release()
    assert ward.brakes() == []
    assert ward.brakes(Role.WRITE) == []
    for _ in range(3):
        assert ward.night().brake == ()
    assert ward.brakes() == []


def test_a_new_event_after_a_release_sets_it_again(ward: Ward) -> None:
    """The writer reads the release, so that the same kind of accident is told a second time."""
    ward.night(), ward.night()
    delete_most(ward)
    ward.night()
    ward.release()
    ward.night()
    ward.sql(f"drop table {NAME}")
    ward.night()
    ward.release()
    ward.sql("delete from visits")
    assert ward.night().brake != ()
    assert len(ward.brakes()) == 1


class CrashAt(Wrapper):
    """The process dies before the first write of such a name."""

    def __init__(self, inner: ObjectStore, prefix: str, error: Callable[[], BaseException]) -> None:
        super().__init__(inner)
        self._prefix, self._error = prefix, error

    def put(self, name, data, *, create_only=True):  # type: ignore[no-untyped-def]
        if name.startswith(self._prefix):
            raise self._error()
        return self.inner.put(name, data, create_only=create_only)


def test_a_run_that_dies_before_the_record_is_judged_by_the_next(ward: Ward) -> None:
    """The snapshot is there and the brake is not; the next night sets it, for that snapshot."""
    ward.night(), ward.night()
    delete_most(ward)
    with pytest.raises(Crash):
        ward.night(CrashAt(ward.kit.store, "records/", Crash))
    crashed = ward.kit.history().views[-1]
    assert len(ward.kit.history().views) == 3
    assert ward.brakes() == []
    done = ward.night()
    (brake,) = ward.brakes()
    assert brake.snapshot == crashed.id == done.brake[0].snapshot


def test_a_run_that_dies_before_its_snapshot_leaves_nothing_to_judge(ward: Ward) -> None:
    """What was never published is no night: the loss counts from the last one that was."""
    ward.night(), ward.night()
    delete_most(ward)
    with pytest.raises(Crash):
        ward.night(CrashAt(ward.kit.store, "snapshots/", Crash))
    done = ward.night()
    (brake,) = ward.brakes()
    assert brake.snapshot == done.snapshot


def test_a_brake_that_cannot_be_set_is_told_and_tried_again(ward: Ward) -> None:
    """The storage refuses the record: the snapshot stays, the warning shouts, and the next run sets the brake."""
    ward.night(), ward.night()
    delete_most(ward)
    refused = ward.night(CrashAt(ward.kit.store, "records/", lambda: StoreRefused("denied")))
    assert refused.brake
    assert {told.record for told in refused.brake} == {None}
    assert any("COULD NOT BE SET" in warning for warning in ward.report.warnings)
    assert ward.kit.history().views[-1].id == refused.snapshot
    ward.night()
    (brake,) = ward.brakes()
    assert brake.snapshot == refused.snapshot


def test_who_uses_up_the_numbers_of_records_cannot_hide_a_brake(ward: Ward) -> None:
    """Anything under the last number, by somebody without a key: the run does not say that a brake is set that nobody reads."""
    ward.night(), ward.night()
    ward.kit.store.put("records/write/999999999999", b"anything")
    delete_most(ward)
    done = ward.night()
    assert [told.record for told in done.brake] == [None] * len(done.brake) != []
    assert any("THE BRAKE COULD NOT BE SET" in warning for warning in ward.report.warnings)
    ward.kit.store.delete("records/write/999999999999")
    ward.night()
    assert len(ward.brakes()) == 1


@pytest.mark.parametrize("harm", ["lost", "cut", "flipped", "another's"])
def test_a_memory_that_is_lost_or_damaged_costs_the_tables_only(ward: Ward, harm: str) -> None:
    """The totals come from the host's own snapshots; no run fails."""
    for _ in range(3):
        ward.night()
    ward.night(name="other")
    for path in ward.books():
        data = path.read_bytes()
        spoilt = {"cut": data[:-3], "flipped": bytes([data[0] ^ 1]) + data[1:], "another's": data}
        if harm == "lost":
            path.unlink()
        else:
            path.write_bytes(spoilt[harm])
    if harm == "another's":
        one, other = ward.books()
        one.write_bytes(other.read_bytes())
        other.unlink()
    delete_most(ward)
    done = ward.night()
    assert "rows_gone" in {told.kind for told in done.brake}
    assert ward.night().brake == ()


def test_a_normal_night_asks_the_storage_for_nothing_more(ward: Ward) -> None:
    """No old snapshot is read once the numbers are remembered; without a memory a limited number is, once."""
    for _ in range(12):
        ward.night()

    def read() -> list[str]:
        store = RecordingStore(ward.kit.store)
        ward.night(store)
        return [
            name for op, name in ((c[0], c[1]) for c in store.calls) if op == "get" and name.startswith("snapshots/")
        ]

    usual = len(read())
    assert usual == len(read())
    shutil.rmtree(ward.kit.places("writer").state / "nights")
    assert len(read()) >= usual + 12
    assert len(read()) == usual


def test_a_night_reads_each_record_once(ward: Ward) -> None:
    """Verdicts on packs are asked for at the beginning of a run and before its end: what is new since then is read, no more."""
    ward.night()
    for n in range(1, 6):
        ward.kit.put_record(Role.CHECK, n, {"type": "good-packs", "created": "2026-03-02T00:00:00Z", "packs": []})
        ward.kit.put_record(Role.READ, n, {"type": "audit", "created": "2026-03-02T00:00:00Z", "action": "restore"})
    store = RecordingStore(ward.kit.store)
    ward.night(store)
    asked = [name for verb, name, _ in store.calls if verb == "get" and name.startswith("records/")]
    assert sorted(asked) == names(ward.kit.store, "records/")


def test_everything_new_sets_the_brake_unless_it_is_known_why(ward: Ward) -> None:
    """Full chunks after the version cache was lost are excused; an encrypted database is not."""
    ward.sql(
        "create table letters(id integer primary key, text)",
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) "
        "insert into letters select i, replace(printf('%200d', i), '  ', ' dear ' || i) from n",
    )
    for _ in range(8):
        ward.night()
    shutil.rmtree(ward.kit.versions())
    ward.sql("update letters set text = 'other ' || text")
    moved = ward.night()
    assert moved.chunks["full"] > moved.chunks["total"] * 0.8
    assert moved.brake == ()
    ward.night()
    ward.sql("update letters set text = randomblob(length(text))")
    done = ward.night()
    assert {told.kind for told in done.brake} == {"all_new", "entropy_up"}


def test_a_state_folder_that_cannot_remember_does_not_fail_the_run(ward: Ward) -> None:
    """A warning says that sudden changes are judged by totals."""
    ward.night()
    books = ward.kit.places("writer").state / "nights"
    shutil.rmtree(books)
    books.write_text("in the way")
    delete_most(ward)
    done = ward.night()
    assert any("cannot be remembered" in warning for warning in ward.report.warnings)
    assert "rows_gone" in {told.kind for told in done.brake}


# ---- records


ALARM = Alarm("rows_gone", "many", {"now": 1})


def braked(ward: Ward, role: Role = Role.WRITE, **changes: object) -> str:
    """A record of a brake, as somebody signs it."""
    document = {
        "type": "brake",
        "created": "2026-03-02T00:00:00Z",
        "writer": ward.kit.writer.hex(),
        "source": "crm",
        "snapshot": "ab" * 32,
        "kinds": ["rows_gone"],
        "reason": "many",
        "numbers": {},
        **changes,
    }
    return ward.kit.put_record(role, 1, {k: v for k, v in document.items() if v is not None})


@pytest.mark.parametrize("role", list(Role))
def test_whoever_sets_it_prune_stops(ward: Ward, role: Role) -> None:
    """Every role may set the brake, and the pruner can read all of them."""
    ward.night(), ward.night()
    braked(ward, role)
    assert [v.keep for v in ward.prune().verdicts] == [True, True]
    ward.release()
    assert [v.keep for v in ward.prune().verdicts] == [True, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"writer": None},
        {"kinds": []},
        {"kinds": "x"},
        {"snapshot": "ab"},
        {"source": 5},
        {"reason": "\x1b"},
        {"writer": "00" * 16},
    ],
)
def test_a_brake_that_is_not_whole_stops_every_prune(ward: Ward, changes: dict[str, object]) -> None:
    """It is reported as damaged, as one of another writer's source is; nothing goes."""
    ward.night(), ward.night()
    name = braked(ward, **changes)
    with pytest.raises(IntegrityError, match=name):
        ward.prune()


def test_a_record_that_does_not_open_stops_every_prune(ward: Ward) -> None:
    """One sealed under keys that are not at hand may be a brake: nothing goes, until a person says so.

    Records are never removed, and every role may sign one: without the person a stolen key could stop all prunes for good.
    """
    ward.night(), ward.night()
    read = ward.kit.keys[Role.READ]
    other = replace(
        read,
        secrets=replace(read.secrets, values={**read.secrets.values, "structure_root": expand(bytes(32), b"x", 32)}),
    )
    ward.kit.keys[Role.READ] = other
    braked(ward, Role.READ)
    ward.kit.keys[Role.READ] = read
    with pytest.raises(MissingRight, match="records cannot be opened") as refused:
        ward.prune()
    assert "--accept-damage" in (refused.value.hint or "")
    assert [v.keep for v in ward.prune(accept_damage=True).verdicts] == [True, False]


@pytest.mark.parametrize("kind", ["brake", "hold"])
def test_what_is_said_while_a_prune_reads_lists_is_heard(ward: Ward, kind: str) -> None:
    """A brake or a hold that is set between the reading of the records and the signature stops the prune; the next one obeys."""
    old, _ = ward.night().snapshot, ward.night()
    repo = ward.kit.repo(Role.PRUNE, host="pruner")
    work = Prune(repo, ward.now, Tally())
    braked(ward) if kind == "brake" else ward.kit.put_record(
        Role.PRUNE, 1, {"type": "hold", "created": "2026-03-02T00:00:00Z", "snapshot": old, "reason": "a case"}
    )
    before = names(ward.kit.store)
    with pytest.raises(TryAgain, match=f"a {kind} was set"):
        work.by_rule(Rule(last=1), lambda _: True)
    assert names(ward.kit.store) == before
    assert [v.keep for v in ward.prune().verdicts] == [True, True]


def test_a_brake_outlives_trust_in_its_host(ward: Ward) -> None:
    """A write key that is revoked has said nothing but that something is wrong."""
    ward.night(), ward.night()
    delete_most(ward)
    ward.night()
    head = ward.kit.history().heads[ward.kit.writer]
    writers = tuple(replace(entry, last_good=head) for entry in ward.kit.trust.writers)
    ward.kit.put_trust(replace(ward.kit.trust, version=ward.kit.trust.version + 1, writers=writers))
    assert len(ward.brakes()) == 1
    assert all(v.keep for v in ward.prune().verdicts)


def test_the_same_brake_is_set_once(ward: Ward) -> None:
    """Setting it twice leaves one record; a release for that very snapshot ends it for good."""
    done = ward.night()
    key = ward.kit.keys[Role.WRITE]

    def setter() -> BrakeSetter:
        repo = ward.kit.repo(Role.WRITE)
        assert repo.keyring.need(Right.WRITE) is key
        return BrakeSetter(repo, ward.kit.signer(Role.WRITE), key.header.writer, "crm")

    first = setter().set([ALARM], done.snapshot, ward.now)
    assert setter().set([ALARM], done.snapshot, ward.now) == first
    assert len(names(ward.kit.store, "records/write/")) == 1
    ward.release()
    assert setter().set([ALARM], done.snapshot, ward.now) == {}
    assert setter().set([ALARM], "cd" * 32, ward.now) != first


def test_a_release_is_not_asked_for_again_each_night(ward: Ward) -> None:
    """What compresses worse for good stays sudden for a week: who said once that it was meant need not say so every morning."""
    ward.night()

    def put(kind: Kind) -> dict[str, str]:
        ward.now += timedelta(days=1)
        setter = BrakeSetter(ward.kit.repo(Role.WRITE), ward.kit.signer(Role.WRITE), ward.kit.writer, "crm")
        return setter.set([replace(ALARM, kind=kind)], f"{ward.now.day:02d}" * 32, ward.now)

    assert all([put("entropy_up"), put("rows_gone")])
    ward.release()
    assert [bool(put("entropy_up")) for _ in range(5)] == [False] * 5
    assert put("rows_gone")
    assert put("entropy_up")


def test_a_book_opens_for_its_own_source_and_key_alone(tmp_path: Path) -> None:
    """Another secret or name finds another file, and a file under another name opens for nobody."""
    book = NightBook(tmp_path, bytes(32), "crm")
    book.write({"x": 1})
    assert book.read() == {"x": 1, "shape": 1}
    assert NightBook(tmp_path, bytes(31) + b"1", "crm").read() is None
    (path,) = tmp_path.iterdir()
    NightBook(tmp_path, bytes(32), "other").write({"x": 2})
    other = next(p for p in tmp_path.iterdir() if p != path)
    path.write_bytes(other.read_bytes())
    assert book.read() is None
