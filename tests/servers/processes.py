"""Server processes for tests: unprivileged, on free loopback ports, and dead when the tests are."""

import contextlib
import ctypes
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def unprivileged() -> pwd.struct_passwd | None:
    """Whom servers run as: an unprivileged user where we are root, else ourselves (None)."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def give(owner: pwd.struct_passwd | None, *paths: Path) -> None:
    """Make files and folders, and what is in them, a user's own."""
    if owner is None:
        return
    for path in paths:
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def reachable(tree: Path, home: Path, owner: pwd.struct_passwd | None, parts: Sequence[str]) -> Path:
    """A place from which the unprivileged user can run a tree's programs: root's home is often closed to it."""
    if owner is None or all(folder.stat().st_mode & 0o001 for folder in (tree, *tree.parents)):
        return tree
    copy = home / "tree"

    def link_or_copy(source: str, target: str) -> str:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
        return target

    home.chmod(0o755)
    for part in parts:
        if (tree / part).exists():
            shutil.copytree(tree / part, copy / part, symlinks=True, copy_function=link_or_copy)
    return copy


def _identity(owner: pwd.struct_passwd | None) -> dict[str, object]:
    return {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _die_with_parent(by: signal.Signals) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(1, by)

    return ask


def run(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, owner: pwd.struct_passwd | None = None,
    text: str = "", seconds: float = 90,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a program to its end; it reads `text`."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, env=env, cwd=cwd, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds,
        check=False, **_identity(owner),  # type: ignore[call-overload]
    )  # fmt: skip
    return done


def spawn(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, out: Path, owner: pwd.struct_passwd | None,
    death: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a daemon. On Linux it gets the signal `death` when the thread ends that started it."""
    with out.open("ab") as log:
        daemon: subprocess.Popen[bytes] = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            preexec_fn=_die_with_parent(death), restore_signals=False,  # a file that is too long is no reason to die
            **_identity(owner),  # type: ignore[call-overload]
        )  # fmt: skip
    return daemon


@contextlib.contextmanager
def short_files(size: int) -> Iterator[None]:
    """Programs that are started meanwhile can write no file beyond `size` bytes: a full disk, for who may not mount one."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def wrapped(programs: Path, folder: Path, program: str, script: str) -> Path:
    """A folder with the same programs, of which one is a shell script that knows the real one as `$REAL`.

    What asks for its version gets the real one's.
    """
    folder.mkdir()
    for path in programs.iterdir():
        words = f'REAL={path}\ncase "$*" in *--version*) exec "$REAL" "$@";; esac\n'
        words += script if path.name == program else 'exec "$REAL" "$@"'
        (folder / path.name).write_text(f"#!/bin/sh\n{words}\n")
        (folder / path.name).chmod(0o755)
    return folder


def tail(log: Path, size: int = 500) -> str:
    """The end of a log."""
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace").strip()[-size:]
    return ""
