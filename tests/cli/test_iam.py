"""The policies of deploy/iam on a real S3 server that enforces them: what each user may do with backupd, and what is refused."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.cli.kit import CHINOOK, Ran, User
from tests.conftest import Bucket
from tests.servers import ceph

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.s3server

FOLDER = Path(__file__).resolve().parents[2] / "deploy/iam"
ROLES = ("writer", "pruner", "restorer")
PREFIX = "backups/crm"
REFUSED = 13


def statements(role: str, bucket: str) -> list[dict[str, Any]]:
    """The statements of a shipped policy, for a bucket and our prefix."""
    text = (FOLDER / f"{role}.json").read_text().replace("BUCKET", bucket).replace("PREFIX", PREFIX)
    found: list[dict[str, Any]] = json.loads(text)["Statement"]
    return found


@dataclass
class Place:
    """A repository in a bucket of the owner's, a pack that the owner wrote, and three users with what the policies give."""

    user: User
    bucket: Bucket
    keys: dict[str, tuple[str, str]]
    names: dict[str, str]
    owner: "S3Client"
    pack: str = ""
    clients: dict[str, "S3Client"] = field(default_factory=dict)

    def allow(self, without: tuple[str, ...] = ()) -> None:
        """Put the three policies into force, as one policy of the bucket, but for some statements."""
        every = [
            {
                **statement,
                "Sid": f"{role}{statement['Sid']}",
                "Principal": {"AWS": [f"arn:aws:iam:::user/{self.names[role]}"]},
            }
            for role in ROLES
            for statement in statements(role, self.bucket.name)
            if statement["Sid"] not in without
        ]
        self.owner.put_bucket_policy(
            Bucket=self.bucket.name, Policy=json.dumps({"Version": "2012-10-17", "Statement": every})
        )

    def run(self, role: str, *words: str, key: str | None = None) -> Ran:
        """Run a verb with the credentials of a role."""
        access, secret = self.keys[role]
        env = self.user.env(AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret)
        return self.user.run(*words, key=key, env=env)

    def as_user(self, role: str) -> "S3Client":
        """A plain client with the credentials of a role; made once."""
        if role not in self.clients:
            access, secret = self.keys[role]
            self.clients[role] = _client(self.bucket, access, secret)
        return self.clients[role]

    def listed(self, prefix: str = "") -> list[str]:
        """Keys of the repository's objects."""
        found = self.owner.list_objects_v2(Bucket=self.bucket.name, Prefix=f"{PREFIX}/{prefix}").get("Contents", [])
        return [one["Key"] for one in found]

    def refuses(self, role: str, call: Callable[["S3Client"], object]) -> bool:
        """Whether the server denies a role a plain request."""
        try:
            call(self.as_user(role))
        except ClientError as error:
            return error.response["Error"]["Code"] in {"AccessDenied", "403"}
        return False

    def close(self) -> None:
        """Give the connections back."""
        for client in (self.owner, *self.clients.values()):
            client.close()


def _client(bucket: Bucket, access: str, secret: str) -> "S3Client":
    return boto3.session.Session().client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name=bucket.region,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, s3_server: ceph.Server) -> Iterator[Place]:
    """A repository with two snapshots, made by the bucket's owner, and the three users.

    On this server whoever writes an object may read it, whatever a policy says; so what matters is who reads the owner's.
    """
    bucket = Bucket(f"test-{secrets.token_hex(8)}", s3_server.endpoint, s3_server.region)
    owner = _client(bucket, s3_server.access_key, s3_server.secret_key)
    owner.create_bucket(Bucket=bucket.name)
    url = f"s3://{bucket.name}/{PREFIX}?endpoint={bucket.endpoint}&region={bucket.region}"
    credentials = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    user = User(tmp_path_factory.mktemp("iam"), url, {**credentials, **files})
    user.init()
    user.back_up()
    user.back_up()
    names = {role: f"{role}-{secrets.token_hex(4)}" for role in ROLES}
    keys = {role: s3_server.new_user(name) for role, name in names.items()}
    made = Place(user, bucket, keys, names, owner)
    made.pack = made.listed("packs/")[0]
    yield made
    made.close()


@pytest.fixture(autouse=True)
def in_force(place: Place) -> None:
    """The shipped policies, whatever the test before changed."""
    place.allow()


def test_each_role_does_its_work(place: Place) -> None:
    """Writer: run, verify, status. Restorer: hold, restore, verify content. Pruner: prune, forget. Nobody needs more."""
    done = place.run("writer", "run", "--source", str(CHINOOK), "--json", key="write")
    assert done.code == 0, done.err
    newest = done.document["snapshot"]
    for words in (("verify", "--level", "bytes"), ("status",)):
        done = place.run("writer", *words, key="check")
        assert done.code == 0, (words, done.err)

    assert place.run("restorer", "hold", "add", newest, "--reason", "case 4711", key="read").code == 0
    done = place.run("restorer", "restore", "latest", "back.db", "--json", key="recovery")
    assert done.code == 0, done.err
    assert done.document["warnings"] == []
    assert (place.user.folder / "back.db").read_bytes() == CHINOOK.read_bytes()
    assert place.run("restorer", "verify", "--level", "content", key="read").code == 0

    pruned = place.run("pruner", "prune", "--keep-last", "2", "--json", key="prune")
    assert pruned.code == 0, pruned.err
    assert pruned.document["forget"]
    oldest = place.run("pruner", "snapshots", "--json", key="prune").document["snapshots"][0]["id"]
    assert oldest != newest
    assert place.run("pruner", "forget", oldest, key="prune").code == 0
    assert place.listed("probe/") == []


