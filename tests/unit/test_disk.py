"""Folders of files, and files without a name."""

import os
from pathlib import Path

from backupd.disk import remove_files, unnamed_file


def test_a_folder_of_files_is_removed(tmp_path: Path) -> None:
    """With its files; one that is not there is fine."""
    folder = tmp_path / "list"
    folder.mkdir()
    for name in ("head", "0.list"):
        (folder / name).write_bytes(b"x")
    remove_files(folder)
    remove_files(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_another_one_stays(tmp_path: Path) -> None:
    """Nothing below it is touched, and nothing is raised; nor is a link followed out of it."""
    (tmp_path / "list" / "inner").mkdir(parents=True)
    (tmp_path / "list" / "inner" / "kept").write_bytes(b"x")
    (tmp_path / "list" / "out").symlink_to(tmp_path / "list" / "inner")
    remove_files(tmp_path / "list")
    assert (tmp_path / "list" / "inner" / "kept").read_bytes() == b"x"


def test_an_unnamed_file_leaves_nothing(tmp_path: Path) -> None:
    """Its folder is made, and is empty while it is open."""
    with unnamed_file(tmp_path / "new", ".spill-") as file:
        file.write(b"x")
        assert os.listdir(tmp_path / "new") == []
