"""From what a user writes for a snapshot to the snapshot: an id, a prefix, latest, latest:SOURCE, SOURCE@time."""

import string

from backupd.config.clock import parse_stamp, stamp
from backupd.errors import Failed, IntegrityError, UsageError
from backupd.repo.repository import History, SnapshotView
from backupd.report import Problem


def source_names(views: list[SnapshotView]) -> dict[str, str]:
    """Snapshot id to the source name as it must be written: WRITER/SOURCE where two writers use one name."""
    writers: dict[str, set[bytes]] = {}
    for view in views:
        writers.setdefault(view.source, set()).add(view.object.writer)
    return {v.id: f"{v.writer_label}/{v.source}" if len(writers[v.source]) > 1 else v.source for v in views}


def of_source(views: list[SnapshotView], name: str) -> list[SnapshotView]:
    """The snapshots of one source, by its name or WRITER/SOURCE.

    Raises:
        UsageError: two writers use the name.
    """
    names = source_names(views)
    found = [v for v in views if name in {names[v.id], f"{v.writer_label}/{v.source}"}]
    if not found and any(v.source == name for v in views):
        both = sorted({n for v in views if (n := names[v.id]).endswith(f"/{name}")})
        raise UsageError(f"two writers have a source {name!r}", hint=f"write one of: {', '.join(both)}")
    return found


def select_snapshot(history: History, text: str) -> SnapshotView:
    """The snapshot that `text` means; checkpoints are never `latest`.

    A damaged or missing snapshot object could be the one that is meant: an older one is never given in its place.

    Raises:
        Failed: there is none.
        IntegrityError: the answer may be a snapshot that is damaged or missing.
        UsageError: it means several, or cannot be understood.
    """
    lost = _lost_snapshots(history)
    try:
        chosen = _select(history.views, text)
    except Failed as error:
        if lost:
            raise _lost(lost[-1], f"{error.message}; it may be one that is {lost[-1].kind}", None) from None
        raise
    if text.startswith("latest") or "@" in text:
        refuse_older(history, chosen, text)
    return chosen


def refuse_older(history: History, chosen: SnapshotView, text: str) -> None:
    """Refuse a snapshot as the newest of its writer if a damaged or missing one may be newer.

    Raises:
        IntegrityError: there is one.
    """
    newer = [p for p in _lost_snapshots(history) if _is_newer(p.object, chosen)]
    if newer:
        raise _lost(
            newer[-1], f"a newer snapshot than {chosen.id[:12]} is {newer[-1].kind}, and it may be {text!r}", chosen
        )


def _lost_snapshots(history: History) -> list[Problem]:
    return [p for p in history.problems if p.kind in {"damaged", "missing"} and p.object.startswith("snapshots/")]


def _is_newer(name: str, chosen: SnapshotView) -> bool:
    parts = name.split("/")
    if len(parts) != 3 or not parts[2].isdigit():
        return False
    return parts[1] == chosen.object.writer.hex() and int(parts[2]) > chosen.object.seq


def _lost(problem: Problem, message: str, older: SnapshotView | None) -> IntegrityError:
    hint = f"ask for the older one by its id, {older.id[:12]}" if older else "`backupctl verify` tells what is damaged"
    return IntegrityError(message, object_name=problem.object, hint=hint)


def _select(views: list[SnapshotView], text: str) -> SnapshotView:
    complete = [v for v in views if v.structure.kind == "snapshot"]
    if text == "latest":
        return _newest(complete, text)
    if text.startswith("latest:"):
        return _newest(of_source(complete, text[7:]), text)
    if "@" in text:
        name, _, when = text.rpartition("@")
        try:
            limit = stamp(parse_stamp(when))
        except ValueError:
            raise UsageError(f"{when!r} is no time", hint="write it like crm@2026-11-21T23:00") from None
        return _newest([v for v in of_source(complete, name) if v.structure.taken_at <= limit], text)
    wanted = text.lower()
    if len(wanted) < 4 or set(wanted) - set(string.hexdigits):
        raise UsageError(
            f"{text!r} is no snapshot", hint="give at least 4 digits of its id, latest, latest:SOURCE or SOURCE@TIME"
        )
    found = [v for v in views if v.id.startswith(wanted)]
    if len(found) > 1:
        raise UsageError(f"{text!r} is the beginning of {len(found)} snapshot ids", hint="give more digits")
    return _newest(found, text)


def _newest(views: list[SnapshotView], text: str) -> SnapshotView:
    if not views:
        raise Failed(
            f"there is no snapshot {text!r}", object_name=text, hint="`backupctl snapshots` lists what there is"
        )
    return max(views, key=lambda v: (v.structure.taken_at, v.structure.stored_at, v.object.seq))
