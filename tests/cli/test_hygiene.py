"""Hygiene of processes and files: what other users of the machine may see."""

import ast
import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backupctl import output
from backupctl.__main__ import _run
from backupd.config.paths import places
from backupd.config.urls import RepositoryUrl, parse_repository
from backupd.crypto.keyfile import read_key_file
from backupd.errors import KeyProblem, SafetyRefused, UsageError
from backupd.store import probe
from tests.cli.kit import CHINOOK, PASSPHRASE, User

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with an empty folder."""
    return User(tmp_path)


def test_no_core_dumps_and_no_debuggers(user: User) -> None:
    """After start-up the process writes no core, cannot be attached to, and makes files for its user only (G59)."""
    code = (
        "import sys, resource, ctypes, os\nimport backupctl.__main__ as m\nm._harden()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3,0,0,0,0), oct(os.umask(0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=user.env(), check=True)
    assert done.stdout.split(") ")[0] == "(0, 0"
    assert done.stdout.split()[-1] == "0o77"
    if sys.platform == "linux":
        assert done.stdout.split()[-2] == "0"


def test_options_take_no_secrets(user: User) -> None:
    """There is no option or variable that takes a passphrase or a key itself (G60)."""
    for name in ("--passphrase", "--password", "--secret", "--key-data"):
        assert user.run("snapshots", f"{name}=x").code == 2
    env = user.env(BACKUPCTL_PASSPHRASE=PASSPHRASE)
    del env["BACKUPCTL_PASSPHRASE_FILE"]
    assert user.run("init", "repo", "--keys", "keys", env=env).code == 2


def test_nothing_that_runs_code_from_data_is_imported() -> None:
    """No module imports pickle, marshal, shelve, or calls eval or exec; one takes syntax trees of yaml (G61)."""
    policies = ROOT / "backupd/policy/document.py"
    used = {n.attr for n in ast.walk(ast.parse(policies.read_text())) if isinstance(n, ast.Attribute)}
    assert {name for name in used if "load" in name.lower()} == {"BaseLoader"}
    for module in [*ROOT.glob("backupd/**/*.py"), *ROOT.glob("cli/**/*.py")]:
        for node in ast.walk(ast.parse(module.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id]
            never = {"pickle", "marshal", "shelve", "eval", "exec"} | ({"yaml"} if module != policies else set())
            assert not never & set(names), module


def test_every_file_is_its_users_own(user: User) -> None:
    """Every file and folder that init, run, verify and restore make is closed to others, whatever the umask (G62)."""
    ours = set(user.folder.rglob("*"))
    wide = f"umask 000; exec {sys.executable} -m backupctl"
    script = (
        f"({wide} init repo --keys keys) && ({wide} run --source {CHINOOK} --key keys/write.key)"
        f" && ({wide} verify --key keys/check.key) && ({wide} restore latest back.db --key keys/read.key)"
    )
    done = subprocess.run(
        ["sh", "-c", script], cwd=user.folder, env=user.env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = set(user.folder.rglob("*")) - ours
    assert len(made) > 15
    assert {str(p): oct(p.stat().st_mode) for p in made if p.stat().st_mode & 0o077} == {}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a\0b", "n" * 300, "", "a/b", "a@b", "back\\slash", "line\nbreak"])
def test_source_names_are_labels(user: User, name: str) -> None:
    """A source's name is a label: what looks like a path, or cannot be printed, is refused (H70)."""
    if "\0" in name:
        return  # the system itself refuses it as an argument
    user.init()
    assert user.run("run", "--source", str(CHINOOK), "--name", name, key="write").code in ({0} if name == "" else {2})


def test_an_odd_target_name_is_only_a_name(user: User) -> None:
    """Targets with spaces, percent signs, question marks and letters of any script restore under exactly that name (H70)."""
    user.init()
    user.back_up()
    for name in ("a b.db", "50%.db", "what?.db", "#1.db", "größe.db", "données-日本.db", "CON"):
        done = user.run("restore", "latest", name, key="read")
        assert done.code == 0, (name, done.err)
        assert (user.folder / name).read_bytes() == CHINOOK.read_bytes()


def test_a_target_that_is_a_link_is_refused(user: User) -> None:
    """A symbolic link at the target is refused with 20, also with --overwrite, and what it points to stays (H70)."""
    user.init()
    user.back_up()
    (user.folder / "precious").write_text("precious")
    (user.folder / "link.db").symlink_to(user.folder / "precious")
    assert user.run("restore", "latest", "link.db", key="read").code == 20
    assert user.run("restore", "latest", "link.db", "--overwrite", "link.db", key="read").code == 20
    assert (user.folder / "precious").read_text() == "precious"


