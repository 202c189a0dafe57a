"""What is shipped for systemd: hardened as far as it says, naming commands that there are, and true of our libraries."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backupctl.__main__ import VERBS
from tests.cli.kit import CHINOOK, User

UNITS = sorted((Path(__file__).resolve().parents[2] / "deploy/systemd").glob("*"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
DAEMON = next(unit for unit in SERVICES if unit.name == "backupd.service")
STRICT = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(99)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Runs Python, and all that it starts, without memory that is writable and executable."""
DRIVERS = """
import ctypes, socket
import alembic, apscheduler, apsw, blake3, boto3, fastapi, jinja2, numpy
import prometheus_client, psycopg, pydantic, pymysql, sqlalchemy, uvicorn
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
db = apsw.Connection(":memory:")
db.create_scalar_function("twice", lambda n: 2 * n)
assert list(db.execute("select twice(4)")) == [(8,)]
assert psycopg.pq.__impl__ == "binary"
numbers = numpy.random.rand(200, 200)
assert (numbers @ numbers).shape == (200, 200)
blake3.blake3(b"x" * 4_000_000, max_threads=2).digest()
AESGCM(b"k" * 32).encrypt(b"n" * 12, b"data", b"")
Argon2id(salt=b"s" * 16, length=32, iterations=1, lanes=4, memory_cost=1024).derive(b"p")
try:
    from backports import zstd
except ImportError:
    from compression import zstd
assert zstd.decompress(zstd.compress(b"x" * 100_000)) == b"x" * 100_000
boto3.client("s3", region_name="eu-central-1", aws_access_key_id="a", aws_secret_access_key="b")
with sqlalchemy.create_engine("sqlite://").connect() as connection:
    assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
numbers = (ctypes.c_int * 2)(2, 1)
order = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))(lambda a, b: a[0] - b[0])
ctypes.CDLL(None).qsort(numbers, 2, 4, order)
assert list(numbers) == [1, 2]
"""


def _lines(unit: Path) -> list[str]:
    return [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]


def _hardening(unit: Path) -> list[str]:
    lines = _lines(unit)
    return lines[lines.index("NoNewPrivileges=yes") : lines.index("SystemCallErrorNumber=EPERM") + 1]


def test_every_timed_service_has_its_timer_and_its_verb() -> None:
    """Each service but the daemon has a timer of its name; each verb that one runs is built."""
    services = {unit.stem for unit in SERVICES if unit != DAEMON}
    assert services == {unit.stem for unit in UNITS if unit.suffix == ".timer"}
    for unit in UNITS:
        for verb in re.findall(r"^ExecStart=/usr/local/bin/backupctl (\S+)", unit.read_text(), re.MULTILINE):
            assert verb in VERBS


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_exposure(unit: Path) -> None:
    """systemd's own judgement of the unit is at most 1.5 of 10; without systemd, that the lines which it is made of are there."""
    assert {"CapabilityBoundingSet=", "ProtectSystem=strict", "PrivateUsers=yes", "User=backupd", "LimitCORE=0"} <= set(
        _lines(unit)
    )
    assert _hardening(unit) == _hardening(DAEMON)
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True, check=False
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= 1.5


def test_the_daemon_is_a_good_service() -> None:
    """It tells systemd how it is, is watched, reloads, has time to end, and gets the two keys that work at night and no other."""
    lines = set(_lines(DAEMON))
    assert {
        "Type=notify",
        "WatchdogSec=60",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "KillMode=mixed",
        "TimeoutStopSec=15min",
        "Restart=on-failure",
        "StateDirectory=backupd",
        "CacheDirectory=backupd",
        "RuntimeDirectory=backupd",
    } <= lines
    keys = {line.partition("=")[2] for line in lines if line.startswith("LoadCredential")}
    assert keys == {"write.key", "check.key"}


def test_systemd_knows_every_line() -> None:
    """systemd-analyze verify has nothing to say of the units but that the programs are not installed here."""
    if shutil.which("systemd-analyze") is None:
        return
    for unit in (unit for unit in UNITS if unit.suffix in {".service", ".timer"}):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
        )
        said = [line for line in done.stderr.splitlines() if unit.stem.partition("@")[0] in line]
        assert [line for line in said if not re.search(r"is not executable: No such file or directory", line)] == []


def test_our_libraries_need_no_memory_that_is_writable_and_executable(tmp_path: Path) -> None:
    """MemoryDenyWriteExecute=yes is true: drivers, and init, run and restore, work under the kernel's own form of it.

    Kernels before 6.3 do not have that form; there nothing is tried.
    """
    user = User(tmp_path)

    def strictly(*words: str) -> int:
        environment = user.env(
            BACKUPCTL_KEY=os.pathsep.join(str(tmp_path / f"keys/{role}.key") for role in ("write", "read"))
        )
        command = [sys.executable, "-c", STRICT, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in {0, 99}, done.stderr
        return done.returncode

    if strictly("-c", DRIVERS) == 99:
        return
    ran = ("-m", "backupctl")
    strictly(*ran, "init", user.repository, "--keys", "keys")
    strictly(*ran, "run", "--source", str(CHINOOK))
    strictly(*ran, "restore", "latest", "back.db")
    assert (tmp_path / "back.db").read_bytes() == CHINOOK.read_bytes()
