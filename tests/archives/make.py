"""Makes the archive of the current format: run once for each released format, as `python -m tests.archives.make v1`.

What it makes is committed and never made again: `test_archives.py` reads every archive with today's code, for ever.
"""

import hashlib
import json
import sqlite3
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from backupd.crypto.keyfile import Role, encode_key, write_key_file
from backupd.repo.records import encode_mark
from backupd.store.folder import FolderStore
from tests.jobs_kit import PASSPHRASE, Kit
from tests.unit.jobs.test_chains import ChainWriter, new_epoch

HERE = Path(__file__).resolve().parent


def _database(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("pragma page_size=1024")
    db.execute("create table customers(id integer primary key, name text, notes text)")
    rows = ((n, f"customer {n}", hashlib.sha256(str(n).encode()).hexdigest() * 3) for n in range(1200))
    db.executemany("insert into customers values(?,?,?)", rows)
    db.commit()
    db.close()


def _change(path: Path, n: int) -> None:
    db = sqlite3.connect(path)
    db.execute("update customers set notes=notes || ? where id % 400 = ?", (f" note {n}", n))
    db.commit()
    db.close()


def main(version: str) -> None:
    """Make the archive: runs, deltas on one and two bases, a checkpoint, a second epoch, records, a gc mark."""
    target = HERE / version
    target.mkdir()
    expected: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kit = Kit(root, FolderStore(target / "repository", create=True), pack_bytes=100_000)
        database = root / "customers.db"
        _database(database)

        def keep(snapshot: str) -> None:
            expected[snapshot] = hashlib.sha256(database.read_bytes()).hexdigest()

        keep(kit.backup(database, tags=("first",), note="made for the archive", hold="archive").snapshot)
        _change(database, 1)
        keep(kit.backup(database).snapshot)
        chain = ChainWriter(kit)
        for n, bases in enumerate((1, 1, 2)):
            keep(chain.store(database.read_bytes(), bases=bases, name="chained").id.hex())
            _change(database, n + 2)
        keep(chain.store(database.read_bytes(), kind="checkpoint", name="chained").id.hex())
        kit.put_record(
            Role.CHECK, 1, {"type": "bad-packs", "created": "2026-11-22T00:00:00Z", "packs": ["packs/00/" + "0" * 64]}
        )
        kit.put_record(Role.READ, 1, {"type": "incident", "created": "2026-11-22T00:00:00Z", "title": "archive"})
        name, mark = encode_mark(1, [], "2026-11-22T00:00:00Z", kit.trust.repository, kit.signer(Role.PRUNE))
        kit.store.put(name, mark)
        kit.keys[Role.WRITE] = replace(new_epoch(kit))
        _change(database, 9)
        keep(kit.backup(database, name="second-epoch").snapshot)
        (target / "keys").mkdir()
        for role, key in kit.keys.items():
            write_key_file(target / "keys" / f"{role}.key", encode_key(key.header, key.secrets, PASSPHRASE))
    document = {"passphrase": PASSPHRASE.decode(), "snapshots": expected}
    (target / "expected.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
