"""The erasure ledger: believed as a whole or not at all, without a trace of whom it hides, and obeyed by every reader."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.config.clock import parse_stamp, stamp
from backupd.crypto.keyfile import Role
from backupd.engines.base import LoadOptions, TableInfo
from backupd.engines.sqlite_database import LazyDatabase
from backupd.engines.sqlite_live import open_live
from backupd.engines.sqlite_restore import SqliteTarget
from backupd.engines.sqlite_takeout import take_out
from backupd.errors import BackupdError, Failed, IntegrityError, MissingRight, SafetyRefused, UsageError
from backupd.jobs.erasing import is_live
from backupd.jobs.erasure import read_ledger
from backupd.jobs.erasurereport import Kept, report_document, report_html, tell
from backupd.jobs.export import export
from backupd.jobs.load import load
from backupd.jobs.restore import restore
from backupd.jobs.sieve import refuse_opaque, sieved, whole_rows
from backupd.jobs.storedtables import opened_tables
from backupd.records.rowtext import row_of
from backupd.records.subject import parse_subject
from backupd.repo.erasures import A_RECORD, ErasedReference, ErasedTable, documents, erasure_of
from backupd.repo.format import dump_json
from backupd.repo.records import Record
from backupd.repo.statements import sign_statement, verify_statement
from backupd.report import Tally
from tests.erasing import REASON, erase, erased
from tests.jobs_kit import Kit, copy_host, copy_store, names, overwrite, utc_now
from tests.table_engine import TableSource, TableTarget
from tests.unit.jobs.test_compare import counts, look
from tests.unit.jobs.test_tables import take

CANARY = "canary-4711"
SCHEMA = f"""
CREATE TABLE people(mail TEXT PRIMARY KEY, n INT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, mail TEXT REFERENCES people ON DELETE CASCADE, what);
CREATE TABLE bag(mail REFERENCES people(mail) ON DELETE CASCADE, x);
INSERT INTO people VALUES ('{CANARY}', 1), ('kept', 2);
INSERT INTO orders VALUES (1, '{CANARY}', 'secret {CANARY}'), (2, 'kept', 'x');
INSERT INTO bag VALUES ('{CANARY}', 1), ('{CANARY}', 1), ('kept', 1);
"""


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A repository with one snapshot of a file, in which somebody was erased."""
    kit = Kit(tmp_path)
    path = tmp_path / "crm.db"
    db = sqlite3.connect(path)
    db.executescript(SCHEMA)
    db.close()
    kit.backup(path)
    found = erase(kit, f"people:{CANARY}")
    assert found.counts == {"people": 1, "orders": 1, "bag": 1}
    return kit


def reader(kit: Kit, *roles: Role, host: str = "reader") -> None:
    repo = kit.repo(*(roles or (Role.READ,)), host=host)
    read_ledger(repo, repo.history())


def test_no_trace_of_the_subject(kit: Kit) -> None:
    """Neither what is stored nor what people and programs are told holds a value, a table's or a column's name."""
    repo = kit.repo(Role.READ, host="reader")
    history = repo.history()
    (record,) = history.records
    text = dump_json(record.document).decode()
    for word in (CANARY, "people", "orders", "mail", "4711"):
        assert word not in text
    told = tell(repo, history, read_ledger(repo, history), Kept(), utc_now())
    assert [(one.table, one.rows, len(one.left), one.reason) for one in told] == [("people", 3, 1, REASON)]
    assert CANARY not in json.dumps([one.values() for one in told])
    assert CANARY not in repr(erased(kit).records)


def test_restored_and_exported_files_are_without_them(kit: Kit, tmp_path: Path) -> None:
    """The rows, what belongs to them, and their bytes are gone before the file has its name."""
    repo = kit.repo(Role.READ, host="reader")
    (view,) = repo.history().views
    target = SqliteTarget(tmp_path / "back.db")
    target.prepare(overwrite=None)
    rule = erased(kit).rule
    result = restore(repo, view, target, check="full", report=Tally(), erased=rule)
    assert (result.erased, result.rows) == (4, 3)
    plain = export(repo, view, tmp_path / "plain", secrets=False, report=Tally(), erased=rule, take_out=take_out)
    assert plain.erased == 4
    for path in (tmp_path / "back.db", tmp_path / "plain/main.db"):
        assert CANARY.encode() not in path.read_bytes()
        db = sqlite3.connect(path)
        assert [db.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("people", "orders", "bag")] == [(1,)] * 3
        db.close()
    assert json.loads((tmp_path / "plain/manifest.json").read_bytes())["streams"][0]["digest"] is None


