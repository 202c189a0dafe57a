"""Export: plain files, whole or not there, the same as deploy/backupd-extract.py writes."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

import backupd.jobs.backup as describing
import backupd.jobs.export as exporting
from backupd.crypto.keyfile import Role
from backupd.errors import Failed, IntegrityError, SafetyRefused
from backupd.jobs.export import MANIFEST, ExportResult, export, file_name
from backupd.jobs.processes import shared
from backupd.report import Tally
from backupd.store.folder import FolderStore
from tests.cli.kit import CHINOOK
from tests.jobs_kit import Kit, damage_packs
from tests.table_engine import TableSource
from tests.unit.jobs.test_tables import rows, take

TABLES = {"customers": rows(20_000), "crm.wide": rows(30, 2, 90_000), "none": []}


def exported(kit: Kit, folder: Path, *, secrets: bool = False) -> ExportResult:
    repo = kit.repo(Role.READ, host="reader")
    return export(repo, repo.history().views[-1], folder, secrets=secrets, report=Tally())


def test_a_file_comes_out_as_it_was(tmp_path: Path) -> None:
    """A SQLite snapshot is one file, byte for byte, private, with a manifest beside it."""
    kit = Kit(tmp_path)
    kit.backup(CHINOOK)
    out = tmp_path / "out"
    result = exported(kit, out)
    assert result.files == ["main.db", MANIFEST]
    assert (out / "main.db").read_bytes() == CHINOOK.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o600}
    manifest: dict[str, Any] = json.loads((out / MANIFEST).read_text())
    assert manifest["engine"] == "sqlite"
    assert "top" not in manifest["structure"]["streams"][0]


def test_tables_come_out_as_numbered_files(tmp_path: Path) -> None:
    """Rows are in files named after their stream's position, schemas in files of their own names."""
    kit = Kit(tmp_path)
    take(kit, TableSource(TABLES, parts=2))
    out = tmp_path / "out"
    result = exported(kit, out)
    streams = json.loads((out / MANIFEST).read_text())["streams"]
    tables: dict[str, bytes] = {}
    for n, stream in enumerate(streams):
        if stream["kind"] == "rows":
            tables[stream["name"]] = tables.get(stream["name"], b"") + (out / f"rows/{n:04d}.tsv").read_bytes()
    assert tables == {name: b"".join(table) for name, table in TABLES.items()}
    assert (out / "after.sql").read_bytes() == b"select 'done';\n"
    assert sorted(result.files) == sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert (
        result.bytes == sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) - (out / MANIFEST).stat().st_size
    )


def test_rows_are_read_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are the same; a damaged pack is named, and leaves no file."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True))
    take(kit, TableSource(TABLES, parts=2))
    monkeypatch.setattr(exporting, "MANY_CHUNKS", 8)
    monkeypatch.setattr(exporting, "_TOGETHER", 40)
    monkeypatch.setattr(exporting, "usable", lambda: 2)  # whatever threads other tests have left
    used = []

    def noted(*args: Any, processes: int) -> Any:
        used.append(processes)
        return shared(*args, processes=processes)

    monkeypatch.setattr(exporting, "shared", noted)
    exported(kit, tmp_path / "out")
    assert set(used) == {2}
    assert sorted(p.read_bytes() for p in (tmp_path / "out" / "rows").iterdir()) == sorted(
        _parts(kit, tmp_path, monkeypatch)
    )
    damage_packs(tmp_path / "repository")
    with pytest.raises(IntegrityError, match="packs/"):
        exported(kit, tmp_path / "damaged")
    assert not list((tmp_path / "damaged").rglob("*.partial"))


def _parts(kit: Kit, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What one process writes."""
    with monkeypatch.context() as alone:
        alone.setattr(exporting, "usable", lambda: 1)
        exported(kit, folder / "alone")
    return [path.read_bytes() for path in (folder / "alone" / "rows").iterdir()]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    """Exporting into a folder that is not empty is refused; one that is empty or missing is used."""
    kit = Kit(tmp_path)
    kit.backup(CHINOOK)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("precious")
    with pytest.raises(SafetyRefused):
        exported(kit, full)
    assert [p.name for p in full.iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    exported(kit, tmp_path / "empty")
    with pytest.raises(Failed):
        exported(kit, full / "mine" / "deeper")


def test_damage_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    """A damaged pack ends the export with an integrity error; no file is there under its name unless it is whole."""
    kit = Kit(tmp_path)
    take(kit, TableSource({"t": rows(60_000)}))
    info = max(kit.store.list("packs/"), key=lambda i: i.size)
    data = bytearray(kit.store.get(info.name))
    data[len(data) // 2] ^= 1
    kit.store.delete(info.name)
    kit.store.put(info.name, bytes(data))
    with pytest.raises(IntegrityError):
        exported(kit, tmp_path / "out")
    left = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert "0001.tsv" not in left
    assert not any(name.endswith(".partial") for name in left)


def test_a_manifest_that_lies_about_how_many_rows_there_are_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are counted while they are written; the file that has others is not there."""
    kit = Kit(tmp_path)
    honest = describing._described

    def lying(*args: Any) -> dict[str, Any]:
        said = honest(*args)
        return said if said["rows"] is None else {**said, "rows": said["rows"] - 1}

    monkeypatch.setattr(describing, "_described", lying)
    take(kit, TableSource({"t": rows(100)}))
    out = tmp_path / "out"
    with pytest.raises(IntegrityError, match="stored rows of t are not the ones"):
        exported(kit, out)
    assert [path.name for path in (out / "rows").iterdir()] == []


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("rows", "../../etc/passwd", "rows/0007.tsv"),
        ("schema", "../../etc/passwd", "_._.._etc_passwd"),
        ("schema", "schema.sql", "schema.sql"),
        ("schema", ".bashrc", "_bashrc"),
        ("schema", "a\0b\nc", "a_b_c"),
        ("pages", "main", "main.db"),
        ("pages", "/x", "_x.db"),
    ],
)
def test_names_of_a_manifest_are_no_paths(kind: str, name: str, wanted: str) -> None:
    """Whatever a manifest calls a stream, its file stays in the folder."""
    assert file_name(7, {"kind": kind, "name": name}) == wanted
