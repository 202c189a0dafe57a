"""How a job ended, by its exit code and what it printed. Pure.

A document comes from a process that may be of another version, damaged, or cut off: what cannot be believed is left out, and
nothing here ever raises. Of a brake only its reasons are read: what table it is about is nobody's business but the operator's.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, TypeGuard

from backupd.catalog.queue import JobOutcome
from backupd.catalog.runs import RunEnd
from backupd.catalog.snapshots import Snapshot
from backupd.config.clock import parse_stamp
from backupd.daemon.child import Ended
from backupd.errors import Exit

_OUTCOMES: Mapping[int, JobOutcome] = {Exit.DONE: "done", Exit.INCOMPLETE: "incomplete"}
_MOST_NUMBER = 2**63
MOST_WORDS = 1000
MOST_SOURCE = 512
_HEX = re.compile(r"[0-9a-f]{1,128}")
_WORD = re.compile(r"[a-z_]{1,64}")
Document = Mapping[str, Any]


def read_end(kind: str, ended: Ended, why: str) -> RunEnd:
    """How a job ended.

    Args:
        kind: of the job: a run that is done has made a snapshot, and says which.
        ended: its process's end.
        why: it was stopped, if it was.
    """
    document = ended.document or {}
    outcome = _OUTCOMES.get(ended.code, "failed")
    runs = list(snapshots_in(document))
    if outcome == "done" and kind == "run" and not runs:
        return RunEnd(
            "failed", "failed", int(Exit.FAILED), "it ended without a word on the snapshot that it was to take"
        )
    if outcome == "done":
        return RunEnd(
            outcome,
            snapshot=runs[-1]["snapshot"] if runs else None,
            read_bytes=_sum(runs, "read_bytes"),
            stored_bytes=_sum(runs, "stored_bytes"),
            rows=_sum(runs, "rows"),
            seconds=_seconds([document] if "seconds" in document else runs),
            warnings=sum(len(run["warnings"]) for run in runs if isinstance(run.get("warnings"), list)),
        )
    error = document.get("error")
    error = error if isinstance(error, dict) else {}
    said, word = error.get("message"), error.get("code")
    message = why or (said if isinstance(said, str) and said else _unsaid(ended.code))
    return RunEnd(
        outcome,
        word if is_word(word) else "failed",
        ended.code,
        message[:MOST_WORDS],
    )


def _unsaid(code: int) -> str:
    """Of a process that did not say why it ended; its own last words may be a database's, and are in the log only."""
    return (
        f"it was ended by signal {code - 128}"
        if 128 < code < 128 + 65
        else f"it ended with {code}, and did not say why"
    )


def snapshots_in(document: Document) -> Iterator[Document]:
    """The snapshots that a run's document tells of: one, or of a policy with several sources several."""
    several = document.get("runs")
    for one in several if isinstance(several, list) else [document]:
        if isinstance(one, dict) and not one.get("dry_run") and is_hex(one.get("snapshot")):
            yield one


def snapshot_of(done: Document, now: datetime) -> Snapshot | None:
    """A snapshot that a run tells of, for the catalog; None if too little of it can be believed."""
    ids = [done.get(name) for name in ("repository", "writer", "snapshot")]
    source, seq, taken = done.get("source"), count(done.get("seq")), moment(done.get("taken_at"))
    if not all(map(is_hex, ids)) or not isinstance(source, str) or not 0 < len(source) <= MOST_SOURCE or seq is None:
        return None
    if taken is None:
        return None
    repository, writer, name = map(str, ids)
    return Snapshot(
        repository=repository,
        writer=writer,
        source=source,
        seq=seq,
        id=name,
        taken_at=taken,
        stored_at=taken,
        kind="snapshot",
        rows=count(done.get("rows")),
        read_bytes=count(done.get("read_bytes")) or 0,
        stored_bytes=count(done.get("stored_bytes")) or 0,
        holds=(),
        drilled_at=None,
        last_seen=now,
    )


def brake_reasons(done: Document) -> list[str]:
    """The signs of a sudden change that a run tells of, as sentences."""
    signs = done.get("brake")
    reasons = [sign.get("reason") for sign in signs if isinstance(sign, dict)] if isinstance(signs, list) else []
    return [reason[:MOST_WORDS] for reason in reasons if isinstance(reason, str) and reason]


def problems_in(document: Document) -> int:
    """How many problems a verification tells of."""
    found = document.get("problems")
    return len(found) if isinstance(found, list) else 0


def forgotten_in(document: Document) -> list[str]:
    """The snapshots that a prune tells to have forgotten; none of a dry run."""
    found = document.get("forget")
    if not isinstance(found, list) or document.get("dry_run"):
        return []
    return [one["snapshot"] for one in found if isinstance(one, dict) and is_hex(one.get("snapshot"))]


def moment(value: object) -> datetime | None:
    """A time, if it is one."""
    try:
        return parse_stamp(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def count(value: object) -> int | None:
    """A number of things that the catalog can hold, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _MOST_NUMBER else None


def seconds(value: object) -> float | None:
    """A length of time that the catalog can hold, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _MOST_NUMBER and isfinite(value) else None


def is_word(value: object) -> TypeGuard[str]:
    """Whether it may be the word of an error."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def is_hex(value: object) -> TypeGuard[str]:
    """Whether it may be an id."""
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _sum(runs: list[Document], key: str) -> int | None:
    values = [n for run in runs if (n := count(run.get(key))) is not None]
    return count(sum(values)) if values else None


def _seconds(documents: list[Document]) -> float | None:
    values = [d.get("seconds") for d in documents]
    good = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < _MOST_NUMBER]
    total = float(sum(good))
    return total if good and isfinite(total) else None
