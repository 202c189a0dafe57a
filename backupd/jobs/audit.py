"""What was done with a repository, for whoever asks later: notes of restores and exports, and the whole history as one list.

A note is a signed, sealed record of its role's chain, so a later hand cannot change or remove it unnoticed. It names a
snapshot, its source, how many tables were chosen and the engine of the target: never the tables' names, which a check key may
not see, and never where the data went. A restore leaves one before its first byte is read back and one with its outcome: a
beginning without an end was cut off. Must never keep a restore from being done: where the storage takes no notes, that is a
warning.

The list joins every kind of record with the snapshots themselves and the versions of trust. Other histories (of a catalog, say)
join it as `Entry` by `merge`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from backupd.config.clock import fine_stamp, parse_stamp
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Right
from backupd.errors import BackupdError, Interrupted
from backupd.jobs.appending import append_record
from backupd.repo.format import split_signed, trust_name
from backupd.repo.records import Record
from backupd.repo.repository import Repository, SnapshotView, read_object
from backupd.repo.trust import Identity, Trust, WriterEntry, decode_trust
from backupd.report import Problem, Reporter

if TYPE_CHECKING:
    from backupd.catalog.audit import Audit as CatalogAudit

_PAGE = 500
_SIGNERS = (*Right.READ.value, Role.CHECK, Role.PRUNE, Role.ROOT)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was done.

    Attributes:
        at: when, as whoever did it says (RFC 3339).
        who: the label of the key or its id's first digits; of a snapshot the writer's.
        role: of that key.
        action: what: snapshot, restore, prune, hold, trust, ...
        object: the snapshot or object that it was done to; empty if it was done to no single one.
        detail: a few words, without records.
        record: the stored object that says so; empty for what other histories say.
        source: the source that it is about, if that can be told.
    """

    at: str
    who: str
    role: str
    action: str
    object: str = ""
    detail: str = ""
    record: str = ""
    source: str | None = None

    @property
    def moment(self) -> datetime | None:
        """`at` as a time; None if it is none."""
        try:
            return parse_stamp(self.at)
        except (ValueError, OverflowError):
            return None


@dataclass(slots=True)
class Audit:
    """The history of a repository; how many records and snapshots the keys at hand do not open; what cannot be believed."""

    entries: list[Entry]
    hidden: int = 0
    problems: list[Problem] = field(default_factory=list)


def append_audit(
    repo: Repository, action: str, facts: Mapping[str, object], now: datetime, report: Reporter
) -> str | None:
    """Leave a note; returns its record's name, or None with a warning where none could be left.

    Args:
        repo: opened with the key that is used.
        action: what is done.
        facts: what may be known of it: no host, no path, no table's name.
        now: the time.
        report: hears of what could not be written.
    """
    signer = repo.keyring.signer(_SIGNERS)
    if signer is None:
        return None
    try:
        return append_record(repo, signer, {"type": "audit", "created": fine_stamp(now), "action": action, **facts})
    except BackupdError as error:
        report.warning(f"no note of this {action} could be left in the repository: {error.message}")
        return None


@contextmanager
def audited(
    repo: Repository, action: str, facts: Mapping[str, object], clock: Callable[[], datetime], report: Reporter
) -> Iterator[None]:
    """Leave a note of the beginning and, where the storage took that, one of the end. An interruption leaves no end."""
    began = append_audit(repo, f"{action}-begun", facts, clock(), report)
    outcome: dict[str, object] = {"outcome": "done"}
    try:
        yield
    except Interrupted:
        began = None
        raise
    except BackupdError as error:
        outcome = {"outcome": "failed", "code": error.code}
        raise
    except OSError:
        outcome = {"outcome": "failed", "code": "failed"}
        raise
    except BaseException:
        began = None
        raise
    finally:
        if began is not None:
            append_audit(repo, action, {**facts, **outcome, "begun": began}, clock(), report)


def snapshot_facts(view: SnapshotView) -> dict[str, object]:
    """What a note says of a snapshot."""
    return {"snapshot": view.id, "source": view.source}


# ---- the history


def read_audit(repo: Repository) -> Audit:
    """Everything that the repository says was done, oldest first."""
    history = repo.history()
    sources = {view.id: view.source for view in history.views}
    entries = [_of_snapshot(view) for view in history.views]
    entries += [_of_record(record, repo, sources) for record in history.records]
    entries += _of_trust(repo)
    hidden = history.hidden + len(history.hidden_records)
    return Audit(merge(entries), hidden, [*history.problems, *history.record_problems])


def of_catalog(audit: "CatalogAudit") -> Iterator[Entry]:
    """What the daemon of this machine wrote down of its own doings."""
    after = 0
    while page := audit.page(after=after, limit=_PAGE):
        for entry in page:
            source = entry.detail.get("source")
            told = ", ".join(f"{key}: {value}" for key, value in sorted(entry.detail.items()) if value is not None)
            action, thing = f"daemon {entry.action}", entry.object_name
            yield Entry(
                fine_stamp(entry.at), entry.who, "daemon", action, thing, told, "", str(source) if source else None
            )
        after = page[-1].n


