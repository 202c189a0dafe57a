"""The contract of the command line: keys, codes, where options may stand, what goes where."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backupctl.__main__ import VERBS
from backupd.crypto.keyfile import Role
from backupd.crypto.keyring import Right
from backupd.errors import BackupdError, Exit
from backupd.jobs.verify import append_record
from backupd.store.folder import FolderStore
from backupd.wiring import open_repository, read_keys
from tests.cli.kit import CHINOOK, PASSPHRASE, User


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user with a repository and two snapshots of Chinook; not to be changed."""
    user = User(tmp_path_factory.mktemp("user"))
    user.init()
    user.back_up()
    user.back_up(CHINOOK, "--tag", "weekly", "--note", "before the release", "--hold", "audit")
    return user


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with an empty folder."""
    return User(tmp_path)


def same_tables(left: Path, right: Path) -> None:
    """Every table has the same rows."""
    a, b = sqlite3.connect(left), sqlite3.connect(right)
    names = [n for (n,) in a.execute("select name from sqlite_master where type='table' order by name")]
    assert names == [n for (n,) in b.execute("select name from sqlite_master where type='table' order by name")]
    for name in names:
        query = f'select * from "{name}" order by 1, 2'
        assert a.execute(query).fetchall() == b.execute(query).fetchall()
    assert b.execute("pragma integrity_check").fetchall() == [("ok",)]
    a.close()
    b.close()


def test_init_tells_what_it_made(user: User) -> None:
    """init prints repository, fingerprint and the six key paths, absolute, and the files are 0600."""
    done = user.run("init", user.repository, "--keys", "keys", "--json").document
    assert done["schema"] == "backupctl/init/1"
    assert done["ok"] is True
    assert set(done["keys"]) == {"write", "check", "prune", "read", "root", "recovery"}
    assert len(done["fingerprint"]) == 64
    assert done["repository"] == f"file://{user.folder}/repo"
    for path in done["keys"].values():
        assert Path(path).is_absolute()
        assert Path(path).stat().st_mode & 0o777 == 0o600


def test_init_never_touches_what_is_there(user: User) -> None:
    """A second init is refused with 20, for the repository and for the key files, and changes nothing."""
    user.init()
    before = {p: p.read_bytes() for p in user.folder.rglob("*") if p.is_file()}
    assert user.run("init", user.repository, "--keys", "other").code == 20
    assert user.run("init", "elsewhere", "--keys", "keys").code == 20
    assert {p: p.read_bytes() for p in user.folder.rglob("*") if p.is_file()} == before


def test_chinook_survives(ready: User, tmp_path: Path) -> None:
    """init, run, verify, restore: every table equal, integrity_check ok, and byte for byte the same file."""
    done = ready.run("restore", "latest", str(tmp_path / "back.db"), "--check", "full", "--json", key="read")
    assert done.code == 0, done.err
    same_tables(CHINOOK, tmp_path / "back.db")
    assert (tmp_path / "back.db").read_bytes() == CHINOOK.read_bytes()


@pytest.mark.parametrize("right", ["recovery"])
def test_recovery_key_and_the_bucket_are_enough(ready: User, tmp_path: Path, right: str) -> None:
    """recovery.key and a copy of the folder restore on another machine, without state or caches."""
    stranger = User(tmp_path)
    shutil.copytree(ready.repository, stranger.repository)
    (tmp_path / "keys").mkdir(mode=0o700)
    shutil.copy(ready.folder / f"keys/{right}.key", tmp_path / "keys")
    done = stranger.run("restore", "latest", "back.db", key=right)
    assert done.code == 0, done.err
    same_tables(CHINOOK, tmp_path / "back.db")


def test_run_reports_the_contracts_keys(user: User) -> None:
    """run prints snapshot, source, bytes, chunks, rows, seconds, warnings; a second run stores only a manifest."""
    user.init()
    first, second = user.back_up(), user.back_up()
    keys = {"schema", "ok", "snapshot", "source", "read_bytes", "stored_bytes", "chunks", "rows", "seconds", "warnings"}
    assert keys <= first.keys()
    assert first["source"] == "chinook"
    assert first["rows"] == 15607
    assert first["read_bytes"] == CHINOOK.stat().st_size
    assert set(first["chunks"]) == {"total", "full", "delta", "reused"}
    assert second["chunks"]["full"] == 0
    assert second["stored_bytes"] < 20_000


def test_stored_bytes_are_what_the_storage_holds(user: User) -> None:
    """stored_bytes of a run is what the folder grew by."""
    user.init()

    def held() -> int:
        return sum(p.stat().st_size for p in Path(user.repository).rglob("*") if p.is_file())

    before = held()
    done = user.back_up()
    assert done["stored_bytes"] == held() - before


def test_snapshots_lists(ready: User) -> None:
    """snapshots prints id, source, taken_at, rows, bytes, holds, drilled_at, oldest first, with the write right too."""
    listed = ready.run("snapshots", "--json", key="write").document["snapshots"]
    assert [s["source"] for s in listed] == ["chinook", "chinook"]
    assert {"id", "source", "taken_at", "rows", "read_bytes", "stored_bytes", "holds", "drilled_at"} <= listed[0].keys()
    assert listed[1]["holds"] == ["audit"]
    assert listed[1]["tags"] == ["weekly"]
    assert listed[0]["taken_at"].endswith("Z")
    assert ready.run("snapshots", "--source", "nothing", "--json", key="check").document["snapshots"] == []


def test_a_snapshot_that_a_drill_proved_says_when(ready: User, tmp_path: Path) -> None:
    """In snapshots and in show, by the evidence in the repository; a failed drill proves nothing, nor who cannot read."""
    shutil.copytree(ready.folder, tmp_path, dirs_exist_ok=True)
    user = User(tmp_path)
    keys = read_keys([tmp_path / "keys/read.key"])
    store, state = FolderStore(user.repository), str(tmp_path / "other")
    repo = open_repository(store, keys, Right.READ, lambda _: PASSPHRASE.encode(), state).repo
    signer = repo.keyring.signer([Role.READ])
    assert signer is not None
    checking = open_repository(store, read_keys([tmp_path / "keys/check.key"]), Right.CHECK, lambda _: b"", state).repo
    checker = checking.keyring.signer([Role.CHECK])
    assert checker is not None
    first, second = (view.id for view in repo.history().views)
    for snapshot, passed, at in ((first, True, "2026-11-20T01:02:03.5Z"), (second, False, "2026-11-21T01:02:03Z")):
        append_record(repo, signer, {"type": "evidence", "created": at, "snapshot": snapshot, "passed": passed})
    said = {"type": "evidence", "created": "2026-11-22T01:02:03Z", "snapshot": second, "passed": True}
    append_record(checking, checker, said)
    listed = user.run("snapshots", "--json", key="check").document["snapshots"]
    assert [s["drilled_at"] for s in listed] == ["2026-11-20T01:02:03Z", None]
    assert "drilled" in user.run("snapshots", key="check").out
    assert user.run("show", first, "--json", key="check").document["drilled_at"] == "2026-11-20T01:02:03Z"
    assert user.run("show", second, "--json", key="check").document["drilled_at"] is None


def test_show(ready: User) -> None:
    """show prints streams, tables, signed_by and previous; names need the read right."""
    shown = ready.run("show", "latest", "--json", key="read").document
    assert shown["streams"][0]["kind"] == "pages"
    assert {"name", "kind", "rows", "bytes", "chunks"} <= shown["streams"][0].keys()
    assert {"name": "Album", "key": ["AlbumId"], "rows": 347} in shown["tables"]
    assert shown["note"] == "before the release"
    assert len(shown["previous"]) == 64
    assert shown["signed_by"]["writer"]
    hidden = ready.run("show", "latest", "--json", key="check").document
    assert hidden["tables"] == []
    assert hidden["note"] is None


@pytest.mark.parametrize(("level", "key"), [("structure", "check"), ("bytes", "prune"), ("content", "recovery")])
def test_verify_levels(ready: User, level: str, key: str) -> None:
    """verify needs the check right for structure and bytes, the read right for content."""
    done = ready.run("verify", "--level", level, "--json", key=key)
    assert done.code == 0, done.err
    assert done.document["level"] == level
    assert set(done.document["checked"]) == {"snapshots", "packs", "chunks", "bytes"}
    assert done.document["problems"] == []
    assert done.document["seconds"] >= 0


def test_verify_one_snapshot_and_a_sample(ready: User) -> None:
    """verify takes a snapshot and a share of the packs."""
    assert ready.run("verify", "latest", key="check").code == 0
    assert ready.run("verify", "--sample", "50%", key="check").code == 0
    assert ready.run("verify", "--sample", "0%", key="check").code == 2


def test_too_little_right_is_12(ready: User) -> None:
    """What the key may not do is exit 12 and says which right is missing."""
    content = ready.run("verify", "--level", "content", "--json", key="check")
    assert content.code == 12
    assert content.document["error"]["code"] == "missing_right"
    assert "read" in content.document["error"]["message"]
    assert ready.run("run", "--source", str(CHINOOK), key="read").code == 12
    assert ready.run("verify", key="write").code == 12
    assert ready.run("restore", "latest", "x.db", key="write").code == 12
    assert ready.run("restore", "latest", "x.db", key="root").code == 12
    assert ready.run("snapshots").code == 12


def test_wrong_passphrase_is_12(ready: User, tmp_path: Path) -> None:
    """A wrong passphrase is exit 12 and leaves no file."""
    (tmp_path / "wrong").write_text("not it\n")
    done = ready.run(
        "restore", "latest", str(tmp_path / "x.db"), "--passphrase-file", str(tmp_path / "wrong"), key="read"
    )
    assert done.code == 12
    assert not (tmp_path / "x.db").exists()


def test_no_passphrase_and_no_terminal_is_2(ready: User, tmp_path: Path) -> None:
    """Without a file and a terminal, a needed passphrase is exit 2."""
    env = ready.env()
    del env["BACKUPCTL_PASSPHRASE_FILE"]
    assert ready.run("restore", "latest", str(tmp_path / "x.db"), key="read", env=env).code == 2
    assert ready.run("snapshots", key="check", env=env).code == 0


def test_one_trailing_newline_of_the_passphrase_is_ignored(ready: User, tmp_path: Path) -> None:
    """A passphrase file with, without, and with two newlines: the first two open."""
    for text, code in ((PASSPHRASE, 0), (PASSPHRASE + "\n", 0), (PASSPHRASE + "\n\n", 12)):
        (tmp_path / "pass").write_text(text)
        done = ready.run("keys", "test", "--passphrase-file", str(tmp_path / "pass"), key="read")
        assert done.code == code


def test_keys_list_and_test(ready: User) -> None:
    """keys list opens nothing; keys test proves each of the six."""
    paths = [str(ready.folder / f"keys/{r}.key") for r in ("write", "check", "prune", "read", "root", "recovery")]
    env = ready.env(BACKUPCTL_KEY=":".join(paths))
    listed = ready.run("keys", "list", "--json", env=env).document["keys"]
    assert [k["role"] for k in listed] == ["write", "check", "prune", "read", "root", "recovery"]
    assert [k["passphrase"] for k in listed] == [False, False, False, True, True, True]
    tested = ready.run("keys", "test", "--json", env=env)
    assert tested.code == 0, tested.out
    assert all(k["works"] for k in tested.document["keys"])


def test_keys_of_another_repository_are_12(ready: User, user: User) -> None:
    """A key of another repository is exit 12 and says so."""
    user.init()
    done = user.run("snapshots", "--repository", ready.repository, "--json", key="check")
    assert done.code == 12
    assert "another repository" in done.document["error"]["message"]


def test_restore_refuses(ready: User, tmp_path: Path) -> None:
    """An existing target, a wrong --overwrite name and leftovers are 20; --overwrite NAME replaces."""
    target = tmp_path / "app.db"
    target.write_bytes(b"precious")
    assert ready.run("restore", "latest", str(target), key="read").code == 20
    assert ready.run("restore", "latest", str(target), "--overwrite", "other.db", key="read").code == 20
    assert target.read_bytes() == b"precious"
    (tmp_path / "app.db-wal").write_bytes(b"")
    assert ready.run("restore", "latest", str(target), "--overwrite", "app.db", key="read").code == 20
    (tmp_path / "app.db-wal").unlink()
    assert ready.run("restore", "latest", str(target), "--overwrite", "app.db", key="read").code == 0
    same_tables(CHINOOK, target)
    assert [p.name for p in tmp_path.iterdir()] == ["app.db"]


def test_restore_reports_the_contracts_keys(ready: User, tmp_path: Path) -> None:
    """restore prints snapshot, target, tables, rows, bytes and its times."""
    done = ready.run("restore", "latest:chinook", str(tmp_path / "x.db"), "--json", key="read").document
    wanted = {"snapshot", "target", "tables", "rows", "bytes", "seconds", "unlock_seconds", "check_seconds", "erased"}
    assert wanted <= done.keys()
    assert (done["tables"], done["rows"], done["bytes"]) == (11, 15607, CHINOOK.stat().st_size)


def test_snapshots_are_named(ready: User) -> None:
    """An id, a unique prefix, latest, latest:SOURCE and SOURCE@TIME all work; nonsense is 2, an unknown one 1."""
    ids = [s["id"] for s in ready.run("snapshots", "--json", key="check").document["snapshots"]]
    for text in (ids[1], ids[1][:10], "latest", "latest:chinook", "chinook@2999-01-01T00:00"):
        assert ready.run("show", text, "--json", key="check").document["id"] == ids[1]
    assert ready.run("show", "chinook@1999-01-01T00:00", key="check").code == 1
    assert ready.run("show", "abc", key="check").code == 2
    assert ready.run("show", "ffffffff", key="check").code == 1
    assert ready.run("show", "chinook@yesterday", key="check").code == 2


def test_sources_that_cannot_be_read(user: User) -> None:
    """Missing and no database are 14, corrupt is 3, locked past the timeout is 75; there is no snapshot."""
    user.init()
    noise = user.folder / "noise.db"
    noise.write_bytes(os.urandom(8192))
    locked = user.folder / "locked.db"
    db = sqlite3.connect(locked, isolation_level=None)
    db.execute("create table t(a)")
    db.execute("begin exclusive")
    short = user.folder / "short.db"
    short.write_bytes(CHINOOK.read_bytes()[:100_000])
    cases = [("missing.db", 14), (str(noise), 14), (str(user.folder), 14), (str(short), 3), (str(locked), 75)]
    for source, code in cases:
        done = user.run("run", "--source", source, "--lock-timeout", "0.3", "--json", key="write")
        assert (source, done.code) == (source, code), done.out
        assert done.document["ok"] is False
    db.close()
    assert user.run("snapshots", "--json", key="check").document["snapshots"] == []


def test_places_that_are_no_repository(user: User, tmp_path: Path) -> None:
    """No repository is 10, nonsense URLs are 2, a password in a URL is 2 and is not repeated."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "keys").mkdir(mode=0o700)
    user.init()
    for place in ("empty", "not-there"):
        assert user.run("snapshots", "--repository", place, key="check").code == 10
    for place in ("ftp://x/y", "s3://", "s3://bucket/x?endpoitn=1"):
        assert user.run("snapshots", "--repository", place, key="check").code == 2
    done = user.run("snapshots", "--repository", "s3://me:hunter2@bucket/x", "--json", key="check")
    assert done.code == 2
    assert "hunter2" not in done.out + done.err
    assert user.run("snapshots", "--repository", "s3://bucket/x?endpoint=http://example.com", key="check").code == 2


