"""The policies in force: a whole valid set, whatever happens to the files."""

import json
import shutil
from pathlib import Path

import pytest

from backupd.daemon.inforce import InForce, take
from backupd.errors import Failed, UsageError


class Files:
    """An administrator's folder, and the daemon's."""

    def __init__(self, folder: Path) -> None:
        self.configured, self.kept = folder / "policies.d", folder / "state" / "policies"
        self.configured.mkdir()

    def write(self, name: str, **more: object) -> Path:
        values = {"policy": name, "sources": [{"name": "db", "url": "/x.db"}], "repository": {"url": "/repo"}, **more}
        path = self.configured / f"{name}.yaml"
        path.write_text(json.dumps(values))
        return path

    def take(self) -> InForce:
        return take(self.configured, self.kept)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def names(found: InForce) -> list[str]:
    return [policy.policy for policy in found]


def test_a_set_is_taken_whole(files: Files) -> None:
    files.write("a")
    files.write("b")
    found = files.take()
    assert names(found) == ["a", "b"]
    assert found.named("b") is not None
    assert found.named("c") is None
    assert {loaded.file.parent for loaded in found.files} == {found.folder}


@pytest.mark.parametrize("broken", ['{"policy": "c"}', "{", "", "a: b: c", "\0", "policy: a\npolicy: b"])
def test_or_not_at_all(files: Files, broken: str) -> None:
    """And the copy of the set that runs stays as it is; the message names the administrator's file."""
    files.write("a")
    running = files.take()
    bad = files.configured / "z.yaml"
    bad.write_text(broken)
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            files.take()
        assert str(bad) in str(caught.value)
        assert str(files.kept) not in f"{caught.value} {caught.value.object_name} {caught.value.hint}"
    assert [path.name for path in running.folder.iterdir()] == ["a.yaml"]
    bad.unlink()
    assert files.take().digest == running.digest


def test_two_policies_of_one_name_are_refused(files: Files) -> None:
    files.write("a")
    (files.configured / "b.yaml").write_bytes((files.configured / "a.yaml").read_bytes())
    with pytest.raises(UsageError, match="is called 'a' too"):
        files.take()


def test_what_becomes_of_the_files_changes_nothing(files: Files) -> None:
    """Edited, emptied, deleted: jobs read the copies."""
    path = files.write("a")
    found = files.take()
    path.write_text("half a fi")
    assert "policy" in (found.folder / "a.yaml").read_text()
    shutil.rmtree(files.configured)
    assert json.loads((found.folder / "a.yaml").read_text())["policy"] == "a"


@pytest.mark.parametrize("damage", ["empty", "missing", "more", "folder"])
def test_a_copy_that_a_power_cut_spoiled_is_made_anew(files: Files, damage: str) -> None:
    files.write("a")
    files.write("b")
    before = files.take()
    copy = before.folder / "a.yaml"
    if damage == "empty":
        copy.write_bytes(b"")
    elif damage == "missing":
        copy.unlink()
    elif damage == "more":
        files.write("c")
        (before.folder / "c.yaml").write_text("{")
        (files.configured / "c.yaml").unlink()
    else:
        (before.folder / "d").mkdir()
    after = files.take()
    assert after.digest == before.digest
    assert sorted(path.name for path in after.folder.iterdir()) == ["a.yaml", "b.yaml"]
    assert names(after) == ["a", "b"]


def test_a_half_written_copy_of_before_is_no_hindrance(files: Files) -> None:
    files.write("a")
    found = files.take()
    shutil.rmtree(found.folder)
    beside = found.folder.with_name(found.folder.name + ".new")
    beside.mkdir()
    (beside / "old.yaml").write_text("{")
    assert names(files.take()) == ["a"]


def test_a_few_sets_are_kept_and_the_one_in_force_always(files: Files) -> None:
    for n in range(6):
        files.write("a", objectives={"rpo": f"{n + 1}h"})
        found = files.take()
    assert len(list(files.kept.iterdir())) == 3
    assert found.folder.is_dir()


def test_one_file_may_stand_for_a_folder(files: Files) -> None:
    path = files.write("a")
    files.write("b")
    assert names(take(path, files.kept)) == ["a"]


def test_what_is_not_there_is_said(files: Files) -> None:
    with pytest.raises(UsageError, match="there is no policy in"):
        files.take()
    (files.configured / "x.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        files.take()


def test_a_state_folder_that_cannot_be_written_is_an_error_of_its_own(files: Files) -> None:
    files.write("a")
    files.kept.parent.mkdir()
    files.kept.write_text("a file")
    with pytest.raises(Failed, match="cannot be kept"):
        files.take()
