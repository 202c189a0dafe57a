"""Restores an SQLite database file: written beside its target, checked by the engine, and only then given its name.

The bytes come from a snapshot, so they are treated as hostile: the check runs on an immutable, hardened connection that
cannot write, load anything, or look at files beside the copy. An existing database is never touched unless its name was
given a second time, and nothing is left behind when anything fails; only a killed process leaves its hidden folder.
"""

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw

from backupd.disk import DirectFile
from backupd.engines.base import CheckLevel, LoadResult, RuleOf, Taken
from backupd.engines.sqlite_open import LEFTOVERS, first_fault, harden
from backupd.engines.sqlite_takeout import take_out
from backupd.errors import IntegrityError, SafetyRefused, StorageRefused, Unreachable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP})
_FLUSH_BYTES = 64 * 1024 * 1024
_NAME_BYTES = 200


class _EarlyFlush:
    """Has what was written so far go to the disk in another thread, so that the flush at the end waits for little."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._waiting = 0
        self._flush: Future[None] | None = None

    def wrote(self, amount: int) -> None:
        """So many bytes more were written."""
        self._waiting += amount
        if self._waiting >= _FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self.check()
            self._waiting = 0
            self._flush = self._pool.submit(os.fsync, self._descriptor)

    def check(self) -> None:
        """Wait for a flush under way; raises what it met: a disk tells of a failed write once, and may tell it here."""
        if self._flush is not None:
            self._flush.result()

    def __enter__(self) -> "_EarlyFlush":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)


class SqliteTarget:
    """A file to restore an SQLite database to; the path is never read as a URI."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        self._overwrite: str | None = None

    def prepare(self, *, overwrite: str | None) -> None:
        """Refuse now what would be refused at the end.

        Args:
            overwrite: the file name of the target, exactly, if it may be replaced.

        Raises:
            SafetyRefused: the target exists, is no regular file, or has -wal, -shm or -journal files beside it.
            Unreachable: there is no such folder.
            StorageRefused: the folder cannot be written.
        """
        self._overwrite = overwrite
        folder = self._path.parent
        if not folder.is_dir():
            raise Unreachable(f"there is no folder {folder}", object_name=str(folder), hint="make the folder first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageRefused(
                f"the folder {folder} cannot be written", object_name=str(folder), hint="check its permissions"
            )
        self._refuse_existing()
        self._refuse_leftovers()

    def load(
        self,
        buffers: Iterable[bytes],
        *,
        size: int,
        facts: Mapping[str, object],
        check: CheckLevel,
        rule_of: RuleOf | None = None,
    ) -> LoadResult:
        """Write the file beside the target, check it, and give it its name.

        Args:
            buffers: the stream, in order.
            size: bytes that the stream has in all.
            facts: those of the capture.
            check: "quick" for quick_check, "full" for integrity_check, "none" for neither.
            rule_of: which rows must not come back; they are taken out before the check.

        Raises:
            IntegrityError: not `size` bytes, or the check failed.
            StorageRefused: no space, or the folder refuses.
            SafetyRefused: something has appeared under the target's name meanwhile.
        """
        self.prepare(overwrite=self._overwrite)
        self._agree(facts, size)
        self._require_space(size)
        with self._private_folder(size) as private:
            copy = private / "database"
            self._write(copy, buffers, size, keep=check != "none" and _fits_in_memory(size))
            taken = Taken(0) if rule_of is None else take_out(copy, rule_of)
            size = copy.stat().st_size
            started = time.monotonic()
            warnings = [] if check == "none" else _check(copy, self._path, full=check == "full")
            seconds = time.monotonic() - started
            with _storage_errors(self._path, size):
                warnings += self._publish(copy)
        with _storage_errors(self._path, size):
            _sync_folder(self._path.parent)
        return LoadResult(size, seconds, (*taken.warnings, *warnings), taken.rows)

    def _refuse_existing(self) -> os.stat_result | None:
        """The status of an existing target that may be replaced; None if there is none."""
        name = str(self._path)
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unreachable(f"{name!a} cannot be used ({type(error).__name__})", hint="check the path") from error
        if not stat.S_ISREG(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            raise SafetyRefused(f"{name} is {kind}", object_name=name, hint="name another target")
        if self._overwrite != self._path.name:
            raise SafetyRefused(
                f"{name} exists",
                object_name=name,
                hint=f"name another target, or repeat its name: --overwrite {self._path.name}",
            )
        return status

    def _refuse_leftovers(self) -> None:
        """SQLite would apply a -journal or a -wal of another database to the restored one."""
        for suffix in LEFTOVERS:
            leftover = self._path.with_name(self._path.name + suffix)
            if os.path.lexists(leftover):
                raise SafetyRefused(
                    f"{leftover} lies beside the target",
                    object_name=str(leftover),
                    hint="close the programs that use the database, then move that file away",
                )

    def _agree(self, facts: Mapping[str, object], size: int) -> None:
        page_size, page_count = facts.get("page_size"), facts.get("page_count")
        if isinstance(page_size, int) and isinstance(page_count, int) and page_size * page_count != size:
            raise IntegrityError(
                f"the snapshot's {page_count} pages of {page_size} bytes are not its {size} bytes",
                hint="verify the snapshot; restore another one",
            )

    def _require_space(self, size: int) -> None:
        with _storage_errors(self._path, size):
            status = os.statvfs(self._path.parent)
        free = status.f_bavail * status.f_frsize
        if free < size:
            raise StorageRefused(
                f"restoring {self._path} needs {size} bytes, {free} are free",
                object_name=str(self._path),
                hint="free some space, or restore to another file system",
            )

    @contextmanager
    def _private_folder(self, size: int) -> Iterator[Path]:
        """A hidden folder beside the target that only this user can enter; removed whatever happens."""
        label = os.fsencode(self._path.name)[:_NAME_BYTES].decode("utf-8", "ignore")
        with _storage_errors(self._path, size):
            folder = Path(tempfile.mkdtemp(prefix=f".{label}.backupd-", dir=self._path.parent))
        try:
            yield folder
        finally:
            with _storage_errors(self._path, size):
                shutil.rmtree(folder)

    def _write(self, copy: Path, buffers: Iterable[bytes], size: int, *, keep: bool) -> None:
        """Write and flush the copy; `keep`: through the page cache, because it will be read at once."""
        with _storage_errors(self._path, size):
            descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        written = 0
        try:
            with _storage_errors(self._path, size):
                file = DirectFile(descriptor, past=not keep)
            with _EarlyFlush(descriptor) as flush:
                for buffer in buffers:
                    written += len(buffer)
                    if written > size:
                        break
                    with _storage_errors(self._path, size):
                        file.write(buffer)
                        if not file.direct:
                            flush.wrote(len(buffer))
            if written == size:
                with _storage_errors(self._path, size):
                    file.finish()
                    flush.check()
                    os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if written != size:
            some = f"more than {size}" if written > size else f"{written} of {size}"
            raise IntegrityError(
                f"the snapshot's stream gave {some} bytes", hint="verify the snapshot; restore another one"
            )

    def _publish(self, copy: Path) -> list[str]:
        """Give the copy its name; returns what could not be kept of a replaced file."""
        replaced = self._refuse_existing()
        self._refuse_leftovers()
        if replaced is None:
            self._publish_new(copy)
            return []
        warnings = _keep_owner(copy, replaced)
        os.replace(copy, self._path)
        return warnings

    def _publish_new(self, copy: Path) -> None:
        """A hard link never replaces anything; where links are refused, a placeholder takes the name first."""
        try:
            try:
                os.link(copy, self._path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._publish_without_links(copy)
        except FileExistsError as error:
            raise SafetyRefused(
                f"{self._path} appeared during the restore", object_name=str(self._path), hint="name another target"
            ) from error

    def _publish_without_links(self, copy: Path) -> None:
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        try:
            os.replace(copy, self._path)
        except BaseException:
            self._path.unlink()
            raise


def _fits_in_memory(size: int) -> bool:
    return size <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _check(copy: Path, target: Path, *, full: bool) -> list[str]:
    """Let the engine check the copy; a check that needs a function of the application's own is only a warning.

    Raises:
        IntegrityError: the engine found a fault, or does not take the file for a database.
    """
    name = str(target)
    hint = "restore another snapshot, or this one as it is with --check none"
    try:
        with _immutable(copy) as connection:
            fault = first_fault(connection, full=full)
    except apsw.SQLError:
        return ["the restored database could not be checked: it needs a collation, function or module of its own"]
    except apsw.Error as error:
        raise IntegrityError(
            f"SQLite refuses the copy restored for {name} ({type(error).__name__})", object_name=name, hint=hint
        ) from error
    if fault is not None:
        check = "integrity_check" if full else "quick_check"
        raise IntegrityError(
            f"the copy restored for {name} fails SQLite's {check}: {fault}", object_name=name, hint=hint
        )
    return []


@contextmanager
def _immutable(path: Path) -> Iterator[apsw.Connection]:
    """A connection that takes no locks, makes no files and looks at no journal or WAL."""
    connection = apsw.Connection(
        f"file:{quote(os.fsencode(path))}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    )
    try:
        harden(connection)
        yield connection
    finally:
        connection.close(True)


def _keep_owner(copy: Path, replaced: os.stat_result) -> list[str]:
    """Give the copy the permissions and the owner of the file that it replaces."""
    warnings = []
    mine = copy.stat()
    if (mine.st_uid, mine.st_gid) != (replaced.st_uid, replaced.st_gid):
        try:
            os.chown(copy, replaced.st_uid, replaced.st_gid, follow_symlinks=False)
        except PermissionError:
            warnings.append("the replaced file's owner could not be kept: only root may give files away")
    copy.chmod(stat.S_IMODE(replaced.st_mode) & 0o777)
    return warnings


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors(path: Path, size: int) -> Iterator[None]:
    """Turn the system's refusals into StorageRefused."""
    name = str(path)
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageRefused(
                f"no space to restore {name}, which needs {size} bytes",
                object_name=name,
                hint="free some space, or restore to another file system",
            ) from error
        raise StorageRefused(
            f"{name} could not be written ({type(error).__name__})", object_name=name, hint="check the folder"
        ) from error