def test_a_comparison_does_not_tell_of_them(kit: Kit, tmp_path: Path) -> None:
    """Their rows are neither counted nor shown when they vanish; where columns changed and cannot tell, that is said."""
    one = kit.history().views[0].id
    db = sqlite3.connect(tmp_path / "crm.db")
    db.executescript(
        f"DELETE FROM people; DELETE FROM orders WHERE mail = '{CANARY}'; DELETE FROM bag; ALTER TABLE bag DROP x"
    )
    db.close()
    two = kit.backup(tmp_path / "crm.db").snapshot
    found, records = look(kit, one, two, erased=erased(kit))
    assert counts(found, "people") == (0, 1, 0)
    assert counts(found, "orders") == (0, 0, 0)
    assert [t.reason is not None for t in found.tables if t.name == "bag"] == [True]
    assert CANARY not in str([(r.old, r.new) for some in records.values() for r in some])


def test_a_ledger_that_was_rolled_back_is_refused(kit: Kit) -> None:
    """Records that this machine has seen must be there; a fresh machine can miss none, and one that put others there is seen."""
    before = copy_store(kit.store)
    reader(kit)
    copy_host(kit, "reader", "copied")
    kit.store.delete(names(kit.store, "records/read/")[0])
    with pytest.raises(IntegrityError) as caught:
        reader(kit)
    assert "cannot be believed" in caught.value.message
    reader(kit, host="fresh")
    erase(kit, "people:kept")  # the number is taken again, by somebody who did not know
    with pytest.raises(IntegrityError, match="another record"):
        reader(kit, host="copied")
    kit.store = before
    reader(kit)


def test_gaps_damage_and_broken_chains_are_refused(kit: Kit) -> None:
    """Also by who has no memory: a record that is missing in the middle, changed, or not linked."""
    erase(kit, "people:kept")
    (one, two) = names(kit.store, "records/read/")
    good = kit.store.get(one)
    kit.store.delete(one)
    with pytest.raises(IntegrityError, match="missing"):
        reader(kit, host="a")
    overwrite(kit.store, one, good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="cannot be believed"):
        reader(kit, host="b")
    overwrite(kit.store, one, good)
    reader(kit, host="c")
    overwrite(kit.store, two, good)
    with pytest.raises(IntegrityError):
        reader(kit, host="d")


@pytest.mark.parametrize("role", [Role.WRITE, Role.CHECK, Role.PRUNE])
def test_other_roles_erase_nothing(kit: Kit, role: Role) -> None:
    """Their records are no erasures, signed by whatever program; nor do their keys add one."""
    (record,) = kit.history().records
    with pytest.raises(IntegrityError, match="may not sign"):
        kit.put_record(role, 1, record.document)
    with pytest.raises(BackupdError):
        erase(kit, "people:kept", role=role)


def test_the_root_may_erase_and_a_writer_cannot_read_the_ledger(kit: Kit) -> None:
    erase(kit, "people:kept", role=Role.ROOT)
    assert len(erased(kit).records) == 2
    repo = kit.repo(Role.WRITE, host="writer")
    with pytest.raises(MissingRight):
        read_ledger(repo, repo.history())


@pytest.mark.parametrize(
    "change",
    [
        {"reason": None},
        {"tables": [{}]},
        {"tables": [{"rows": "AA=="}]},
        {"subject": {}},
        {"part": -1},
        {"horizon": {}},
    ],
)
def test_a_record_without_what_it_must_say_is_damaged(kit: Kit, change: dict[str, object]) -> None:
    (record,) = kit.history().records
    kit.put_record(Role.RECOVERY, 1, {**record.document, **change})
    with pytest.raises(IntegrityError, match="cannot be believed"):
        reader(kit)


def test_long_erasures_are_several_records(kit: Kit) -> None:
    """Each counts by itself, and together they are what they were."""
    (record,) = kit.history().records
    whole = erasure_of(record)
    rows = frozenset(n.to_bytes(16, "big") for n in range(2 * A_RECORD + 3))
    long = replace(whole, tables=(*whole.tables, ErasedTable(b"t" * 16, (b"c" * 16,), False, rows)))
    parts = [erasure_of(Record("records/read/000000000001", Role.READ, "erasure", d)) for d in documents(long)]
    assert [(p.part, p.parts) for p in parts] == [(1, 3), (2, 3), (3, 3)]
    assert sum(p.rows for p in parts) == long.rows
    assert frozenset().union(*(e.rows for p in parts for e in p.tables if e.table == b"t" * 16)) == rows
    assert [r for p in parts for r in p.references] == list(whole.references)


