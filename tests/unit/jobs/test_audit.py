"""The audit: notes that never stand in the way, one history of everything, and chains that show every change."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError, Interrupted
from backupd.jobs.appending import append_record
from backupd.jobs.audit import Entry, append_audit, audited, chosen, merge, read_audit, snapshot_facts
from backupd.jobs.auditcheck import check_audit
from backupd.repo.format import trust_name
from backupd.repo.records import record_name
from backupd.report import Tally
from backupd.store.base import ObjectStore, StoreRefused, StoreUnavailable
from tests.doubles import RecordingStore, Wrapper
from tests.jobs_kit import HookStore, Kit, make_database, names, overwrite
from tests.stores import utc_now

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A repository with two snapshots."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "crm", chunks=2)
    kit.backup(source)
    kit.backup(source)
    return kit


def note(kit: Kit, store: ObjectStore | None = None, error: BaseException | None = None) -> Tally:
    """A restore that is noted, and ends as `error` says."""
    report, repo = Tally(), kit.repo(Role.READ, host="reader", store=store)
    facts = {**snapshot_facts(repo.history().views[-1]), "engine": "sqlite", "tables": None}
    with audited(repo, "restore", facts, lambda: NOW, report):
        if error:
            raise error
    return report


def documents(kit: Kit, role: Role = Role.READ) -> list[dict[str, object]]:
    return [dict(r.document) for r in kit.repo(Role.CHECK).records(lambda p: pytest.fail(p.detail)) if r.role is role]


def test_a_restore_leaves_its_beginning_and_its_outcome(kit: Kit) -> None:
    """Two records of the reader, sealed: what, of which snapshot, how it ended; the second names the first."""
    assert note(kit).warnings == []
    begun, done = documents(kit)
    assert (begun["action"], done["action"], done["outcome"]) == ("restore-begun", "restore", "done")
    assert done["begun"] == record_name(Role.READ, 1)
    assert begun["snapshot"] == done["snapshot"] == kit.history().views[-1].id
    for name in names(kit.store, "records/"):
        assert b"restore" not in kit.store.get(name)
        assert b"crm" not in kit.store.get(name)


def test_a_failure_leaves_its_word_and_an_interruption_no_end(kit: Kit) -> None:
    """The word of the error, never its message; what was cut off has a beginning only."""
    with pytest.raises(IntegrityError):
        note(kit, error=IntegrityError("damaged, quoting a customer"))
    assert documents(kit)[-1]["code"] == "integrity"
    assert "customer" not in str(documents(kit))
    with pytest.raises(OSError, match="full"):
        note(kit, error=OSError("disk full"))
    for error in (Interrupted("interrupted"), KeyboardInterrupt(), ValueError("a bug")):
        with pytest.raises(type(error)):
            note(kit, error=error)
    assert [d["action"] for d in documents(kit)[4:]] == ["restore-begun"] * 3


@pytest.mark.parametrize("error", [StoreRefused("read only"), StoreUnavailable("gone")], ids=["refused", "unavailable"])
def test_a_storage_that_takes_no_notes_does_not_stop_a_restore(kit: Kit, error: StoreRefused) -> None:
    """There is one warning, the restore goes on, and no end is tried where there is no beginning."""
    tried: list[str] = []

    def refuse(name: str) -> None:
        tried.append(name)
        raise error

    report = note(kit, HookStore(kit.store, refuse))
    assert len(report.warnings) == 1
    assert "no note of this restore-begun" in report.warnings[0]
    assert tried == [record_name(Role.READ, 1)]


def test_a_note_costs_three_requests(kit: Kit) -> None:
    """A listing of the role's records, the newest of them, and one write."""
    note(kit)
    asked: list[str] = []

    class Counting(Wrapper):
        def __getattribute__(self, name: str) -> object:
            if name in {"put", "get", "list", "delete"}:
                asked.append(name)
            return super().__getattribute__(name)

    repo = kit.repo(Role.READ, host="reader", store=Counting(kit.store))
    asked.clear()
    assert append_audit(repo, "export-begun", {}, NOW, Tally()) == record_name(Role.READ, 3)
    assert sorted(asked) == ["get", "list", "put"]


def test_one_history_of_everything(kit: Kit, tmp_path: Path) -> None:
    """Snapshots, trust, notes, holds and verdicts, oldest first, with who did it; a write key sees its snapshots and counts
    the rest."""
    view = kit.history().views[0]
    kit.add_writer("db2")
    for role, document in (
        (Role.READ, {"type": "hold", "snapshot": view.id, "reason": "case 4711"}),
        (Role.CHECK, {"type": "bad-packs", "packs": ["packs/aa/x", "packs/bb/y"]}),
        (Role.CHECK, {"type": "evidence", "snapshot": view.id, "passed": True}),
        (Role.PRUNE, {"type": "release", "snapshot": view.id, "reason": None, "ends": []}),
        (
            Role.PRUNE,
            {
                "type": "brake",
                "writer": view.object.writer.hex(),
                "source": view.source,
                "snapshot": view.id,
                "kinds": ["rows_gone"],
                "reason": "rows gone",
                "numbers": {},
            },
        ),
    ):
        repo = kit.repo(role)
        signer = repo.keyring.signer([role])
        assert signer is not None
        append_record(repo, signer, {**document, "created": "2026-11-20T00:00:00Z"})
    note(kit)
    audit = read_audit(kit.repo(Role.CHECK))
    assert (audit.hidden, audit.problems) == (0, [])
    found = {e.action: e for e in audit.entries}
    wanted = {"snapshot", "trust", "hold", "bad-packs", "evidence", "release", "brake", "restore-begun", "restore"}
    assert found.keys() == wanted
    assert (found["hold"].role, found["hold"].object, found["hold"].source) == ("read", view.id, "crm")
    assert "case 4711" in found["hold"].detail
    assert found["bad-packs"].detail == "2 packs"
    assert "passed" in found["evidence"].detail
    assert found["brake"].detail == "crm, rows gone"
    assert found["snapshot"].who == "host"
    assert found["hold"].who == kit.keys[Role.READ].header.id.hex()[:12]
    assert [e.detail for e in audit.entries if e.action == "trust"] == ["version 1", "version 2: new writer db2"]
    times = [e.moment for e in audit.entries]
    assert times == sorted(m for m in times if m)
    own = read_audit(kit.repo(Role.WRITE))
    assert {e.action for e in own.entries} == {"snapshot", "trust", "bad-packs"}
    assert own.hidden == 6


