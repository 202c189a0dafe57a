"""Debian's packages without installing them: downloaded and unpacked below the user's cache folder, once."""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

USELESS = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/include")
WRAPPER = """#!/bin/sh
here=${{0%/*}}/..
export LD_LIBRARY_PATH={libraries}
exec "$here/{program}" "$@"
"""
OWN_LOADER = """#!/bin/sh
here=${{0%/*}}/..
exec "$here/{loader}" --library-path {libraries} "$here/{program}" "$@"
"""
ARCHIVE = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SYSTEM_LIBRARY = re.compile(r"lib(c6|gcc|stdc\+\+|crypt1|llvm|perl|python)")
"""Libraries that every system has, or that the servers load for what no test does."""


class Unavailable(Exception):
    """The server cannot be had here; the text says why."""


def cache_folder() -> Path:
    """Where downloaded servers are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backupd-tests"


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """The cache folder; nobody else makes what goes by this name meanwhile."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield cache


@contextlib.contextmanager
def work_folder(cache: Path) -> Iterator[Path]:
    """A folder to make something in, next to where it will be."""
    work = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def publish(tree: Path, final: Path) -> Path:
    """Give a finished tree its name; everything without the mark is taken for unfinished."""
    (tree / ".complete").touch()
    tree.chmod(0o755)
    shutil.rmtree(final, ignore_errors=True)
    tree.rename(final)
    return final


@dataclass(frozen=True, slots=True)
class Apt:
    """The package tools, with the system's package lists or with lists of our own.

    Attributes:
        suite: of the lists of our own, one suite of Debian's, whatever this machine runs.
    """

    cwd: Path
    private: Path | None = None
    suite: str | None = None

    def run(self, tool: str, *words: str) -> str:
        """What a package tool says.

        Raises:
            Unavailable: it fails.
        """
        own = (
            []
            if self.private is None
            else ["-o", f"Dir::State::Lists={self.private}", "-o", f"Dir::Cache={self.private}"]
        )
        if self.private is not None and self.suite is not None:
            sources = self.private / "sources.list"
            sources.write_text(f"deb [signed-by={KEYRING}] {ARCHIVE} {self.suite} main\n")
            own += ["-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-"]
            own += ["-o", "Dir::State::Status=/dev/null"]
        root = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        command = [tool, "-q", "-o", "Debug::NoLocking=1", *root, *own, *words]
        env = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, cwd=self.cwd, env=env, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise Unavailable(f"{' '.join(words[:2])}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout


def with_libraries(*packages: str, leave: re.Pattern[str] = SYSTEM_LIBRARY) -> Callable[[Apt], list[str]]:
    """How to find packages and the libraries that they need, whether these are installed here or not."""

    def resolve(apt: Apt) -> list[str]:
        found, fresh = set(packages), set(packages)
        while fresh:
            said = apt.run("apt-cache", "depends", "--important", *sorted(fresh))
            needs = set(re.findall(r"^ [ |](?:Pre)?Depends: (lib[^\s:]+)", said, re.MULTILINE))
            fresh = {name for name in needs - found if not leave.match(name)}
            found |= fresh
        return sorted(found)

    return resolve


def _as_it_is(tree: Path) -> None:
    """Do nothing to an unpacked tree."""


def unpacked(
    name: str,
    main: str,
    resolve: Callable[[Apt], list[str]],
    finish: Callable[[Path], None] = _as_it_is,
    suite: str | None = None,
) -> Path:
    """The unpacked packages of a server; downloads them the first time.

    Args:
        name: what the folder is called, before the version.
        main: the package whose version the folder is called after.
        resolve: finds the packages to download.
        finish: what else is done to the unpacked tree.
        suite: the suite of Debian's that they come from; by default what this machine gets its packages from.

    Raises:
        Unavailable: they cannot be had here.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Unavailable(f"{name} comes from Debian's packages; there is no apt-get here")
    with locked(name) as cache:
        ready = sorted(path for path in cache.glob(f"{name}-*") if (path / ".complete").exists())
        if ready:
            return ready[-1]
        with work_folder(cache) as work:
            _download(work, resolve, suite)
            tree = work / "tree"
            for package in sorted(work.glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, tree], check=True, capture_output=True)
            for part in USELESS:
                shutil.rmtree(tree / part, ignore_errors=True)
            finish(tree)
            (file,) = work.glob(f"{main}_*.deb")
            version = file.name.split("_")[1].rpartition("%3a")[2]
            return publish(tree, cache / f"{name}-{version}")


def _download(work: Path, resolve: Callable[[Apt], list[str]], suite: str | None) -> None:
    try:
        if suite is not None:
            raise Unavailable(f"no package lists of {suite} yet")
        apt = Apt(work)
        apt.run("apt-get", "download", *resolve(apt))
    except Unavailable:
        # No package lists here, none that we may read, or old ones: get our own.
        private = work / "apt"
        (private / "partial").mkdir(parents=True)
        (private / "archives" / "partial").mkdir(parents=True)
        for package in work.glob("*.deb"):
            package.unlink()
        apt = Apt(work, private, suite)
        apt.run("apt-get", "update")
        apt.run("apt-get", "download", *resolve(apt))


def wrap_programs(tree: Path, programs: Sequence[str], libraries: Sequence[str]) -> None:
    """Make the folder `programs` in a tree: each starts one of its programs with the tree's own libraries."""
    folder = tree / "programs"
    folder.mkdir()
    path = ":".join(f"$here/{part}" for part in libraries)
    for program in programs:
        wrapper = folder / Path(program).name
        wrapper.write_text(WRAPPER.format(libraries=path, program=program))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def wrap_apart(tree: Path, programs: Sequence[str]) -> None:
    """The same for packages of another release: each runs with the C library and the loader that came with it."""
    folder = tree / "programs"
    folder.mkdir()
    (loader,) = [path for path in sorted(tree.glob("usr/lib/*-linux-gnu*/ld-linux-*.so.*")) if not path.is_symlink()]
    own = str(loader.parent.relative_to(tree))
    for program in programs:
        wrapper = folder / Path(program).name
        words = {"loader": loader.relative_to(tree), "libraries": f"$here/{own}", "program": program}
        wrapper.write_text(OWN_LOADER.format(**words))
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def library_folders(tree: Path) -> list[str]:
    """Where unpacked packages have their libraries, relative to the tree."""
    return [
        str(folder.relative_to(tree)) for part in ("usr/lib", "lib") for folder in tree.glob(f"{part}/*-linux-gnu*")
    ]
