"""What only a store in S3 has to get right: error codes, retries, lost answers, lying bodies, TLS, other hosts."""

import base64
import hashlib
import logging
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import UsageError
from backupd.store.base import (
    Lockable,
    LockFacts,
    ObjectExists,
    ObjectMissing,
    ShortRead,
    StoreError,
    StoreMissing,
    StoreRefused,
    StoreUnavailable,
)
from backupd.store.s3 import S3Store
from backupd.store.s3_place import checked_endpoint, is_same_host
from backupd.store.s3_retry import Patience
from tests.servers import scripted_s3
from tests.servers.scripted_s3 import (
    Action,
    ScriptedS3,
    answering,
    error,
    lose_answer,
    reset,
    reset_mid_body,
)
from tests.stores import utc_now


class Waits:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def patience(self, **changes: float) -> Patience:
        made = Patience(sleep=self.sleep, monotonic=lambda: self.now, between=lambda _, most: most)
        return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up credentials, and no files of the user's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKMADEUP")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-of-the-tests")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    """A scripted server."""
    with scripted_s3.running() as made:
        yield made


@pytest.fixture
def waits() -> Waits:
    """What was waited for."""
    return Waits()


@pytest.fixture
def store(server: ScriptedS3, waits: Waits) -> Iterator[S3Store]:
    """A store on the scripted server."""
    made = S3Store("bucket", "p", endpoint=server.endpoint, patience=waits.patience())
    yield made
    made.close()


def test_a_put_is_one_request_with_both_sums(store: S3Store, server: ScriptedS3) -> None:
    """A put is a single PUT, path-style, with If-None-Match, SHA-256 and MD5; never a multipart upload."""
    data = bytes(9 << 20)
    store.put("packs/1", data)
    ((method, path, headers),) = server.requests
    assert (method, path) == ("PUT", "/bucket/p/packs/1")
    assert headers["If-None-Match"] == "*"
    assert headers["Content-MD5"] == base64.b64encode(hashlib.md5(data).digest()).decode()
    assert headers["x-amz-checksum-sha256"] == base64.b64encode(hashlib.sha256(data).digest()).decode()


def test_a_replacing_put_has_no_condition(store: S3Store, server: ScriptedS3) -> None:
    """Without create_only no condition is sent."""
    store.put("packs/1", b"x", create_only=False)
    assert "If-None-Match" not in server.requests[0][2]


