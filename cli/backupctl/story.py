"""The demo's story. Each step is the command that a user would type, run as a process of its own."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupctl import output
from backupctl.options import Settings
from backupd.errors import Failed, SafetyRefused

MARKER = ".backupd-demo"
_MARK = b"made by `backupctl demo`; the next demo deletes this folder\n"
_LOST = (1000, 1249)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that is not a demo's.

    Raises:
        SafetyRefused: it is no folder, or holds something that no demo made.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise SafetyRefused(
            f"{folder} is no folder", object_name=str(folder), hint="name another one: backupctl demo DIR"
        )
    if folder.exists() and any(folder.iterdir()) and not _is_marked(folder):
        raise SafetyRefused(
            f"{folder} holds something that no demo made",
            object_name=str(folder),
            hint="name another one: backupctl demo DIR",
        )


def _is_marked(folder: Path) -> bool:
    """Whether the marker is a regular file, no link, and says exactly what a demo writes."""
    try:
        fd = os.open(folder / MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(_MARK) + 1) == _MARK
    finally:
        os.close(fd)


def _prepare(folder: Path) -> None:
    """Make the folder anew if it is a demo's."""
    if folder.exists() and any(folder.iterdir()):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / MARKER).write_bytes(_MARK)


@dataclass(slots=True)
class Story:
    """One telling: runs commands, prints what they mean, keeps the numbers."""

    settings: Settings
    folder: Path
    numbers: dict[str, Any] = field(default_factory=dict)
    chapters: int = 0

    def chapter(self, text: str) -> None:
        """The next chapter begins."""
        self.chapters += 1
        self.tell(f"{self.chapters}. {text}")

    def tell(self, text: str = "") -> None:
        """A line of the story."""
        if not self.settings.json and not self.settings.quiet:
            output.say(text)
            sys.stdout.flush()

    def environment(self) -> dict[str, str]:
        """The demo's own: nothing of the user's settings, everything in its folder."""
        drop = {name for name in os.environ if name.startswith(("BACKUPCTL_", "BACKUPD_"))}
        kept = {name: value for name, value in os.environ.items() if name not in drop}
        return kept | {
            "BACKUPCTL_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }

    def backupctl(self, *arguments: str, fails: bool = False) -> dict[str, Any]:
        """Run a command as the user would; returns its JSON document."""
        self.tell(f"  $ backupctl {' '.join(arguments)}")
        done = subprocess.run(
            [sys.executable, "-m", "backupctl", *arguments, "--json"],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if (done.returncode == 0) == fails or not done.stdout:
            raise Failed(
                f"the demo's step `backupctl {arguments[0]}` ended with {done.returncode}: {done.stderr.strip()}"
            )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def telecom(self, *arguments: str) -> str:
        """Run the customer database's own program."""
        program = [sys.executable, "-m", "backupctl.telecom", *arguments]
        done = subprocess.run(program, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"the demo's database could not be written: {done.stderr.strip().splitlines()[-1:]}")
        return done.stdout

    def rows(self, name: str) -> dict[str, int]:
        """Rows of each table of a database."""
        counted: dict[str, int] = json.loads(self.telecom("count", name))
        return counted


def tell_story(settings: Settings, folder: Path, customers: int) -> None:
    """Tell it from the beginning to the end; about half a minute."""
    from backupctl.story_daemon import tell_nights
    from backupctl.story_recovery import tell_recovery

    _refuse_foreign(folder)
    if settings.dry_run:
        if settings.json:
            output.document("demo", {"folder": str(folder), "customers": customers, "dry_run": True})
        else:
            output.note(f"would make {folder} with a made-up customer database, a repository and keys")
        return
    began = time.monotonic()
    _prepare(folder)
    story = Story(settings, folder)
    _make(story, customers)
    _snapshot(story)
    tell_recovery(story, customers // 2)
    _second(story)
    _accident(story)
    _restore(story)
    _verify(story)
    _drill(story)
    tell_nights(story)
    story.numbers["seconds"] = round(time.monotonic() - began, 1)
    if settings.json:
        output.document("demo", story.numbers)
        return
    _farewell(story)


def _make(story: Story, customers: int) -> None:
    began = time.monotonic()
    story.chapter(f"A telecom company's customer database ({customers:,} customers), made up.")
    story.telecom("make", "telecom.db", str(customers))
    size = (story.folder / "telecom.db").stat().st_size
    story.tell(f"     telecom.db: {output.size(size)}, made in {time.monotonic() - began:.1f} s")
    story.tell()
    story.chapter("A repository, and six keys: one file for each right.")
    (story.folder / "passphrase").write_text("demo only: choose your own\n")
    made = story.backupctl("init", "repository", "--keys", "keys")
    story.tell(f"     fingerprint {made['fingerprint'][:16]}...; the write key backs up and can read nothing back")
    story.tell()
    story.numbers |= {"folder": str(story.folder), "database_bytes": size, "fingerprint": made["fingerprint"]}


def _run(story: Story) -> dict[str, Any]:
    return story.backupctl("run", "--source", "telecom.db", "--repository", "repository", "--key", "keys/write.key")


def _tell_run(story: Story, run: dict[str, Any]) -> None:
    story.tell(
        f"     snapshot {run['snapshot'][:12]}: {run['rows']:,} rows, read {output.size(run['read_bytes'])}, stored "
        f"{output.size(run['stored_bytes'])} encrypted, in {run['seconds']:.1f} s"
    )


def _snapshot(story: Story) -> None:
    story.chapter("A snapshot, while the billing system keeps writing.")
    writer = subprocess.Popen(
        [sys.executable, "-m", "backupctl.telecom", "write", "telecom.db", "3"],
        cwd=story.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.3)
    first = _run(story)
    written = int(writer.communicate()[0] or 0)
    _tell_run(story, first)
    story.tell(f"     the writer committed {written:,} transactions meanwhile; it was never locked out")
    story.tell()
    story.numbers |= {"first": first, "written_meanwhile": written}


def _second(story: Story) -> None:
    story.chapter("A second snapshot: what is known is not stored again.")
    second = _run(story)
    _tell_run(story, second)
    chunks = second["chunks"]
    story.tell(f"     {chunks['reused']:,} of {chunks['total']:,} chunks were known already")
    story.tell()
    story.numbers["second"] = second


def _accident(story: Story) -> None:
    story.numbers["before"] = story.rows("telecom.db")
    story.chapter(f"The accident: somebody deletes customers {_LOST[0]} to {_LOST[1]}, with all that is theirs.")
    story.telecom("delete", "telecom.db", *(str(n) for n in _LOST))
    story.numbers["after"] = story.rows("telecom.db")
    story.tell()


def _restore(story: Story) -> None:
    story.chapter("Back again, into a new file, with the read key.")
    done = story.backupctl("restore", "latest", "restored.db", "--repository", "repository", "--key", "keys/read.key")
    story.numbers["restore"] = done
    restored = story.numbers["restored"] = story.rows("restored.db")
    before, after = story.numbers["before"], story.numbers["after"]
    story.tell(
        f"     {output.size(done['bytes'])} in {done['seconds']:.1f} s (SQLite's own check: {done['check_seconds']:.1f} s more)"
    )
    story.tell()
    if not story.settings.json and not story.settings.quiet:
        output.table(
            ["table", "before", "after the accident", "restored"],
            [[t, f"{before[t]:,}", f"{after[t]:,}", f"{restored[t]:,}"] for t in before],
            right=[1, 2, 3],
        )
    story.tell()
    if restored != before:
        raise Failed("the restored tables do not have the rows they had before the accident: please report this")


def _verify(story: Story) -> None:
    story.chapter("And the proof that the backup host cannot read: the write key opens nothing.")
    refused = story.backupctl(
        "restore", "latest", "stolen.db", "--repository", "repository", "--key", "keys/write.key", fails=True
    )
    story.tell(f"     {refused['error']['message']} (exit {refused['error']['exit']})")
    story.tell()
    story.chapter("Everything verified: each chunk opened and recomputed.")
    checked = story.backupctl("verify", "--level", "content", "--repository", "repository", "--key", "keys/read.key")
    story.numbers["verify"] = checked
    story.tell(
        f"     {checked['checked']['snapshots']} snapshots, {checked['checked']['chunks']:,} chunks, "
        f"{output.size(checked['checked']['bytes'])}: no problems, in {checked['seconds']:.1f} s"
    )
    story.tell()


def _drill(story: Story) -> None:
    story.chapter("And the proof that it comes back: restored into a scratch file, checked there, and signed.")
    done = story.backupctl("drill", "--repository", "repository", "--key", "keys/read.key")
    for check in done["checks"]:
        story.tell(f"     {check['name']}: {check['detail']}")
    story.tell(f"     the scratch file is gone; the report is {done['evidence']}")
    story.tell()
    story.numbers["drill"] = done


def _farewell(story: Story) -> None:
    first, second = story.numbers["first"], story.numbers["second"]
    stored = output.size(first["stored_bytes"] + second["stored_bytes"])
    output.say(
        f"Done in {story.numbers['seconds']} s. The first two snapshots of {output.size(first['read_bytes'])} take {stored},"
    )
    output.say("encrypted for the read and the recovery key. What the accident took is back in restored.db.")
    output.say("")
    output.say(f"The folder stays for playing: cd {story.folder}")
    output.say(
        "  export BACKUPCTL_REPOSITORY=repository BACKUPCTL_PASSPHRASE_FILE=passphrase BACKUPCTL_KEY=keys/read.key"
    )
    output.say("  export XDG_STATE_HOME=$PWD/state XDG_CACHE_HOME=$PWD/cache")
    output.say("  backupctl snapshots")
    output.say("  backupctl show latest")
    output.say('  backupctl query latest "select city, count(*) from customers group by city order by 2 desc limit 5"')
    output.say("  backupctl find telecom customers 1")
    output.say("  backupctl restore latest again.db --check full")
    output.say("  backupctl keys test --key keys/recovery.key")
    output.say("  backupctl repo stats")
    output.say("  backupctl hold add latest --reason 'a look around'")
    output.say("  backupctl prune --keep-last 1 --dry-run --key keys/prune.key")
    output.say("  backupd --config policies     # then open http://127.0.0.1:8733/")
    output.say("  backupctl status --config policies")
