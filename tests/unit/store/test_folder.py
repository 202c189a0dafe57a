"""What only a store in a folder has to get right: durability, links, permissions, crashes, strange files."""

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.store.base import (
    MAX_OBJECT_BYTES,
    ObjectExists,
    ObjectMissing,
    ShortRead,
    StoreMissing,
    StoreRefused,
    StoreUnavailable,
)
from backupd.store.files import Files
from backupd.store.folder import FolderStore
from backupd.store.folder_write import ALIGNED, BUFFER, LARGE
from tests.stores import NoLinks


class Recorder(Files):
    """Writes down which system calls were made, on which names."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _path(self, fd: int) -> str:
        return Path(f"/proc/self/fd/{fd}").readlink().name

    def open(self, name: str, flags: int, folder: int, mode: int = 0o600) -> int:
        self.calls.append("open draft")
        assert flags & os.O_EXCL
        return super().open(name, flags, folder, mode)

    def write(self, fd: int, data: memoryview) -> int:
        self.calls.append("write")
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        name = self._path(fd)
        self.calls.append("fsync draft" if name.endswith(".draft") else f"fsync {name}")
        super().fsync(fd)

    def link(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        self.calls.append(f"link {target}")
        super().link(source, source_folder, target, target_folder)

    def rename(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        self.calls.append(f"rename {target}")
        super().rename(source, source_folder, target, target_folder)

    def unlink(self, name: str, folder: int) -> None:
        self.calls.append("unlink draft" if name.endswith(".draft") else f"unlink {name}")
        super().unlink(name, folder)

    def mkdir(self, name: str, folder: int) -> None:
        self.calls.append(f"mkdir {name}")
        super().mkdir(name, folder)


class Failing(Files):
    """One kind of call fails with an error number; `after` that many good ones."""

    def __init__(self, verb: str, number: int, after: int = 0) -> None:
        self.verb, self.number, self.after = verb, number, after

    def _maybe(self, verb: str) -> None:
        if verb == self.verb:
            if self.after == 0:
                raise OSError(self.number, os.strerror(self.number))
            self.after -= 1

    def open(self, name: str, flags: int, folder: int, mode: int = 0o600) -> int:
        self._maybe("open")
        return super().open(name, flags, folder, mode)

    def write(self, fd: int, data: memoryview) -> int:
        self._maybe("write")
        return super().write(fd, data[:1000])

    def fsync(self, fd: int) -> None:
        self._maybe("fsync")
        super().fsync(fd)

    def link(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        self._maybe("link")
        super().link(source, source_folder, target, target_folder)

    def mkdir(self, name: str, folder: int) -> None:
        self._maybe("mkdir")
        super().mkdir(name, folder)


def everything(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name descriptors")


@needs_proc
def test_durability_order(tmp_path: Path) -> None:
    """Bytes are durable before they get a name, new folders and the name right after; only then put returns."""
    files = Recorder()
    store = FolderStore(tmp_path / "root", create=True, files=files)
    assert files.calls == ["mkdir root", f"fsync {tmp_path.name}"]
    files.calls.clear()
    store.put("packs/ab/1", b"x")
    assert files.calls == [
        "mkdir .tmp", "fsync root", "mkdir packs", "fsync root", "mkdir ab", "fsync packs",
        "open draft", "write", "fsync draft", "link 1", "unlink draft", "fsync ab",
    ]  # fmt: skip
    files.calls.clear()
    store.put("packs/ab/2", b"y", create_only=False)
    assert files.calls == ["open draft", "write", "fsync draft", "rename 2", "unlink draft", "fsync ab"]


@needs_proc
def test_folders_made_by_others_become_durable_too(tmp_path: Path) -> None:
    """A process syncs a folder's own name once, even if another process made the folder."""
    FolderStore(tmp_path / "root", create=True).put("packs/1", b"x")
    files = Recorder()
    store = FolderStore(tmp_path / "root", files=files)
    store.put("packs/2", b"x")
    assert files.calls[:2] == ["fsync root", "fsync root"]


