"""What a review found: revoked identities, verdicts that change, lost snapshots that must not be passed over in silence."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Role
from backupd.errors import Failed, IntegrityError
from backupd.jobs.appending import append_record
from backupd.jobs.select import select_snapshot
from backupd.jobs.verify import Level, verify
from backupd.repo.repository import Repository
from backupd.report import Problem, Tally
from tests.cli.kit import CHINOOK
from tests.jobs_kit import HookStore, Kit, copy_host, make_database, names, overwrite
from tests.unit.jobs.test_chains import ChainWriter

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def told(repo: Repository) -> tuple[list[str], list[Problem]]:
    """Reasons of the holds that count, and the problems."""
    problems: list[Problem] = []
    return [str(r.document["reason"]) for r in repo.records(problems.append)], problems


def test_a_revoked_identity_keeps_what_its_last_good_record_leads_to(tmp_path: Path) -> None:
    """Records up to the last good one count, later ones and rewritten ones of the revoked key do not."""
    kit = Kit(tmp_path)
    repo = kit.repo(Role.PRUNE, host="pruner")
    signer = kit.signer(Role.PRUNE)
    for n in range(3):
        append_record(repo, signer, {"type": "hold", "created": f"2026-11-2{n}T00:00:00Z", "reason": str(n)})
    assert told(repo) == (["0", "1", "2"], [])
    second = next(r for r in repo.records(lambda _: None) if r.n == 2)
    identities = tuple(
        replace(i, last_good=(2, second.digest)) if i.role is Role.PRUNE else i for i in kit.trust.identities
    )
    kit.put_trust(replace(kit.trust, version=2, identities=identities))
    reasons, problems = told(kit.repo(Role.CHECK, host="checker"))
    assert reasons == ["0", "1"]
    assert [(p.object, p.kind) for p in problems] == [("records/prune/000000000003", "revoked")]


def test_a_revoked_recipient_gets_no_new_session(tmp_path: Path) -> None:
    """A read key with `last_good` is no recipient any more; the writer's key must be made anew for the others."""
    kit = Kit(tmp_path)
    identities = tuple(replace(i, last_good=(0, bytes(32))) if i.role is Role.READ else i for i in kit.trust.identities)
    kit.put_trust(replace(kit.trust, version=2, identities=identities))
    trust = kit.repo(Role.CHECK).trust
    assert set(trust.recipients) == {kit.keys[Role.RECOVERY].header.id}


def test_a_verdict_can_change(tmp_path: Path) -> None:
    """A pack that was missing is avoided; once it is back and whole, verify says so and it is used again."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "a.db")
    kit.backup(source)
    name = max(names(kit.store, "packs/"), key=lambda n: len(kit.store.get(n)))
    data = kit.store.get(name)
    kit.store.delete(name)
    assert kit.verify().problems
    kit.store.put(name, data)
    assert kit.repo(Role.CHECK).bad_packs(Tally()) == {name}
    assert kit.verify().problems == []
    assert kit.repo(Role.CHECK).bad_packs(Tally()) == set()
    assert kit.backup(source).chunks["full"] == 0


def test_a_sample_always_looks_at_what_was_bad(tmp_path: Path) -> None:
    """That nothing is found must not mean that nobody looked there; once it is mended, a sample says so."""
    kit = Kit(tmp_path)
    kit.backup(make_database(tmp_path / "a.db"))
    name = max(names(kit.store, "packs/"), key=lambda n: len(kit.store.get(n)))
    data = kit.store.get(name)
    overwrite(kit.store, name, data[:-1] + bytes([data[-1] ^ 1]))
    repo = kit.repo(Role.CHECK)
    verify(repo, Level.BYTES, now=NOW, report=Tally())
    for _ in range(8):
        found = verify(kit.repo(Role.CHECK), Level.BYTES, sample=0.001, now=NOW, report=Tally())
        assert [problem.object for problem in found.problems] == [name]
    overwrite(kit.store, name, data)
    assert verify(kit.repo(Role.CHECK), Level.BYTES, sample=0.001, now=NOW, report=Tally()).problems == []
    assert kit.repo(Role.CHECK).bad_packs(Tally()) == set()


def test_a_lost_snapshot_is_never_passed_over(tmp_path: Path) -> None:
    """`latest` and the id of a damaged snapshot are integrity errors naming it; the older one is given by its id."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "a.db")
    old, new = kit.backup(source), kit.backup(source)
    name = max(names(kit.store, "snapshots/"))
    overwrite(kit.store, name, kit.store.get(name)[:-1])
    history = kit.history()
    for text in ("latest", "latest:a", "a@2999-01-01", new.snapshot[:12]):
        with pytest.raises(IntegrityError) as caught:
            select_snapshot(history, text)
        assert caught.value.object_name == name
    assert select_snapshot(history, old.snapshot[:12]).id == old.snapshot
    kit.backup(source)
    assert select_snapshot(kit.history(), "latest").object.seq == 3
    with pytest.raises(Failed):
        select_snapshot(Kit(tmp_path / "other").history(), "latest")


