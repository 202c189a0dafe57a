"""What must never be seen is never seen: records in stored bytes and messages, secrets anywhere, chunks by the wrong key."""

import base64
import dataclasses
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import apsw
import pytest

from backupd.config.urls import parse_repository
from backupd.crypto.chunks import ChunkSealer, Kind, open_part
from backupd.crypto.envelope import open_envelope
from backupd.crypto.keyfile import Key, Role, parse_key
from backupd.crypto.keyring import Keyring, Right, derive_structure_key
from backupd.crypto.primitives import Unauthentic, expand, sha256
from backupd.engines.sqlite import open_source, open_target
from backupd.errors import BackupdError, IntegrityError, KeyProblem, MissingRight, SourceIncomplete
from backupd.jobs.backup import BackupOptions, open_index
from backupd.jobs.init import init_repository
from backupd.jobs.restore import open_content, restore
from backupd.jobs.select import select_snapshot
from backupd.jobs.verify import Level
from backupd.repo.pack import PackEntry, parse_pack
from backupd.repo.repository import Repository, SnapshotView
from backupd.repo.writing import WriteSession
from backupd.report import Tally
from backupd.store.base import ObjectStore
from backupd.wiring import open_repository, open_store, read_keys
from tests.jobs_kit import (
    CHEAP,
    PASSPHRASE,
    Kit,
    change_database,
    contents,
    copy_store,
    make_database,
    names,
    open_keys,
    overwrite,
)
from tests.stores import utc_now

ROOT = Path(__file__).resolve().parents[1]
CANARY = "Xanthippe-Quux-Kanarienvogel"
LABEL = "secret-merger-customers"


def make_canary_database(path: Path) -> Path:
    """A customer's name in rows, in a table's name and in a column's name; compressible and not."""
    db = apsw.Connection(str(path))
    with db:
        db.execute(f'CREATE TABLE "{CANARY} table" (id INTEGER PRIMARY KEY, "{CANARY} column" TEXT NOT NULL)')
        db.execute(f'CREATE INDEX "{CANARY} index" ON "{CANARY} table" ("{CANARY} column")')
        rows = ((n, f"{CANARY} {n}") for n in range(20_000))
        db.executemany(f'INSERT INTO "{CANARY} table" VALUES (?, ?)', rows)
        db.execute("CREATE TABLE noise (data BLOB)")
        db.execute("INSERT INTO noise VALUES (? || randomblob(300000))", (CANARY.encode(),))
    db.close()
    return path


def spellings(secret: bytes) -> set[bytes]:
    """A byte string raw, in hex, in base64 wherever it may begin in it, and as Python shows it."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret)[2:-1].encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        found.add(encoded[4 if shift else 0 : len(encoded) - 4])
    return found


def secrets_of(keys: Iterable[Key]) -> dict[str, set[bytes]]:
    """Every secret of the key files, in all its spellings; the hash of the recipients is none."""
    return {
        f"{key.role} {name}": spellings(value)
        for key in keys
        for name, value in key.secrets.values.items()
        if name != "recipients"
    }


def hits(text: bytes, wanted: Mapping[str, set[bytes]]) -> list[str]:
    """The names of what is found in a text."""
    return [name for name, forms in wanted.items() if any(form in text for form in forms)]


def objects_in(start: object, depth: int = 5) -> Iterator[object]:
    """Every object of backupd's own that can be reached, the hidden fields included."""
    if depth == 0:
        return
    if isinstance(start, list | tuple | set | frozenset):
        for item in start:
            yield from objects_in(item, depth)
    elif isinstance(start, dict):
        yield from objects_in([*start.keys(), *start.values()], depth)
    elif type(start).__module__.startswith(("backupd.", "tests.jobs_kit")):
        yield start
        fields = [f.name for f in dataclasses.fields(start)] if dataclasses.is_dataclass(start) else []
        for name in [*fields, *getattr(start, "__dict__", {})]:
            yield from objects_in(getattr(start, name, None), depth - 1)


def told(error: BaseException) -> str:
    """Everything that an error says, its causes and its traceback included."""
    parts = [str(error), repr(error), *traceback.format_exception(error)]
    if isinstance(error, BackupdError):
        parts += [error.message, str(error.hint), str(error.object_name)]
    return "\n".join(parts)


