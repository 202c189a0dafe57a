"""Policy files: the contract's example and the ready-made ones are valid; what is wrong is told with its place."""

import json
import re
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.config.policies import load, load_valid, policy_files
from backupd.config.secretrefs import path_of, resolve
from backupd.errors import UsageError
from backupd.policy.allowing import KINDS, family
from backupd.policy.model import schema

ROOT = Path(__file__).resolve().parents[3]
READY = sorted((ROOT / "policies").glob("*.yaml"))

EXAMPLE = """\
# yaml-language-server: $schema=./schema/policy-v1.json
policy: customers-nightly
sources:
  - name: crm
    url: postgresql://backup@db1/crm
    password: credential:crm-pg           # file:, env:, credential:, exec:, aws-sm: ... never inline
    subject: {table: customers, key: id}
repository: {url: s3://acme-backup/crm, region: eu-central-1}
keys: {write: credential:write.key, check: credential:check.key}
schedule: {cron: "30 2 * * *", timezone: Europe/Berlin, jitter: 10m, catch_up: once}
objectives: {rpo: 24h, rto: 1h}
retention: {keep: {last: 3, daily: 14, weekly: 8, monthly: 12, yearly: 3}, min_keep: 3, lock: {mode: compliance, days: 30}}
verify: [{level: structure, every: 1d}, {level: content, sample: 5%, every: 1d}]
drill:
  every: 7d
  assert:
    - {sql: "select count(*) from customers", min: 1, max_drop: 5%}
notify:
  - {on: [failure, rpo_breach, drill_failed, brake], to: ops}
  - {on: [success], to: heartbeat}
notifiers: {ops: {webhook: env:OPS_WEBHOOK}, heartbeat: {ping: env:HC_URL}}
"""
SMALL = "policy: p\nsources: [{name: a, url: 'sqlite:////srv/a.db'}]\nrepository: {url: 'file:///backup'}\n"


def faults(tmp_path: Path, text: str) -> list[str]:
    """Line, column and message of everything that is wrong."""
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return [f"{f.line}:{f.column} {f.message}" for f in load([path]).faults]


