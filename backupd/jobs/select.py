"""From what a user writes for a snapshot to the snapshot: an id, a prefix, latest, latest:SOURCE, SOURCE@time."""

import string

from backupd.config.clock import parse_stamp, stamp
from backupd.errors import Failed, UsageError
from backupd.repo.repository import SnapshotView


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


def select_snapshot(views: list[SnapshotView], text: str) -> SnapshotView:
    """The snapshot that `text` means; checkpoints are never `latest`.

    Raises:
        Failed: there is none.
        UsageError: it means several, or cannot be understood.
    """
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