def test_a_lie_about_the_whole_is_found_by_content(tmp_path: Path) -> None:
    """A stream whose digest is not the one that its writer signed fails content verification as it fails a restore."""
    kit = Kit(tmp_path)
    made = ChainWriter(kit).store(CHINOOK.read_bytes(), digest="0" * 64)
    assert kit.verify(Level.BYTES).problems == []
    assert [p.object for p in kit.verify(Level.CONTENT).problems] == [made.name]
    with pytest.raises(IntegrityError):
        kit.restore(made.id.hex())


def test_a_pack_that_vanishes_before_the_end_leaves_no_snapshot(tmp_path: Path) -> None:
    """A pack removed while the run goes on is noticed before the snapshot is published (D33)."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "a.db")

    def remove(name: str) -> None:
        if name.startswith("index/"):
            kit.store.delete(names(kit.store, "packs/")[0])

    with pytest.raises(IntegrityError, match="vanished"):
        kit.backup(source, store=HookStore(kit.store, remove))
    assert names(kit.store, "snapshots/") == []


def test_an_empty_source_is_warned_about(tmp_path: Path) -> None:
    """A file of no bytes is a snapshot, with a warning that it may be the wrong file."""
    (tmp_path / "empty.db").touch()
    assert any("empty" in warning for warning in Kit(tmp_path).backup(tmp_path / "empty.db").warnings)


def test_an_expired_trust_document_warns_and_blocks_no_restore(tmp_path: Path) -> None:
    """After its date a run goes on with a warning, and a restore goes on as before (B13)."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "a.db")
    kit.put_trust(replace(kit.trust, version=2, expires="2020-01-01T00:00:00Z"))
    report = Tally()
    done = kit.backup(source, report=report)
    assert any("expired" in warning for warning in report.warnings)
    kit.assert_restores({done.snapshot: source.read_bytes()})


def test_a_cloned_machine_makes_sessions_of_its_own(tmp_path: Path) -> None:
    """Two copies of one host, state and cache included, run apart: other sessions, no blob alike, both restore (C24)."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "a.db")
    kit.backup(source)
    copy_host(kit, "writer", "clone")
    held = {}
    for host, seed in (("writer", 1), ("clone", 1)):
        make_database(tmp_path / f"{host}.db", seed=7 + seed)
        done = kit.backup(tmp_path / f"{host}.db", host=host)
        held[done.snapshot] = (tmp_path / f"{host}.db").read_bytes()
    sessions = names(kit.store, "sessions/")
    assert len(sessions) == len(set(sessions)) == 3
    kit.assert_restores(held)
    packs = [kit.store.get(name) for name in names(kit.store, "packs/")]
    salts = [pack[at : at + 24] for pack in packs for at in range(3000, len(pack) - 24, 65_000)]
    assert len(salts) == len(set(salts))


def test_records_of_a_revoked_write_key_count_for_nothing(tmp_path: Path) -> None:
    """A hold signed by a write key is heard until the key is revoked, and is no damage afterwards (B20)."""
    kit = Kit(tmp_path)
    kit.put_record(Role.WRITE, 1, {"type": "hold", "created": "2026-11-22T00:00:00Z", "reason": "mine"})
    assert told(kit.repo(Role.CHECK)) == (["mine"], [])
    writers = tuple(replace(w, last_good=(1, bytes(32))) for w in kit.trust.writers)
    kit.put_trust(replace(kit.trust, version=2, writers=writers))
    assert told(kit.repo(Role.CHECK)) == ([], [])
