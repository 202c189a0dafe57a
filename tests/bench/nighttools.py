"""Each tool's way through the nights: the same tools as elsewhere, and those that are fed from a pipe."""

import json
import shlex
import shutil
import sys
from pathlib import Path

from tests.bench.measure import Usage
from tests.bench.serverside import SOURCE
from tests.bench.subjects import ServerDump, SqliteFile, Subject
from tests.bench.tools import Backupctl, Borg, Restic, Tool


class Runner:
    """One column of the table: a tool, what it is fed with, how it restores and prunes."""

    def __init__(self, title: str, tool: Tool, subject: Subject) -> None:
        self.title, self.tool, self.subject = title, tool, subject

    def fresh(self) -> None:
        """An empty repository; not measured."""
        self.tool.fresh()

    def night(self) -> Usage:
        """Back tonight's state up."""
        assert isinstance(self.subject, SqliteFile)
        return self.tool.snapshot(self.subject.path)

    def restore(self, snapshot: str = "latest") -> tuple[Usage, Path]:
        """Bring a night back to a file or folder."""
        assert isinstance(self.subject, SqliteFile)
        return self.tool.restore(self.subject.path)

    def prune(self) -> Usage:
        """Forget all but the last night, and give the space back."""
        tool = self.tool
        if isinstance(tool, Restic):
            return tool.run(tool.command, "forget", "--quiet", "--keep-last", "1", "--prune", "--group-by", "")
        if isinstance(tool, Borg):
            words = [tool.command, "prune", "--keep-last", "1"]
            return tool.run("bash", "-c", f"{shlex.join(words)} && {shlex.quote(tool.command)} compact")
        assert isinstance(tool, Backupctl)
        words = [tool.command, "prune", "--keep-last", "1", "--json", "--key", tool.key("prune")]
        # the second prune finds the wait over: in a folder, the time of the mark is that of its file
        older = "touch -d '-26 hours' " + shlex.quote(str(tool.repository / "gc")) + "/*.mark"
        return tool.run("bash", "-c", f"{shlex.join(words)} && {older} && {shlex.join(words)}")

    @property
    def repository(self) -> Path:
        """Where it stores."""
        return self.tool.repository


class OursFile(Runner):
    """backupctl on a SQLite file."""

    tool: Backupctl

    def restore(self, snapshot: str = "latest") -> tuple[Usage, Path]:
        """Without SQLite's check, as the peers."""
        tool = self.tool
        tool.empty_target()
        words = [
            "restore",
            snapshot,
            str(tool.target / "out.db"),
            "--json",
            "--check",
            "none",
            "--key",
            tool.key("read"),
        ]
        return tool.run(tool.command, *words), tool.target / "out.db"


class OursServer(Runner):
    """backupctl on a server (`live`), or on the same rows from files, so that the server's work is not in it."""

    tool: Backupctl

    def __init__(self, title: str, tool: Backupctl, subject: ServerDump, *, live: bool) -> None:
        super().__init__(title, tool, subject)
        self._dump, self._live = subject, live

    def night(self) -> Usage:
        """The whole process."""
        tool, site = self.tool, self._dump.site
        words = ["run", "--json", "--key", tool.key("write"), "--name", "nights"]
        if not self._live:
            replay = str(Path(__file__).with_name("replay.py"))
            return tool.run(
                sys.executable, replay, str(self._dump.files), *words, "--source", "postgresql://files/files"
            )
        password = ["--password-file", str(site.password_file)] if site.password_file else []
        more = ["--source", site.url(SOURCE), "--tools", str(site.bin), *password]
        return tool.run(tool.command, *words, *more)

    def restore(self, snapshot: str = "latest") -> tuple[Usage, Path]:
        """To files, as the peers: what a load into a server costs is the server's work."""
        tool = self.tool
        shutil.rmtree(tool.target, ignore_errors=True)
        words = ["export", snapshot, "--dir", str(tool.target), "--key", tool.key("read"), "--json"]
        return tool.run(tool.command, *words), tool.target


class Piped(Runner):
    """A peer that is fed a dump through a pipe, as it is or through zstd."""

    def __init__(self, title: str, tool: Restic | Borg, subject: ServerDump, zstd: str | None) -> None:
        super().__init__(title, tool, subject)
        self._dump, self._zstd = subject, zstd

    def _pipe(self, *commands: str) -> Usage:
        return self.tool.run("bash", "-o", "pipefail", "-c", " | ".join(commands))

    def night(self) -> Usage:
        """The dump is in the page cache; what wrote it is not measured."""
        dump = shlex.quote(str(self._dump.dump))
        feed = f"{self._zstd} -3 -q -c {dump}" if self._zstd else f"cat {dump}"
        tool = self.tool
        if isinstance(tool, Borg):
            tool.count += 1
            level = "none" if self._zstd else "zstd,3"
            words = [tool.command, "create", "--compression", level, "--stdin-name", "dump", f"::a{tool.count}", "-"]
            return self._pipe(feed, shlex.join(words))
        assert isinstance(tool, Restic)
        return self._pipe(feed, shlex.join([tool.command, "backup", "--quiet", "--stdin", "--stdin-filename", "dump"]))

    def restore(self, snapshot: str = "latest") -> tuple[Usage, Path]:
        """To a file that can be loaded."""
        tool = self.tool
        tool.empty_target()
        out = tool.target / "dump.sql"
        assert isinstance(tool, Restic | Borg)
        borg = isinstance(tool, Borg)
        words = ["extract", "--stdout", f"::a{tool.count}"] if borg else ["dump", "latest", "dump"]
        commands = [shlex.join([tool.command, *words])]
        commands += [f"{self._zstd} -q -dc"] if self._zstd else []
        commands[-1] += f" > {shlex.quote(str(out))}"
        return self._pipe(*commands), out


def runners(subject: Subject, work: Path, found: dict[str, tuple[str, str]]) -> list[Runner]:
    """The columns of a subject.

    Args:
        subject: what is backed up.
        work: where repositories go.
        found: command and version of restic, borg and zstd, as far as they can be had.
    """
    columns: list[Runner] = []
    if isinstance(subject, SqliteFile):
        columns.append(OursFile("backupctl", Backupctl(work / "ours"), subject))
        for make, name in ((Restic, "restic"), (Borg, "borg")):
            if name in found:
                columns.append(Runner(f"{name} {found[name][1]}", make(work / name, *found[name]), subject))
        return columns
    assert isinstance(subject, ServerDump)
    columns.append(OursServer("backupctl, server", Backupctl(work / "live"), subject, live=True))
    columns.append(OursServer("backupctl, files", Backupctl(work / "files-tool"), subject, live=False))
    for make, name in ((Restic, "restic"), (Borg, "borg")):
        if name in found:
            columns.append(Piped(f"dump | {name}", make(work / f"{name}-dump", *found[name]), subject, None))
            if "zstd" in found:
                zstd = found["zstd"][0]
                columns.append(Piped(f"dump | zstd | {name}", make(work / f"{name}-zst", *found[name]), subject, zstd))
    return columns


def told(used: Usage) -> dict[str, object]:
    """What a command said as JSON, if it did."""
    try:
        document = json.loads(used.output)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