def test_global_options_stand_before_and_after_the_verb(ready: User) -> None:
    """--json, --key and --repository work in both places, and as variables; the command line wins."""
    key = str(ready.folder / "keys/check.key")
    before = ready.run("--json", "--key", key, "snapshots").document
    after = ready.run("snapshots", "--json", "--key", key).document
    variable = ready.run("snapshots", env=ready.env(BACKUPCTL_JSON="1", BACKUPCTL_KEY=key)).document
    assert before == after == variable
    env = ready.env(BACKUPCTL_REPOSITORY="/nowhere", BACKUPCTL_KEY=key)
    assert ready.run("--repository", ready.repository, "snapshots", env=env).code == 0
    assert ready.run("snapshots", "--repository", ready.repository, env=env).code == 0


def test_errors_are_json_too(user: User) -> None:
    """With --json a failure is one document, usage errors included."""
    for arguments in (
        ["run", "--json"],
        ["run", "--nonsense", "--json"],
        ["--json", "nonsense"],
        ["posture", "--json"],
    ):
        done = user.run(*arguments)
        assert done.code == 2
        document = done.document
        assert document["ok"] is False
        assert document["error"]["exit"] == 2
        assert {"code", "exit", "message", "hint", "object"} == set(document["error"])
        assert "Traceback" not in done.err


