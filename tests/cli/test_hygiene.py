"""Hygiene of processes and files: what other users of the machine may see."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    """No module imports pickle, marshal, shelve, yaml, or calls eval or exec (G61)."""
    for module in [*ROOT.glob("backupd/**/*.py"), *ROOT.glob("cli/**/*.py")]:
        for node in ast.walk(ast.parse(module.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id]
            assert not {"pickle", "marshal", "shelve", "yaml", "eval", "exec"} & set(names), module


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
