"""Gets the peers, without installing anything: restic and the parts of borg come from Debian's archive and from PyPI.

Everything lands below the user's cache folder, once. A peer that cannot be had is a `Missing` with the reason, which the
table then shows; it never stops the benchmark.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESTIC_OLDEST = (0, 19)
BORG_OLDEST = (1, 4)
# Headers and libraries that borg is built with; the machine's own release, so that they fit its compiler and libc.
_BORG_NEEDS = [
    *("libacl1-dev", "libacl1", "libattr1-dev", "libattr1", "liblz4-dev", "liblz4-1", "libzstd-dev", "libzstd1"),
    *("libxxhash-dev", "libxxhash0", "libssl-dev", "libssl3"),
]
_ARCHIVE = "http://deb.debian.org/debian"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that is ready to run."""

    command: str
    version: str


@dataclass(frozen=True, slots=True)
class Missing:
    """A peer that could not be had, and why."""

    reason: str


class _NoLuck(Exception):
    pass


def cache_folder() -> Path:
    """Where peers and databases are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "backupd-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def restic() -> Peer | Missing:
    """restic of PATH if it is new enough, else from Debian unstable."""
    return _found("restic", ["version"], RESTIC_OLDEST, _fetch_restic)


def borg() -> Peer | Missing:
    """borg of PATH if it is new enough, else built from PyPI's source."""
    return _found("borg", ["--version"], BORG_OLDEST, _build_borg)


def zstd() -> Peer | Missing:
    """zstd of PATH."""

    def missing() -> str:
        raise _NoLuck("zstd is not installed (Debian: apt-get install zstd)")

    return _found("zstd", ["--version"], (1,), missing)


def _found(name: str, ask: Sequence[str], oldest: tuple[int, ...], get: Callable[[], str]) -> Peer | Missing:
    try:
        here = shutil.which(name)
        version = _version([here, *ask]) if here else ""
        if here and _numbers(version) >= oldest:
            return Peer(here, version)
        command = get()
        version = _version([command, *ask])
        if _numbers(version) < oldest:
            return Missing(f"{name} {version} is too old")
        return Peer(command, version)
    except _NoLuck as error:
        return Missing(str(error))
    except OSError as error:
        return Missing(f"{name}: {error}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split(".") if n.isdigit())


def _version(argv: Sequence[str]) -> str:
    match = re.search(r"\d+(\.\d+)+", _do(argv))
    return match[0] if match else ""


def _do(argv: Sequence[str], *, folder: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise _NoLuck(f"{Path(argv[0]).name} {argv[1]} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise _NoLuck(f"{program} is missing")


def _fetch_restic() -> str:
    home = cache_folder() / "restic"
    command = home / "usr/bin/restic"
    if command.exists():
        return str(command)
    _need("apt-get", "dpkg-deb")
    work = home / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (work / part).mkdir(parents=True, exist_ok=True)
    sources = work / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_ARCHIVE} sid main\n")
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    _do([*apt, "update"])
    _do([*apt, "download", "restic"], folder=work)
    _unpack(work, "restic_*.deb", home)
    shutil.rmtree(work)
    return str(command)


def _unpack(folder: Path, pattern: str, target: Path) -> None:
    found = sorted(folder.glob(pattern))
    if not found:
        raise _NoLuck(f"apt-get download brought no {pattern}")
    for package in found:
        _do(["dpkg-deb", "-x", str(package), str(target)])


def _build_borg() -> str:
    home = cache_folder() / "borg"
    command = home / "venv/bin/borg"
    if command.exists():
        return str(command)
    _need("apt-get", "dpkg-deb", "cc")
    shutil.rmtree(home, ignore_errors=True)
    packages = home / "packages"
    packages.mkdir(parents=True)
    _do(["apt-get", "-qq", "-oAPT::Sandbox::User=", "download", *_BORG_NEEDS], folder=packages)
    _unpack(packages, "*.deb", home / "system")
    usr = home / "system/usr"
    triplet = sorted(path.parent.name for path in usr.glob("lib/*/libzstd.so"))[0]
    # Debian keeps some libraries in /lib, which its packages ship apart from /usr/lib.
    libraries = [usr / "lib" / triplet, home / "system/lib" / triplet]
    paths = [f"-L{path}" for path in libraries] + [f"-Wl,-rpath,{path}" for path in libraries]
    env = {
        **os.environ,
        "CPATH": f"{usr / 'include'}:{usr / 'include' / triplet}",
        "LDFLAGS": " ".join(paths),
        **{f"BORG_{name}_PREFIX": str(usr) for name in ("LIBACL", "OPENSSL", "LIBLZ4", "LIBZSTD", "LIBXXHASH")},
    }
    _do([sys.executable, "-m", "venv", str(home / "venv")])
    _do([str(home / "venv/bin/pip"), "install", "-q", "--no-binary", "borgbackup", "borgbackup==1.4.*"], env=env)
    return str(command)
