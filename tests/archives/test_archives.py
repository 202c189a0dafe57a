"""Every released format stays readable for ever: the archives in this folder, read with today's code."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from backupd.config.clock import now
from backupd.crypto.keyfile import read_key_file
from backupd.crypto.keyring import Keyring
from backupd.engines.sqlite import open_target
from backupd.jobs.restore import restore
from backupd.jobs.verify import Level, verify
from backupd.repo.format import VERSION
from backupd.repo.ledger import Ledger
from backupd.repo.repository import Repository
from backupd.report import Tally
from backupd.store.folder import FolderStore

HERE = Path(__file__).resolve().parent
ARCHIVES = sorted(p.name for p in HERE.iterdir() if (p / "expected.json").is_file())


def opened(archive: Path, folder: Path, role: str) -> Repository:
    """The archive's repository with one of its keys, from a copy (git keeps no modes)."""
    shutil.copytree(archive / "repository", folder / "repository")
    (folder / "keys").mkdir(mode=0o700)
    shutil.copy(archive / "keys" / f"{role}.key", folder / "keys")
    path = folder / "keys" / f"{role}.key"
    path.chmod(0o600)
    locked = read_key_file(path)
    passphrase = json.loads((archive / "expected.json").read_text())["passphrase"].encode()
    key = locked.unlock(passphrase if locked.header.kdf.needs_passphrase else None)
    return Repository.open(FolderStore(folder / "repository"), Keyring((key,)), Ledger(folder / "heads.json"))


def test_no_archive_is_missing() -> None:
    """There is an archive of every format version up to today's."""
    assert [f"v{n}" for n in range(1, VERSION + 1)] == ARCHIVES


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("role", ["read", "recovery"])
def test_every_snapshot_restores(name: str, role: str, tmp_path: Path) -> None:
    """Each snapshot of the archive restores to the bytes that were recorded when it was made."""
    repo = opened(HERE / name, tmp_path, role)
    wanted = json.loads((HERE / name / "expected.json").read_text())["snapshots"]
    history = repo.history()
    assert history.problems == []
    assert {view.id for view in history.views} == set(wanted)
    for view in history.views:
        target = tmp_path / f"{view.id}.db"
        place = open_target(target)
        place.prepare(overwrite=None)
        restore(repo, view, place, check="full", report=Tally())
        assert hashlib.sha256(target.read_bytes()).hexdigest() == wanted[view.id]


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize(("role", "level"), [("check", Level.BYTES), ("read", Level.CONTENT)])
def test_it_verifies(name: str, role: str, level: Level, tmp_path: Path) -> None:
    """The archive verifies at every level."""
    assert verify(opened(HERE / name, tmp_path, role), level, now=now(), report=Tally()).problems == []