def test_an_empty_database_comes_back(user: User) -> None:
    """A database of no pages is a snapshot of no bytes and restores to an empty file."""
    user.init()
    (user.folder / "empty.db").touch()
    assert user.back_up("empty.db")["read_bytes"] == 0
    assert user.run("verify", "--level", "content", key="read").code == 0
    assert user.run("restore", "latest", "back.db", key="read").code == 0
    assert (user.folder / "back.db").read_bytes() == b""


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "two\nlines", "\u202egnp", "x" * 4097])
def test_stored_text_is_one_printable_line(user: User, text: str) -> None:
    """Tags, notes, holds and labels with escape sequences, newlines or no end are exit 2 before anything is opened."""
    for option in ("--tag", "--note", "--hold"):
        done = user.run("run", "--source", "missing.db", option, text)
        assert done.code == 2, done.err
        assert option in done.err
        assert text not in done.err
    assert user.run("init", user.repository, "--keys", "keys", "--label", text).code == 2
    assert not Path(user.repository).exists()


def test_run_and_restore_share_the_variable_of_check(user: User) -> None:
    """BACKUPCTL_CHECK of either vocabulary works for both verbs; nonsense is 2."""
    user.init()
    levels = {"1": "quick", "on": "quick", "full": "full", "QUICK": "quick", "no": "none", "none": "none"}
    for n, (word, level) in enumerate(levels.items()):
        env = user.env(BACKUPCTL_CHECK=word)
        assert user.run("run", "--source", str(CHINOOK), key="write", env=env).code == 0
        done = user.run("restore", "latest", f"{n}.db", "--json", key="read", env=env)
        assert done.document["check"] == level
    broken = user.folder / "broken.db"
    db = sqlite3.connect(broken)
    db.execute("create table t(a unique)")
    db.executemany("insert into t values(?)", ((str(n) * 50,) for n in range(500)))
    db.commit()
    db.execute("pragma writable_schema=on")
    db.execute("update sqlite_master set rootpage=2 where name!='t'")  # the index is the table: the check must see it
    db.commit()
    db.close()
    for word, code in (("full", 3), ("yes", 3), ("none", 0), ("off", 0)):
        done = user.run("run", "--source", str(broken), key="write", env=user.env(BACKUPCTL_CHECK=word))
        assert done.code == code, (word, done.err)
    assert user.run("run", "--source", str(CHINOOK), key="write", env=user.env(BACKUPCTL_CHECK="perhaps")).code == 2


def test_a_source_may_be_a_url_where_a_name_is_meant(user: User) -> None:
    """`snapshots` takes the URL that `run` took, by option or variable, and WRITER/SOURCE stays a name."""
    user.init()
    user.back_up()
    writer = user.run("show", "latest", "--json", key="check").document["signed_by"]["label"]
    for text in (str(CHINOOK), f"sqlite:///{CHINOOK}", f"{writer}/chinook", "chinook"):
        done = user.run("snapshots", "--json", key="check", env=user.env(BACKUPCTL_SOURCE=text))
        assert len(done.document["snapshots"]) == 1, text
    assert user.run("snapshots", "--source", "/elsewhere/x.db", "--json", key="check").document["snapshots"] == []


def test_debug_and_json_have_variables(user: User) -> None:
    """BACKUPCTL_DEBUG=1 shows the traceback; BACKUPCTL_JSON takes all of click's words, also when a verb fails."""
    assert "Traceback" in user.run("snapshots", env=user.env(BACKUPCTL_DEBUG="1")).err
    assert "Traceback" not in user.run("snapshots", env=user.env(BACKUPCTL_DEBUG="0")).err
    for word in ("1", "true", "T", "yes", "y", "on"):
        assert user.run("snapshots", env=user.env(BACKUPCTL_JSON=word)).document["ok"] is False


@pytest.mark.parametrize(
    ("arguments", "verb"),
    [
        (["run"], "run"),
        (["run", "--nonsense"], "run"),
        (["--repository", "keys", "snapshots"], "snapshots"),
        (["doctor", "--source", "missing.db", "--repository", "verify"], "doctor"),
        (["keys", "list"], "keys-list"),
        (["repo", "-k", "missing.key", "stats"], "repo-stats"),
        (["repo", "copy"], "repo-copy"),
        (["keys", "--quiet", "new"], "keys-new"),
        (["diff", "a", "b"], "diff"),
        (["drill", "a", "b"], "drill"),
        (["policy", "check", "x.yaml"], "policy-check"),
        (["brake", "nonsense"], "usage"),
        (["hold", "nonsense"], "usage"),
        (["hold", "list"], "hold-list"),
        (["prune"], "prune"),
        (["forget"], "forget"),
        (["keys"], "usage"),
        (["keys", "nonsense"], "usage"),
        (["nonsense", "run"], "usage"),
        (["--nonsense", "run"], "usage"),
    ],
)
def test_a_failure_names_the_verb_that_was_reached(user: User, arguments: list[str], verb: str) -> None:
    """The schema of a failed document is of the verb that was invoked, never guessed from other words."""
    done = user.run("--json", *arguments)
    assert done.code != 0
    assert done.document["schema"] == f"backupctl/{verb}/1"