@needs_proc
def test_a_refusal_is_durable(tmp_path: Path) -> None:
    """ObjectExists is told only after the existing name was made durable."""
    files = Recorder()
    store = FolderStore(tmp_path / "root", create=True, files=files)
    store.put("packs/1", b"x")
    files.calls.clear()
    with pytest.raises(ObjectExists):
        store.put("packs/1", b"y")
    assert files.calls == ["fsync packs"]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask."""
    for number, mask in enumerate((0o000, 0o777)):
        root = tmp_path / f"root{number}"
        before = os.umask(mask)
        try:
            FolderStore(root, create=True).put("packs/ab/1", b"x")
        finally:
            os.umask(before)
        for path in (root, root / ".tmp", root / "packs", root / "packs" / "ab"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((root / "packs/ab/1").stat().st_mode) == 0o600


@pytest.mark.parametrize("verb", ["open", "write", "fsync", "link", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG])
def test_a_failed_write_leaves_nothing(tmp_path: Path, verb: str, number: int) -> None:
    """A full, broken or read-only disk is StoreRefused with a hint; no object and no draft stays behind."""
    FolderStore(tmp_path / "root", create=True).put("packs/0", b"x")
    store = FolderStore(tmp_path / "root", files=Failing(verb, number))
    with pytest.raises(StoreRefused) as caught:
        store.put("index/1", bytes(5000))
    assert caught.value.hint
    assert caught.value.object_name == "index/1"
    assert everything(tmp_path / "root") == ["packs/0"]


@pytest.mark.parametrize("after", [1, 3])
def test_a_disk_that_fills_up_half_way(tmp_path: Path, after: int) -> None:
    """A write that fails after some bytes leaves nothing."""
    store = FolderStore(tmp_path / "root", create=True, files=Failing("write", errno.ENOSPC, after))
    with pytest.raises(StoreRefused, match="full"):
        store.put("packs/1", bytes(5000))
    assert everything(tmp_path / "root") == []


def test_short_writes_are_continued(tmp_path: Path) -> None:
    """A system call that takes fewer bytes is repeated for the rest."""
    store = FolderStore(tmp_path / "root", create=True, files=Failing("none", 0))
    data = os.urandom(5500)
    store.put("packs/1", data)
    assert store.get("packs/1") == data


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ESTALE])
def test_passing_trouble_is_to_try_again(tmp_path: Path, number: int) -> None:
    """Too many open files, or a network file system's hiccup, is StoreUnavailable."""
    store = FolderStore(tmp_path / "root", create=True, files=Failing("open", number))
    with pytest.raises(StoreUnavailable):
        store.put("packs/1", b"x")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS])
def test_file_systems_without_links(tmp_path: Path, number: int) -> None:
    """Where links are refused, create-only works all the same and leaves no claim."""
    store = FolderStore(tmp_path / "root", create=True, files=Failing("link", number))
    store.put("packs/1", b"x")
    with pytest.raises(ObjectExists):
        store.put("packs/1", b"y")
    assert everything(tmp_path / "root") == ["packs/1"]


def claims(root: Path) -> list[Path]:
    return list((root / ".tmp").glob("*.claim"))


