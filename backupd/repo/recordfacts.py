"""What records say of packs and snapshots, and whether one that is acted on says what its type must.

What a type must say is known to a module of its own, imported where a record of that type was met.
"""

from collections.abc import Iterable

from backupd.repo.records import Record
from backupd.repo.trust import Trust

VERDICTS = frozenset({"bad-packs", "good-packs"})


def packs_found_bad(records: Iterable[Record]) -> set[str]:
    """Names of packs whose newest verdict among some records is that they are bad."""
    verdicts: list[tuple[str, bool, list[str]]] = [
        (str(r.document.get("created")), r.type == "bad-packs", r.document["packs"])
        for r in records
        if r.type in VERDICTS
    ]
    bad: set[str] = set()
    for _, is_bad, packs in sorted(verdicts, key=lambda verdict: verdict[0]):
        bad = bad | set(packs) if is_bad else bad - set(packs)
    return bad


def pruned_snapshots(records: Iterable[Record]) -> dict[tuple[bytes, int], bytes]:
    """Writer and number of every snapshot that a prune among some records has signed for, to its hash."""
    pruned: dict[tuple[bytes, int], bytes] = {}
    for record in records:
        if record.type == "prune":
            pruned |= _pruned_snapshots(record)
    return pruned


def pruned_before(records: Iterable[Record]) -> dict[bytes, bytes]:
    """Of each such hash the one before it in its chain."""
    before: dict[bytes, bytes] = {}
    for record in records:
        if record.type == "prune":
            before |= _pruned_links(record)
    return before


def _pruned_snapshots(record: Record) -> dict[tuple[bytes, int], bytes]:
    items = record.document["snapshots"]
    return {(bytes.fromhex(item["writer"]), int(item["seq"])): bytes.fromhex(item["hash"]) for item in items}


def _pruned_links(record: Record) -> dict[bytes, bytes]:
    items = [item for item in record.document["snapshots"] if item.get("previous")]
    return {bytes.fromhex(item["hash"]): bytes.fromhex(item["previous"]) for item in items}


def well_formed(record: Record, trust: Trust) -> bool:
    """Whether a record of a type that is acted on has the keys of its type: a signature does not vouch for that."""
    try:
        if record.type == "prune":
            _pruned_snapshots(record), _pruned_links(record)
        _check_type(record, trust)
        packs = record.document["packs"] if record.type in VERDICTS else []
        return isinstance(packs, list) and all(isinstance(pack, str) for pack in packs)
    except (KeyError, ValueError, TypeError):
        return False


def _check_type(record: Record, trust: Trust) -> None:
    """What the module of its type says; KeyError, ValueError or TypeError where the record is not as it must be."""
    match record.type:
        case "brake" | "brake-release":
            from backupd.repo.brakes import check_brake

            check_brake(record, trust)
        case "erasure":
            from backupd.repo.erasures import check_erasure

            check_erasure(record)
        case "incident":
            from backupd.repo.incidents import check_incident, is_step

            if is_step(record):
                check_incident(record.document)