def test_dry_runs_print_one_document(user: User) -> None:
    """init, demo, repo rebuild-index and verify with --dry-run --json print one document and change nothing."""
    before = set(user.folder.rglob("*"))
    done = user.run("init", user.repository, "--keys", "keys", "--dry-run", "--json").document
    assert done["schema"] == "backupctl/init/1"
    assert done["dry_run"] is True
    assert done["keys"]["write"] == str(user.folder / "keys/write.key")
    assert user.run("demo", "story", "--dry-run", "--json").document["folder"] == str(user.folder / "story")
    assert set(user.folder.rglob("*")) == before
    user.init()
    user.back_up()
    pack = max(Path(user.repository).glob("packs/*/*"), key=lambda p: p.stat().st_size)
    whole = pack.read_bytes()
    for data, code in ((whole, 0), (whole[:-1] + b"?", 4)):
        pack.write_bytes(data)
        held = {p: p.read_bytes() for p in user.folder.rglob("*") if p.is_file()}
        assert user.run("verify", "--dry-run", "--json", key="check").code == code
        done = user.run("repo", "rebuild-index", "--dry-run", "--json", key="write").document
        assert (done["schema"], done["dry_run"]) == ("backupctl/repo-rebuild-index/1", True)
        assert {p: p.read_bytes() for p in user.folder.rglob("*") if p.is_file()} == held