class DyingAtRename(NoLinks):
    """The process is killed when it is about to rename; its claim stays."""

    def rename(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_writers_claim_is_broken_when_old(tmp_path: Path) -> None:
    """A claim left by a killed process is moved aside once it is ten minutes old."""
    root = tmp_path / "root"
    FolderStore(root, create=True)
    child = os.fork()
    if child == 0:
        FolderStore(root, files=DyingAtRename()).put("chain/1", b"never")
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    (claim,) = claims(root)
    store = FolderStore(root, files=NoLinks())
    assert list(store.list()) == []
    os.utime(claim, (time.time() - 700, time.time() - 700))
    store.put("chain/1", b"alive")
    assert store.get("chain/1") == b"alive"
    assert claims(root) == []


def test_a_live_writers_claim_is_respected(tmp_path: Path) -> None:
    """A fresh claim of another writer is waited for, and then told."""
    root = tmp_path / "root"
    FolderStore(root, create=True, files=NoLinks()).put("chain/0", b"x")
    store = FolderStore(root, files=HoldingClaims())
    with pytest.raises(StoreUnavailable, match="another writer"):
        store.put("chain/1", b"y")
    assert everything(root) == ["chain/0"]


class HoldingClaims(NoLinks):
    """Every claim is taken already by somebody else."""

    def open(self, name: str, flags: int, folder: int, mode: int = 0o600) -> int:
        if name.endswith(".claim"):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return super().open(name, flags, folder, mode)


class RepeatedLink(Files):
    """A network file system that repeats a link whose answer it lost."""

    def link(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        super().link(source, source_folder, target, target_folder)
        super().link(source, source_folder, target, target_folder)


def test_a_repeated_link_is_success(tmp_path: Path) -> None:
    """EEXIST for a name that leads to our own draft is the lost answer of our own link."""
    store = FolderStore(tmp_path / "root", create=True, files=RepeatedLink())
    store.put("packs/1", b"x")
    assert store.get("packs/1") == b"x"


def test_old_drafts_are_swept(tmp_path: Path) -> None:
    """Drafts older than a day by the file system's clock go at the next write; younger ones stay."""
    root = tmp_path / "root"
    FolderStore(root, create=True).put("packs/1", b"x")
    for name, age in (("old.draft", 90_000), ("young.draft", 80_000)):
        (root / ".tmp" / name).write_bytes(b"left")
        os.utime(root / ".tmp" / name, (time.time() - age, time.time() - age))
    FolderStore(root).put("packs/2", b"y")
    assert everything(root) == [".tmp/young.draft", "packs/1", "packs/2"]


class Direct(Files):
    """Tells how many bytes went past the cache; refuses it at the start, at a write, or cuts a write short."""

    def __init__(self, fault: str = "", number: int = errno.EINVAL) -> None:
        self.fault, self.number = fault, number
        self.direct, self.past, self.through = False, 0, 0

    def set_direct(self, fd: int, *, direct: bool) -> bool:
        if direct and self.fault == "switch":
            raise OSError(self.number, os.strerror(self.number))
        self.direct = direct
        return super().set_direct(fd, direct=direct)

    def write(self, fd: int, data: memoryview) -> int:
        if not self.direct:
            self.through += len(data)
            return super().write(fd, data)
        if self.fault == "write" and self.past:
            raise OSError(self.number, os.strerror(self.number))
        if self.fault == "short" and self.past:
            super().set_direct(fd, direct=False)
            done = super().write(fd, data[:1000])
        else:
            done = super().write(fd, data)
        self.past += done
        return done


_SIZES = (LARGE - 1, LARGE, LARGE + 1, BUFFER + ALIGNED, 3 * BUFFER - 1, 2 * BUFFER + ALIGNED + 1, 16 << 20)


@pytest.mark.parametrize("size", _SIZES)
def test_large_objects_go_past_the_cache(tmp_path: Path, size: int) -> None:
    """What comes back is what was written, whatever its length; only what is less than a block goes through the cache."""
    files = Direct()
    data = random.Random(size).randbytes(size)
    store = FolderStore(tmp_path / "root", create=True, files=files)
    store.put("packs/1", bytearray(data))
    assert store.get("packs/1") == data
    assert files.past == (size & -ALIGNED if size >= LARGE else 0)
    assert files.past + files.through == size
    assert not files.direct


@pytest.mark.parametrize("fault", ["switch", "write", "short"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_nothing_goes_past_the_cache(tmp_path: Path, fault: str, number: int) -> None:
    """A file system that refuses at once or in the middle gets the rest through the cache: the object is whole."""
    files = Direct(fault, number)
    data = random.Random(1).randbytes(3 * BUFFER + 5)
    store = FolderStore(tmp_path / "root", create=True, files=files)
    store.put("packs/1", data)
    assert store.get("packs/1") == data
    assert (files.past > 0) == (fault != "switch")
    assert files.past + files.through == len(data)


@pytest.mark.parametrize("fault", ["switch", "write"])
def test_other_faults_past_the_cache_are_told(tmp_path: Path, fault: str) -> None:
    """A full disk stays a full disk, and leaves no object and no draft."""
    root = tmp_path / "root"
    FolderStore(root, create=True).put("packs/0", b"x")
    with pytest.raises(StoreRefused, match="full"):
        FolderStore(root, files=Direct(fault, errno.ENOSPC)).put("packs/1", bytes(3 * BUFFER))
    assert everything(root) == ["packs/0"]


def test_threads_do_not_share_a_buffer(tmp_path: Path) -> None:
    """Many large objects at once, each with its own content."""
    store = FolderStore(tmp_path / "root", create=True)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: store.put(f"packs/{n}", bytes([n]) * (BUFFER + n)), range(24)))
    for n in range(24):
        assert store.get(f"packs/{n}") == bytes([n]) * (BUFFER + n)


def test_a_missing_root(tmp_path: Path) -> None:
    """A folder that is not there is StoreMissing on every verb, and is not made."""
    store = FolderStore(tmp_path / "nothing")
    for call in (
        lambda: store.put("a", b"x"),
        lambda: store.get("a"),
        lambda: store.delete("a"),
        lambda: list(store.list()),
        lambda: list(store.strangers()),
    ):
        with pytest.raises(StoreMissing):
            call()
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StoreMissing):
        FolderStore(tmp_path / "no" / "parent", create=True)


def test_strange_things_are_no_objects(tmp_path: Path) -> None:
    """A link, a pipe or a folder in an object's place is never read, never listed, never written through."""
    root = tmp_path / "root"
    store = FolderStore(root, create=True)
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    (root / "link").symlink_to(secret)
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(StoreRefused):
            store.get(name)
        with pytest.raises(StoreRefused):
            store.put(name, b"x")
        with pytest.raises(StoreRefused):
            store.put(name, b"x", create_only=False)
    assert list(store.list()) == []
    assert sorted(store.strangers()) == ["link", "pipe"]
    assert secret.read_bytes() == b"not yours"


def test_linked_folders_are_not_entered(tmp_path: Path) -> None:
    """A symbolic link in a folder's place leads nowhere: not for reading, writing, listing or deleting."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "1").write_bytes(b"outside")
    store = FolderStore(root, create=True)
    (root / "packs").symlink_to(outside)
    with pytest.raises(StoreRefused):
        store.get("packs/1")
    with pytest.raises(StoreRefused):
        store.put("packs/2", b"x")
    with pytest.raises(StoreRefused):
        store.delete("packs/1")
    assert list(store.list()) == []
    with pytest.raises(StoreRefused):
        list(store.list("packs/"))
    assert everything(outside) == ["1"]


def test_strangers_are_told_and_not_listed(tmp_path: Path) -> None:
    """Names outside the grammar are reported, shortened and printable; a strange folder once, without its content."""
    root = tmp_path / "root"
    store = FolderStore(root, create=True)
    store.put("packs/1", b"x")
    (root / "README.txt").write_bytes(b"")
    (root / "packs" / "evil\n\x1b[31m").write_bytes(b"")
    (root / "Lost+Found").mkdir()
    (root / "Lost+Found" / "x").write_bytes(b"")
    (root / ("Z" * 200)).write_bytes(b"")
    os.close(os.open(os.fsencode(root) + b"/\xff", os.O_CREAT | os.O_WRONLY))
    found = list(store.strangers())
    assert sorted(found) == sorted(
        ["Lost+Found/", "README.txt", "Z" * 100, "\\udcff", "packs/evil\\n\\x1b[31m"],
    )
    assert [info.name for info in store.list()] == ["packs/1"]


def test_listing_a_prefix_reads_only_its_folders(tmp_path: Path) -> None:
    """A listing below one folder does not even open its neighbours."""
    root = tmp_path / "root"
    store = FolderStore(root, create=True)
    store.put("packs/ab/1", b"x")
    store.put("other/1", b"x")
    (root / "other").rename(root / "elsewhere")
    (root / "other").symlink_to(root / "elsewhere")
    (root / "packs" / "ac").symlink_to(root)
    assert [info.name for info in store.list("packs/ab/")] == ["packs/ab/1"]
    assert [info.name for info in store.list("packs/ab")] == ["packs/ab/1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions(tmp_path: Path) -> None:
    """A folder without rights is StoreRefused with a hint."""
    root = tmp_path / "root"
    store = FolderStore(root, create=True)
    store.put("packs/1", b"x")
    (root / "packs").chmod(0)
    try:
        with pytest.raises(StoreRefused, match="permission"):
            store.get("packs/1")
    finally:
        (root / "packs").chmod(0o700)


def test_an_object_deleted_between_put_and_get(tmp_path: Path) -> None:
    """Someone else's deletion is ObjectMissing."""
    store = FolderStore(tmp_path / "root", create=True)
    store.put("packs/1", b"x")
    (tmp_path / "root" / "packs" / "1").unlink()
    with pytest.raises(ObjectMissing):
        store.get("packs/1")


WRITER = """
import sys
from backupd.store.folder import FolderStore
from backupd.store.folder_write import ALIGNED, BUFFER, LARGE
from tests.stores import NoLinks
store = FolderStore(sys.argv[1], files=NoLinks() if sys.argv[2] == "nolinks" else None)
print("ready", flush=True)
number = 0
while True:
    store.put(f"packs/{sys.argv[3]}-{number:06d}", bytes([number % 251]) * 300_000)
    number += 1
"""


@pytest.mark.parametrize("links", ["links", "nolinks"])
def test_a_killed_writer_leaves_no_torn_object(tmp_path: Path, links: str) -> None:
    """After kill -9 at any moment every listed object is whole, and the store goes on working."""
    root = tmp_path / "root"
    store = FolderStore(root, create=True)
    for attempt in range(4):
        command = [sys.executable, "-c", WRITER, str(root), links, str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(0.05 + 0.037 * attempt)
            child.kill()
    found = list(store.list())
    assert found
    for info in found:
        data = store.get(info.name)
        assert info.size == len(data) == 300_000
        assert len(set(data)) == 1
    store.put("packs/after", b"x")


def test_racing_processes_have_one_winner(tmp_path: Path) -> None:
    """Eight processes creating the same names, with and without links: each name is won once."""
    for kind, files in (("links", Files()), ("nolinks", NoLinks())):
        root = tmp_path / kind
        FolderStore(root, create=True)
        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                store, wins = FolderStore(root, files=files), 0
                for name in range(10):
                    try:
                        store.put(f"chain/{name}", b"%d" % number * 1000)
                        wins += 1
                    except ObjectExists:
                        continue
                    except BaseException:
                        os._exit(100)
                os._exit(wins)
            children.append(child)
        assert sum(os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children) == 10
        assert len({f.read_bytes()[:1] for f in (root / "chain").iterdir()}) >= 1
        assert all(f.stat().st_size == 1000 for f in (root / "chain").iterdir())


def test_a_file_that_claims_a_huge_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """A sparse file of 60 GB in an object's place, and a range longer than any object, are short reads at once."""
    store = FolderStore(tmp_path / "repo", create=True)
    store.put("packs/ab", b"x")
    path = tmp_path / "repo/packs/ab"
    os.truncate(path, 60_000_000_000)
    for length in (None, MAX_OBJECT_BYTES + 1):
        with pytest.raises(ShortRead):
            store.get("packs/ab", 0, length)
    assert store.get("packs/ab", 50_000_000_000, 3) == bytes(3)
    os.truncate(path, MAX_OBJECT_BYTES)
    assert len(store.get("packs/ab")) == MAX_OBJECT_BYTES