def test_verbs_of_others_are_refused(place: Place) -> None:
    """Storage refuses (13) what is another role's work, even with the right key at hand, and nothing is lost by it."""
    before = place.listed("snapshots/")
    for role in ("writer", "restorer"):
        assert place.run(role, "prune", "--keep-last", "1", key="prune").code == REFUSED
    for role in ("pruner", "restorer"):
        assert place.run(role, "run", "--source", str(CHINOOK), key="write").code == REFUSED
    assert place.listed("snapshots/") == before
    elsewhere = place.user.repository.replace(PREFIX, "backups/other")
    assert place.run("writer", "init", elsewhere, "--keys", "others").code == REFUSED
    assert place.run("restorer", "snapshots", "--repository", elsewhere, key="check").code == REFUSED


def test_a_writer_without_verification_cannot_read_packs(place: Place) -> None:
    """Without its two statements for verification a writer fetches no pack, and still backs up, on a fresh host as well."""
    place.allow(without=("VerifyOnThisHost", "RecordVerdictsOnThisHost"))
    for name in ("state", "cache"):
        (place.user.folder / name).rename(place.user.folder / f"{name}.gone")
    done = place.run("writer", "run", "--source", str(CHINOOK), "--json", key="write")
    assert done.code == 0, done.err
    assert place.run("writer", "verify", key="check").code == REFUSED
    assert place.refuses("writer", lambda s3: s3.get_object(Bucket=place.bucket.name, Key=place.pack))
    assert not place.refuses("restorer", lambda s3: s3.get_object(Bucket=place.bucket.name, Key=place.pack))


def test_requests_that_no_role_may_make(place: Place) -> None:
    """Unlocking, the bucket and what lies outside the prefix are closed; the pruner alone removes, and not everything."""
    bucket, pack = place.bucket.name, place.pack
    place.owner.put_object(Bucket=bucket, Key="elsewhere/object", Body=b"of somebody else")
    everybody: list[Callable[[S3Client], object]] = [
        lambda s3: s3.get_object(Bucket=bucket, Key="elsewhere/object"),
        lambda s3: s3.put_object(Bucket=bucket, Key="elsewhere/object", Body=b"x"),
        lambda s3: s3.delete_object(Bucket=bucket, Key="elsewhere/object"),
        lambda s3: s3.list_objects_v2(Bucket=bucket),
        lambda s3: s3.list_objects_v2(Bucket=bucket, Prefix="elsewhere/"),
        lambda s3: s3.delete_object(Bucket=bucket, Key=pack, VersionId="null"),
        lambda s3: s3.put_object(Bucket=bucket, Key=f"{PREFIX}/trust/000000000002", Body=b"x"),
        lambda s3: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
        lambda s3: s3.put_bucket_policy(Bucket=bucket, Policy='{"Version": "2012-10-17", "Statement": []}'),
        lambda s3: s3.delete_bucket_policy(Bucket=bucket),
        lambda s3: s3.delete_bucket(Bucket=bucket),
    ]
    for role in ROLES:
        assert [n for n, call in enumerate(everybody) if not place.refuses(role, call)] == [], role
    one_of_each = {name.split("/")[2]: name for name in place.listed()}.values()
    for role in ("writer", "restorer"):
        for name in one_of_each:
            assert place.refuses(role, lambda s3, name=name: s3.delete_object(Bucket=bucket, Key=name)), name  # type: ignore[misc]
    assert place.refuses("restorer", lambda s3: s3.put_object(Bucket=bucket, Key=pack, Body=b"x"))
    for name in (pack, place.listed("snapshots/")[0], place.listed("trust/")[0]):
        assert place.refuses("pruner", lambda s3, name=name: s3.put_object(Bucket=bucket, Key=name, Body=b"x")), name  # type: ignore[misc]
    for prefix in ("snapshots", "sessions", "index", "packs", "gc", "probe"):
        name = f"{PREFIX}/{prefix}/of-nobody"
        assert not place.refuses("pruner", lambda s3, name=name: s3.delete_object(Bucket=bucket, Key=name)), name  # type: ignore[misc]
    trust, record = place.listed("trust/")[0], f"{PREFIX}/records/read/000000000001"
    for name in (trust, record):
        assert place.refuses("pruner", lambda s3, name=name: s3.delete_object(Bucket=bucket, Key=name)), name  # type: ignore[misc]
    assert place.run("restorer", "verify", key="check").code == 0
