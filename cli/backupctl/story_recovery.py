"""The demo's first story: a customer is deleted by mistake, and comes back into the live database while that goes on changing."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from backupctl import output
from backupctl.story import Story
from backupctl.telecom import CALLS_WRITTEN
from backupd.errors import Failed

_REPOSITORY = ("--repository", "repository", "--key", "keys/read.key")
_TRAFFIC = 60
"""Seconds for which the billing system would write, if it were not asked to stop."""


def tell_recovery(story: Story, customer: int) -> None:
    """Delete a customer, find out what is gone, bring it back, and prove that all of it is there."""
    before = story.telecom("digest", "telecom.db", str(customer)).split()
    calls = story.rows("telecom.db")["calls"]
    with _traffic(story) as written:
        story.chapter(
            f"The mistake: somebody deletes customer {customer}, and the database all that is theirs with it."
        )
        story.telecom("delete", "telecom.db", str(customer), str(customer))
        story.tell("     nobody notices for a while; the billing system keeps writing all the time")
        story.tell()
        _diff(story, customer)
        _recover(story, customer, int(before[1]))
    _prove(story, customer, before, next(written), calls)


@contextmanager
def _traffic(story: Story) -> Iterator[Iterator[int]]:
    """A billing system that writes meanwhile; gives how many transactions it made, once it has been stopped."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "backupctl.telecom", "write", "telecom.db", str(_TRAFFIC)],
        cwd=story.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def result() -> Iterator[int]:
        yield int(writer.communicate()[0] or 0)

    try:
        yield result()
    finally:
        if writer.stdin is not None:
            writer.stdin.close()
            writer.stdin = None


def _diff(story: Story, customer: int) -> None:
    story.chapter("What is missing? The snapshot is compared with the live database.")
    found = story.backupctl("diff", "latest", "live", "--source", "telecom.db", *_REPOSITORY)
    changed = [t for t in found["tables"] if t["added"] or t["removed"] or t["changed"]]
    if not story.settings.json and not story.settings.quiet:
        rows = [[t["name"], *(output.count(t[word]) for word in ("added", "removed", "changed"))] for t in changed]
        output.table(["table", "added", "removed", "changed"], rows, right=[1, 2, 3])
    named = story.backupctl("diff", "latest", "live", "--table", "customers", "--source", "telecom.db", *_REPOSITORY)
    gone = [record["key"] for record in named["records"] if record["op"] == "removed"]
    story.tell(f"     removed from customers: {', '.join(map(str, gone))}; what was added is newer than the snapshot")
    story.tell()
    story.numbers["removed"] = {t["name"]: t["removed"] for t in changed}
    if gone != [customer]:
        raise Failed("the comparison does not name the customer that was deleted: please report this")


def _recover(story: Story, customer: int, rows: int) -> None:
    story.chapter("Bring exactly that back, into the live database: first the plan, then the deed.")
    command = ("recover", "latest", f"customers:{customer}", "--into", "telecom.db", *_REPOSITORY)
    plan = story.backupctl(*command)
    counts = ", ".join(f"{n} {op}" for op, n in plan["counts"].items() if n)
    story.tell(f"     the plan: {counts}; nothing was written yet")
    done = story.backupctl(*command, "--apply")
    story.tell(f"     done, in one transaction; `recover --undo {done['undo'].rsplit('/', 1)[-1]}` would take it back")
    story.tell()
    story.numbers["recovered"] = done["counts"]
    if not done["applied"] or done["counts"].get("insert") != rows:
        raise Failed("the recovery did not bring back what was deleted: please report this")


def _prove(story: Story, customer: int, before: list[str], written: int, calls: int) -> None:
    story.chapter("The proof: the customer and all that is theirs, hashed before the mistake and now.")
    after = story.telecom("digest", "telecom.db", str(customer)).split()
    story.tell(f"     before {before[0][:32]}... ({before[1]} records)")
    story.tell(f"     now    {after[0][:32]}... ({after[1]} records)")
    kept = story.rows("telecom.db")["calls"] == calls + written * CALLS_WRITTEN
    if kept:
        story.tell(
            f"     and all of the {written:,} transactions that the billing system committed meanwhile are there"
        )
    story.tell()
    story.numbers["proven"] = before == after
    if before != after or not kept:
        raise Failed("the database is not what it was before the mistake and the traffic since: please report this")