def merge(*histories: Iterable[Entry]) -> list[Entry]:
    """Several histories as one, oldest first, of one moment trust first; what has no time that can be read stands before all."""

    def place(entry: Entry) -> tuple[float, bool, str]:
        moment = entry.moment
        return moment.timestamp() if moment else float("-inf"), entry.action != "trust", entry.record

    return sorted((entry for history in histories for entry in history), key=place)


def chosen(
    entries: Iterable[Entry], *, since: datetime | None = None, source: str | None = None, limit: int | None = None
) -> list[Entry]:
    """The entries since a time, of one source, and of those the newest `limit`."""
    found = [
        entry
        for entry in entries
        if (since is None or ((moment := entry.moment) is not None and moment >= since))
        and (source is None or entry.source == source)
    ]
    return found[-limit:] if limit is not None else found


def _of_snapshot(view: SnapshotView) -> Entry:
    said = view.structure
    rows = f"{said.rows:,} rows, " if said.rows is not None else ""
    held = f", held: {said.hold}" if said.hold else ""
    detail = f"{view.source}: {rows}{said.stored_bytes:,} bytes stored{held}"
    return Entry(
        said.taken_at, view.writer_label, Role.WRITE, said.kind, view.id, detail, view.object.name, view.source
    )


def _of_record(record: Record, repo: Repository, sources: Mapping[str, str]) -> Entry:
    document = record.document
    action = _text(document, "action") if record.type == "audit" else record.type
    snapshot = _text(document, "snapshot")
    source = sources.get(snapshot) or _text(document, "source") or None
    who = signed_by(repo, record.signer)
    detail = _detail(record, source)
    return Entry(_text(document, "created"), who, record.role, action, snapshot, detail, record.name, source)


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _detail(record: Record, source: str | None) -> str:
    """What a record tells beyond who, when and of what; only texts and numbers that its type is known to hold."""
    document = record.document
    if record.type == "prune":
        listed = document["snapshots"]
        return f"{len(listed)} snapshots, by the rule {_text(document, 'rule')!r}"
    if record.type in {"bad-packs", "good-packs"}:
        return f"{len(document['packs'])} packs"
    said = [source or "", _text(document, "reason"), _text(document, "outcome"), _text(document, "code")]
    if record.type == "audit":
        tables = document.get("tables")
        said += [_text(document, "engine"), f"{tables} tables" if isinstance(tables, int) else ""]
    if record.type == "evidence":
        said.append("passed" if document.get("passed") is True else "not passed")
    return ", ".join(filter(None, said))


def signed_by(repo: Repository, signer: bytes) -> str:
    """The label of the key, or the first digits of its id."""
    trust, records_key = repo.trust, repo.keyring.records_key
    entries: tuple[Identity | WriterEntry, ...] = (*trust.identities, *trust.writers)
    label = next((trust.open_label(e, records_key) for e in entries if e.id == signer), "")
    return label or signer.hex()[:12]


# ---- trust


def trust_versions(repo: Repository) -> list[tuple[Trust, list[bytes]]]:
    """The trust documents from the lowest that the keys pin, verified, each with the root keys that signed it."""
    pin = repo.keyring.pin
    found: list[tuple[Trust, list[bytes]]] = []
    before: Trust | None = None
    for version in range(pin.trust, repo.trust.version + 1):
        name = trust_name(version)
        data = read_object(repo.store, name)
        before = decode_trust(data, version, pin.repository, before, pin.root)
        found.append((before, [key for key, _ in split_signed(name, data).signatures]))
    return found


def _of_trust(repo: Repository) -> list[Entry]:
    found, before = [], None
    for trust, signers in trust_versions(repo):
        who = ", ".join(key.hex()[:12] for key in signers)
        detail = _changes(before, trust, repo) if before else f"version {trust.version}"
        found.append(Entry(trust.created, who, Role.ROOT, "trust", "", detail, trust_name(trust.version)))
        before = trust
    return found


def _changes(old: Trust, new: Trust, repo: Repository) -> str:
    """What another version of trust changes, in a few words."""
    said = []
    for word, entries, known in (("writer", new.writers, old.writers), ("key", new.identities, old.identities)):
        there = {entry.id: entry for entry in known}
        for entry in entries:
            called = new.open_label(entry, repo.keyring.records_key) or entry.id.hex()[:12]
            what = word if word == "writer" else f"{getattr(entry, 'role', '')} {word}"
            if entry.id not in there:
                said.append(f"new {what} {called}")
            elif entry.last_good and not there[entry.id].last_good:
                said.append(f"{what} {called} revoked")
    said += ["other root keys"] if old.roots != new.roots or old.threshold != new.threshold else []
    said += ["another policy"] if old.policy != new.policy else []
    return f"version {new.version}: {', '.join(said) or 'signed again'}"