def test_verbs_not_built_say_so(user: User) -> None:
    """A verb that is not built is absent from --help and ends with 2, saying so."""
    text = user.run("--help").out
    for name in ("evidence", "posture"):
        done = user.run(name)
        assert done.code == 2
        assert "not built yet" in done.err
        assert f"\n  {name} " not in text


def test_every_verb_has_help_with_an_example(user: User) -> None:
    """--help of each verb shows an example and the global options."""
    verbs = sorted(VERBS)
    assert all(f"\n  {verb} " in user.run("--help").out for verb in verbs)
    more = [["keys", "list"], ["keys", "test"], ["repo", "probe"], ["repo", "stats"], ["repo", "rebuild-index"]]
    more += [
        ["hold", "add"],
        ["hold", "release"],
        ["hold", "list"],
        ["keys", "new"],
        ["keys", "passphrase"],
        ["audit", "show"],
        ["audit", "verify"],
    ]
    for words in [[v] for v in verbs] + more:
        done = user.run(*words, "--help")
        assert done.code == 0
        assert "Example: backupctl" in " ".join(done.out.split()), words
        assert "--json" in done.out


def test_dry_run_changes_nothing(user: User) -> None:
    """run, restore and init with --dry-run change no file of the repository, the keys, the state or the target."""
    assert user.run("init", user.repository, "--keys", "keys", "--dry-run").code == 0
    assert not Path(user.repository).exists()
    user.init()
    user.back_up()
    before = {p: p.read_bytes() for p in user.folder.rglob("*") if p.is_file()}
    done = user.run("run", "--source", str(CHINOOK), "--name", "other", "--dry-run", "--json", key="write")
    assert done.code == 0, done.err + done.out
    assert done.document["chunks"]["reused"] > 0
    assert user.run("restore", "latest", "x.db", "--dry-run", key="read").code == 0
    assert {p: p.read_bytes() for p in user.folder.rglob("*") if p.is_file()} == before


