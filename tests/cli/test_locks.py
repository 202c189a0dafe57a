"""A policy with `retention.lock` on a real S3 server that locks objects: prune keeps them locked, status says until when."""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from tests.cli.kit import CHINOOK, User
from tests.servers import ceph

pytestmark = pytest.mark.s3server

POLICY = """\
policy: locked
sources: [{{name: chinook, url: "sqlite:///{source}"}}]
repository: {{url: "{repository}"}}
keys: {{write: "file:{keys}/write.key", check: "file:{keys}/check.key", prune: "file:{keys}/prune.key"}}
retention: {{keep: {{daily: 30}}, lock: {{mode: governance, days: 20}}}}
"""


@pytest.fixture
def user(tmp_path: Path, s3_server: ceph.Server) -> User:
    """A repository in a bucket that locks new objects for two days, and a policy that promises twenty."""
    name = f"test-{secrets.token_hex(8)}"
    access = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    owner = boto3.session.Session().client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    owner.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    owner.put_object_lock_configuration(
        Bucket=name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 2}},
        },
    )
    owner.close()
    url = f"s3://{name}/p?endpoint={s3_server.endpoint}&region={s3_server.region}"
    user = User(tmp_path, url, access)
    user.init()
    user.back_up(CHINOOK, "--name", "chinook")
    (tmp_path / "policies").mkdir()
    text = POLICY.format(source=CHINOOK, repository=url, keys=tmp_path / "keys")
    (tmp_path / "policies/locked.yaml").write_text(text)
    user.environment["BACKUPCTL_CONFIG"] = str(tmp_path / "policies")
    return user


def test_prune_keeps_what_is_needed_locked(user: User) -> None:
    """Two days by the bucket, twenty by the policy: short before the prune, as promised after it."""
    before = user.run("prune", "locked", "--json", "--dry-run")
    assert before.code == 0, before.err
    assert before.document["locks"]["short"] is True
    assert before.document["locks"]["extended"] == 0
    now = datetime.now(UTC)
    until = datetime.fromisoformat(before.document["locks"]["until"])
    assert timedelta(days=1) < until - now < timedelta(days=3)

    done = user.run("prune", "locked", "--json")
    assert done.code == 0, done.err
    locks = done.document["locks"]
    assert locks["short"] is False
    assert locks["extended"] == locks["objects"] >= 2
    assert datetime.fromisoformat(locks["until"]) - now > timedelta(days=20)
    assert done.document["warnings"] == []

    again = user.run("prune", "locked", "--json")
    assert again.document["locks"]["extended"] == 0
    assert user.run("catalog", "rebuild").code == 0
