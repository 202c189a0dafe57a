"""deploy/backupd-extract.py reads repositories where backupd is not installed, and believes nothing unverified."""

import ast
import hashlib
import importlib.util
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import blake3
import pytest

from backupd.crypto.keyfile import Role, encode_key, write_key_file
from backupd.crypto.keyring import Keyring
from backupd.jobs.backup import BackupOptions, backup
from backupd.repo.format import pack_name, snapshot_name
from backupd.repo.ledger import Ledger
from backupd.repo.repository import Repository
from backupd.report import Tally
from backupd.store.folder import FolderStore
from tests.jobs_kit import PASSPHRASE, Kit, make_database, names, overwrite, pack_kinds
from tests.stores import utc_now
from tests.table_engine import TableSource
from tests.unit.jobs.test_chains import ChainWriter, versions
from tests.unit.jobs.test_nights import churn, churn_rows, make_customers
from tests.unit.jobs.test_tables import rows, take

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "deploy" / "backupd-extract.py"
ARCHIVE = ROOT / "tests" / "archives" / "v1"
LIBRARIES = ("blake3", "cryptography", "zstandard", "cffi", "pycparser")
MOST_LINES = 400
ALLOWED = {"blake3", "cryptography", "zstandard"}
START = """
import importlib.util, runpy, sys
sys.path.append(sys.argv[1])
for name in ("backupd", "backupctl", "click", "apsw", "numpy"):
    assert importlib.util.find_spec(name) is None, name + " can be imported"
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the few libraries that the script may use, and nothing else."""
    folder = tmp_path_factory.mktemp("libraries")
    site = Path(blake3.__file__).parents[1]
    for found in [site / name for name in LIBRARIES] + list(site.glob("_cffi_backend*")):
        if found.exists():
            (folder / found.name).symlink_to(found)
    return folder


@dataclass
class Rescue:
    """Runs the script in a process that cannot import backupd."""

    libraries: Path
    repository: Path
    keys: Path
    passphrase: bytes = PASSPHRASE
    out: Path = field(init=False)

    def __post_init__(self) -> None:
        self.out = self.keys.parent / "out"

    def run(self, *arguments: str, key: str = "read") -> subprocess.CompletedProcess[str]:
        (self.keys.parent / "passphrase").write_bytes(self.passphrase + b"\n")
        fixed = [str(self.repository), "--key", str(self.keys / f"{key}.key")]
        fixed += ["--passphrase-file", str(self.keys.parent / "passphrase")]
        command = [sys.executable, "-I", "-S", "-c", START, str(self.libraries), str(SCRIPT), *fixed, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env={})
        assert "Traceback" not in done.stderr
        return done

    def extract(self, snapshot: str, *more: str, key: str = "read") -> Path:
        """Extract to a fresh folder; it must succeed."""
        if self.out.exists():
            shutil.rmtree(self.out)
        done = self.run(snapshot, "--dir", str(self.out), *more, key=key)
        assert done.returncode == 0, done.stderr
        assert self.out.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in self.out.rglob("*") if path.is_file())
        return self.out

    def refuse(self, code: int, snapshot: str = "latest", *, key: str = "read") -> str:
        """Extract; it must end with that code, one line, and no file."""
        done = self.run(snapshot, "--dir", str(self.out), key=key)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert [path for path in self.out.rglob("*") if path.is_file()] == []
        return done.stderr


@dataclass
class Scene:
    """A kit in a folder, and the script that reads it."""

    kit: Kit
    rescue: Rescue


@pytest.fixture
def archive(libraries: Path, tmp_path: Path) -> Rescue:
    """The archive of version 1."""
    shutil.copytree(ARCHIVE / "repository", tmp_path / "repository")
    shutil.copytree(ARCHIVE / "keys", tmp_path / "keys")
    return Rescue(libraries, tmp_path / "repository", tmp_path / "keys")