def test_rebuild_index_and_stats(user: User) -> None:
    """After rebuild-index the next run still knows every chunk; stats count objects."""
    user.init()
    user.back_up()
    done = user.run("repo", "rebuild-index", "--json", key="write")
    assert done.code == 0
    assert done.document["chunks"] >= 16
    assert user.back_up()["chunks"]["full"] == 0
    stats = user.run("repo", "stats", "--json", key="check").document
    assert stats["objects"]["snapshots"]["count"] == 2
    assert stats["stored_bytes"] == sum(p.stat().st_size for p in Path(user.repository).rglob("*") if p.is_file())


def test_probe_needs_no_key(ready: User) -> None:
    """repo probe tells what the folder honours and leaves nothing behind."""
    done = ready.run("repo", "probe", "--json")
    assert done.code == 0
    assert done.document["level"] == "A"
    assert not [p for p in (Path(ready.repository) / "probe").rglob("*") if p.is_file()]


def test_doctor(ready: User) -> None:
    """doctor checks machine, keys, storage and source; a failing check is exit 1 and named."""
    assert ready.run("doctor", "--source", str(CHINOOK), key="check").code == 0
    bad = ready.run("doctor", "--source", "missing.db", "--json", key="check")
    assert bad.code == 1
    assert [c["name"] for c in bad.document["checks"] if not c["passed"]] == ["source"]