def test_the_history_reads_every_object_once(kit: Kit) -> None:
    """Snapshots and records are asked for once each, and what a revoked write key signed is not called shut."""
    note(kit)
    kit.put_record(
        Role.WRITE, 1, {"type": "hold", "created": "2026-11-21T23:00:00Z", "snapshot": "ab" * 32, "reason": "x"}
    )
    head = kit.history().heads[kit.writer]
    writers = tuple(replace(entry, last_good=head) for entry in kit.trust.writers)
    kit.put_trust(replace(kit.trust, version=kit.trust.version + 1, writers=writers))
    store = RecordingStore(kit.store)
    audit = read_audit(kit.repo(Role.CHECK, host="looker", store=store))
    asked = [name for verb, name, _ in store.calls if verb == "get" and name.startswith(("snapshots/", "records/"))]
    assert sorted(asked) == sorted([*names(kit.store, "records/"), *names(kit.store, "snapshots/")])
    assert audit.hidden == 0
    assert len([e for e in audit.entries if e.action.startswith("restore")]) == 2


def test_what_is_chosen() -> None:
    """Since a time, of a source, and of those the newest few; another history joins by its times."""
    made = [Entry(f"2026-11-{day:02d}T00:00:00Z", "x", "write", "snapshot", source="ab"[day % 2]) for day in (4, 2)]
    other = [Entry("2026-11-03T00:00:00.5Z", "daemon", "host", "policy"), Entry("nonsense", "x", "read", "hold")]
    joined = merge(made, other)
    assert [e.at[:10] for e in joined] == ["nonsense", "2026-11-02", "2026-11-03", "2026-11-04"]
    assert [e.action for e in chosen(joined, since=datetime(2026, 11, 3, tzinfo=UTC))] == ["policy", "snapshot"]
    assert len(chosen(joined, source="a")) == 2
    assert chosen(joined, limit=1) == joined[-1:]


def whole(kit: Kit) -> None:
    """Six records of two roles, and the check agrees."""
    for _ in range(2):
        note(kit)
    for n in range(2):
        kit_repo = kit.repo(Role.CHECK)
        append_audit(kit_repo, f"drill-{n}", {}, utc_now(), Tally())


def remove(kit: Kit, name: str) -> None:
    kit.store.delete(name)


def damage(kit: Kit, name: str) -> None:
    data = bytearray(kit.store.get(name))
    data[len(data) // 2] ^= 1
    overwrite(kit.store, name, bytes(data))


def replay(kit: Kit, name: str) -> None:
    """Another record, well signed by the same key, stands at the place: its own next one no longer follows it."""
    n = int(name.rsplit("/", 1)[1])
    kit.store.delete(name)
    kit.put_record(Role.READ, n, {"type": "audit", "created": "2026-01-01T00:00:00Z", "action": "nothing"})


@pytest.mark.parametrize(
    ("change", "kind"),
    [(remove, "missing"), (damage, "damaged"), (replay, "chain")],
    ids=["missing", "damaged", "chain"],
)
def test_every_change_of_a_record_is_named(kit: Kit, change: Callable[[Kit, str], None], kind: str) -> None:
    """A record that was removed, changed or replaced is named, first of all, also by a key that cannot open it."""
    whole(kit)
    for role in (Role.CHECK, Role.READ):
        assert check_audit(kit.repo(role)).problems == []
    assert check_audit(kit.repo(Role.CHECK)).records == 6
    change(kit, record_name(Role.READ, 2))
    found = check_audit(kit.repo(Role.CHECK)).problems
    assert (found[0].object, found[0].kind) == (record_name(Role.READ, 2), kind)


def test_a_tail_that_was_seen_is_missed(kit: Kit) -> None:
    """The newest record can go unnoticed only by one who never saw it."""
    whole(kit)
    repo = kit.repo(Role.CHECK, host="auditor")
    repo.ledger.remember(1, {}, records={"read": 4})
    remove(kit, record_name(Role.READ, 4))
    assert check_audit(kit.repo(Role.CHECK, host="stranger")).problems == []
    (found,) = check_audit(kit.repo(Role.CHECK, host="auditor")).problems
    assert (found.object, found.kind) == (record_name(Role.READ, 4), "missing")


def test_the_other_chains_are_checked_too(kit: Kit) -> None:
    """A removed snapshot is named; trust whose version was replaced by one of no root is refused outright."""
    whole(kit)
    kit.backup(make_database(kit.root / "more", chunks=1))
    done = check_audit(kit.repo(Role.CHECK))
    assert (done.trust, done.snapshots, done.writers) == (1, 3, 1)
    kit.store.delete(kit.history().views[1].object.name)
    assert {p.kind for p in check_audit(kit.repo(Role.CHECK)).problems} == {"missing"}
    repo = kit.repo(Role.CHECK)
    kit.put_trust(replace(kit.trust, version=2))
    damage(kit, trust_name(2))
    repo.trust = kit.trust
    with pytest.raises(IntegrityError):
        check_audit(repo)