@pytest.fixture
def scene(libraries: Path, tmp_path: Path) -> Scene:
    """A fresh repository in a folder."""
    kit = Kit(tmp_path, FolderStore(tmp_path / "repository", create=True), pack_bytes=300_000)
    (tmp_path / "keys").mkdir()
    for role, key in kit.keys.items():
        write_key_file(tmp_path / "keys" / f"{role}.key", encode_key(key.header, key.secrets, PASSPHRASE))
    return Scene(kit, Rescue(libraries, tmp_path / "repository", tmp_path / "keys"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module of this process."""
    spec = importlib.util.spec_from_file_location("backupd_extract", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def flip(kit: Kit, name: str, at: int) -> None:
    """Change one bit of an object."""
    data = bytearray(kit.store.get(name))
    data[at] ^= 1
    overwrite(kit.store, name, bytes(data))


def revoke(kit: Kit, seq: int, snapshot: str) -> None:
    """Revoke the writer's key; that snapshot is its last good one."""
    writers = tuple(replace(w, last_good=(seq, bytes.fromhex(snapshot))) for w in kit.trust.writers)
    kit.put_trust(replace(kit.trust, version=kit.trust.version + 1, writers=writers))


# ---- the script itself


def test_it_is_small_and_imports_little() -> None:
    """It is one file of bounded length that imports the standard library and four libraries only."""
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < MOST_LINES
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).split(".")[0])
    assert found - set(sys.stdlib_module_names) <= ALLOWED
    assert not {"importlib", "subprocess", "pickle"} & found
    assert "__import__" not in text


def test_every_codec(script: ModuleType) -> None:
    """The vectors of all codecs come out as they should; a damaged payload is an error."""
    for vector in json.loads((ROOT / "tests" / "vectors" / "codecs.json").read_text())["vectors"]:
        bases = [bytes.fromhex(base) for base in vector["bases"]]
        plain = out = bytes.fromhex(vector["payload"])
        if vector["codec"]:
            out = script.unzstd(plain, "it", 4 << 20, b"".join(bases) if vector["codec"] == 3 else None)
            for wrong in (plain[:-1], plain + b"\0", plain + plain, plain[:4]):
                with pytest.raises(script.Stop):
                    script.unzstd(wrong, "it", 4 << 20)
        if vector["codec"] == 2:
            with pytest.raises(script.Stop):
                script.apply_row_delta(out + b"\0", bases, "it")
            with pytest.raises(script.Stop):
                script.apply_row_delta(out, [*bases, b"more\n"], "it")
            out = script.apply_row_delta(out, bases, "it")
        assert out.hex() == vector["plain"], vector["name"]


@pytest.mark.parametrize(
    "text",
    [b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":' * 17 + b"1" + b"}" * 17],
)
def test_odd_json_is_refused(script: ModuleType, text: bytes) -> None:
    """What section 2 forbids is refused; brackets in texts do not count as depth."""
    with pytest.raises(script.Stop):
        script.parse_json(text, "it")
    assert script.parse_json(b'{"a":"' + b"[" * 40 + b'\\""}', "it") == {"a": "[" * 40 + '"'}


@pytest.mark.parametrize("arguments", [(), ("--list", "latest"), ("latest",), ("--list", "--dir", "x"), ("--dir", "x")])
def test_usage(archive: Rescue, arguments: Sequence[str]) -> None:
    """Anything but a list or an extraction is a usage error."""
    assert archive.run(*arguments).returncode == 2


# ---- what must work


@pytest.mark.parametrize("key", ["read", "recovery"])
def test_the_archive_comes_back(archive: Rescue, key: str) -> None:
    """Every snapshot of the archive - deltas, a checkpoint, two epochs - has the content that was recorded."""
    wanted: Mapping[str, str] = json.loads((ARCHIVE / "expected.json").read_text())["snapshots"]
    listed = archive.run("--list", key=key)
    assert listed.returncode == 0
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {snapshot[:16] for snapshot in wanted}
    for snapshot, digest in wanted.items():
        out = archive.extract(snapshot[:12], key=key)
        assert {path.name for path in out.iterdir()} == {"main.db", "manifest.json"}
        assert hashlib.sha256((out / "main.db").read_bytes()).hexdigest() == digest
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["engine"] == "sqlite"
        assert "top" not in manifest["structure"]["streams"][0]
        assert "content" not in manifest["streams"][0]


@pytest.mark.parametrize("bases", [1, 2])
def test_deltas(scene: Scene, tmp_path: Path, bases: int) -> None:
    """Chains of deltas on one or two bases come back; `latest` passes a checkpoint over."""
    writer = ChainWriter(scene.kit)
    made = {writer.store(data, bases=bases).id.hex(): data for data in versions(tmp_path, 3)}
    assert any(len(ref.bases) == bases for _, ref in writer.last)
    for snapshot, data in made.items():
        assert (scene.rescue.extract(snapshot) / "main.db").read_bytes() == data
    writer.store(b"other" * 20000, kind="checkpoint")
    assert (scene.rescue.extract("latest") / "main.db").read_bytes() == list(made.values())[-1]