def test_which_columns_are_cleared_is_kept(kit: Kit) -> None:
    """Of a reference that loses some of its columns only; no others can be named."""
    (record,) = kit.history().records
    cleared = ErasedReference(b"t" * 16, (b"a" * 16, b"b" * 16), frozenset({b"r" * 16}), "null", (b"b" * 16,))
    (document,) = documents(replace(erasure_of(record), references=(cleared, replace(cleared, cleared=()))))
    assert erasure_of(replace(record, document=document)).references == (cleared, replace(cleared, cleared=()))
    (said,) = documents(replace(erasure_of(record), references=(replace(cleared, cleared=(b"c" * 16,)),)))
    with pytest.raises(ValueError, match="another column"):
        erasure_of(replace(record, document=said))


def test_what_cannot_be_found_is_not_erased(kit: Kit) -> None:
    """A key that no snapshot has, a key of another shape, a table without one; the error quotes no key."""
    for subject, error in (
        ("people:nobody", Failed),
        ("people:a,b", UsageError),
        ("bag:1", UsageError),
        ("no:1", Failed),
    ):
        with pytest.raises(error) as caught:
            erase(kit, subject)
        assert "nobody" not in str(caught.value)


def test_snapshots_that_called_them_otherwise_are_told_of(kit: Kit, tmp_path: Path) -> None:
    """A table had another name or another key: nothing of that is hidden before it is named so, and nobody need guess it."""
    with closing(sqlite3.connect(tmp_path / "crm.db")) as db:
        db.execute("ALTER TABLE people RENAME TO persons")
        kit.backup(tmp_path / "crm.db")
        db.executescript(f"DROP TABLE persons; CREATE TABLE people(n INT, mail TEXT, PRIMARY KEY (n, mail));"
                         f"INSERT INTO people VALUES (1, '{CANARY}')")  # fmt: skip
        kit.backup(tmp_path / "crm.db")
    for subject, snapshots, strange in ((CANARY, 1, 2), (f"1,{CANARY}", 1, 2)):
        report = Tally()
        assert len(erase(kit, f"people:{subject}", report=report).snapshots) == snapshots
        assert [said.split(" snapshots")[0] for said in report.warnings] == [f"{strange} of 3"]
        assert CANARY not in report.warnings[0]


def test_rows_are_sieved_wherever_buffers_end(tmp_path: Path) -> None:
    """Streams in parts, rows across buffers: a server's target gets the others, and the counts and digests are theirs."""
    kit = Kit(tmp_path)
    rows = [row_of([b"%d" % n, b"x\t\n" * n]) for n in range(300)]
    child = TableInfo("c", (), None, (("id", "bigint"), ("t", "bigint")), "f1")
    source = TableSource(
        {"t": rows, "c": [row_of([b"%d" % n, b"%d" % (n % 3)]) for n in range(30)]},
        parts=3,
        buffer=7,
        infos={"c": child},
    )
    take(kit, source)
    erase(kit, "t:1", ["c(t) -> t(id) on delete set null"])
    erase(kit, "t:2", ["c(t) -> t(id)"])
    repo = kit.repo(Role.READ, host="reader")
    view = repo.history().views[-1]
    target = TableTarget()
    rule = erased(kit).rule
    result = load(repo, view, target, ["postgresql"], LoadOptions(), check="full", report=Tally(), erased=rule)
    assert result.erased == 12
    left = target.held["t"]
    assert sorted(left.splitlines()) == sorted(b"".join(rows[:1] + rows[3:]).splitlines())
    found = target.held["c"].splitlines()
    assert sorted(found) == sorted([b"%d\t%s" % (n, b"0" if n % 3 == 0 else b"\\N") for n in range(30) if n % 3 != 2])


def test_blocks_end_where_rows_do() -> None:
    assert list(whole_rows(iter([b"a", b"b\nc", b"", b"\n"]))) == [b"ab\n", b"c\n"]
    with pytest.raises(IntegrityError):
        list(whole_rows(iter([b"a\nb"])))


