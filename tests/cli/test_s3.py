"""The main job through a real S3 server, by the command line alone."""

import os
import sqlite3
from pathlib import Path

import boto3
import pytest

from tests.cli.kit import CHINOOK, User
from tests.conftest import Bucket

pytestmark = pytest.mark.s3server


@pytest.fixture
def user(tmp_path: Path, s3_bucket: Bucket) -> User:
    """A user whose repository is a prefix in a fresh bucket."""
    url = f"s3://{s3_bucket.name}/backups/crm?endpoint={s3_bucket.endpoint}&region={s3_bucket.region}"
    return User(tmp_path, url)


def test_chinook_survives_s3(user: User) -> None:
    """init, run, verify, restore through S3: byte for byte the same file, integrity_check ok, nothing left on disk."""
    user.init()
    first, second = user.back_up(), user.back_up()
    assert first["chunks"]["full"] == 16
    assert second["chunks"]["full"] == 0
    for level, key in (("structure", "check"), ("bytes", "check"), ("content", "read")):
        assert user.run("verify", "--level", level, key=key).code == 0
    done = user.run("restore", "latest", "back.db", "--check", "full", "--json", key="recovery")
    assert done.code == 0, done.out
    assert (user.folder / "back.db").read_bytes() == CHINOOK.read_bytes()
    assert not list((user.folder / "cache").rglob(".backupd-spool*"))
    copies = {path.parent.name for path in (user.folder / "cache").rglob("objects/*/*")}
    assert copies == {"snapshots", "records"}, "each command fetched all of them again"


def test_several_packs_through_s3(user: User) -> None:
    """A database of several packs comes back exactly, through the spool on disk."""
    big = user.folder / "big.db"
    db = sqlite3.connect(big)
    db.execute("create table t(id integer primary key, a blob)")
    db.executemany("insert into t(a) values(?)", ((os.urandom(9000),) for _ in range(9000)))
    db.commit()
    db.close()
    user.init()
    user.back_up(big)
    db = sqlite3.connect(big)
    db.executemany("update t set a=? where id=?", ((os.urandom(9000), n) for n in range(1, 9000, 500)))
    db.commit()
    db.close()
    user.back_up(big)
    assert user.run("restore", "latest", "back.db", key="read").code == 0
    assert (user.folder / "back.db").read_bytes() == big.read_bytes()
    assert user.run("verify", "--level", "content", key="read").code == 0


def test_retention_on_s3(user: User) -> None:
    """hold, prune, forget and status with a bucket: by its own times; nothing that asked for them stays in it."""
    user.init()
    first, second, third, _ = (user.back_up()["snapshot"] for _ in range(4))
    assert user.run("hold", "add", first, "--reason", "case 4711", key="read").code == 0
    pruned = user.run("prune", "--keep-last", "2", "--json", key="prune")
    assert pruned.code == 0, pruned.out
    assert [f["snapshot"] for f in pruned.document["forget"]] == [second]
    assert user.run("forget", third, key="prune").code == 0
    listed = user.run("snapshots", "--json", key="check").document["snapshots"]
    assert [s["holds"] for s in listed] == [["case 4711"], []]
    assert user.run("verify", "--level", "content", key="read").code == 0
    assert user.run("repo", "stats", "--json", key="check").document["objects"].keys() >= {"records", "snapshots"}
    assert "probe" not in user.run("repo", "stats", "--json", key="check").document["objects"]
    assert user.run("status", "--json", key="check").document["verdict"] == "ok"


def test_probe_of_s3(user: User) -> None:
    """repo probe finds level A, and nothing of it stays in the bucket."""
    done = user.run("repo", "probe", "--json")
    assert done.code == 0, done.out
    assert done.document["level"] == "A"
    assert user.run("snapshots", key=None).code == 12


def test_a_missing_bucket_is_10_and_wrong_credentials_are_13(user: User, s3_bucket: Bucket) -> None:
    """No such bucket is exit 10, a wrong secret is exit 13, and neither error repeats a secret."""
    user.init()
    gone = user.repository.replace(s3_bucket.name, "no-such-bucket-here")
    assert user.run("snapshots", "--repository", gone, key="check").code == 10
    wrong = user.env(AWS_SECRET_ACCESS_KEY="wrong-" + "x" * 30)
    done = user.run("snapshots", "--json", key="check", env=wrong)
    assert done.code == 13, done.out
    assert "wrong-xxx" not in done.out + done.err
    none = {k: v for k, v in user.env().items() if not k.startswith("AWS_")} | {"AWS_EC2_METADATA_DISABLED": "true"}
    assert user.run("snapshots", key="check", env=none).code == 13


def test_a_server_that_is_not_there_is_75(user: User, s3_bucket: Bucket) -> None:
    """An endpoint that nobody answers is exit 75 after bounded retries."""
    user.init()
    dead = user.repository.replace(s3_bucket.endpoint.rsplit(":", 1)[1].split("&")[0], "9")
    assert user.run("snapshots", "--repository", dead, key="check").code == 75


def test_objects_carry_no_metadata(user: User, s3_bucket: Bucket) -> None:
    """Objects in the bucket have no user metadata and no tags, and names of the format only."""
    user.init()
    user.back_up()
    client = boto3.session.Session().client("s3", endpoint_url=s3_bucket.endpoint, region_name=s3_bucket.region)
    names = [o["Key"] for o in client.list_objects_v2(Bucket=s3_bucket.name)["Contents"]]
    assert all(name.startswith("backups/crm/") for name in names)
    for name in names:
        assert client.head_object(Bucket=s3_bucket.name, Key=name)["Metadata"] == {}
        assert "chinook" not in name.lower()
    client.close()
