"""What the ledger says to people: what was erased, what still holds it, and when it will be gone from everything that is stored.

No key and no value is known here. Names of tables are looked up among those of the newest snapshot that can be read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Any

from backupd.config.clock import parse_stamp, stamp
from backupd.errors import MissingRight
from backupd.jobs.erasure import Ledger
from backupd.jobs.holds import holds_by_snapshot
from backupd.jobs.restore import open_content
from backupd.repo.erasures import Erasure
from backupd.repo.repository import History, Repository, SnapshotView

KIND = "backupd/erasure-report/1"


@dataclass(frozen=True, slots=True)
class Kept:
    """How long snapshots are kept: `longest` by the policy's rule, and `lock` days of the bucket's object lock."""

    longest: timedelta | None = None
    lock: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Told:
    """One erasure, all its records together.

    Attributes:
        table: its name; None where no snapshot that can be read has it.
        rows: how many rows are hidden by themselves.
        left: the snapshots that were found to hold them and are still there.
        later: how many snapshots of the source were taken since.
        held: of those that are left, how many are held.
        until: when the last of it is gone; None if that is not known.
        says: a sentence on that.
    """

    id: str
    created: str
    writer: str
    source: str
    reason: str
    table: str | None
    rows: int
    left: tuple[str, ...]
    later: int
    held: int
    complete: bool
    until: str | None
    says: str
    horizon: Mapping[str, int]

    def values(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "created": self.created,
            "writer": self.writer,
            "source": self.source,
            "reason": self.reason,
            "table": self.table,
            "rows": self.rows,
            "snapshots": list(self.left),
            "snapshots_since": self.later,
            "held": self.held,
            "complete": self.complete,
            "gone_by": self.until,
            "horizon": self.says,
            "policy": dict(self.horizon),
        }


def tell(repo: Repository, history: History, ledger: Ledger, kept: Kept, now: datetime) -> list[Told]:
    """All erasures, oldest first."""
    groups: dict[str, list[Erasure]] = {}
    for erasure in ledger.erasures:
        groups.setdefault(erasure.id, []).append(erasure)
    held = holds_by_snapshot(history.views, history.records)
    names = _Names(repo, history, ledger)
    found = [_told(parts, history, held, names, kept, now) for parts in groups.values()]
    return sorted(found, key=lambda told: told.created)


def _told(
    parts: Sequence[Erasure],
    history: History,
    held: Mapping[str, Sequence[str]],
    names: "_Names",
    kept: Kept,
    now: datetime,
) -> Told:
    first = min(parts, key=lambda part: part.part)
    mine = [v for v in history.views if (v.object.writer, v.source) == (first.writer, first.source)]
    there = set(first.snapshots)
    left = [view for view in mine if view.id in there]
    later = sum(view.structure.taken_at > first.created for view in mine)
    holding = sum(view.id in held for view in left)
    until, says = _horizon(left, holding, first.horizon, kept, now)
    label = left[-1].writer_label if left else first.writer.hex()[:8]
    return Told(
        first.id,
        first.created,
        label,
        first.source,
        first.reason,
        names.of(first, mine),
        sum(part.rows for part in parts),
        tuple(view.id for view in left),
        later,
        holding,
        len(parts) == first.parts,
        until,
        says,
        first.horizon,
    )


def _horizon(
    left: Sequence[SnapshotView], held: int, policy: Mapping[str, int], kept: Kept, now: datetime
) -> tuple[str | None, str]:
    """When the last of it is gone, and a sentence on that."""
    behind = timedelta(days=policy["base_max_age_days"] + policy["undo_days"], hours=policy["grace_hours"]) + kept.lock
    days = -(-behind // timedelta(days=1))
    if not left:
        at = stamp(now + behind)
        return at, f"no snapshot that held it is left; what newer ones lean on is gone by {at}, {days} days from now"
    if held:
        return None, f"not while snapshots are held ({held} of {len(left)}); {days} days after the last of them is gone"
    if kept.longest is None:
        return (
            None,
            f"retention is not known here: {days} days after the last snapshot that held it is gone ({len(left)} left)",
        )
    last = max(parse_stamp(view.structure.taken_at) for view in left)
    at = stamp(max(last + kept.longest, now) + behind)
    return at, f"by {at}, if snapshots go on being taken and pruned by the policy"


class _Names:
    """Names of tables by their hashes."""

    def __init__(self, repo: Repository, history: History, ledger: Ledger) -> None:
        self._repo, self._history, self._hashes = repo, history, ledger.hashes
        self._known: dict[tuple[bytes, str], list[str]] = {}

    def of(self, erasure: Erasure, views: Iterable[SnapshotView]) -> str | None:
        """The name of the subject's table."""
        place = erasure.writer, erasure.source
        if place not in self._known:
            self._known[place] = self._read(list(views))
        hasher = self._hashes(erasure.key)
        return next((n for n in self._known[place] if hasher.name(n) == erasure.subject_table), None)

    def _read(self, views: list[SnapshotView]) -> list[str]:
        if not views:
            return []
        try:
            return [str(table["name"]) for table in open_content(self._repo, views[-1])["tables"]]
        except MissingRight:
            return []


def report_document(told: Sequence[Told], now: datetime) -> dict[str, object]:
    """What is signed."""
    return {"kind": KIND, "made_at": stamp(now), "erasures": [one.values() for one in told]}


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1a1a1a;background:#fff}"
    "table{border-collapse:collapse;width:100%;margin:1em 0}th,td{text-align:left;padding:.3em .8em .3em 0;"
    "border-bottom:1px solid #ccc;vertical-align:top}th{width:14em}pre{white-space:pre-wrap;word-break:break-all;font-size:12px}"
)


def report_html(signed: Mapping[str, Any], data: str) -> str:
    """The same for people: one file that needs nothing else. `data` is the signed document, to be checked by machine."""
    said = signed["statement"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Erasures</title>",
        f"<style>{_STYLE}</style></head><body><h1>Erasures</h1>",
        f"<p>Repository {escape(said['repository'])}, as of {escape(said['made_at'])}. No record of a person is in here.</p>",
    ]
    for one in said["erasures"]:
        lines = {
            "Source": f"{one['writer']}/{one['source']}",
            "Erased": one["created"],
            "Reason": one["reason"],
            "Table": one["table"] or "not known",
            "Rows hidden": one["rows"],
            "Snapshots that still hold them, sealed": len(one["snapshots"]),
            "Gone": one["horizon"],
        }
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in lines.items())
        parts.append(f"<h2>{escape(one['id'])}</h2><table>{rows}</table>")
    signers = ", ".join(f"{s['role']} key {s['key']}" for s in signed["signatures"])
    parts.append(f"<h2>Signature</h2><p>Signed by {escape(signers)}. What was signed:</p><pre>{escape(data)}</pre>")
    parts.append("</body></html>\n")
    return "\n".join(parts)