def test_streams_of_rows(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go to files by their position, schemas by their names; the list of content nodes is passed over."""
    monkeypatch.setattr("backupd.jobs.capture.ROWS", 16)  # many chunks, so that there is such a list
    kit, table = scene.kit, [b"%d\t%d\n" % (n, n * n) for n in range(120_000)]
    key = kit.keys[Role.WRITE]
    repo = Repository.open(kit.store, Keyring((key,)), Ledger.load(kit.places("writer").state))
    source = TableSource({"a": table, "empty": []})
    options = BackupOptions("made-up", threads=2)
    backup(source, repo, key, folder=kit.places("writer"), clock=utc_now, options=options, report=Tally())
    out = scene.rescue.extract("latest")
    streams = json.loads((out / "manifest.json").read_text())["streams"]
    assert streams[-1]["kind"] == "content"
    found: dict[str, bytes] = {}
    for n, stream in enumerate(streams):
        if stream["kind"] == "rows":
            found[stream["name"]] = found.get(stream["name"], b"") + (out / "rows" / f"{n:04d}.tsv").read_bytes()
    assert found == {"a": b"".join(table), "empty": b""}
    assert (out / "schema.sql").read_bytes() == source.schema
    assert (out / "after.sql").read_bytes() == b"select 'done';\n"


# ---- what must not


def test_nights_that_runs_have_made(scene: Scene, tmp_path: Path) -> None:
    """Page deltas and row deltas as real runs store them, in chains and on joined neighbours, come back without backupd."""
    source = make_customers(tmp_path / "crm.db", 4000)
    table, noise = rows(9000), random.Random(6)
    kept = {}
    for night in range(5):
        churn(source, night)
        table = churn_rows(table, noise)
        kept[scene.kit.backup(source).snapshot] = source.read_bytes()
        last = take(scene.kit, TableSource({"t": table}))
        assert night == 0 or last.chunks["delta"]
    for snapshot, content in kept.items():
        assert (scene.rescue.extract(snapshot) / "main.db").read_bytes() == content
    out = scene.rescue.extract(last.snapshot)
    assert b"".join(table) in [path.read_bytes() for path in out.rglob("*") if path.is_file()]


def test_a_wrong_passphrase_or_key(archive: Rescue) -> None:
    """A wrong passphrase, a key of another role and a damaged key file end with 12."""
    assert "does not open" in replace(archive, passphrase=b"wrong").refuse(12)
    assert "read.key or recovery.key" in archive.refuse(12, key="check")
    text = (archive.keys / "read.key").read_text()
    (archive.keys / "read.key").write_text(text.replace("trust: 1", "trust: 2"))
    assert "does not open" in archive.refuse(12)
    (archive.keys / "read.key").write_text(text.replace("m=8192", "m=9999999"))
    archive.refuse(12)
    (archive.keys / "read.key").write_text("nothing\n")
    archive.refuse(12)
    archive.refuse(12, key="lost")


def test_a_key_of_another_repository(scene: Scene) -> None:
    """A key that pins another repository is the wrong one."""
    shutil.copy(ARCHIVE / "keys" / "read.key", scene.rescue.keys / "read.key")
    assert "of this repository" in scene.rescue.refuse(12)


@pytest.mark.parametrize("kind", ["data", "lists"])
def test_a_damaged_pack(scene: Scene, tmp_path: Path, kind: str) -> None:
    """One flipped bit in the middle of what is read, or in a pack's envelope, ends with 4 and leaves no file."""
    done = scene.kit.backup(make_database(tmp_path / "a.db", chunks=120))
    data, lists = pack_kinds(scene.kit, done.snapshot)
    name = (data if kind == "data" else lists)[0]
    at = len(scene.kit.store.get(name)) // 2 if kind == "data" else 3000
    flip(scene.kit, name, at)
    assert name in scene.rescue.refuse(4)
    flip(scene.kit, name, at)
    scene.rescue.extract("latest")
    shutil.rmtree(scene.rescue.out)
    flip(scene.kit, name, 200 if kind == "data" else 60)
    assert name in scene.rescue.refuse(4)


def test_a_missing_pack(scene: Scene, tmp_path: Path) -> None:
    """A pack that is gone is named."""
    done = scene.kit.backup(make_database(tmp_path / "a.db", chunks=40))
    name = pack_kinds(scene.kit, done.snapshot)[0][-1]
    scene.kit.store.delete(name)
    assert f"{name} is missing" in scene.rescue.refuse(4)


def test_a_missing_base(scene: Scene, tmp_path: Path) -> None:
    """So is the pack of a base."""
    writer = ChainWriter(scene.kit)
    for data in versions(tmp_path, 1):
        writer.store(data)
    gone = {pack_name(ref.pack) for _, ref in writer.last for ref in ref.bases}
    for name in gone:
        scene.kit.store.delete(name)
    assert any(name in scene.rescue.refuse(4) for name in gone)


def test_a_stream_that_is_not_what_its_digest_says(scene: Scene, tmp_path: Path) -> None:
    """The digest of the whole stream is compared before the file gets its name."""
    ChainWriter(scene.kit).store(versions(tmp_path, 0)[0], digest="0" * 64)
    assert "not what was captured" in scene.rescue.refuse(4)


@pytest.mark.parametrize("at", [-1, -70, -100, 10, 40, 3000])
def test_a_forged_snapshot(scene: Scene, tmp_path: Path, at: int) -> None:
    """A snapshot with any bit flipped is not read, and an older one is never given in its place."""
    source = make_database(tmp_path / "a.db")
    old, new = scene.kit.backup(source), scene.kit.backup(source)
    flip(scene.kit, max(names(scene.kit.store, "snapshots/")), at)
    for text in ("latest", new.snapshot[:12]):
        assert snapshot_name(scene.kit.writer, 2) in scene.rescue.refuse(4, text)
    assert scene.rescue.run("--list").returncode == 4
    scene.rescue.extract(old.snapshot)


def test_a_snapshot_at_another_place(scene: Scene, tmp_path: Path) -> None:
    """A copy under another number does not verify."""
    scene.kit.backup(make_database(tmp_path / "a.db"))
    (name,) = names(scene.kit.store, "snapshots/")
    scene.kit.store.put(name[:-1] + "2", scene.kit.store.get(name))
    assert "not signed by a writer" in scene.rescue.refuse(4)


def test_a_revoked_writer(scene: Scene, tmp_path: Path) -> None:
    """Of a revoked writer only the last good snapshot and what it leads back to is read; a lying number revokes all."""
    source = make_database(tmp_path / "a.db")
    made = [scene.kit.backup(source).snapshot for _ in range(3)]
    revoke(scene.kit, 2, made[1])
    assert "revoked" in scene.rescue.refuse(4, made[2])
    listed = scene.rescue.run("--list")
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 2)
    scene.rescue.extract(made[0])
    assert json.loads((scene.rescue.extract("latest") / "manifest.json").read_text())["structure"]["seq"] == 2
    shutil.rmtree(scene.rescue.out)
    revoke(scene.kit, 3, made[1])
    assert "revoked" in scene.rescue.refuse(4, made[0])


