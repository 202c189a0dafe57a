"""Where the repository is a folder of this machine the version cache holds keys and places, and no content."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backupd.jobs.verify import Level
from backupd.repo.storedversions import StoredVersions
from backupd.store.base import StoreRefused
from backupd.store.dryrun import DryRunStore
from backupd.store.folder import FolderStore
from backupd.store.pace import Limits, PacedStore
from tests.jobs_kit import Kit, memory_store, utc_now
from tests.table_engine import TableSource
from tests.unit.jobs.test_nights import (
    check_chains,
    churn,
    churn_rows,
    files_of,
    flip,
    make_customers,
    table_text,
    truncate,
)
from tests.unit.jobs.test_tables import rows, take


def folder_kit(root: Path) -> Kit:
    (root / "repository").mkdir()
    return Kit(root, FolderStore(root / "repository"))


def blobs_of(kit: Kit) -> list[Path]:
    return [path for path in files_of(kit) if path.name.startswith("blobs")]


def test_nights_without_a_copy(tmp_path: Path) -> None:
    """Deltas are made night after night, and the cache takes a hundredth of what the repository does."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db")
    table = rows(20_000)
    kept = {}
    for night in range(6):
        done = kit.backup(source)
        other = take(kit, TableSource({"t": table}))
        kept[done.snapshot] = source.read_bytes()
        check_chains(kit.refs(done.snapshot) + kit.refs(other.snapshot))
        assert table_text(kit, other.snapshot) == b"".join(table)
        assert (done.chunks["delta"] > 0) == (other.chunks["delta"] > 0) == (night > 0)
        churn(source, night)
        table = churn_rows(table, random.Random(night))
    assert blobs_of(kit) == []
    assert sum(path.stat().st_size for path in files_of(kit)) < 300_000
    kit.assert_restores(kept)
    assert kit.verify(Level.CONTENT).problems == []


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip])
@pytest.mark.parametrize("which", ["head", "list", "places", "anchors"])
def test_a_damaged_list_costs_space_only(tmp_path: Path, which: str, harm: Callable[[Path], None]) -> None:
    """Whatever of the lists is deleted, cut or changed: what is known again is held as a copy, and the next night leans."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    for night in range(2):
        churn(source, night)
        kit.backup(source)
    for path in files_of(kit):
        if which in path.name:
            harm(path)
    for night in (4, 5):
        churn(source, night)
        done = kit.backup(source)
        assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert done.chunks["delta"] > 0
    assert kit.verify(Level.CONTENT).problems == []


def test_a_pack_that_cannot_be_read_is_not_leaned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packs may be written and not be read, what changed is stored in full."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source)
    churn(source, 1)

    def refuse(self: StoredVersions, digest: bytes) -> int:
        raise StoreRefused("not for you")

    with monkeypatch.context() as patched:
        patched.setattr(StoredVersions, "_open", refuse)
        done = kit.backup(source)
    assert done.chunks["delta"] == 0
    assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()


def test_a_repository_that_moves(tmp_path: Path) -> None:
    """Copied to a bucket, the keys are of no use any more: the chunks are held as copies again, and nights lean on."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source)
    bucket = memory_store()
    for info in kit.store.list():
        bucket.put(info.name, kit.store.get(info.name))
    shutil.rmtree(tmp_path / "repository")
    kit.store = bucket
    counts = []
    for night in range(3):
        churn(source, night)
        done = kit.backup(source)
        counts.append(done.chunks["delta"])
        assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
    assert counts[0] == 0
    assert counts[2] > 0
    assert blobs_of(kit)


def test_a_copy_is_used_up_in_a_folder(tmp_path: Path) -> None:
    """What is held as a copy stays so, and leans and is leaned on together with what is held in the repository."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 9000)
    kit.backup(source)
    shutil.rmtree(kit.versions())
    for night in range(4):
        churn(source, night, share=0.0005)
        done = kit.backup(source)
        assert kit.restore(done.snapshot).read_bytes() == source.read_bytes()
        assert (done.chunks["delta"] > 0) == (night > 0)
        assert blobs_of(kit)


def test_stores_around_the_folder(tmp_path: Path) -> None:
    """A limit of bandwidth and a trial read the same versions."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    kit.backup(source, store=PacedStore(kit.store, Limits(upload=1 << 30)))
    assert blobs_of(kit) == []
    churn(source, 1)
    before = {path: path.read_bytes() for path in files_of(kit)}
    trial = kit.backup(source, store=DryRunStore(kit.store, utc_now), host="trial", trial=kit.places("writer"))
    assert {path: path.read_bytes() for path in files_of(kit)} == before
    real = kit.backup(source, store=PacedStore(kit.store, Limits(upload=1 << 30)))
    assert trial.chunks == real.chunks
    assert real.chunks["delta"] > 0


def test_a_small_limit_does_not_matter(tmp_path: Path) -> None:
    """What takes no space of its own is not limited."""
    kit = folder_kit(tmp_path)
    source = make_customers(tmp_path / "crm.db", 3000)
    for night in range(3):
        churn(source, night)
        done = kit.backup(source, version_cache=1000)
    assert done.chunks["delta"] > 0
    assert blobs_of(kit) == []
