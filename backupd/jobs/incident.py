"""The steps of an incident: opening, notes, state messages, closing, and the end of what it held.

Every step is a signed record that names the one before it, so the history only grows and each hand in it can be told. A read
key alone may take every step but one: what an incident holds ends by a release, which takes a prune or root key, so that whoever
stole a read key cannot have the snapshots pruned under it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from backupd.config.clock import fine_stamp, stamp
from backupd.crypto.keyring import Right, Signer
from backupd.crypto.primitives import random_bytes
from backupd.errors import Failed, IntegrityError, SafetyRefused, UsageError
from backupd.jobs.appending import append_record
from backupd.jobs.select import of_source
from backupd.repo.incidents import Covered, Incident, check_incident, incidents
from backupd.repo.repository import History, Repository, SnapshotView


@dataclass(frozen=True, slots=True)
class State:
    """What people are told.

    Attributes:
        message: what a person wrote.
        known, restoring: what is known; what is being brought back.
        rate: measured, in bytes a second.
        left: bytes that are still to come.
        until: when it should be done.
    """

    message: str
    known: str | None = None
    restoring: str | None = None
    rate: int | None = None
    left: int | None = None
    until: datetime | None = None


def covered_of(views: list[SnapshotView], name: str) -> Covered:
    """What a source's name means: with WRITER/ in front that writer's, else whoever writes one of that name.

    Raises:
        UsageError: there is no snapshot of it.
    """
    if any(view.source == name for view in views):
        return Covered(name)
    found = of_source(views, name)
    if not found:
        there = ", ".join(sorted({view.source for view in views})) or "none"
        raise UsageError(f"there is no source {name!r} here", hint=f"there are: {there}")
    return Covered(found[0].source, found[0].object.writer)


def views_of(incident: Incident, views: Iterable[SnapshotView]) -> list[SnapshotView]:
    """The snapshots that an incident is about."""
    return [view for view in views if incident.covers(view.object.writer, view.source)]


def open_incident(
    repo: Repository,
    history: History,
    sources: Sequence[Covered],
    *,
    kind: str,
    reason: str,
    detected: datetime,
    now: datetime,
    store: bool = True,
) -> str:
    """Open one; from now on every snapshot of its sources is held. Returns its id.

    Args:
        repo: opened with the right to respond.
        history: of the repository.
        sources: which are concerned.
        kind, reason: what is known of it.
        detected: when it was noticed.
        now: the time.
        store: whether the record is written.
    """
    name = random_bytes(8).hex()
    document: dict[str, object] = {
        "type": "incident",
        "created": fine_stamp(now),
        "incident": name,
        "step": "open",
        "follows": None,
        "kind": kind,
        "reason": reason,
        "detected": stamp(detected),
        "sources": [{"source": s.source, "writer": s.writer.hex() if s.writer else None} for s in sources],
        "heads": [
            {"writer": writer.hex(), "seq": seq, "hash": digest.hex()}
            for writer, (seq, digest) in sorted(history.heads.items())
        ],
    }
    _check(document)
    if store:
        append_record(repo, signer_of(repo), document)
    return name


def _check(document: Mapping[str, object]) -> None:
    """See that readers will take it: one that they call damaged would stop every prune.

    Raises:
        UsageError: they would not.
    """
    try:
        check_incident(document)
    except (KeyError, ValueError, TypeError):
        raise UsageError("a step of an incident has one line of printable text and times that can be read") from None


def signer_of(repo: Repository) -> Signer:
    """Who signs steps."""
    signer = repo.keyring.signer(Right.RESPOND.value)
    assert signer is not None
    return signer


def find_incident(found: Sequence[Incident], text: str) -> Incident:
    """The incident of an id, or of a unique beginning of one.

    Raises:
        Failed: there is none.
        UsageError: there are several.
    """
    chosen = [one for one in found if one.id.startswith(text.lower())] if text else []
    if not chosen:
        raise Failed(f"there is no incident {text!r}", object_name=text, hint="`backupctl incident list` shows them")
    if len(chosen) > 1:
        raise UsageError(f"{text!r} is the beginning of {len(chosen)} incidents", hint="give more digits")
    return chosen[0]


def add_step(repo: Repository, incident: Incident, step: str, values: dict[str, object], now: datetime) -> str:
    """Store a step behind the newest one that is known here; returns its record's name.

    Raises:
        SafetyRefused: the incident is closed.
        UsageError: a text in it is not one line.
    """
    if incident.closed is not None:
        raise SafetyRefused(
            f"incident {incident.id} is closed", object_name=incident.id, hint="open another one if it is not over"
        )
    last = incident.steps[-1]
    document: dict[str, object] = {
        "type": "incident",
        "created": fine_stamp(now),
        "incident": incident.id,
        "step": step,
        "follows": {"record": last.name, "hash": last.digest.hex()},
        **values,
    }
    _check(document)
    return append_record(repo, signer_of(repo), document)


def state_values(state: State) -> dict[str, object]:
    """A state message as its record has it."""
    return {
        "message": state.message,
        "known": state.known,
        "restoring": state.restoring,
        "rate": state.rate,
        "left": state.left,
        "until": stamp(state.until) if state.until else None,
    }


def check_recovery(repo: Repository, name: str) -> None:
    """Whether a record is a note of something that was brought back.

    Raises:
        UsageError: it is none.
    """
    record = next((r for r in repo.records(lambda _: None) if r.name == name), None)
    if record is None or record.type != "audit":
        raise UsageError(
            f"{name} is no note of a restore", hint="`backupctl audit show --json` tells the records' names"
        )


def release_held(repo: Repository, found: Sequence[Incident], incident: Incident, reason: str, now: datetime) -> str:
    """End what an incident held; returns the record's name.

    Raises:
        IntegrityError: steps of it are missing: then nobody knows what was said.
    """
    assert incident in found
    if incident.problems:
        first = incident.problems[0]
        raise IntegrityError(
            f"{first.object}: {first.detail}; what the incident holds stays held",
            object_name=first.object,
            hint="find out who took it away (`backupctl audit verify`); `hold release SNAPSHOT` lets single ones go",
        )
    signer = repo.keyring.signer(Right.PRUNE.value)
    assert signer is not None
    document: dict[str, object] = {
        "type": "release",
        "created": fine_stamp(now),
        "snapshot": None,
        "incident": incident.id,
        "reason": reason,
        "ends": [incident.opened.name],
    }
    return append_record(repo, signer, document)


def read_incidents(repo: Repository) -> tuple[History, list[Incident]]:
    """The history and all incidents."""
    history = repo.history()
    return history, incidents(history.records)