def test_a_damaged_pack_is_4_and_named(user: User) -> None:
    """verify names the damaged object with exit 4; the next run heals what it can still read from the source."""
    user.init()
    user.back_up()
    pack = max(Path(user.repository).glob("packs/*/*"), key=lambda p: p.stat().st_size)
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    name = f"packs/{pack.parent.name}/{pack.name}"
    done = user.run("verify", "--json", key="check")
    assert done.code == 4
    assert done.document["ok"] is False
    assert name in [p["object"] for p in done.document["problems"]]
    assert done.document["error"]["object"] == name
    failed = user.run("restore", "latest", "x.db", "--json", key="read")
    assert failed.code == 4
    assert not (user.folder / "x.db").exists()
    healed = user.back_up()
    assert healed["chunks"]["full"] > 0
    assert user.run("verify", healed["snapshot"][:12], "--level", "content", key="read").code == 0
    assert user.run("restore", "latest", "x.db", key="read").code == 0


def test_a_removed_snapshot_is_noticed(user: User) -> None:
    """verify remembers heads: a missing newest snapshot is 4; a run refuses with 20 until it is accepted."""
    user.init()
    user.back_up()
    user.back_up()
    assert user.run("verify", key="check").code == 0
    newest = max(Path(user.repository).glob("snapshots/*/*"))
    newest.unlink()
    assert user.run("verify", key="check").code == 4
    assert user.run("run", "--source", str(CHINOOK), key="write").code == 20
    assert user.run("run", "--source", str(CHINOOK), "--accept-rollback", key="write").code == 0


