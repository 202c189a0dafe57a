"""A further key: signed in by the root, good at once, and never in force without its file."""

from dataclasses import replace
from pathlib import Path

import pytest

from backupd.crypto.keyfile import Key, Role, read_key_file
from backupd.crypto.keyring import Keyring
from backupd.errors import MissingRight, SafetyRefused, TryAgain, UsageError
from backupd.jobs.init import KdfCost, fresh_secrets, new_key
from backupd.jobs.keytest import try_key
from backupd.jobs.newkey import check_label, issue, plan_key, quorum
from backupd.jobs.select import source_names
from backupd.jobs.verify import Level
from backupd.repo.format import trust_name
from backupd.repo.ledger import Ledger
from backupd.repo.repository import Repository
from backupd.repo.trust import decode_trust, root_fingerprint
from backupd.store.base import ObjectStore, StoreRefused
from tests.jobs_kit import HookStore, Kit, LosingStore, make_database, names
from tests.stores import utc_now

CHEAP = KdfCost(8192, 1, 1)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A fresh repository."""
    return Kit(tmp_path)


def make(kit: Kit, role: Role, path: Path, label: str = "db2", store: ObjectStore | None = None) -> Key:
    """A new key, opened from its file."""
    repo = kit.repo(Role.ROOT, host="vault", store=store)
    issue(repo, plan_key(repo, role, path, label, now=utc_now(), cost=CHEAP), quorum(repo, [], lambda _: None))
    return read_key_file(path).unlock(None)


def test_a_second_writer_writes_for_itself(kit: Kit, tmp_path: Path) -> None:
    """It stores what the first one stored already; both go on; all older keys accept the new trust and read both."""
    source = make_database(tmp_path / "crm")
    first = kit.backup(source)
    second = make(kit, Role.WRITE, tmp_path / "db2.key")
    assert second.header.writer != kit.writer
    other = kit.backup(source, host="db2", key=second)
    assert other.chunks["full"] == first.chunks["full"] > 0
    assert other.chunks["reused"] == 0
    assert kit.backup(source, host="db2", key=second).chunks["full"] == 0
    assert kit.backup(source).chunks["full"] == 0
    wanted = source.read_bytes()
    kit.assert_restores({first.snapshot: wanted, other.snapshot: wanted})
    assert kit.verify(Level.CONTENT).problems == []
    called = source_names(kit.history(role=Role.CHECK).views)
    assert sorted(set(called.values())) == ["db2/crm", "host/crm"]


def test_its_file_is_private_and_pins_the_trust_that_names_it(kit: Kit, tmp_path: Path) -> None:
    """0600, no passphrase, its own secrets; a storage set back to before it is refused."""
    key = make(kit, Role.WRITE, tmp_path / "new/db2.key")
    assert (tmp_path / "new/db2.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert key.header.pin.trust == 2
    mine = kit.keys[Role.WRITE].secrets
    assert all(key.secrets[name] != mine[name] for name in ("sign", "id", "cut", "structure", "cache"))
    kit.store.delete(trust_name(2))
    tried = try_key(read_key_file(tmp_path / "new/db2.key"), kit.store, None)
    assert tried.error is not None


@pytest.mark.parametrize("role", [Role.CHECK, Role.PRUNE])
def test_further_keys_that_check_and_prune(kit: Kit, tmp_path: Path, role: Role) -> None:
    """They see what the first ones see, and what they sign counts."""
    kit.backup(make_database(tmp_path / "crm"))
    key = make(kit, role, tmp_path / "second.key", "office")
    assert try_key(read_key_file(tmp_path / "second.key"), kit.store, None).error is None
    repo = Repository.open(kit.store, Keyring((key,)), Ledger.load(tmp_path / "state"))
    assert [view.source for view in repo.history().views] == ["crm"]
    kit.keys[role] = key
    kit.put_record(role, 1, {"type": "bad-packs", "created": "2026-01-01T00:00:00Z", "packs": ["packs/aa/bb"]})
    found = list(kit.repo(Role.CHECK).records(lambda problem: pytest.fail(problem.detail)))
    assert [record.signer for record in found] == [key.header.id]
    kit.backup(make_database(tmp_path / "again", seed=2))


def test_nothing_of_a_label_is_in_clear(kit: Kit, tmp_path: Path) -> None:
    """Neither the storage nor the key file holds a label that can be read."""
    make(kit, Role.WRITE, tmp_path / "db2.key", "frankfurt-crm")
    make(kit, Role.CHECK, tmp_path / "check2.key", "frankfurt-office")
    assert all(b"frankfurt" not in kit.store.get(name) for name in names(kit.store))
    assert b"frankfurt" not in (tmp_path / "db2.key").read_bytes()


def test_an_existing_file_is_not_touched(kit: Kit, tmp_path: Path) -> None:
    """A file or a dangling link of the name is 20, and trust stays as it was."""
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("there", "link"):
        with pytest.raises(SafetyRefused, match="never overwritten"):
            make(kit, Role.WRITE, tmp_path / name)
    assert (tmp_path / "there").read_text() == "precious"
    assert names(kit.store, "trust/") == [trust_name(1)]


def test_cut_off_before_trust_leaves_a_file_that_opens_nothing(kit: Kit, tmp_path: Path) -> None:
    """What is killed between the two writes has made no credential; the next one goes on as if nothing was."""

    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name.startswith("trust/"):
            raise Killed

    with pytest.raises(Killed):
        make(kit, Role.WRITE, tmp_path / "db2.key", store=HookStore(kit.store, kill))
    assert (tmp_path / "db2.key").stat().st_mode & 0o777 == 0o600
    assert names(kit.store, "trust/") == [trust_name(1)]
    assert try_key(read_key_file(tmp_path / "db2.key"), kit.store, None).error is not None
    kit.backup(make_database(tmp_path / "crm"))
    make(kit, Role.WRITE, tmp_path / "again.key")
    tried = try_key(read_key_file(tmp_path / "db2.key"), kit.store, None)
    assert tried.error is not None
    assert "does not name it" in tried.error.message


def test_a_storage_that_refuses_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    """Where the trust document cannot be written, the key file goes again."""

    def refuse(name: str) -> None:
        if name.startswith("trust/"):
            raise StoreRefused("read only", object_name=name)

    with pytest.raises(StoreRefused):
        make(kit, Role.WRITE, tmp_path / "db2.key", store=HookStore(kit.store, refuse))
    assert not (tmp_path / "db2.key").exists()


def test_an_answer_that_was_lost_keeps_the_file(kit: Kit, tmp_path: Path) -> None:
    """The storage took the document and the answer was lost: the file stays, is named, and works."""
    lost = LosingStore(kit.store, lambda name: name.startswith("trust/"))
    with pytest.raises(TryAgain) as caught:
        make(kit, Role.WRITE, tmp_path / "db2.key", store=lost)
    assert "keys test" in str(caught.value.hint)
    assert try_key(read_key_file(tmp_path / "db2.key"), kit.store, None).error is None


def test_two_at_once_do_not_lose_one_another(kit: Kit, tmp_path: Path) -> None:
    """Whoever comes second is told to try again, has no file, and changes nothing of what the first one made."""
    done: list[Key] = []

    def other(name: str) -> None:
        if name.startswith("trust/") and not done:
            done.append(make(kit, Role.WRITE, tmp_path / "first.key", "db2"))

    with pytest.raises(TryAgain, match="same moment"):
        make(kit, Role.WRITE, tmp_path / "second.key", "db3", HookStore(kit.store, other))
    assert not (tmp_path / "second.key").exists()
    assert [w.id for w in kit.repo(Role.ROOT).trust.writers][1:] == [done[0].header.id]


def test_labels_that_could_not_be_told_apart(kit: Kit) -> None:
    """A label of another writer, an empty one, and one with signs that mean something in names are refused."""
    repo = kit.repo(Role.ROOT)
    for text in ("host", "", "  ", "a/b", "a@b", "a\\b", "a\nb", "x" * 129):
        with pytest.raises(UsageError):
            check_label(repo, Role.WRITE, text)
    assert check_label(repo, Role.CHECK, "host") == "host"


@pytest.mark.parametrize("role", [Role.READ, Role.ROOT, Role.RECOVERY])
def test_recipients_and_roots_are_not_made_here(kit: Kit, tmp_path: Path, role: Role) -> None:
    """A new reader would need new write keys everywhere: refused, and nothing is written."""
    with pytest.raises(UsageError):
        make(kit, role, tmp_path / "x.key")
    assert list(tmp_path.iterdir()) == []


def test_every_root_that_trust_asks_for_signs(kit: Kit, tmp_path: Path) -> None:
    """With a threshold of two, one root key is too few (12), and two make trust that every reader accepts."""
    pin = kit.keys[Role.ROOT].header.pin
    spare = new_key(
        Role.ROOT, fresh_secrets(Role.ROOT, kit.keys[Role.ROOT].secrets["structure_root"]), pin, utc_now(), CHEAP
    )
    one = kit.keys[Role.ROOT]
    roots = {k.header.id: k.header.public for k in (one, spare)}
    pin = replace(pin, root=root_fingerprint(2, roots.values()), trust=2)
    both = [Key(replace(k.header, pin=pin), k.secrets) for k in (one, spare)]
    trust = replace(kit.trust, version=2, threshold=2, roots=roots)
    repo = Repository(kit.store, Keyring((both[0],)), trust, Ledger(tmp_path / "heads.json"))
    with pytest.raises(MissingRight, match="2 root keys"):
        quorum(repo, [], lambda _: None)
    planned = plan_key(repo, Role.WRITE, tmp_path / "db2.key", "db2", now=utc_now())
    issue(repo, planned, both)

    assert decode_trust(kit.store.get(trust_name(3)), 3, trust.repository, trust, b"") == planned.trust