def test_the_time_is_the_servers(store: S3Store, server: ScriptedS3) -> None:
    """A put answers with the Date header, in UTC; without one, with what HEAD tells."""

    def told(handler: scripted_s3.Handler) -> None:
        handler.send_response_only(200)
        handler.send_header("Date", "Sat, 01 Mar 2025 10:00:00 GMT")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.script = [told]
    assert store.put("packs/1", b"x").isoformat() == "2025-03-01T10:00:00+00:00"

    def dateless(handler: scripted_s3.Handler) -> None:
        handler.server.objects[handler.key] = handler.body
        handler.send_response_only(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.script = [dateless]
    written = store.put("packs/2", b"x")
    assert written.tzinfo is UTC
    assert abs(written - utc_now()) < timedelta(minutes=1)


PASSING: list[Action] = [
    error("SlowDown", 503), error("InternalError", 500), error("TooManyRequests", 429), error("Nonsense", 502),
    error("RequestTimeout", 400), error("ConditionalRequestConflict", 409), error("OperationAborted", 409), reset,
    answering(503, b"<html>proxy</html>"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(PASSING)))
def test_passing_trouble_is_tried_again(store: S3Store, server: ScriptedS3, waits: Waits, number: int) -> None:
    """What may pass is tried again, on every verb, with growing waits."""
    trouble = PASSING[number]
    server.script = [trouble] * 3
    store.put("packs/1", b"0123456789")
    server.script = [trouble] * 3
    assert store.get("packs/1") == b"0123456789"
    server.script = [trouble] * 3
    store.delete("packs/1")
    assert waits.slept == [0.25, 0.5, 1.0] * 3


@pytest.mark.parametrize("trouble", [error("SlowDown", 503), error("InternalError", 500), reset])
def test_a_storm_ends_in_try_again(store: S3Store, server: ScriptedS3, waits: Waits, trouble: Action) -> None:
    """A storm that does not end is StoreUnavailable after a bounded number of tries."""
    server.script = [trouble] * 100
    with pytest.raises(StoreUnavailable) as caught:
        store.put("packs/1", b"x")
    assert caught.value.exit == 75
    assert len(server.requests) == 8
    assert len(waits.slept) == 7


def test_the_deadline_ends_the_tries(server: ScriptedS3, waits: Waits) -> None:
    """No try begins after the deadline, however many are left."""
    store = S3Store("bucket", endpoint=server.endpoint, patience=waits.patience(deadline=2.0, attempts=50))
    server.script = [error("SlowDown", 503)] * 100
    with pytest.raises(StoreUnavailable):
        store.get("packs/1")
    assert waits.now <= 2.0
    assert len(server.requests) == 4
    store.close()


def test_retry_after_is_the_least_wait(store: S3Store, server: ScriptedS3, waits: Waits) -> None:
    """The server's Retry-After is respected, up to the longest wait."""
    server.script = [error("SlowDown", 503, Retry_After="7"), error("SlowDown", 503, Retry_After="9999")]
    store.put("packs/1", b"x")
    assert waits.slept == [7.0, 20.0]


REFUSED = [
    ("ExpiredToken", 403, StoreRefused, "expired"),
    ("ExpiredToken", 400, StoreRefused, "expired"),
    ("InvalidAccessKeyId", 403, StoreRefused, "access key"),
    ("SignatureDoesNotMatch", 403, StoreRefused, "secret key"),
    ("AccessDenied", 403, StoreRefused, "denied"),
    ("Whatever", 401, StoreRefused, "denied"),
    ("RequestTimeTooSkewed", 403, StoreRefused, "clock"),
    ("QuotaExceeded", 403, StoreRefused, "quota"),
    ("QuotaExceeded", 507, StoreRefused, "quota"),
    ("NotImplemented", 501, StoreRefused, "cannot do"),
    ("BadDigest", 400, StoreRefused, "other bytes"),
    ("EntityTooLarge", 400, StoreRefused, "size"),
    ("PermanentRedirect", 301, StoreRefused, "redirect"),
    ("TemporaryRedirect", 307, StoreRefused, "redirect"),
    ("NoSuchBucket", 404, StoreMissing, "bucket"),
    ("WhoKnows", 400, StoreRefused, "WhoKnows"),
]


@pytest.mark.parametrize(("code", "status", "kind", "words"), REFUSED)
def test_lasting_errors_are_told_at_once(
    store: S3Store, server: ScriptedS3, waits: Waits, code: str, status: int, kind: type[StoreError], words: str
) -> None:
    """What does not pass is told at the first try, in words that say what to do."""
    calls: list[Callable[[], object]] = [
        lambda: store.put("a", b"x"), lambda: store.get("a"), lambda: store.delete("a"), lambda: list(store.list()),
    ]  # fmt: skip
    for call in calls:
        server.script = [error(code, status)]
        with pytest.raises(kind, match=words) as caught:
            call()
        assert caught.value.hint or code == "WhoKnows"
    assert waits.slept == []


def test_a_404_is_a_missing_object(store: S3Store, server: ScriptedS3) -> None:
    """NoSuchKey is ObjectMissing, not a missing bucket."""
    with pytest.raises(ObjectMissing):
        store.get("a")


def test_412_at_the_first_try(store: S3Store, server: ScriptedS3) -> None:
    """A 412 at the first try is ObjectExists, even for equal content: it was not us."""
    server.objects["/bucket/p/a"] = b"x"
    with pytest.raises(ObjectExists):
        store.put("a", b"x")
    assert server.count("GET") == 0


def test_a_lost_answer_is_success(store: S3Store, server: ScriptedS3) -> None:
    """When the answer to a create-only put was lost, the retry's 412 over our own bytes is success."""
    server.script = [lose_answer]
    assert abs(store.put("a", b"mine") - utc_now()) < timedelta(minutes=1)
    assert server.objects["/bucket/p/a"] == b"mine"
    assert server.count("PUT") == 2


def test_a_lost_race_after_a_lost_answer(store: S3Store, server: ScriptedS3) -> None:
    """When the retry meets somebody else's bytes, that is ObjectExists."""
    server.script = [reset]
    server.objects["/bucket/p/a"] = b"theirs"
    with pytest.raises(ObjectExists):
        store.put("a", b"mine")
    assert server.objects["/bucket/p/a"] == b"theirs"


def test_a_conflict_then_the_winner(store: S3Store, server: ScriptedS3) -> None:
    """A 409 of two concurrent writers is tried again, and then the loser learns that it lost."""
    server.script = [error("ConditionalRequestConflict", 409)]
    server.objects["/bucket/p/a"] = b"theirs"
    with pytest.raises(ObjectExists):
        store.put("a", b"mine")


DATA = bytes(range(200))
LYING = {
    "reset mid body": reset_mid_body,
    "short body": answering(200, DATA[:50], 200),
    "another range": answering(206, DATA[:10], Content_Range="bytes 0-9/200"),
    "no range told": answering(206, DATA[10:20]),
}


@pytest.mark.parametrize("how", LYING)
def test_a_short_body_is_read_again(store: S3Store, server: ScriptedS3, how: str) -> None:
    """A body that is cut short, or another part, is asked for again."""
    server.objects["/bucket/p/a"] = DATA
    server.script = [LYING[how]] * 2
    assert store.get("a", 10, 10) == DATA[10:20]


@pytest.mark.parametrize("how", ["short body", "another range", "no range told"])
def test_a_server_that_keeps_lying(store: S3Store, server: ScriptedS3, how: str) -> None:
    """When it stays so, that is ShortRead; nothing is handed out."""
    server.script = [LYING[how]] * 100
    with pytest.raises((ShortRead, StoreUnavailable)):
        store.get("a", 10, 10)
    assert len(server.requests) == 8


def test_a_transcoded_body_is_refused(store: S3Store, server: ScriptedS3) -> None:
    """A proxy that compresses is refused, not unpacked."""
    server.script = [answering(200, b"\x1f\x8b compressed", Content_Encoding="gzip")]
    with pytest.raises(ShortRead, match="encoding"):
        store.get("a")


def test_a_part_for_the_whole_is_refused(store: S3Store, server: ScriptedS3) -> None:
    """206 where the whole was asked for is refused."""
    server.script = [answering(206, DATA[:10], Content_Range="bytes 0-9/200")]
    with pytest.raises(ShortRead):
        store.get("a")


def test_the_whole_for_a_part_is_cut(store: S3Store, server: ScriptedS3) -> None:
    """A server that ignores ranges and sends the whole object is fine."""
    server.script = [answering(200, DATA)]
    assert store.get("a", 10, 10) == DATA[10:20]
    server.script = [answering(200, DATA)]
    with pytest.raises(ShortRead):
        store.get("a", 195, 10)


def test_an_object_too_large_is_not_read(store: S3Store, server: ScriptedS3) -> None:
    """A server that announces more than any object has is refused before memory fills."""
    server.script = [answering(200, b"x", 1 << 40)]
    with pytest.raises(ShortRead, match="no object is so large"):
        store.get("a")


def listing(*keys: str, token: str = "") -> Action:
    entries = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><LastModified>2025-03-01T10:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return answering(200, f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode(), Content_Type="text/xml")


def test_listing_over_pages_and_troubles(store: S3Store, server: ScriptedS3) -> None:
    """Each page is tried again by itself; names are relative to the prefix."""
    server.script = [listing("p/a", "p/b", token="t1"), error("SlowDown", 503), listing("p/c")]
    assert [info.name for info in store.list()] == ["a", "b", "c"]
    assert "continuation-token=t1" in server.requests[-1][1]


def test_strangers_are_told_and_not_listed(store: S3Store, server: ScriptedS3) -> None:
    """Names outside the grammar go to strangers(), printable and shortened."""
    keys = ("p/", "p/Ugly", "p/a", "p/b/", "p/esc%1B[31m", "p/" + "Z" * 300)
    server.script = [listing(*keys), listing(*keys)]
    assert [info.name for info in store.list()] == ["a"]
    assert len(list(store.strangers())) == 5


def test_a_listing_that_does_not_go_on(store: S3Store, server: ScriptedS3) -> None:
    """A server that gives the same page for ever is refused."""
    server.script = [listing("p/a", token="t"), listing("p/a", token="t")]
    with pytest.raises(ShortRead):
        list(store.list())


BAD_ENDPOINTS = ["http://s3.example.com", "http://10.0.0.1:9000", "http://localhost.evil.example", "ftp://127.0.0.1"]
BAD_ENDPOINTS += ["127.0.0.1:9000", "https://user:pass@s3.example.com", "https://s3.example.com?x=1", "https://"]
BAD_ENDPOINTS += ["https://host:99999"]


@pytest.mark.parametrize("endpoint", BAD_ENDPOINTS)
def test_endpoints_that_are_refused(endpoint: str) -> None:
    """Plain http is for this machine only; an endpoint holds nothing but a host."""
    with pytest.raises(UsageError) as caught:
        S3Store("bucket", endpoint=endpoint)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:1", "http://[::1]:9000", "http://localhost:1", "https://s3.example.com"]
)
def test_endpoints_that_are_fine(endpoint: str) -> None:
    """Loopback may be plain; TLS may be anywhere."""
    assert checked_endpoint(endpoint) == endpoint