def test_interrupted_runs_end_with_130_and_143(user: User) -> None:
    """SIGINT is 130, SIGTERM is 143, neither with a traceback, and no snapshot appears."""
    user.init()
    big = user.folder / "big.db"
    db = sqlite3.connect(big)
    db.execute("create table t(a blob)")
    db.executemany("insert into t values(?)", ((os.urandom(50_000),) for _ in range(4000)))
    db.commit()
    db.close()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        child = subprocess.Popen(
            [sys.executable, "-m", "backupctl", "run", "--source", str(big), "--json", "--key", "keys/write.key"],
            cwd=user.folder,
            env=user.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell that started us in the background has switched the signal off
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 30
        while not any(Path(user.repository).glob("sessions/*/*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
        assert child.returncode == code, (out, err)
        assert "Traceback" not in err
        assert "Traceback" not in err
        assert json.loads(out)["error"]["exit"] == code
        shutil.rmtree(Path(user.repository) / "sessions")
    assert user.run("snapshots", "--json", key="check").document["snapshots"] == []


def test_every_exit_code_has_one_class() -> None:
    """Each code that an error can have is on some class of the tree, and the numbers are the contract's."""

    def classes(base: type[BackupdError]) -> set[type[BackupdError]]:
        return {base}.union(*(classes(c) for c in base.__subclasses__()))

    used = {int(c.exit) for c in classes(BackupdError)}
    assert used == {int(e) for e in Exit} - {0, 11} | ({11} & used)
    assert {int(e) for e in Exit} == {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 20, 75, 130, 143}


def test_help_starts_fast_enough_to_not_load_drivers(user: User) -> None:
    """`--help` imports neither boto3 nor apsw nor cryptography."""
    code = (
        "import sys\nsys.argv=['backupctl','--help']\nimport backupctl.__main__ as m\n"
        "try:\n m.main()\nexcept SystemExit: pass\n"
        "print([n for n in ('boto3','apsw','cryptography','rich','blake3') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=user.env(), check=False)
    assert done.stderr.strip().endswith("[]"), done.stderr


def test_a_run_imports_nothing_that_only_other_verbs_need(user: User) -> None:
    """A first snapshot of a file, and a second one, import neither targets, nor what restores and verifies, nor arrays."""
    user.init()
    unneeded = [
        "backupd.model",
        "backupd.engines.base",
        "backupd.engines.sqlite_restore",
        "backupd.jobs.restore",
        "backupd.jobs.verify",
        "backupd.jobs.brake",
        "backupd.repo.reading",
        "backupd.repo.erasures",
        "backupd.repo.rowdigest",
        "backupd.store.dryrun",
        "backupd.store.pace",
        "numpy",
        "pydantic",
        "shutil",
        "tempfile",
    ]
    code = (
        f"import sys\nsys.argv=['backupctl','run','--quiet','--source',{str(CHINOOK)!r},'--key','keys/write.key']\n"
        "import backupctl.__main__ as m\ntry:\n m.main()\nexcept SystemExit as end: assert end.code == 0\n"
        f"print([n for n in {unneeded!r} if n in sys.modules], file=sys.stderr)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=user.folder, capture_output=True, text=True, env=user.env(), check=False
        )
        assert done.stderr.strip().endswith("[]"), done.stderr


def test_verbose_says_more_on_standard_error(ready: User) -> None:
    """--verbose names the phases on standard error; the result on standard output stays the same kind."""
    loud, plain = ready.run("verify", "--verbose", key="check"), ready.run("verify", key="check")
    assert "reading packs" in loud.err
    assert "reading packs" not in plain.err
    assert loud.out.startswith("no problems")
    assert plain.out.startswith("no problems")
