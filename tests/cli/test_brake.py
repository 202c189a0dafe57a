"""The brake as a user meets it: run says it, status and prune show it, `brake release` ends it."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from backupctl.commands.brake import _of_source
from backupd.crypto.keyfile import Role
from backupd.jobs.brake import in_force
from tests.cli.kit import CHINOOK, User
from tests.jobs_kit import Kit


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user of whose database most rows were deleted between two runs."""
    user = User(tmp_path)
    user.init()
    shutil.copy(CHINOOK, tmp_path / "shop.db")
    user.back_up("shop.db")
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("delete from PlaylistTrack")
        db.execute("delete from InvoiceLine")
        db.execute("delete from Track where TrackId > 500")
    db.close()
    return user


def test_the_story(user: User) -> None:
    """A run that finds a loss exits 0 and says so; prune keeps and forget refuses, until a person who may says yes."""
    done = user.back_up("shop.db")
    assert {"kind", "reason", "table", "snapshot", "record"} == done["brake"][0].keys()
    assert done["brake"][0]["kind"] == "table_shrunk"
    assert done["brake"][0]["table"] == "PlaylistTrack"
    assert any("The brake is set" in warning for warning in done["warnings"])
    assert "PlaylistTrack" not in " ".join(done["warnings"])
    listed = user.run("brake", "list", "--json", key="check").document
    assert listed["schema"] == "backupctl/brake-list/1"
    (brake,) = listed["brakes"]
    assert {"source", "writer", "snapshot", "since", "kinds", "reason", "record"} == brake.keys()
    assert (brake["source"], brake["snapshot"]) == ("shop", done["snapshot"])
    assert "rows are gone" in user.run("brake", "list", key="check").out
    status = user.run("status", "--json", key="check").document
    assert status["verdict"] == "warn"
    assert status["sources"][0]["brake"] == brake["since"]
    kept = user.run("prune", "--keep-last", "1", "--json", key="prune").document
    assert kept["forget"] == []
    assert all(any(r.startswith("the brake is set: ") for r in k["reasons"]) for k in kept["keep"])
    first = kept["keep"][-1]["snapshot"]
    refused = user.run("forget", first[:10], "--json", key="prune")
    assert refused.code == 20
    assert "brake release shop" in refused.document["error"]["hint"]

    assert user.run("brake", "release", "shop", "--yes", key="write").code == 12
    assert user.run("brake", "release", "shop", key="prune").code == 2
    assert user.run("brake", "release", "--yes", key="prune").code == 2
    assert user.run("brake", "release", "nobody", "--yes", key="prune").code == 1
    dry = user.run("brake", "release", "shop", "--dry-run", "--json", key="prune").document
    assert dry["dry_run"] is True
    assert len(user.run("brake", "list", "--json", key="check").document["brakes"]) == 1
    ended = user.run("brake", "release", "shop", "--reason", "moved", "--yes", "--json", key="prune").document
    assert ended["schema"] == "backupctl/brake-release/1"
    assert ended["released"] == [brake]
    assert user.run("brake", "list", "--json", key="write").document["brakes"] == []
    assert "no brake is set" in user.run("brake", "release", "--all", "--yes", key="prune").err
    assert user.back_up("shop.db")["brake"] == []
    assert [f["snapshot"] for f in user.run("prune", "--keep-last", "1", "--json", key="prune").document["forget"]]
    assert user.run("verify", key="check").code == 0


def test_people_see_the_table_and_a_trial_sets_nothing(user: User) -> None:
    """The run's own output names the table; --dry-run judges nothing and leaves no record."""
    assert user.run("run", "--source", "shop.db", "--dry-run", "--json", key="write").document["brake"] == []
    done = user.run("run", "--source", "shop.db", key="write")
    assert done.code == 0
    assert "sudden change, table_shrunk: PlaylistTrack: " in done.err
    ended = user.run("brake", "release", "--all", "--yes", key="root")
    assert "released" in ended.out


def test_a_brake_of_a_source_without_snapshots_is_released_by_its_name(tmp_path: Path) -> None:
    """`brake list` shows it under that name, so that name ends it; nobody else's is meant."""
    kit = Kit(tmp_path)
    whole = {"type": "brake", "created": "2026-03-02T00:00:00Z", "writer": kit.writer.hex(), "snapshot": "ab" * 32}
    for n, source in enumerate(("gone", "other"), 1):
        kit.put_record(Role.CHECK, n, {**whole, "source": source, "kinds": ["x"], "reason": "many", "numbers": {}})
    repo = kit.repo(Role.PRUNE)
    brakes = in_force(repo.records(lambda _: None))
    assert [brake.source for brake in _of_source(repo, brakes, "gone")] == ["gone"]
    assert [brake.source for brake in _of_source(repo, brakes, "host/gone")] == ["gone"]
    assert _of_source(repo, brakes, "db9/gone") == []