def test_a_self_signed_certificate_is_refused(tmp_path: Path, waits: Waits) -> None:
    """A certificate that nobody vouches for is StoreRefused at once, and nothing is sent."""
    pem = tmp_path / "pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pem, "-out", tmp_path / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_bytes(pem.read_bytes() + (tmp_path / "cert").read_bytes())
    with scripted_s3.running(pem) as server:
        store = S3Store("bucket", endpoint=server.endpoint, patience=waits.patience())
        with pytest.raises(StoreRefused, match="certificate"):
            store.put("a", b"x")
        store.close()
        assert server.requests == []
    assert waits.slept == []


def test_tls_to_a_plain_server_is_refused_or_unavailable(server: ScriptedS3, waits: Waits) -> None:
    """https to a port that talks plain http fails; it never falls back."""
    store = S3Store("bucket", endpoint=server.endpoint.replace("http:", "https:"), patience=waits.patience())
    with pytest.raises((StoreRefused, StoreUnavailable)):
        store.put("a", b"x")
    store.close()
    assert server.objects == {}


def test_redirects_to_another_host_are_not_followed(store: S3Store, server: ScriptedS3) -> None:
    """A redirect never sends the request, with its signature and data, to somebody else."""
    with scripted_s3.running() as other:
        for status in (301, 302, 307, 308):
            target = f"{other.endpoint}/bucket/p/a"
            server.script = [error("TemporaryRedirect", status, Location=target, x_amz_bucket_region="eu-west-9")] * 4
            with pytest.raises(StoreRefused, match="redirect"):
                store.put("a", b"x")
        assert other.requests == []


