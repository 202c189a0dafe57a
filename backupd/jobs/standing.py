"""A source to which nobody wrote since its last run: the next snapshot names what that run read, and nothing is read again.

What is remembered of a run lies sealed in the version cache. Whenever anything is in doubt the source is read.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backupd.crypto.chunks import Kind
from backupd.repo.content import check_content
from backupd.repo.localindex import LocalIndex
from backupd.repo.snapshot import StreamRoot, Structure
from backupd.repo.versioncache import HOUR, VersionCache

READ_AT_LEAST = 7 * 24
"""Hours after which a source is read again however still it stands: what a proof rests on may have a hole of its own."""
_FRESH = 0.7
"""Of the age that a base may have: past it, some delta is to be stored in full, and the source must be read for that."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the last run read, and this one need not."""

    roots: tuple[StreamRoot, ...]
    packs: frozenset[bytes]
    content: Mapping[str, Any]
    rows: int | None
    chunks: int
    size: int


def to_remember(
    mark: str | None, structure: Structure, content: Mapping[str, Any], packs: set[bytes], versions: VersionCache
) -> object:
    """What the next run is told of this one; nothing if nothing could prove that the source stands still.

    Args:
        mark: what `Source.standstill` said before the source was opened.
        structure: of the snapshot.
        content: of the snapshot.
        packs: digests of all packs that the snapshot needs.
        versions: which keeps it.
    """
    if mark is None:
        return None
    return {
        "mark": mark,
        "read": versions.hour,
        "oldest": versions.oldest,
        "roots": [
            [int(root.kind), root.size_class, root.chunks, root.size, base64.b64encode(root.top).decode()]
            for root in structure.streams
        ],
        "packs": [digest.hex() for digest in sorted(packs)],
        "content": {key: value for key, value in content.items() if key != "note"},
        "rows": structure.rows,
        "chunks": structure.chunks["total"],
        "size": structure.read_bytes,
    }


def standing(
    mark: str | None, versions: VersionCache | None, index: LocalIndex, program: Mapping[str, str], max_age: int
) -> Standing | None:
    """What may stand for a source again; None if it must be read.

    Args:
        mark: what `Source.standstill` says now.
        versions: where the last run left its word.
        index: knows which packs are there and good.
        program: versions of what reads and cuts; content that others made is read again.
        max_age: seconds that what a delta leans on may have been out of sight.
    """
    said = versions.remembered if versions else None
    if mark is None or versions is None or not isinstance(said, dict):
        return None
    try:
        found = _parse(said)
        read, oldest = int(said["read"]), said["oldest"]
        same = said["mark"] == mark and found.content["versions"] == dict(program)
    except (KeyError, ValueError, TypeError):
        return None
    recent = versions.hour - READ_AT_LEAST < read <= versions.hour
    fresh = oldest is None or versions.hour - int(oldest) < max_age // HOUR * _FRESH
    return found if same and recent and fresh and all(map(index.usable, found.packs)) else None


def _parse(said: Mapping[str, Any]) -> Standing:
    roots = tuple(
        StreamRoot(Kind(kind), int(size_class), int(chunks), int(size), base64.b64decode(top))
        for kind, size_class, chunks, size, top in said["roots"]
    )
    content = {**said["content"], "note": ""}
    kinds = [root.kind for root in roots]
    check_content(content, kinds)
    return Standing(
        roots,
        frozenset(map(bytes.fromhex, said["packs"])),
        content,
        said["rows"],
        int(said["chunks"]),
        int(said["size"]),
    )
