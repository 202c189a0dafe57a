"""Incidents: what holds, what ends that, and what liars and thieves can do about it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.catalog.opening import Catalog
from backupd.crypto.keyfile import Role
from backupd.crypto.primitives import sha256
from backupd.daemon.inforce import InForce
from backupd.daemon.page import render
from backupd.daemon.service import State as Loop
from backupd.daemon.view import Viewer
from backupd.errors import IntegrityError, TryAgain
from backupd.jobs.appending import append_record
from backupd.jobs.cataloging import look, note
from backupd.jobs.incident import Covered, State, add_step, open_incident, read_incidents, release_held, state_values
from backupd.jobs.prune import Prune, PruneResult
from backupd.policy.retention import Rule
from backupd.report import Tally
from backupd.wiring import open_catalog
from tests.jobs_kit import HookStore, Kit, make_database, names
from tests.unit.daemon.samples import HOSTILE
from tests.unit.daemon.test_view import PolicyFile, policy

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """Three snapshots of one source."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "crm", chunks=1)
    for _ in range(3):
        kit.backup(source)
    return kit


def start(kit: Kit, role: Role = Role.READ, source: str = "crm", writer: bytes | None = None) -> str:
    """Open an incident."""
    repo = kit.repo(role, host="laptop")
    covered = [Covered(source, writer)]
    return open_incident(repo, repo.history(), covered, kind="deletion", reason="gone", detected=NOW, now=NOW)


def prune(kit: Kit, **options: Any) -> PruneResult:
    """A real prune that would keep one."""
    return Prune(kit.repo(Role.PRUNE, host="pruner"), NOW, Tally(), **options).by_rule(Rule(last=1), lambda _: True)


@pytest.mark.parametrize("role", [Role.READ, Role.RECOVERY, Role.ROOT])
def test_whoever_may_respond_holds_and_only_a_pruner_ends_it(kit: Kit, role: Role) -> None:
    """A close by a reader ends nothing; a release that a reader signs counts for nothing, and stops every prune."""
    incident = start(kit, role)
    repo = kit.repo(role, host="laptop")
    (one,) = read_incidents(repo)[1]
    add_step(repo, one, "close", {"summary": "over"}, NOW)
    assert all(v.keep for v in prune(kit).verdicts)
    if role is Role.ROOT:
        return
    with pytest.raises(IntegrityError, match="may not sign a release"):
        kit.put_record(role, 3, {"type": "release", "created": "x", "incident": incident, "ends": [one.opened.name]})
    repo = kit.repo(Role.PRUNE, host="pruner")
    found = read_incidents(repo)[1]
    release_held(repo, found, found[0], "reviewed", NOW)
    assert len([v for v in prune(kit).verdicts if v.keep]) == 1


def test_a_rebuilt_host_is_covered_and_another_source_is_not(kit: Kit, tmp_path: Path) -> None:
    """A name without a writer means whoever writes it; one with a writer only that one's."""
    second = kit.add_writer()
    start(kit)
    kit.backup(tmp_path / "crm", key=second, host="second")
    kit.backup(tmp_path / "crm", key=second, host="second")
    kit.backup(make_database(tmp_path / "shop", chunks=1), key=second, host="second")
    kept = [v for v in prune(kit).verdicts if any(r.startswith("held: incident") for r in v.reasons)]
    assert {v.snapshot.source[-1] for v in kept} == {"crm"}
    assert len(kept) == 5


def test_an_incident_of_one_writer_holds_that_one(kit: Kit, tmp_path: Path) -> None:
    """The other's go by the rule."""
    second = kit.add_writer()
    for _ in range(2):
        kit.backup(tmp_path / "crm", key=second, host="second")
    start(kit, writer=second.header.writer)
    gone = [v for v in prune(kit).verdicts if not v.keep]
    assert {v.snapshot.source[1] for v in gone} == {kit.writer.hex()}


def test_a_prune_that_is_at_work_gives_way(kit: Kit) -> None:
    """An incident that is opened while it reads lists stops it before anything is removed; a note does not."""
    work = Prune(kit.repo(Role.PRUNE, host="pruner"), NOW, Tally())
    start(kit)
    with pytest.raises(TryAgain, match="an incident was opened"):
        work.by_rule(Rule(last=1), lambda _: True)
    assert len(kit.history().views) == 3


@pytest.mark.parametrize(
    "broken",
    [
        {"sources": []},
        {"kind": "joke"},
        {"reason": "two\nlines"},
        {"incident": "../x"},
        {"detected": None},
        {"step": "end"},
    ],
)
def test_an_opening_that_lacks_something_is_damage_and_stops_prunes(kit: Kit, broken: dict[str, object]) -> None:
    """It may be a hold that somebody garbled."""
    document: dict[str, object] = {
        "type": "incident", "created": "2026-11-21T23:00:00Z", "incident": "ab" * 8, "step": "open", "follows": None,
        "kind": "other", "reason": "x", "detected": "2026-11-21T23:00:00Z", "sources": [{"source": "crm", "writer": None}],
        "heads": [],
    }  # fmt: skip
    kit.put_record(Role.READ, 1, {**document, **broken})
    with pytest.raises(IntegrityError, match="without what such a record tells"):
        prune(kit)


