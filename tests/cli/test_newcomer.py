"""A newcomer with an empty machine follows README: from nothing to PostgreSQL backed up to S3 by the daemon, night after night.

The commands are README's own, in its order. What only a machine of one's own can show (packages, systemd) is left out, and what
stands for somebody's own server, bucket and hours is replaced, each by name.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.kit import User
from tests.conftest import Bucket
from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.s3server]
ROOT = Path(__file__).resolve().parents[2]
OF_THE_MACHINE = ("git ", "apt-get ", "make ", "systemd-creds ", "systemctl ", "editor ", "export AWS_", "install ")
POLICY = "policies/nightly-postgresql-s3.yaml"


def commands() -> list[str]:
    """What README tells a newcomer to type."""
    section = (ROOT / "README.md").read_text().split("## Every night, by itself")[1].split("\n## ")[0]
    block = re.search(r"(?:^    .*\n)+", section, re.MULTILINE)
    assert block
    typed = [line.strip().split("    # ")[0].strip() for line in block[0].splitlines()]
    return [re.sub(r"^systemd-run .*?(?=backupctl )", "", line) for line in typed]


def policy(folder: Path, database: str, bucket: str, endpoint: str) -> None:
    """What the newcomer's editor does to the ready-made policy."""
    document: dict[str, Any] = yaml.safe_load((ROOT / POLICY).read_text())
    document["sources"][0] |= {"url": database, "password": "file:crm-password"}
    document["repository"] = {"url": bucket, "endpoint": endpoint}
    document["keys"] = {"write": "file:keys/write.key", "check": "file:keys/check.key"}
    document["schedule"] = {"every": "2s"}
    document["notify"], document["notifiers"] = [], {}
    folder.mkdir()
    (folder / "nightly-postgresql.yaml").write_text(yaml.safe_dump(document))


def test_readme_leads_to_nightly_backups(
    tmp_path: Path, s3_bucket: Bucket, postgres_servers: Callable[[int], PostgresServer]
) -> None:
    """Each step of README ends well, the daemon takes snapshots by the policy, and `status` says that all is well."""
    server = postgres_servers(18)
    database = server.create_database()
    server.psql(
        database, "create table customers(id int primary key, name text); insert into customers values (1, 'Ada')"
    )
    bucket = f"s3://{s3_bucket.name}/crm?region={s3_bucket.region}"
    full = f"{bucket}&endpoint={s3_bucket.endpoint}"
    user = User(tmp_path, full)
    (tmp_path / "crm-password").write_text("not asked for here\n")
    places = {
        "s3://acme-backup/crm?region=eu-central-1": full,
        "postgresql://backup@db1/crm": server.url(database, "postgres"),
    }
    env = user.env() | {"BACKUPCTL_TOOLS": str(server.bin), "BACKUPCTL_CONFIG": str(tmp_path / "policies.d")}
    del env["BACKUPCTL_REPOSITORY"]
    done: list[str] = []
    for line in commands():
        if line.startswith("install ") and POLICY in line:
            policy(tmp_path / "policies.d", places["postgresql://backup@db1/crm"], bucket, s3_bucket.endpoint)
        elif line.startswith("systemctl enable --now backupd"):
            daemon(tmp_path, env, nights=2)
        elif not line.startswith(OF_THE_MACHINE):
            words = [places.get(word, word) for word in shlex.split(line)]
            assert words[0] == "backupctl", line
            ended = backupctl(words[1:], tmp_path, env)
            assert ended.returncode == 0, (line, ended.stdout, ended.stderr)
            done.append(words[1])
    assert done == ["init", "doctor", "policy", "status"]
    listed = json.loads(
        backupctl(["snapshots", "--repository", full, "--key", "keys/check.key", "--json"], tmp_path, env).stdout
    )
    assert len(listed["snapshots"]) >= 2
    assert {one["source"] for one in listed["snapshots"]} == {"crm"}


def backupctl(words: list[str], folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """One command, as typed."""
    return subprocess.run(
        [sys.executable, "-m", "backupctl", *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def daemon(folder: Path, env: dict[str, str], nights: int) -> None:
    """The service at work, until so many runs have ended well."""
    words = [sys.executable, "-m", "backupd", "--config", env["BACKUPCTL_CONFIG"], "--listen", "127.0.0.1:0"]
    with (folder / "daemon.log").open("w") as log:
        service = subprocess.Popen(words, cwd=folder, env=env | {"PYTHONUNBUFFERED": "1"}, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 120
            while time.monotonic() < until and service.poll() is None:
                events = [
                    json.loads(line) for line in (folder / "daemon.log").read_text().splitlines() if line.endswith("}")
                ]
                ended = [event for event in events if event["event"] == "job ends" and event["kind"] == "run"]
                assert all(event["exit"] == 0 for event in ended), (folder / "daemon.log").read_text()
                if len(ended) >= nights:
                    break
                time.sleep(0.3)
        finally:
            service.send_signal(signal.SIGTERM)
            assert service.wait(120) == os.EX_OK, (folder / "daemon.log").read_text()
