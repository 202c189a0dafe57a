"""A record through time: its versions, where it is missing, and how little is read for it."""

from pathlib import Path

import apsw
import pytest

from backupd.crypto.keyfile import Role
from backupd.engines.base import TableInfo
from backupd.errors import UsageError
from backupd.jobs.find import Asked, Found, find
from backupd.records.rowtext import row_of
from backupd.report import Tally
from backupd.wiring import open_file_database
from tests.jobs_kit import Kit
from tests.table_engine import TableSource
from tests.unit.jobs.test_stored_tables import Ledger
from tests.unit.jobs.test_tables import rows, take


def seek(kit: Kit, asked: Asked, erased: Ledger | None = None) -> Found:
    repo = kit.repo(Role.READ, host="reader")
    return find(
        repo, repo.history().views, asked, open_file=open_file_database, erased=lambda _: erased, report=Tally()
    )


def test_versions_and_gaps_of_a_row(tmp_path: Path) -> None:
    """Absent, added, unchanged while others change, changed, removed, back again; a look-up reads little."""
    kit = Kit(tmp_path)
    base = rows(12_000)
    key, nights = b"6000", []
    for n, text in enumerate([None, b"a", b"a", b"b", None, b"b"]):
        made = [row for row in base if not row.startswith(key + b"\t")]
        made[n] = b"%d\tother %d\n" % (n, n)
        if text:
            made.insert(6000, row_of([key, text]))
        nights.append(take(kit, TableSource({"t": made})).snapshot)
    found = seek(kit, Asked("t", ("6000",)))
    assert [(v.snapshot, v.values) for v in found.versions] == [
        (nights[1], (6000, "a")), (nights[3], (6000, "b")), (nights[5], (6000, "b")),
    ]  # fmt: skip
    assert found.present == [nights[1], nights[2], nights[3], nights[5]]
    assert len(found.absent) == 2
    scan = seek(kit, Asked("t", where=(("x", "b"),)))
    assert [v.snapshot for v in scan.versions] == [nights[3], nights[5]]
    assert found.fetched_bytes < scan.fetched_bytes
    hidden = seek(kit, Asked("t", ("6000",)), Ledger([key]))
    assert hidden.versions == []
    assert hidden.last_seen is None
    with pytest.raises(UsageError, match="is made of: id"):
        seek(kit, Asked("t", ("1", "2")))
    with pytest.raises(UsageError, match="has a table nowhere"):
        seek(kit, Asked("nowhere", ("1",)))


def test_a_table_that_changed_its_shape_is_told_of(tmp_path: Path) -> None:
    """A column added, a key changed, a table gone: each is a remark, and the record is found where it can be."""
    kit = Kit(tmp_path)
    wide = TableInfo("t", ("id",), None, (("id", "bigint"), ("x", "text"), ("y", "text")), "f2", True)
    other = TableInfo("t", ("id", "x"), None, (("id", "bigint"), ("x", "text")), "f3", False)
    take(kit, TableSource({"t": [b"1\ta\n"]}))
    take(kit, TableSource({"t": [b"1\ta\t\\N\n"]}, infos={"t": wide}))
    take(kit, TableSource({"t": [b"1\ta\n"]}, infos={"t": other}))
    take(kit, TableSource({"u": [b"1\ta\n"]}))
    found = seek(kit, Asked("t", ("1",)))
    assert [v.values for v in found.versions] == [(1, "a"), (1, "a", None)]
    assert [remark.split(": ")[1] for remark in found.remarks] == [
        "the columns of t changed", "the key of t changed", "the key of t is made of",
        "the snapshot has no table t",
    ]  # fmt: skip


def test_a_record_of_a_file_is_found(tmp_path: Path) -> None:
    """By its composite key, in each snapshot; pages that did not change are read once."""
    path = tmp_path / "x.db"
    kit = Kit(tmp_path)
    db = apsw.Connection(str(path))
    db.execute(
        "CREATE TABLE t (a TEXT, b INT, c, PRIMARY KEY (a, b)); INSERT INTO t VALUES ('x,y', 1, 'old')"
    ).fetchall()
    one = kit.backup(path).snapshot
    read = seek(kit, Asked("t", ("x,y", "1"))).fetched_bytes
    two = kit.backup(path).snapshot
    assert seek(kit, Asked("t", ("x,y", "1"))).fetched_bytes < 1.5 * read
    db.execute("UPDATE t SET c = 'new'").fetchall()
    three = kit.backup(path).snapshot
    db.close()
    found = seek(kit, Asked("t", ("x,y", "1")))
    assert [(v.snapshot, v.values) for v in found.versions] == [(one, ("x,y", 1, "old")), (three, ("x,y", 1, "new"))]
    assert found.present == [one, two, three]