@pytest.mark.parametrize("role", [Role.WRITE, Role.CHECK, Role.PRUNE])
def test_who_may_not_respond_signs_no_step(kit: Kit, role: Role) -> None:
    """Neither a thief of a write key nor the pruner writes the history."""
    with pytest.raises(IntegrityError, match="may not sign a incident record"):
        kit.put_record(role, 1, {"type": "incident", "created": "x"})


def test_two_openings_of_one_id_both_hold(kit: Kit) -> None:
    """Releasing the one that is shown does not end what a copy of its id holds; it is told as forked."""
    start(kit)
    repo = kit.repo(Role.READ, host="laptop")
    (one,) = read_incidents(repo)[1]
    kit.put_record(Role.RECOVERY, 1, {**one.opened.document, "created": "2026-11-22T00:00:00Z"})
    repo = kit.repo(Role.PRUNE, host="pruner")
    found = read_incidents(repo)[1]
    assert [p.kind for p in found[0].problems] == ["forked"]
    with pytest.raises(IntegrityError, match="stays held"):
        release_held(repo, found, found[0], "x", NOW)
    assert all(v.keep for v in prune(kit).verdicts)


def test_two_who_write_at_once_are_both_heard(kit: Kit) -> None:
    """Steps that follow the same one are no fault."""
    start(kit)
    first, second = (kit.repo(Role.READ, host=host) for host in ("laptop", "other"))
    (mine,), (theirs,) = (read_incidents(repo)[1] for repo in (first, second))
    add_step(first, mine, "note", {"text": "a"}, NOW)
    add_step(second, theirs, "note", {"text": "b"}, NOW + timedelta(seconds=1))
    (one,) = read_incidents(kit.repo(Role.CHECK, host="laptop"))[1]
    assert [r.document.get("text") for r in one.steps] == [None, "a", "b"]
    assert one.problems == []


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog."""
    with open_catalog(tmp_path / "catalog") as found:
        yield found


def test_the_daemon_shows_what_people_wrote_until_it_is_closed(kit: Kit, catalog: Catalog) -> None:
    """From the records by a check key over the catalog to the page: what is known, being restored, rate, time left; as text."""
    start(kit)
    repo = kit.repo(Role.READ, host="laptop")
    state = State(
        HOSTILE.replace("\u202e", "").replace("\u200b", ""),
        "since three",
        "orders",
        5_000_000,
        60_000_000,
        NOW + timedelta(hours=1),
    )
    add_step(repo, read_incidents(repo)[1][0], "update", state_values(state), NOW)

    def shown(name: str) -> str:
        daemon = kit.repo(Role.CHECK, host="daemon")
        note(catalog, name, "file:///b", daemon.id.hex(), look(daemon, NOW, Tally()), NOW)
        files = (PolicyFile(policy("nightly", "crm"), Path("nightly.yaml")),)
        viewer = Viewer(catalog, Loop(InForce(files, Path(), "digest")), lambda: NOW, lambda: 0.0)
        seen = viewer.overview()
        assert all(one.id[:8] in seen.sentence for one in seen.incidents)
        return render(seen)

    text = shown("nightly")
    for part in ("Open incidents", "since three", "orders", "5.0 MB/s", "60.0 MB", "&lt;script&gt;"):
        assert part in text
    assert "<script" not in text
    repo = kit.repo(Role.READ, host="laptop")
    add_step(repo, read_incidents(repo)[1][0], "close", {"summary": "over"}, NOW)
    assert "Open incidents" not in shown("nightly")


def test_a_record_of_an_interrupted_opening_is_whole_or_not_there(kit: Kit) -> None:
    """The storage fails: nothing is held, and the next try holds everything."""

    def fail(name: str) -> None:
        if name.startswith("records/"):
            raise OSError("unplugged")

    repo = kit.repo(Role.READ, host="laptop", store=HookStore(kit.store, fail))
    with pytest.raises(OSError, match="unplugged"):
        open_incident(repo, repo.history(), [Covered("crm")], kind="other", reason="x", detected=NOW, now=NOW)
    assert read_incidents(kit.repo(Role.READ, host="laptop"))[1] == []
    start(kit)
    assert all(v.keep for v in prune(kit).verdicts)


def test_what_a_thief_signed_stops_no_prune_once_the_key_is_revoked(kit: Kit) -> None:
    """Records are never removed: one that counts for nothing must not stand in the way for ever, nor a step that follows it."""
    repo = kit.repo(Role.READ, host="laptop")
    append_record(repo, kit.signer(Role.READ), {"type": "audit", "created": "2026-01-01T00:00:00Z", "action": "query"})
    last = names(kit.store, "records/read/")[-1]
    good = int(last.rsplit("/", 1)[1]), sha256(kit.store.get(last))
    start(kit)
    recovery = kit.repo(Role.RECOVERY, host="laptop")
    (one,) = read_incidents(recovery)[1]
    add_step(recovery, one, "note", {"text": "that was a thief"}, NOW)
    assert all(v.keep for v in prune(kit).verdicts)
    identities = tuple(replace(i, last_good=good) if i.role is Role.READ else i for i in kit.trust.identities)
    kit.put_trust(replace(kit.trust, version=2, identities=identities))
    assert [v.keep for v in prune(kit).verdicts].count(True) == 1
    assert read_incidents(kit.repo(Role.RECOVERY, host="laptop"))[1] == []
