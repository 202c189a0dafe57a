"""Records of incidents: what is wrong with which sources, and every step until it is over. FORMAT.md, section 11.

An open one holds every snapshot of its sources, those that come later too; only a release, which a prune or root key signs, ends
that. Whoever may check reads these records, so what programs write into them names no table and no record.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from backupd.repo.format import label
from backupd.repo.records import Record
from backupd.report import Problem

Kind = Literal["deletion", "breach", "corruption", "other"]
Step = Literal["open", "note", "update", "triage", "recovery", "close"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STEPS: tuple[Step, ...] = get_args(Step)
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Covered:
    """A source of an incident: of one writer, or of whoever writes one of that name."""

    source: str
    writer: bytes | None = None

    def covers(self, writer: bytes, source: str) -> bool:
        """Whether a snapshot of this writer and source is one of it."""
        return source == self.source and self.writer in {None, writer}


@dataclass(slots=True)
class Incident:
    """One incident and its steps.

    Attributes:
        id: 16 hex digits.
        opened: the record that opened it.
        kind, reason: what is known of it.
        detected: when it was noticed (RFC 3339).
        sources: which are concerned.
        steps: its records, as they followed each other by what they say of the time.
        closed: the first record that closes it.
        released: whether what it held may go.
        problems: steps that are missing, or are not what others followed.
    """

    id: str
    opened: Record = field(repr=False)
    kind: str
    reason: str
    detected: str
    sources: tuple[Covered, ...]
    steps: list[Record] = field(default_factory=list, repr=False)
    closed: Record | None = field(default=None, repr=False)
    released: bool = False
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return self.closed is None

    @property
    def since(self) -> str:
        """When it was opened."""
        return created(self.opened)

    @property
    def newest(self) -> Mapping[str, Any] | None:
        """The newest state message."""
        return next((r.document for r in reversed(self.steps) if r.document["step"] == "update"), None)

    @property
    def message(self) -> str:
        """What people are told now: the newest message, or why it was opened."""
        return str(self.newest["message"]) if self.newest else self.reason

    def covers(self, writer: bytes, source: str) -> bool:
        """Whether a writer's source is concerned."""
        return any(one.covers(writer, source) for one in self.sources)


def created(record: Record) -> str:
    """When a record says that it was made; empty if it does not."""
    said = record.document.get("created")
    return said if isinstance(said, str) else ""


def is_step(record: Record) -> bool:
    """Whether a record is a step of an incident; one that names neither an incident nor a step says nothing known here."""
    return record.type == "incident" and bool({"incident", "step"} & record.document.keys())


def check_incident(document: Mapping[str, Any]) -> None:
    """Whether a step tells what such a record must.

    Raises:
        KeyError, ValueError, TypeError: it does not.
    """
    if not _ID.fullmatch(document["incident"]) or document["step"] not in STEPS:
        raise ValueError("no step of an incident")
    label(document["created"])
    step = document["step"]
    if step == "open":
        if document["kind"] not in KINDS or not _sources(document):
            raise ValueError("no incident")
        label(document["reason"]), label(document["detected"]), _heads(document)
        return
    follows = document["follows"]
    label(follows["record"]), label(follows["hash"])
    for name in {"note": ["text"], "update": ["message"], "close": ["summary"], "recovery": ["record", "text"]}.get(
        step, []
    ):
        label(document[name])
    if step == "update":
        _check_state(document)
    if step == "triage":
        _check_triage(document)


def _check_triage(document: Mapping[str, Any]) -> None:
    label(document["onset"])
    for one in document["sources"]:
        label(one["source"])
        for name in ("before", "after"):
            if one[name] is not None:
                label(one[name])


def _check_state(document: Mapping[str, Any]) -> None:
    for name in ("known", "restoring", "until"):
        if document[name] is not None:
            label(document[name])
    for name in ("rate", "left"):
        if document[name] is not None and not (type(document[name]) is int and 0 <= document[name] < 1 << 62):
            raise ValueError("no number of bytes")


def _sources(document: Mapping[str, Any]) -> tuple[Covered, ...]:
    found = []
    for item in document["sources"]:
        writer = None if item["writer"] is None else bytes.fromhex(item["writer"])
        if writer is not None and len(writer) != 16:
            raise ValueError("no writer")
        found.append(Covered(label(item["source"]), writer))
    return tuple(found)