def test_a_store_that_cannot_hold_a_repository_fails_the_probe(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Level C is exit 1 with and without --json, with the facts beside the error."""
    facts = (probe.Fact("range_reads", False, "restores of parts fail here"),)
    monkeypatch.setattr(probe, "probe", lambda store, now: probe.ProbeResult(store.url, "C", facts, 0.0, ()))
    Path(user.repository).mkdir()
    assert _run(["repo", "probe", "--repository", user.repository]) == 1
    assert "restores of parts fail here" in capsys.readouterr().out
    assert _run(["repo", "probe", "--repository", user.repository, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["level"], document["error"]["exit"]) == (False, "C", 1)
    assert document["facts"][0]["honoured"] is False


def test_a_home_is_asked_for_only_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME and with an unknown user, given folders suffice; else a private folder stands in (never another's)."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.setenv("XDG_STATE_HOME", "/states")
    assert places(b"\1", None).state == Path("/states/backupd/01")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert places(b"\1", "/mine").cache == Path("/caches/backupd/01")
    assert list(tmp_path.iterdir()) == []
    own = tmp_path / f"backupd-{os.geteuid()}"
    for _ in range(2):
        assert own in places(b"\1", None).state.parents
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert own in places(b"\1", "/mine").cache.parents
    own.chmod(0o755)
    with pytest.raises(SafetyRefused):
        places(b"\1", None)
    own.rmdir()
    own.symlink_to(tmp_path)
    with pytest.raises(SafetyRefused):
        places(b"\1", None)


def test_a_state_that_cannot_be_written_is_a_warning_of_verify(user: User) -> None:
    """verify with a state folder that cannot be made still verifies; doctor calls it a failed check."""
    user.init()
    user.back_up()
    (user.folder / "file").touch()
    done = user.run("verify", "--state", "file/state", "--json", key="check")
    assert done.code == 0, done.out
    assert any("remembered" in warning for warning in done.document["warnings"])
    bad = user.run("doctor", "--state", "/proc/none", "--json", key="check")
    assert bad.code == 1
    assert next(c["name"] for c in bad.document["checks"] if not c["passed"]) == "state folder"


def test_nothing_stored_can_write_to_the_terminal(user: User, capsys: pytest.CaptureFixture[str]) -> None:
    """A table's name with an escape sequence and a newline is spelled out; JSON has it as it is."""
    odd = "a\x1b[2J\nb\u202ec"
    db = sqlite3.connect(user.folder / "odd.db")
    db.execute(f'create table "{odd}"(x)')
    db.commit()
    db.close()
    user.init()
    user.back_up("odd.db")
    shown = user.run("show", "latest", key="read")
    assert r"a\x1b[2J\nb\u202ec" in shown.out
    assert not set(shown.out + shown.err) & {"\x1b", "\u202e"}
    assert user.run("show", "latest", "--json", key="read").document["tables"][0]["name"] == odd
    output.table(["x", "y"], [["a\nb", 1], ["c", 2]])
    output.note("one\ttwo")
    seen = capsys.readouterr()
    assert seen.out.splitlines() == ["x     y", "----  -", r"a\nb  1", "c     2"]
    assert seen.err == "one\\ttwo\n"


def test_a_narrow_character_set_ends_nothing(user: User) -> None:
    """With an ASCII terminal, names of any script are spelled out, and the JSON document is still JSON."""
    user.init()
    env = user.env(PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    done = user.run("run", "--source", str(CHINOOK), "--name", "größe-日本", key="write", env=env)
    assert done.code == 0, done.err
    assert r"gr\xf6\xdfe-\u65e5\u672c" in done.out
    assert user.run("snapshots", "--json", key="check", env=env).document["snapshots"][0]["source"] == "größe-日本"


@pytest.mark.parametrize("kind", ["empty", "other", "link", "folder", "pipe"])
def test_only_a_demos_own_folder_is_remade(user: User, kind: str) -> None:
    """A marker that is a link, no regular file, or says anything else does not allow the folder to be deleted."""
    story = user.folder / "story"
    story.mkdir()
    (story / "precious").write_text("precious")
    marker = story / ".backupd-demo"
    if kind == "link":
        (user.folder / "marker").write_text("made by `backupctl demo`; the next demo deletes this folder\n")
        marker.symlink_to(user.folder / "marker")
    elif kind == "folder":
        marker.mkdir()
    elif kind == "pipe":
        os.mkfifo(marker)
    else:
        marker.write_text("" if kind == "empty" else "made by `backupctl demo`; the next demo deletes this folder\n\n")
    assert user.run("demo", "story").code == 20
    assert user.run("demo", "story", "--dry-run").code == 20
    assert (story / "precious").read_text() == "precious"
    assert marker.is_symlink() or marker.exists()


def test_keys_never_go_into_the_repository(user: User) -> None:
    """--keys equal to the repository's folder, inside it, or there through a link is 20 and makes nothing."""
    (user.folder / "link").symlink_to(user.repository)
    for keys in ("repo", "repo/keys", "repo/../repo/a/b", "link/keys"):
        assert user.run("init", user.repository, "--keys", keys).code == 20
        assert user.run("init", user.repository, "--keys", keys, "--dry-run").code == 20
    assert not Path(user.repository).exists()
    assert user.run("init", user.repository, "--keys", "repo-keys").code == 0


@pytest.mark.parametrize(
    "url",
    [
        RepositoryUrl("file", Path("/a b/50%/what?/#1/%41/größe/日本/new\nline/\udcff")),
        RepositoryUrl("s3", None, "bucket", "a b/50%25/what?#1/ü", "https://x.example:9000/a&b=c", "eu & us"),
        RepositoryUrl("s3", None, "bucket"),
    ],
)
def test_a_printed_repository_is_read_back(url: RepositoryUrl) -> None:
    """What a repository's URL prints is what it is read from."""
    assert parse_repository(str(url)) == url
    assert str(url).isprintable()
    assert " " not in str(url)


def test_a_fragment_in_a_repositorys_url_is_refused() -> None:
    """A # would be cut off silently, and the backup would go elsewhere."""
    for text in ("file:///a#b", "s3://bucket/a#b", "s3://bucket/a?region=x#b"):
        with pytest.raises(UsageError, match="#"):
            parse_repository(text)


def test_a_refused_key_file_tells_what_to_do(user: User) -> None:
    """Each refusal of a key file has its hint: links, other owners, file systems without modes."""
    user.init()
    key = user.folder / "keys/check.key"

    def hint(path: Path) -> str:
        with pytest.raises(KeyProblem) as caught:
            read_key_file(path)
        return caught.value.hint or ""

    link = user.folder / "link.key"
    link.symlink_to(key)
    assert hint(link) == "name the file itself, not the link"
    key.chmod(0o777)
    assert "chmod 600" in hint(key)
    assert "keeps no modes" in hint(key)
    key.chmod(0o600)
    (user.folder / "hard.key").hardlink_to(key)
    assert f"install -m 600 {key}" in hint(key)
    (user.folder / "hard.key").unlink()
    if os.geteuid() == 0:
        os.chown(key, 12345, 12345)
        assert f"install -m 600 {key}" in hint(key)


def test_check_key_beside_write_key_lists_everything(user: User) -> None:
    """Of the keys that may list, the one that opens every writer's structure is taken."""
    user.init()
    user.back_up()
    keys = [part for role in ("write", "check") for part in ("--key", str(user.folder / f"keys/{role}.key"))]
    other = user.run("snapshots", *keys, "--json")
    assert len(other.document["snapshots"]) == 1