def test_a_writer_that_trust_does_not_name(scene: Scene, tmp_path: Path) -> None:
    """A snapshot by a writer whom the newest trust document does not name is not read."""
    before, stranger = scene.kit.trust, scene.kit.add_writer()
    done = scene.kit.backup(make_database(tmp_path / "a.db"), key=stranger, host="second")
    scene.rescue.extract(done.snapshot)
    shutil.rmtree(scene.rescue.out)
    scene.kit.put_trust(replace(before, version=3))
    assert "not signed by a writer" in scene.rescue.refuse(4, done.snapshot)


def _remove_first(kit: Kit) -> None:
    kit.store.delete("trust/000000000001")


def _remove_middle(kit: Kit) -> None:
    kit.store.delete("trust/000000000002")


def _flip_signature(kit: Kit) -> None:
    flip(kit, "trust/000000000003", -1)


def _flip_document(kit: Kit) -> None:
    flip(kit, "trust/000000000002", 60)


def _roll_back(kit: Kit) -> None:
    for n in (2, 3):
        kit.store.delete(f"trust/{n:012d}")


@pytest.mark.parametrize("spoil", [_remove_first, _remove_middle, _flip_signature, _flip_document, _roll_back])
def test_spoiled_trust(scene: Scene, tmp_path: Path, spoil: Callable[[Kit], None]) -> None:
    """A gap, a forged document, or fewer documents than a snapshot was made under, end with 4."""
    for version in (2, 3):
        scene.kit.put_trust(replace(scene.kit.trust, version=version))
    scene.kit.backup(make_database(tmp_path / "a.db"))
    spoil(scene.kit)
    assert "trust" in scene.rescue.refuse(4)