def _heads(document: Mapping[str, Any]) -> dict[bytes, tuple[int, bytes]]:
    return {bytes.fromhex(h["writer"]): (int(h["seq"]), bytes.fromhex(h["hash"])) for h in document["heads"]}


def heads_of(incident: Incident) -> dict[bytes, tuple[int, bytes]]:
    """The newest snapshot of each writer when the incident was opened: its number and hash."""
    return _heads(incident.opened.document)


def incidents(records: Iterable[Record]) -> list[Incident]:
    """All incidents, oldest first, closed or not.

    Args:
        records: those that `Repository.records` gives.
    """
    records = list(records)
    steps = sorted(filter(is_step, records), key=lambda r: (created(r), r.name))
    ended = released_opens(records)
    found: dict[str, Incident] = {}
    for record in steps:
        if record.document["step"] == "open":
            _open(found, record, ended)
    for record in steps:
        incident = found.get(str(record.document["incident"]))
        if incident is not None and record.document["step"] != "open":
            incident.steps.append(record)
    for incident in found.values():
        incident.closed = next((r for r in incident.steps if r.document["step"] == "close"), None)
        incident.problems += _missing(incident)
    return sorted(found.values(), key=lambda one: (one.since, one.opened.name))


def _open(found: dict[str, Incident], record: Record, ended: set[tuple[str, str]]) -> None:
    """Take an opening; a second one of the same id is somebody's mistake, or somebody's lie."""
    document = record.document
    name = str(document["incident"])
    if name in found:
        found[name].problems.append(Problem(record.name, "forked", f"another record opened incident {name} before it"))
        return
    found[name] = Incident(
        name,
        record,
        str(document["kind"]),
        str(document["reason"]),
        str(document["detected"]),
        _sources(document),
        [record],
        released=(name, record.name) in ended,
    )


def _missing(incident: Incident) -> list[Problem]:
    """Steps that others followed and that are not there, or are not what was followed."""
    there = {record.name: record.digest.hex() for record in incident.steps}
    wanted = [(r, r.document["follows"]) for r in incident.steps if r.document["step"] != "open"]
    return [
        Problem(
            str(follows["record"]),
            "missing" if follows["record"] not in there else "forked",
            f"{record.name} follows it, and it is {'not there' if follows['record'] not in there else 'another one'}",
        )
        for record, follows in wanted
        if there.get(str(follows["record"])) != follows["hash"]
    ]


def orphans(records: Iterable[Record], revoked: Collection[str] = frozenset()) -> list[Problem]:
    """Steps of incidents whose opening is not there: somebody took it away, and with it what it holds.

    Args:
        records: those that count.
        revoked: names of those that do not, because their key was revoked: what follows only them is no orphan.
    """
    mine = [record for record in records if is_step(record)]
    opened = {str(r.document["incident"]) for r in mine if r.document["step"] == "open"}
    return [
        Problem(r.name, "missing", f"it is a step of incident {r.document['incident']}, and no record opens that")
        for r in mine
        if r.document["incident"] not in opened and not _follows_revoked(r, {one.name: one for one in mine}, revoked)
    ]


def _follows_revoked(record: Record, steps: Mapping[str, Record], revoked: Collection[str]) -> bool:
    """Whether the steps before a record lead to one that counts for nothing."""
    met: set[str] = set()
    at: Record | None = record
    while at is not None and at.name not in met and at.document["step"] != "open":
        met.add(at.name)
        before = str(at.document["follows"]["record"])
        if before in revoked:
            return True
        at = steps.get(before)
    return False


def openings(records: Iterable[Record]) -> list[tuple[Record, tuple[Covered, ...]]]:
    """Every record that holds for an incident and that no release ended, also those of one id."""
    records = list(records)
    ended = released_opens(records)
    return [
        (record, _sources(record.document))
        for record in records
        if is_step(record)
        and record.document["step"] == "open"
        and (str(record.document["incident"]), record.name) not in ended
    ]


def released_opens(records: Iterable[Record]) -> set[tuple[str, str]]:
    """Incident and record of the openings that a release names."""
    found: set[tuple[str, str]] = set()
    for record in records:
        incident, ends = record.document.get("incident"), record.document.get("ends")
        if record.type == "release" and isinstance(incident, str) and isinstance(ends, list):
            found |= {(incident, str(name)) for name in ends}
    return found
