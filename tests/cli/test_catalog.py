"""`catalog rebuild` as a user meets it."""

import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.catalog.snapshots import Snapshot
from backupd.wiring import open_catalog
from tests.cli.kit import CHINOOK, User

POLICY = """\
policy: {name}
sources:
  - {{name: music, url: "sqlite:///{folder}/music.db"}}
  - {{name: shop, url: "sqlite:///{folder}/shop.db"}}
repository: {{url: "file://{repository}"}}
keys: {{write: "file:{folder}/keys/write.key", check: "file:{folder}/keys/check.key"}}
"""


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that holds three snapshots of two sources, one of them held; its keys and what a machine remembers."""
    user = User(tmp_path_factory.mktemp("made"))
    user.init()
    for name in ("music", "shop", "music"):
        shutil.copy(CHINOOK, user.folder / f"{name}.db")
        user.back_up(user.folder / f"{name}.db", "--name", name)
    assert user.run("hold", "add", "latest:shop", "--reason", "case 4711", key="prune").code == 0
    return user.folder


@pytest.fixture
def user(backed_up: Path, tmp_path: Path) -> User:
    """A user with two policies on one repository of their own."""
    shutil.copytree(backed_up, tmp_path, dirs_exist_ok=True)
    user = User(tmp_path)
    (tmp_path / "policies").mkdir()
    for name in ("nightly", "weekly"):
        text = POLICY.format(name=name, folder=tmp_path, repository=user.repository)
        (tmp_path / f"policies/{name}.yaml").write_text(text)
    user.environment = {"BACKUPCTL_CONFIG": str(tmp_path / "policies")}
    return user


def state_of(user: User) -> Path:
    return user.folder / "state/backupd"


def contents(user: User) -> list[Snapshot]:
    """What the catalog says, but for when it was seen."""
    with open_catalog(state_of(user)) as catalog:
        return [replace(one, last_seen=datetime(2000, 1, 1, tzinfo=UTC)) for one in catalog.snapshots.list()]


def test_losing_the_catalog_loses_the_history_of_runs_and_nothing_else(user: User) -> None:
    """Deleted and rebuilt, the catalog holds the same snapshots as before, as the repository itself lists them."""
    done = user.run("catalog", "rebuild", "--json")
    assert done.code == 0, done.err
    document = done.document
    assert document["schema"] == "backupctl/catalog-rebuild/1"
    ((repository, count),) = [(one["repository"], one["snapshots"]) for one in document["repositories"]]
    assert count == 3
    before = contents(user)
    listed = user.run("snapshots", "--json", key="check").document["snapshots"]
    assert [(one.id, one.source) for one in before][::-1] == [(one["id"], one["source"]) for one in listed]
    assert [one.holds for one in before] == [tuple(one["holds"]) for one in listed[::-1]] == [(), ("case 4711",), ()]
    assert {one.repository for one in before} == {repository}
    with open_catalog(state_of(user)) as catalog:
        catalog.runs.start("nightly", "music", "run", datetime.now(UTC))
    for path in state_of(user).glob("catalog.sqlite*"):
        path.unlink()
    assert user.run("catalog", "rebuild").out == f"file://{user.repository}: 3 snapshots\n"
    assert contents(user) == before
    with open_catalog(state_of(user)) as catalog:
        assert catalog.runs.list() == []
    assert stat.S_IMODE((state_of(user) / "catalog.sqlite").stat().st_mode) == 0o600


def test_a_rebuild_forgets_what_is_gone_and_keeps_the_runs(user: User) -> None:
    """Snapshots that the repository no longer holds go, those of another repository and the history of runs stay."""
    assert user.run("catalog", "rebuild").code == 0
    before = contents(user)
    with open_catalog(state_of(user)) as catalog:
        catalog.snapshots.add(replace(before[0], id="gone"))
        catalog.snapshots.add(replace(before[0], repository="another"))
        catalog.runs.start("nightly", "music", "run", datetime.now(UTC))
    assert user.run("catalog", "rebuild").code == 0
    assert [one for one in contents(user) if one.repository != "another"] == before
    assert len(contents(user)) == len(before) + 1
    with open_catalog(state_of(user)) as catalog:
        assert len(catalog.runs.list()) == 1


def test_what_vanished_is_told_until_somebody_accepts_it(user: User) -> None:
    """A snapshot that is gone without a signed deletion is counted by each look, and ends only by a person's word."""

    def vanished(*more: str) -> list[int]:
        done = user.run("catalog", "rebuild", "--policy", "nightly", *more, "--json")
        return [one["vanished"] for one in done.document["repositories"]]

    def remembered() -> int:
        with open_catalog(state_of(user)) as catalog:
            return catalog.repositories.all()["nightly"].vanished

    assert vanished() == [0]
    there = [path for path in (Path(user.repository) / "snapshots").rglob("*") if path.is_file()]
    newest = max(there, key=lambda path: path.name)
    newest.unlink()
    assert (vanished(), vanished(), remembered()) == ([1], [1], 1)
    assert (vanished("--accept-vanished"), remembered()) == ([1], 0)
    assert (vanished(), remembered()) == ([0], 0)


def test_one_repository_without_policies(user: User) -> None:
    """With --repository and a key, and a catalog somewhere else."""
    user.environment = {"BACKUPCTL_CATALOG": str(user.folder / "elsewhere.sqlite")}
    done = user.run("catalog", "rebuild", "--json", key="check")
    assert [one["snapshots"] for one in done.document["repositories"]] == [3]
    assert (user.folder / "elsewhere.sqlite").exists()
    assert not (state_of(user) / "catalog.sqlite").exists()


def test_a_dry_run_makes_no_catalog(user: User) -> None:
    done = user.run("catalog", "rebuild", "--dry-run", "--json")
    assert (done.code, done.document["repositories"][0]["snapshots"]) == (0, 3)
    assert not (state_of(user) / "catalog.sqlite").exists()


def test_a_repository_that_cannot_be_read_keeps_no_other_from_it(user: User) -> None:
    """The others are written; the end names the one that failed."""
    text = POLICY.format(name="absent", folder=user.folder, repository=user.folder / "nowhere")
    (user.folder / "policies/absent.yaml").write_text(text)
    done = user.run("catalog", "rebuild", "--json")
    assert done.code == 10
    assert done.document["error"]["code"] == "no_repository"
    assert [one["snapshots"] for one in done.document["repositories"]] == [3]
    assert len(contents(user)) == 3


def test_a_damaged_catalog_is_named_and_not_touched(user: User) -> None:
    """Exit code 4, a hint that says what to do, and no traceback; a file of something else stays as it is."""
    path = state_of(user) / "catalog.sqlite"
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    done = user.run("catalog", "rebuild", "--json")
    assert done.code == 4
    assert done.document["error"]["object"] == str(path)
    assert "catalog rebuild" in done.document["error"]["hint"]
    assert "Traceback" not in done.err
    assert path.read_bytes().startswith(b"this is no database")


def test_a_password_in_the_catalogs_url_is_refused(user: User) -> None:
    """It would end up in histories and process lists; it is not quoted."""
    done = user.run("catalog", "rebuild", "--catalog", "postgresql://u:hunter2@h/db")
    assert done.code == 2
    assert "a password inside a URL is refused" in done.err
    assert "hunter2" not in done.err
    assert user.run("catalog", "rebuild", "--catalog", "mariadb://h/db").code == 2