def test_the_contracts_example(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(EXAMPLE)
    (loaded,) = load_valid([path])
    policy = loaded.policy
    assert policy.policy == "customers-nightly"
    assert policy.schedule is not None
    assert policy.schedule.jitter == timedelta(minutes=10)
    assert policy.retention is not None
    assert str(policy.retention.rule) == "last 3, daily 14, weekly 8, monthly 12, yearly 3, at least 3"
    assert policy.drill is not None
    assert policy.drill.assertions[0].max_drop == 5.0
    assert faults(tmp_path, SMALL) == []


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_ready_made_ones(path: Path) -> None:
    """Each is valid, warns of nothing but what is another host's work, is called about what its file is, names its schema."""
    (loaded,) = load([path]).files
    assert [warning for warning in loaded.warnings if "left to a host that has one" not in warning.message] == []
    assert path.stem.startswith(loaded.policy.policy)
    assert path.read_text().startswith("# yaml-language-server: $schema=./schema/policy-v1.json\n")
    assert len(READY) == 6
    assert load([*READY]).faults == []


def test_the_schema_is_the_one_in_the_folder() -> None:
    """`backupctl policy schema` made it; it knows every key, and asks for those that are required."""
    stored = json.loads((ROOT / "policies/schema/policy-v1.json").read_text())
    assert stored == schema()
    assert stored["required"] == ["policy", "sources", "repository"]
    assert stored["additionalProperties"] is False
    assert all(part.get("additionalProperties") is False for part in stored["$defs"].values())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("daily: 14", "dayly: 14", ["12:29 retention.keep.dayly: there is no such key here"]),
        ("daily: 14", "daily: '14'", ["12:36 retention.keep.daily: write a whole number here"]),
        ("daily: 14", "daily: -1", ["12:36"]),
        ("daily: 14", "daily: 1.5", ["12:36"]),
        ("daily: 14", "daily: true", ["12:36"]),
        ("credential:crm-pg  ", "hunter2  ", ["6:15 sources.0.password: name where the secret is"]),
        ("backup@db1", "backup:hunter2@db1", ["5:10 sources.0.url: a password inside a URL is refused"]),
        ("Europe/Berlin", "Europe/Berlun", ["10:42 schedule.timezone: there is no time zone"]),
        ("Europe/Berlin", "../../etc/passwd", ["10:42"]),
        ("30 2 * * *", "0 0 31 2 *", ["10:18 schedule.cron: this is no cron expression"]),
        ('cron: "30 2 * * *"', "every: 0s", ["10:19 schedule.every: must be more"]),
        ('cron: "30 2 * * *"', "every: 400d", ["10:11 schedule: every must be between"]),
        ('cron: "30 2 * * *"', 'every: 1h, cron: "0 2 * * *"', ["10:11 schedule: give either"]),
        ("jitter: 10m", "blackout: ['00:00-24:00']", ["10:67 schedule.blackout: these windows cover the whole week"]),
        ("jitter: 10m", "blackout: ['01:00-03:00', 'Mo 1:00-2:00']", ["10:83 schedule.blackout.1: write"]),
        ("jitter: 10m", "blackout: 01:00-03:00", ["10:67 schedule.blackout: write a list here"]),
        ("objectives:", "retries: {attempts: 0}\nobjectives:", ["11:21 retries.attempts"]),
        ("objectives:", "retries: {backoff: 2d}\nobjectives:", ["11:20 retries.backoff: a day is the longest"]),
        ("to: ops", "to: oops", ["19:58 notify.0.to: there is no notifier 'oops'"]),
        ("on: [success]", "on: [sucess]", ["20:11 notify.1.on.0"]),
        ("{webhook: env:OPS_WEBHOOK}", "{webhook: https://x}", ["21:28"]),
        ("{webhook: env:OPS_WEBHOOK}", "{}", ["21:18 notifiers.ops: give one of"]),
        ("days: 30", "days: 3000", ["12:120 retention.lock.days: nothing is kept for longer than"]),
        (
            "s3://acme-backup/crm, region: eu-central-1",
            "file:///backup",
            ["12:95 retention.lock: a folder cannot lock"],
        ),
        ("s3://acme-backup/crm", "ftp://x", ["8:19 repository.url"]),
        ("name: crm", "name: 'a/b'", ["4:11 sources.0.name"]),
        ("rpo: 24h", "rpo: soon", ["11:19 objectives.rpo: write a number and"]),
        ("sample: 5%", "sample: 500%", ["13:66 verify.1.sample"]),
        ("min: 1, max_drop: 5%", "note: x", ["17:", "17:"]),
        ("repository:", "repo:", ["8:1 repo: there is no such key here", "1:1 repository: this key is missing"]),
        ("policy: customers-nightly", "policy: 'no spaces'", ["2:9"]),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert old in EXAMPLE
    found = faults(tmp_path, EXAMPLE.replace(old, new))
    assert found, "nothing was found"
    for wanted in expected[:1]:
        assert any(f.startswith(wanted) or wanted in f for f in found), found
    assert not any("hunter2" in f for f in found)


def test_two_sources_of_one_name_and_two_policies_of_one_name(tmp_path: Path) -> None:
    twice = "policy: p\nsources:\n  - {name: a, url: a.db}\n  - {name: a, url: b.db}\nrepository: {url: /backup}\n"
    assert faults(tmp_path, twice) == ["4:12 sources.1.name: two sources are called 'a'"]
    for name in ("x.yaml", "y.yaml"):
        (tmp_path / name).write_text(SMALL)
    (tmp_path / "p.yaml").unlink()
    found = load(policy_files([tmp_path]))
    assert [f.file for f in found.faults] == [str(tmp_path / "y.yaml")]
    with pytest.raises(UsageError, match=r"y\.yaml:1:1"):
        load_valid(policy_files([tmp_path]))


def test_what_means_nothing(tmp_path: Path) -> None:
    """Options of servers on an SQLite file, and native capture of MariaDB."""
    text = SMALL.replace("'sqlite:////srv/a.db'", "a.db, password: env:X, exclude: [t], capture: native")
    assert [f.split(" ")[1] for f in faults(tmp_path, text)] == [
        "sources.0.password:",
        "sources.0.exclude:",
        "sources.0.capture:",
    ]
    text = SMALL.replace("'sqlite:////srv/a.db'", "'mariadb://u@h/db', capture: native")
    assert "native is for PostgreSQL" in faults(tmp_path, text)[0]


def test_all_databases_of_a_server(tmp_path: Path) -> None:
    """A * stands for every database; another source may not be called as one of them would be."""
    path = tmp_path / "p.yaml"
    path.write_text(SMALL.replace("'sqlite:////srv/a.db'", "'postgresql://u@h:5432/*?sslmode=require'"))
    (source,) = load_valid([path])[0].policy.sources
    assert source.all_databases
    assert source.covers(f"{source.name}.crm")
    assert not source.covers(source.name)
    for url in ("postgresql://u@h/a*", "sqlite:////srv/*", "/srv/*", "postgresql://u@h/db?x=/*"):
        assert not source.model_copy(update={"url": url}).all_databases
    two = f"{{name: {source.name}.crm, url: 'sqlite:////srv/b.db'}}"
    text = path.read_text().replace("sources: [", f"sources: [{two}, ")
    assert "could be a database of" in faults(tmp_path, text)[0]


def test_an_objective_that_the_schedule_cannot_keep(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(SMALL + "schedule: {cron: '0 2 * * 1-5'}\nobjectives: {rpo: 24h}\n")
    (loaded,) = load([path]).files
    (warning,) = loaded.warnings
    assert (warning.line, "3d apart" in warning.message) == (5, True)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "retention: {keep: {last: 3}}\nschedule: {every: 1d}\ndrill: {every: 7d}\n",
            6,
            "drill.every: nothing is kept",
        ),
        (
            "retention: {keep: {within: 2d}}\nverify: [{level: bytes, every: 3d}]\n",
            5,
            "verify.0.every: nothing is kept",
        ),
        (
            "schedule: {cron: '0 2 * * *', blackout: ['01:00-03:00']}\n",
            4,
            "schedule.blackout: these windows put off every run",
        ),
        ("schedule: {every: 1h, blackout: ['08:00-18:00']}\nobjectives: {rpo: 4h}\n", 5, "up to 11h apart"),
    ],
)
def test_what_will_disappoint(tmp_path: Path, text: str, line: int, said: str) -> None:
    """Proofs that come too rarely, windows that put off every run or make gaps that are too long: warnings."""
    path = tmp_path / "p.yaml"
    path.write_text(SMALL + text)
    (loaded,) = load([path]).files
    (warning,) = loaded.warnings
    assert warning.line == line
    assert said in warning.message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "keys: {write: 'file:/write.key', check: 'file:/check.key'}\ndrill: {every: 1d}\n",
            5,
            "drill: keys names no read key: this is left to a host that has one",
        ),
        (
            "keys: {write: 'file:/write.key'}\nverify: [{level: bytes, every: 1d}]\n",
            5,
            "verify.0.level: keys names no check key",
        ),
        (
            "keys: {write: 'file:/write.key', check: 'file:/check.key'}\nverify: [{level: content, every: 1d}]\n",
            5,
            "verify.0.level: keys names no read key",
        ),
    ],
)
def test_what_nothing_does(tmp_path: Path, text: str, line: int, said: str) -> None:
    """What is left to another host is a warning: nobody shall believe that it happens here."""
    path = tmp_path / "p.yaml"
    path.write_text(SMALL + text)
    (loaded,) = load([path]).files
    (warning,) = loaded.warnings
    assert warning.line == line
    assert said in warning.message


