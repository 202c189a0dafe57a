"""The image and the compose file: whole, unprivileged, without secrets. No container engine is asked: the files are read."""

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from backupd.config.policies import load, policy_files

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
COMPOSE = ROOT / "deploy/compose.yaml"
FILLING = {"FROM", "ARG", "RUN", "COPY"}
RUNNING = {"ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|PASSPHRASE)", re.IGNORECASE)
KEYS_OF_THE_NIGHT = {"write.key", "check.key"}


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    return _instructions()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def _of(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for word, rest in instructions if word == name]


def test_the_image_is_made_of_known_instructions(instructions: list[tuple[str, str]]) -> None:
    """Two stages on one base that a build argument pins; nothing is fetched by ADD, no script comes from a pipe."""
    assert {word for word, _ in instructions} <= FILLING | RUNNING
    assert _of(instructions, "FROM") == ["${BASE} AS build", "${BASE}"]
    base = dict(one.split("=", 1) for one in _of(instructions, "ARG"))["BASE"]
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)
    for command in _of(instructions, "RUN"):
        assert not re.search(r"curl|wget|\|\s*(ba)?sh\b", command)
        done = subprocess.run(["sh", "-n"], input=command, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_image_runs_unprivileged_and_ends_when_asked(instructions: list[tuple[str, str]]) -> None:
    """A fixed user that is not root, SIGTERM, and a health check by the program's own Python."""
    users = _of(instructions, "USER")
    assert users == ["10001:10001"]
    assert _of(instructions, "STOPSIGNAL") == ["SIGTERM"]
    assert _of(instructions, "CMD") == ['["backupd"]']
    (check,) = _of(instructions, "HEALTHCHECK")
    code = re.findall(r'"-c", "([^"]+)"\]', check)[0]
    compile(code, "HEALTHCHECK", "exec")
    assert "127.0.0.1:8733/health" in code
    last_run = max(n for n, (word, _) in enumerate(instructions) if word == "RUN")
    assert instructions.index(("USER", users[0])) > last_run


def test_no_layer_holds_a_secret(instructions: list[tuple[str, str]]) -> None:
    """No ENV or ARG looks like one, and the context lets no key, environment or history in."""
    for name in ("ENV", "ARG"):
        for rest in _of(instructions, name):
            assert [word for word in shlex.split(rest) if SECRET.search(word.partition("=")[0])] == []
    assert not _ignored("backupd/store/s3.py")
    for path in (
        ".git/config",
        ".venv/bin/python",
        "keys/write.key",
        "backupd/x.key",
        "backupd-demo/a",
        "deploy/x",
        "tests/x",
    ):
        assert _ignored(path), path


def _ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build: the last line that matches decides."""
    ignored = False
    for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        keep = line.startswith("!")
        pattern = line.lstrip("!").removeprefix("**/")
        parts = path.split("/")
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        anywhere = parts if "**/" in line else heads
        if any(fnmatch.fnmatch(one, pattern) for one in anywhere):
            ignored = not keep
    return ignored


def test_every_copied_thing_is_there_and_in_the_context(instructions: list[tuple[str, str]]) -> None:
    """What COPY names exists in the repository and gets past .dockerignore; with pyproject.toml comes what it names."""
    copied = set()
    for rest in _of(instructions, "COPY"):
        words = rest.split()
        if words[0].startswith("--from="):
            assert words[1:] == ["/opt/backupd", "/opt/backupd"]
            continue
        copied |= set(words[:-1])
    for name in copied:
        assert (ROOT / name).exists(), name
        assert not _ignored(f"{name}/x" if (ROOT / name).is_dir() else name), name
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "backupd", "cli"}


def test_the_image_installs_what_the_makefile_installs(instructions: list[tuple[str, str]]) -> None:
    """The lock is cut at the same line, and pip gets the same safeguards."""
    makefile = (ROOT / "Makefile").read_text().replace("$$", "$")
    run = " ".join(_of(instructions, "RUN"))
    (cut,) = re.findall(r"sed '[^']+' requirements\.lock", run)
    assert cut in makefile
    for words in ("--require-hashes --only-binary :all: -r", "--no-build-isolation --no-deps"):
        assert words in run
        assert words in makefile
    core = (ROOT / "requirements.lock").read_text().partition("# ---- test tools")[0]
    assert "hatchling==" in core
    assert "pytest" not in core


def test_compose_keeps_the_daemon_poor(compose: dict[str, Any]) -> None:
    """Read-only root, no capabilities, no new rights, limits, and of all keys the two that work at night."""
    daemon = compose["services"]["backupd"]
    assert daemon["read_only"] is True
    assert daemon["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in daemon["security_opt"]
    assert daemon["stop_grace_period"] == "15m"
    assert daemon["mem_limit"]
    assert {one for one in daemon["secrets"] if one.endswith(".key")} == KEYS_OF_THE_NIGHT
    assert not any(SECRET.search(name) and not name.endswith("_FILE") for name in daemon["environment"])
    assert all(
        "docker.sock" not in str(volume) for service in compose["services"].values() for volume in service["volumes"]
    )


def test_compose_fits_together(compose: dict[str, Any]) -> None:
    """Every secret and volume that is used is declared, and no other; images have versions; ports are this machine's."""
    services = compose["services"].values()
    assert {one for service in services for one in service.get("secrets", [])} == compose["secrets"].keys()
    volumes = {str(one).partition(":")[0] for service in services for one in service["volumes"]}
    assert {one for one in volumes if not one.startswith(".")} == compose["volumes"].keys()
    for service in services:
        assert re.fullmatch(r"[a-z0-9/]+:v?[\d.]+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for one in service.get("depends_on", {}):
            assert "healthcheck" in compose["services"][one]
    build = compose["services"]["backupd"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    start = (ROOT / "deploy/compose-start.sh").read_text()
    made = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    assert [name for name in made if name not in start] == []


def test_the_policy_of_the_compose_file_is_valid(compose: dict[str, Any]) -> None:
    """It names the secrets that the container gets, and a repository that backupd takes without TLS because it is on loopback."""
    result = load(policy_files([ROOT / "deploy/compose-policies"]))
    assert result.faults == []
    text = (ROOT / "deploy/compose-policies/crm.yaml").read_text()
    names = set(re.findall(r"credential:([\w.-]+)", text))
    assert names <= set(compose["services"]["backupd"]["secrets"])


def test_the_start_script_is_a_script() -> None:
    """A shell reads it, it stops at the first failure, and takes the four other keys away from what the daemon sees."""
    script = ROOT / "deploy/compose-start.sh"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    text = script.read_text()
    assert "set -eu" in text
    assert 'mv "$secrets"/made/keys/*.key "$secrets/offline/"' in text
    assert "/deploy/compose-secrets/" in (ROOT / ".gitignore").read_text().split()