def test_rows_with_too_few_fields_are_judged_as_far_as_they_go(tmp_path: Path) -> None:
    """A liar's rows end nothing, and are not taken for others."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"t": [row_of([b"1", b"x"])]}))
    erase(kit, "t:1")
    rule = erased(kit).rule("t", ["a", "b", "id"])
    assert rule is not None
    assert sieved(b"1\n\n\t\t1\n\t\t\t\n", rule) == b"1\n\n\t\t\t\n"


def test_an_opaque_archive_is_refused(tmp_path: Path) -> None:
    """Nothing can be taken out of it."""
    native = {"streams": [{"kind": "schema", "name": "native"}]}
    refuse_opaque(native, None)
    with pytest.raises(SafetyRefused):
        refuse_opaque(native, lambda table, columns: None)


def test_the_report_says_when_it_is_gone(kit: Kit) -> None:
    """By the retention that is known, not while something is held, and signed; in HTML nothing of a reason is markup."""
    repo = kit.repo(Role.READ, host="reader")
    history = repo.history()
    ledger = read_ledger(repo, history)
    now = utc_now()
    (unknown,) = tell(repo, history, ledger, Kept(), now)
    assert unknown.until is None
    (known,) = tell(repo, history, ledger, Kept(timedelta(days=10), timedelta(days=5)), now)
    taken = parse_stamp(history.views[0].structure.taken_at)
    assert known.until == stamp(taken + timedelta(days=10 + 30 + 7 + 5, hours=25))
    kit.put_record(Role.PRUNE, 1, {"type": "hold", "created": "x", "snapshot": history.views[0].id, "reason": "case"})
    history = kit.history()
    (held,) = tell(repo, history, ledger, Kept(timedelta(days=10)), now)
    assert (held.held, held.until) == (1, None)
    history.views.clear()
    (gone,) = tell(repo, history, ledger, Kept(), now)
    assert (gone.left, gone.table, gone.until is None) == ((), None, False)
    signer = repo.keyring.signer([Role.READ])
    assert signer is not None
    signed = sign_statement(report_document([replace(known, reason="<b>")], now), [signer], repository=repo.id)
    assert verify_statement(json.loads(json.dumps(signed)), repo.trust).document["erasures"][0]["rows"] == 3
    page = report_html(signed, json.dumps(signed))
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_look_ups_do_not_find_them(kit: Kit) -> None:
    """What find, query and recover read a snapshot through hides them, by key, by another column and in a scan."""
    repo = kit.repo(Role.READ, host="reader")
    (view,) = repo.history().views
    with opened_tables(repo, view, open_file=LazyDatabase, erased=erased(kit)) as tables:
        found = tables.tables
        assert list(found["people"].rows(["mail"], [(CANARY,)])) == []
        assert list(found["orders"].rows(["mail"], [(CANARY,), ("kept",)])) == [(2, "kept", "x")]
        assert list(found["bag"].rows()) == [("kept", 1)]


def test_the_live_database_may_have_them_still(kit: Kit, tmp_path: Path) -> None:
    """That is found out by the key, and nothing is changed there."""
    found = erase(kit, f"people:{CANARY}")
    live = open_live(tmp_path / "crm.db", timeout=5)
    try:
        assert is_live(live, parse_subject(f"people:{CANARY}"), found)
        assert not is_live(live, parse_subject("gone:1"), found)
    finally:
        live.close()


def test_a_row_that_referred_to_them_does_not_say_to_whom(tmp_path: Path) -> None:
    """What ON DELETE SET NULL leaves is shown without the reference, and nobody finds it by that."""
    kit = Kit(tmp_path)
    path = tmp_path / "crm.db"
    db = sqlite3.connect(path)
    db.executescript(
        "CREATE TABLE people(mail TEXT PRIMARY KEY); CREATE TABLE visits(id INTEGER PRIMARY KEY, mail TEXT REFERENCES people"
        f" ON DELETE SET NULL); INSERT INTO people VALUES ('{CANARY}'); INSERT INTO visits VALUES (1, '{CANARY}')"
    )
    db.close()
    kit.backup(path)
    erase(kit, f"people:{CANARY}")
    repo = kit.repo(Role.READ, host="reader")
    (view,) = repo.history().views
    with opened_tables(repo, view, open_file=LazyDatabase, erased=erased(kit)) as tables:
        visits = tables.tables["visits"]
        assert list(visits.rows()) == [(1, None)]
        assert list(visits.rows(["id"], [(1,)])) == [(1, None)]
        assert list(visits.rows(["mail"], [(CANARY,)])) == []