def test_another_root_than_the_pinned_one(scene: Scene, tmp_path: Path) -> None:
    """A repository whose trust has another root than the key file pins is refused, whatever else fits."""
    scene.kit.backup(make_database(tmp_path / "a.db"))
    key = scene.kit.keys[Role.READ]
    header = replace(key.header, pin=replace(key.header.pin, root=bytes(32)))
    (scene.rescue.keys / "read.key").unlink()
    write_key_file(scene.rescue.keys / "read.key", encode_key(header, key.secrets, PASSPHRASE))
    assert "another root" in scene.rescue.refuse(4)


def test_the_folder_must_be_empty(archive: Rescue) -> None:
    """A folder with something in it, or a file, is refused and left as it is; an empty folder is used."""
    archive.out.mkdir()
    (archive.out / "mine").write_text("x")
    done = archive.run("latest", "--dir", str(archive.out))
    assert (done.returncode, [path.name for path in archive.out.iterdir()]) == (20, ["mine"])
    assert archive.run("latest", "--dir", str(archive.out / "mine")).returncode == 20
    (archive.out / "mine").unlink()
    assert archive.run("latest", "--dir", str(archive.out)).returncode == 0


def test_no_repository_and_no_such_snapshot(archive: Rescue) -> None:
    """What is not there is said in one line."""
    assert "no snapshot" in archive.refuse(1, "feedfacefeed")
    assert "no snapshot" in archive.refuse(2, "xyz")
    archive.repository = archive.keys
    assert "no backupd repository" in archive.refuse(1)


# ---- files and their names


@dataclass
class MadeUp:
    """What `extract` asks of a snapshot."""

    streams: list[dict[str, object]]
    broken: int | None = None
    structure: dict[str, object] = field(default_factory=lambda: {"seq": 1, "streams": [{"top": "x", "bytes": 1}]})

    def content(self) -> dict[str, object]:
        return {"engine": "postgresql", "streams": [{"content": None, **stream} for stream in self.streams]}

    def stream(self, n: int, described: Mapping[str, object]) -> Iterator[bytes]:
        yield b"begun\n"
        if n == self.broken:
            raise OSError("the disk is full")


def _stream(kind: str, name: str, **more: object) -> dict[str, object]:
    return {"kind": kind, "name": name, **more}


def test_names_of_files(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names cannot leave the folder or hide, secrets stay out unless asked for, and people are told how to go on."""
    streams = [
        _stream("schema", "../ä b"),
        _stream("rows", "../t"),
        _stream("pages", ".hidden"),
        _stream("schema", "globals.sql", secret=True),
        _stream("schema", "load.sql"),
        _stream("content", ""),
    ]
    for secrets, more in ((False, set[str]()), (True, {"globals.sql"})):
        out = tmp_path / str(secrets)
        script.extract(MadeUp(streams), out, secrets=secrets)
        found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert found == {"_.___b", "rows/0001.tsv", "_hidden.db", "load.sql", "manifest.json"} | more
        assert "pg_restore --section=post-data" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "True" / "manifest.json").read_text())
    assert manifest["structure"] == {"seq": 1, "streams": [{"bytes": 1}]}
    assert all("content" not in stream for stream in manifest["streams"])


@pytest.mark.parametrize("name", ["", "a_b", "rows", "manifest.json"])
def test_names_that_collide(script: ModuleType, tmp_path: Path, name: str) -> None:
    """Two streams of one name, or one of a name that is taken, are an error before anything is written."""
    with pytest.raises(script.Stop):
        script.extract(MadeUp([_stream("schema", "a b"), _stream("schema", name)]), tmp_path / "out", secrets=False)
    assert not (tmp_path / "out").exists()


def test_a_broken_stream_leaves_no_file_of_its_own(script: ModuleType, tmp_path: Path) -> None:
    """Files that were whole before stay; the one that broke is not there under any name, and there is no manifest."""
    streams = [_stream("schema", "first"), _stream("schema", "second")]
    with pytest.raises(OSError, match="disk is full"):
        script.extract(MadeUp(streams, broken=1), tmp_path / "out", secrets=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