@pytest.mark.parametrize(
    ("url", "endpoint", "same"),
    [
        ("https://b.s3.amazonaws.com/k", None, True),
        ("https://b.s3.eu-west-1.amazonaws.com.cn/k", None, True),
        ("http://b.s3.amazonaws.com/k", None, False),
        ("https://evil-amazonaws.com/k", None, False),
        ("https://h:9000/b/k", "https://h:9000", True),
        ("http://h:9000/b/k", "https://h:9000", False),
        ("https://h:9001/b/k", "https://h:9000", False),
        ("https://b.h:9000/k", "https://h:9000", False),
    ],
)
def test_hosts_that_are_spoken_to(url: str, endpoint: str | None, same: bool) -> None:
    """Only the endpoint itself, or Amazon over TLS where there is none."""
    assert is_same_host(url, endpoint) is same


def test_missing_credentials(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials is StoreRefused with what to set; nothing is sent."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store("bucket", endpoint=server.endpoint)
    with pytest.raises(StoreRefused, match="credentials") as caught:
        store.get("a")
    assert "AWS_ACCESS_KEY_ID" in (caught.value.hint or "")
    store.close()
    assert server.requests == []


def test_nobody_listens(waits: Waits) -> None:
    """An endpoint that cannot be reached is StoreUnavailable."""
    store = S3Store("bucket", endpoint="http://127.0.0.1:1", patience=waits.patience(attempts=3))
    with pytest.raises(StoreUnavailable, match="reached"):
        store.get("a")
    store.close()


def test_an_endpoint_from_the_environment_is_not_used(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data goes is said by the URL alone."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    store = S3Store("bucket", endpoint=server.endpoint)
    store.put("a", b"x")
    store.close()
    assert server.count("PUT") == 1


def test_an_invalid_bucket_is_a_usage_error(server: ScriptedS3) -> None:
    """A bucket name that no server takes is the caller's mistake."""
    store = S3Store("Not A Bucket!", endpoint=server.endpoint)
    with pytest.raises(UsageError):
        store.get("a")
    store.close()


def test_nothing_secret_is_logged(server: ScriptedS3, caplog: pytest.LogCaptureFixture) -> None:
    """Even where everything logs at DEBUG, boto writes down no signature and no secret."""
    with caplog.at_level(logging.DEBUG):
        store = S3Store("bucket", endpoint=server.endpoint)
        store.put("a", b"x")
        store.get("a")
    store.close()
    assert "canary" not in caplog.text
    assert "Signature" not in caplog.text


def test_the_url() -> None:
    """The URL gives bucket, prefix, endpoint and region."""
    store = S3Store("bucket", "/a/b/", endpoint="https://s3.example.com:9000", region="eu-1")
    assert store.url == "s3://bucket/a/b?endpoint=https://s3.example.com:9000&region=eu-1"
    store.close()


@pytest.mark.parametrize(
    ("versioning", "default", "expected"),
    [
        (False, None, LockFacts(False, False)),
        (True, {}, LockFacts(True, True)),
        (True, {"Mode": "COMPLIANCE", "Days": 35}, LockFacts(True, True, "compliance", 35)),
        (True, {"Mode": "GOVERNANCE", "Years": 2}, LockFacts(True, True, "governance", 730)),
    ],
)
def test_what_a_bucket_says_of_locks(versioning: bool, default: dict[str, object] | None, expected: LockFacts) -> None:
    """As moto plays it; only questions are asked, and a bucket without a configuration locks nothing."""
    import boto3
    from moto import mock_aws

    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket", ObjectLockEnabledForBucket=default is not None)
        if default:
            rule: Any = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": default}}
            client.put_object_lock_configuration(Bucket="bucket", ObjectLockConfiguration=rule)
        store = S3Store("bucket", "p", region="us-east-1")
        assert isinstance(store, Lockable)
        assert store.lock_facts() == expected
        assert list(store.list()) == []
        store.close()


def test_what_may_not_be_asked_is_not_known(store: S3Store, server: ScriptedS3) -> None:
    """A writer's credentials may lack these permissions: then nothing is claimed. No bucket is an error."""
    server.script = [error("AccessDenied", 403)] * 2
    assert store.lock_facts() == LockFacts()
    server.script = [error("NoSuchBucket", 404)]
    with pytest.raises(StoreMissing):
        store.lock_facts()