def corrupt(path: Path) -> None:
    """Damage an index page, so that the engine's check quotes what it can."""
    db = apsw.Connection(str(path))
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    db.execute("PRAGMA writable_schema=ON")
    with db:
        db.execute(f"""UPDATE sqlite_schema SET sql = replace(sql, 'TEXT NOT NULL', 'TEXT NOT NULL CHECK (0)')
                       WHERE name = '{CANARY} table'""")
    db.close()
    data = bytearray(path.read_bytes())
    for at in range(8192, len(data) - 4096, 40_960):
        data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    """A kit with two snapshots of a database with canaries, whose source name is a label."""
    kit = Kit(tmp_path)
    source = make_canary_database(tmp_path / f"{LABEL}.db")
    kit.backup(source)
    db = apsw.Connection(str(source))
    db.execute(f'UPDATE "{CANARY} table" SET "{CANARY} column" = \'{CANARY} changed\' WHERE id < 100').fetchall()
    db.close()
    kit.backup(source, note=f"about {CANARY}")
    return kit


def _failures(kit: Kit, source: Path) -> Iterator[BaseException]:
    """What the jobs raise when keys, packs, lists and sources are bad."""
    snapshot = kit.history().views[-1].id
    damaged = copy_store(kit.store)
    for name in names(damaged, "packs/"):
        data = damaged.get(name)
        overwrite(damaged, name, data[: len(data) // 2] + bytes(8) + data[len(data) // 2 + 8 :])
    broken = source.with_name("broken.db")
    shutil.copyfile(source, broken)
    corrupt(broken)
    not_a_database = source.with_name("text.db")
    not_a_database.write_text(f"{CANARY}\n" * 1000)
    stranger = Keyring((dataclasses.replace(kit.keys[Role.CHECK]),))
    for job in (
        lambda: kit.restore(snapshot, store=damaged),
        lambda: kit.restore(snapshot, role=Role.CHECK),
        lambda: kit.restore("00" * 32),
        lambda: kit.backup(broken, check=True),
        lambda: kit.backup(not_a_database),
        lambda: kit.backup(source.with_name("missing.db")),
        lambda: stranger.need(Right.READ),
        lambda: stranger.session(kit.history().views[0].object.envelope),
        lambda: select_snapshot(kit.history(), "latest:nothing"),
    ):
        try:
            job()
        except BackupdError as error:
            yield error
        else:
            raise AssertionError("this was to fail")


def test_no_record_and_no_secret_is_stored_logged_or_told(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """Runs, restores and failures: no record, table or column and no secret in storage, logs, errors or caches (G57)."""
    caplog.set_level(logging.DEBUG)
    source = kit.root / f"{LABEL}.db"
    secrets = secrets_of(kit.keys.values())
    records = {"record": {CANARY.encode(), *spellings(CANARY.encode())}}
    label = {"label": {LABEL.encode(), *spellings(LABEL.encode())}}
    original = source.read_bytes()
    assert CANARY.encode() in original
    report = Tally()
    kit.backup(source, report=report)
    for view in kit.history().views:
        assert CANARY.encode() in kit.restore(view.id).read_bytes()
    assert kit.verify(Level.CONTENT, report=report).problems == []
    for name, data in contents(kit.store).items():
        assert hits(name.encode() + b"\n" + data, {**secrets, **records, **label}) == []
    errors = list(_failures(kit, source))
    assert {type(e) for e in errors} >= {IntegrityError, MissingRight, SourceIncomplete}
    for error in errors:
        assert hits(told(error).encode(), {**secrets, **records}) == []
    assert hits(caplog.text.encode(), {**secrets, **records, **label}) == []
    assert hits(repr((report.warnings, report.problems)).encode(), {**secrets, **records, **label}) == []
    for host in ("writer", "reader", "checker"):
        for path in (kit.root / host).rglob("*"):
            if path.is_file():
                assert hits(path.read_bytes(), {**secrets, **records}) == [], path


def test_no_repr_shows_a_record_or_a_secret(kit: Kit) -> None:
    """The repr of every object that the jobs hold or return shows no record and no secret (G57)."""
    source = kit.root / f"{LABEL}.db"
    key, repo = kit.keys[Role.WRITE], kit.repo(Role.WRITE, host="writer")
    reading = kit.repo(Role.READ, host="reader")
    index = open_index(repo, key, kit.places("writer"), Tally())
    session = WriteSession(repo, key, index, started=utc_now())
    prepared = session.prepare(Kind.PAGES, [source.read_bytes()[:65_536], CANARY.encode()])
    views = reading.history().views
    place = open_target(kit.root / "restored.db")
    place.prepare(overwrite=None)
    shown = [
        *(kit.keys, repo, reading, index, session, session.secrets, prepared, views, views[0].object.envelope, place),
        BackupOptions("x", note=CANARY),
        kit.backup(source, note=CANARY),
        kit.verify(Level.CONTENT),
        restore(reading, views[0], place, check="quick", report=Tally()),
        [reading.keyring.session(view.object.envelope) for view in views],
        open_source(source),
        parse_key(_key_file(kit).read_bytes(), "write.key"),
    ]
    session.close()
    index.close()
    wanted = {**secrets_of(kit.keys.values()), "record": {CANARY.encode()}}
    for one in (session.secrets, *reading.keyring._sessions.values()):
        wanted["session key"] = wanted.get("session key", set()) | spellings(one.session_key)
    found = list(objects_in(shown))
    assert {type(o).__name__ for o in found} >= {
        *("Key", "Keyring", "Secrets", "KeyHeader", "Repository", "Ledger", "Trust", "SnapshotView", "SnapshotObject"),
        *("Structure", "Envelope", "SessionSecrets", "WriteSession", "LocalIndex", "Sealed", "BackupOptions"),
        *("BackupResult", "VerifyResult", "RestoreResult", "ChunkSealer", "ChunkNamer", "Signer", "LockedKey"),
    }
    for one in found:
        assert hits(repr(one).encode(), wanted) == [], type(one)


def _key_file(kit: Kit) -> Path:
    from backupd.crypto.keyfile import encode_key, write_key_file

    path = kit.root / "write.key"
    write_key_file(path, encode_key(kit.keys[Role.WRITE].header, kit.keys[Role.WRITE].secrets, None))
    return path


class Watcher:
    """Collects the command lines and environments of a process and all that it starts."""

    def __init__(self) -> None:
        self.seen: dict[int, bytes] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        me, family = os.getpid(), set[int]()
        while not self._stop.is_set():
            for entry in os.listdir("/proc"):
                if not entry.isdigit():
                    continue
                try:
                    parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                    if parent != me and parent not in family:
                        continue
                    family.add(int(entry))
                    text = Path(f"/proc/{entry}/cmdline").read_bytes()
                    text += Path(f"/proc/{entry}/environ").read_bytes()
                except OSError:
                    continue
                self.seen[int(entry)] = self.seen.get(int(entry), b"") + text
            time.sleep(0.002)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc here")
def test_no_secret_is_in_a_command_line_or_an_environment(tmp_path: Path) -> None:
    """While backupctl runs, restores and fails: no secret and no passphrase in /proc of it or its children (G57)."""
    place = str(tmp_path / "repository")
    store = open_store(parse_repository(place), create=True)
    made = init_repository(store, tmp_path / "keys", lambda: PASSPHRASE, now=utc_now(), create_only=True)
    wanted = secrets_of(open_keys(made).values())
    wanted |= {"passphrase": spellings(PASSPHRASE), "record": {CANARY.encode()}}
    source = make_canary_database(tmp_path / "source.db")
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "BACKUPCTL_PASSPHRASE_FILE": str(tmp_path / "passphrase"),
        "PYTHONPATH": str(ROOT / "cli"),
    }

    def backupctl(*words: object, key: str) -> "subprocess.CompletedProcess[bytes]":
        options = ["--repository", place, "--key", made.keys[Role(key)], "--state", tmp_path / "state", "--debug"]
        command = [sys.executable, "-m", "backupctl", *words, *options]
        return subprocess.run([str(c) for c in command], env=environment, capture_output=True, check=False)

    with Watcher() as watcher:
        done = [
            backupctl("run", "--source", source, key="write"),
            backupctl("restore", "latest", tmp_path / "restored.db", key="read"),
            backupctl("restore", "latest", tmp_path / "again.db", key="recovery"),
            backupctl("verify", "--level", "content", key="read"),
            backupctl("restore", "latest", tmp_path / "no.db", key="write"),
            backupctl("run", "--source", tmp_path / "passphrase", key="write"),
        ]
    assert [d.returncode for d in done] == [0, 0, 0, 0, 12, 14]
    assert any(b"backupd.crypto.kdf" in text for text in watcher.seen.values())
    assert len(watcher.seen) >= 9
    for text in [*watcher.seen.values(), *(d.stdout + d.stderr for d in done)]:
        assert hits(text, wanted) == []


# ---- who opens what


def _data_chunks(kit: Kit, store: ObjectStore) -> list[tuple[PackEntry, bytes]]:
    """Every stored chunk that is no list, as anybody with the structure key finds it."""
    found = []
    repo = kit.repo(Role.CHECK, host="checker")
    for name in names(store, "packs/"):
        pack = parse_pack(store.get(name), name, repo.id)
        for entry in pack.read_entries(repo.structure_key(pack.envelope)):
            if entry.kind is not Kind.STRUCTURE:
                found.append((entry, bytes(pack.blob(entry))))
    return found


def _open_nothing(kit: Kit, candidates: Iterable[bytes], seeds: Iterable[bytes], scraps: Iterable[bytes] = ()) -> int:
    """Try all as session keys, and seeds on every envelope; returns how many were tried.

    Candidates are tried on every chunk and every content part, scraps on the smallest chunk and the smallest content part.
    """
    views = kit.history().views
    chunks = sorted(_data_chunks(kit, kit.store), key=lambda chunk: len(chunk[1]))
    assert chunks
    trials = [(c, chunks, views) for c in set(candidates)]
    trials += [(c, chunks[:1], [min(views, key=lambda v: v.object.size)]) for c in set(scraps)]
    for candidate, some_chunks, some_views in trials:
        for entry, blob in some_chunks:
            with pytest.raises(Unauthentic):
                ChunkSealer(candidate).open(entry.head(kit.trust.repository), blob)
        for view in some_views:
            with pytest.raises(IntegrityError):
                view.object.content(candidate, [Kind.PAGES])
    for seed in set(seeds):
        for view in views:
            for recipient in view.object.envelope.stanzas:
                with pytest.raises((IntegrityError, KeyProblem)):
                    open_envelope(view.object.envelope, recipient, seed)
    return len(trials)


def _derived(values: Iterable[bytes], kit: Kit) -> set[bytes]:
    """The secrets and what the format derives from such."""
    out = set(values)
    for value in list(out):
        out |= {
            sha256(value),
            derive_structure_key(value, kit.writer, 1),
            expand(value, b"backupd/v1/records", 32),
            expand(value, b"backupd/v1/session|", 32),
        }
    return out


def test_a_writer_with_all_it_has_opens_nothing(kit: Kit) -> None:
    """The writer's secrets, its state and its cache open no chunk and no content part of any earlier session (I81)."""
    key = kit.keys[Role.WRITE]
    candidates = _derived(key.secrets.values.values(), kit)
    scraps: set[bytes] = set()
    for path in (kit.root / "writer").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            scraps |= {data[at : at + 32] for at in range(len(data) - 31)}
    assert _open_nothing(kit, candidates, key.secrets.values.values(), scraps) > 1000
    repo = kit.repo(Role.WRITE, host="writer")
    for view in kit.history().views:
        with pytest.raises(MissingRight):
            repo.keyring.session(view.object.envelope)
        with pytest.raises(MissingRight):
            open_content(repo, view)
    with pytest.raises(MissingRight):
        kit.restore(kit.history().views[0].id, role=Role.WRITE)


@pytest.mark.parametrize("role", [Role.CHECK, Role.PRUNE, Role.ROOT])
def test_the_structure_root_opens_no_content(kit: Kit, role: Role) -> None:
    """Whoever checks, prunes or signs trust sees lists, and opens no data chunk and no content part (I80)."""
    key = kit.keys[role]
    structure = derive_structure_key(key.secrets["structure_root"], kit.writer, 1)
    candidates = _derived([*key.secrets.values.values(), structure], kit)
    assert _open_nothing(kit, candidates, [*key.secrets.values.values(), structure]) > 10
    repo = kit.repo(role, host="checker")
    view = repo.history().views[0]
    assert view.structure.streams[0].chunks > 3
    with pytest.raises(MissingRight):
        open_content(repo, view)
    for sealed in (view.object.sealed_content, view.object.sealed_structure):
        for label in ("snapshot-content", "session", "index", "pack-footer"):
            with pytest.raises(Unauthentic):
                open_part(structure, label, view.object.name.encode() + sha256(view.object.envelope.raw), sealed)


def test_the_rightful_key_opens_what_the_others_could_not(kit: Kit) -> None:
    """The attempts of the tests above are the right ones: with the session key each of them opens (I80, I81)."""
    repo = kit.repo(Role.READ, host="reader")
    sessions = [repo.keyring.session(v.object.envelope) for v in repo.history().views]
    opened = 0
    for entry, blob in _data_chunks(kit, kit.store):
        for session in sessions:
            try:
                ChunkSealer(session.session_key).open(entry.head(repo.id), blob)
                opened += 1
            except Unauthentic:
                continue
    assert opened == len(_data_chunks(kit, kit.store))
    for view, session in zip(repo.history().views, sessions, strict=True):
        assert view.object.content(session.session_key, [Kind.PAGES])["engine"] == "sqlite"


# ---- deduplication without the right to read


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    """The same content twice, from two files and by a host without state, is stored once; reading is not needed (C25)."""
    kit = Kit(tmp_path)
    one = make_database(tmp_path / "one.db")
    two = tmp_path / "two.db"
    shutil.copyfile(one, two)
    first = kit.backup(one)
    before = names(kit.store, "packs/")
    for n, source in enumerate((one, two, one)):
        again = kit.backup(source, host=f"host-without-state-{n}")
        assert again.chunks["reused"] == again.chunks["total"] == first.chunks["total"]
    assert names(kit.store, "packs/") == before
    kit.assert_restores({v.id: one.read_bytes() for v in kit.history().views})


def test_writers_have_nothing_in_common(tmp_path: Path) -> None:
    """The same content by two writers: unrelated ids and blobs, so that neither tells the other's (C25)."""
    kit = Kit(tmp_path)
    second = kit.add_writer()
    source = make_database(tmp_path / "bank.db")
    kit.backup(source)
    mine = {entry.id: blob for entry, blob in _data_chunks(kit, kit.store)}
    done = kit.backup(source, key=second, host="second")
    assert done.chunks["reused"] == 0
    everything = _data_chunks(kit, kit.store)
    theirs = {entry.id: blob for entry, blob in everything if entry.id not in mine}
    assert len(theirs) == len(mine) == done.chunks["total"]
    pieces = [{blob[at : at + 16] for blob in some.values() for at in range(0, 4000, 16)} for some in (mine, theirs)]
    assert not pieces[0] & pieces[1]
    view: SnapshotView = next(v for v in kit.history().views if v.id == done.snapshot)
    assert view.object.writer == second.header.writer
    kit.assert_restores({v.id: source.read_bytes() for v in kit.history().views})


def test_two_sessions_of_one_content_share_no_ciphertext(tmp_path: Path) -> None:
    """The same content stored anew in another session has other ciphertext throughout (C25)."""
    kit = Kit(tmp_path)
    source = make_database(tmp_path / "bank.db")
    kit.backup(source)
    first = {blob[at : at + 16] for _, blob in _data_chunks(kit, kit.store) for at in range(0, 4000, 16)}
    for name in [*names(kit.store, "index/"), *names(kit.store, "packs/")]:
        kit.store.delete(name)
    kit.backup(source)
    second = {blob[at : at + 16] for _, blob in _data_chunks(kit, kit.store) for at in range(0, 4000, 16)}
    assert not first & second


def test_recovery_key_and_a_bare_copy_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """recovery.key and a copy of the storage restore on a machine that has nothing else: no state and no cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nowhere" / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    here = tmp_path / "here"
    here.mkdir()
    store = open_store(parse_repository(str(here / "repository")), create=True)
    made = init_repository(store, here / "keys", lambda: PASSPHRASE, now=utc_now(), create_only=True, cost=CHEAP)
    kit = Kit.__new__(Kit)
    kit.root, kit.store, kit.keys, kit._restored = here, store, open_keys(made), 0
    source = make_database(here / "bank.db", chunks=80)
    done = [kit.backup(source)]
    old = source.read_bytes()
    done.append(kit.backup(change_database(source, 2)))
    bare = tmp_path / "bare"
    shutil.copytree(here / "repository", bare / "copy")
    shutil.copy2(made.keys[Role.RECOVERY], bare / "recovery.key")
    new = source.read_bytes()
    shutil.rmtree(here)
    copy = open_store(parse_repository(str(bare / "copy")))
    found = open_repository(copy, read_keys([bare / "recovery.key"]), Right.READ, lambda _: PASSPHRASE, str(bare / "s"))
    repo: Repository = found.repo
    history = repo.history()
    assert history.problems == []
    for view, content in zip(history.views, (old, new), strict=True):
        assert view.id in {d.snapshot for d in done}
        place = open_target(bare / f"{view.id}.db")
        place.prepare(overwrite=None)
        restore(repo, view, place, check="full", report=Tally())
        assert (bare / f"{view.id}.db").read_bytes() == content