SERVERS = """\
policy: p
sources:
  - {name: crm, url: 'postgresql://u@db1/crm'}
  - {name: all, url: 'mysql://u@db2/*'}
repository: {url: 'file:///backup'}
drill:
  every: 7d
  assert: [{sql: select 1, min: 1, source: crm}, {sql: select 1, min: 1, source: all.web}, {sql: select 1, min: 1}]
  scratch: [{url: 'postgresql://d@scratch/postgres', password: 'env:P'}, {url: 'mariadb://d@scratch/test'}]
  allow: [extension, definer, all]
"""


def test_a_drill_in_every_detail(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(SERVERS)
    (loaded,) = load([path]).files
    assert loaded.warnings == ()
    drill = loaded.policy.drill
    assert drill is not None
    assert [server.password for server in drill.scratch] == ["env:P", None]
    assert drill.allow == ("extension", "definer", "all")
    assert [asserted.source for asserted in drill.assertions] == ["crm", "all.web", None]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("source: all.web", "source: shop", "8:82 drill.assert.1.source: there is no source 'shop'"),
        ("d@scratch/postgres", "d:hunter2@scratch/postgres", "9:19 drill.scratch.0.url: a password inside a URL"),
        ("d@scratch/postgres", "d@scratch/*", "9:19 drill.scratch.0.url: name one database"),
        ("postgresql://d@scratch/postgres", "/srv/scratch", "9:19 drill.scratch.0.url: name a server"),
        ("mariadb://d@scratch", "postgresql://d@other", "9:80 drill.scratch.1.url: two scratch servers are for"),
        ("'env:P'", "hunter2", "drill.scratch.0.password: name where the secret is"),
        ("extension,", "extensions,", "10:11 drill.allow.0: there is no such kind: c-function, definer"),
        ("allow:", "allows:", "10:3 drill.allows: there is no such key here"),
        ("postgresql://u@db1/crm", "/crm.db", "10:11 drill.allow.0: this means nothing for the sources"),
    ],
)
def test_what_a_drill_cannot_do(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SERVERS
    (found,) = faults(tmp_path, SERVERS.replace(old, new))
    assert said in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("d@scratch/postgres", "d@db1:5432/other", "drill.scratch.0.url: this is the server of source crm"),
        ("d@scratch/test", "d@db2/test", "drill.scratch.1.url: this is the server of source all"),
        ("mysql://u@db2/*", "/crm.db", "drill.scratch.1.url: no source of this policy is a database of mariadb"),
    ],
)
def test_a_scratch_server_that_may_not_be_meant(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A warning: a test machine may have one server for all."""
    path = tmp_path / "p.yaml"
    path.write_text(SERVERS.replace(old, new).replace("definer, all", "all").replace(", source: all.web", ""))
    found = load([path])
    assert found.faults == []
    (warning,) = found.files[0].warnings
    assert said in warning.message


def test_the_kinds_that_drills_let_in_are_those_of_the_engines() -> None:
    """Policies are checked without engines, in the words that they know."""
    from backupd.config.urls import parse_database
    from backupd.wiring import open_server_target

    for engine in ("postgresql", "mariadb", "mysql"):
        target = open_server_target(parse_database(f"{engine}://u@h/d"))
        assert target.kinds == KINDS[family(engine)]


def test_two_verifications_of_one_level(tmp_path: Path) -> None:
    """They would share a time and a verdict, so that the rarer one never came."""
    text = "verify: [{level: bytes, sample: 5%, every: 1d}, {level: bytes, every: 30d}]\n"
    assert faults(tmp_path, SMALL + text) == ["4:57 verify.1.level: two verifications are of level bytes: give one"]


def test_two_policies_for_one_source(tmp_path: Path) -> None:
    """Of one name in one repository, both would forget: a warning at the second one's."""
    (tmp_path / "a.yaml").write_text(SMALL)
    (tmp_path / "b.yaml").write_text(SMALL.replace("policy: p", "policy: q").replace("file:///backup", "/backup"))
    (tmp_path / "c.yaml").write_text(SMALL.replace("policy: p", "policy: r").replace("/backup", "/elsewhere"))
    first, second, third = load(policy_files([tmp_path])).files
    assert (first.warnings, third.warnings) == ((), ())
    assert [(w.line, w.column) for w in second.warnings] == [(2, 18)]
    assert "policy p stores a source of this name" in second.warnings[0].message


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no policy in"):
        policy_files([tmp_path])
    assert "cannot be read" in load([tmp_path / "missing.yaml"]).faults[0].message
    assert load([tmp_path]).faults


# ---- secrets


def test_where_secrets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pw").write_text("s3cret\n")
    monkeypatch.setenv("BACKUPD_TEST_SECRET", "from the environment")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert resolve(f"file:{tmp_path / 'pw'}") == b"s3cret"
    assert resolve("env:BACKUPD_TEST_SECRET") == b"from the environment"
    assert resolve("credential:pw") == b"s3cret"
    assert resolve("exec:printf 'a b'") == b"a b"
    assert path_of("credential:pw") == tmp_path / "pw"


@pytest.mark.parametrize(
    "reference",
    [
        "file:/does/not/exist",
        "env:BACKUPD_NOT_SET",
        "credential:../../etc/passwd",
        "credential:missing",
        "exec:false",
        "exec:",
        "exec:/does/not/exist",
        "exec:sh -c 'echo hunter2; exit 3'",
        "exec:true",
        "exec:'unbalanced",
        "nonsense:x",
        "x",
    ],
)
def test_secrets_that_cannot_be_had(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the reference and not what was read."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(UsageError) as failed:
        resolve(reference)
    if "echo" not in reference:
        assert "hunter2" not in str(failed.value)
    assert failed.value.__context__ is None or failed.value.__suppress_context__


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(UsageError, match="no credentials"):
        resolve("credential:x")


def test_a_secret_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets Manager, as moto plays it."""
    boto3 = pytest.importorskip("boto3")
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        boto3.client("secretsmanager").create_secret(Name="prod/x", SecretString="s3cret")
        assert resolve("aws-sm:prod/x") == b"s3cret"
        with pytest.raises(UsageError, match="ResourceNotFoundException"):
            resolve("aws-sm:prod/y")


def test_policies_hold_no_secret() -> None:
    """Nothing in the ready-made ones looks like one."""
    for path in READY:
        assert not re.search(r"(password|secret|webhook): (?!(file|env|credential|exec|aws-sm):|\")", path.read_text())
        assert not path.stat().st_mode & stat.S_IXUSR
