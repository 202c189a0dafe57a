"""A store in an S3 bucket.

The only module that imports boto. It must never send a multipart upload (it calls put_object and nothing else that
writes), never talk to another host than the one it was given, and never trust a length or a range it did not check.
"""

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from backupd.errors import UsageError
from backupd.store.base import (
    MAX_OBJECT_BYTES,
    LockFacts,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ShortRead,
    StoreRefused,
    check_name,
    is_valid_name,
)
from backupd.store.edges import check_range, printable, range_end
from backupd.store.pace import PIECE, Limits, PacedBody
from backupd.store.s3_errors import CREDENTIALS, NETWORK, SHORT, TLS, Failure
from backupd.store.s3_place import checked_endpoint, is_same_host, place_url
from backupd.store.s3_retry import Patience

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
NO_LIMITS = Limits()
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CONNECTIONS = 16
_NO_LOCK = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest"}
"""Answers for objects without a lock, and of buckets that have none."""
_CONNECT_SECONDS = 10
_READ_SECONDS = 60


class S3Store:
    """Objects under a prefix of a bucket; safe for several threads, with connections for about eight.

    Credentials come by boto's own chain. Every object is written by one PUT with its SHA-256 and its MD5: some servers
    check only the one, some only the other. Create-only is `If-None-Match: *`; whether the server honours it is for
    `probe` to find out.

    Args:
        bucket: its name; it must exist.
        prefix: where in the bucket; "" is all of it.
        endpoint: `https://host[:port]` of a server other than Amazon's, addressed path-style.
        region: the bucket's; without it boto's chain decides.
        patience: how long to try again.
        limits: bytes a second, each way.

    Raises:
        UsageError: bucket, endpoint or region is not valid.
        StoreRefused: the configuration of credentials is not usable.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        patience: Patience | None = None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = checked_endpoint(endpoint) if endpoint else None
        self._region = region
        self._patience = patience or Patience()
        self._up, self._down = limits.paces()
        self._client = _client(self._endpoint, region)
        self._client.meta.events.register("before-send.s3", self._refuse_other_hosts)

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return place_url(self._bucket, self._prefix, self._endpoint, self._region)

    def put(self, name: str, data: bytes | bytearray | memoryview, *, create_only: bool = True) -> datetime:
        """Write a whole object by one PUT; see `ObjectStore.put`."""
        key = self._prefix + check_name(name)
        body = data if isinstance(data, bytes) else bytes(data)
        fields: dict[str, Any] = {
            "Bucket": self._bucket,
            "Key": key,
            "ContentType": "application/octet-stream",
            "ContentMD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode(),
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64.b64encode(hashlib.sha256(body).digest()).decode(),
        }
        if create_only:
            fields["IfNoneMatch"] = "*"
        tried = 0

        def attempt(tries: int) -> datetime | None:
            nonlocal tried
            tried = tries
            content = PacedBody(body, self._up) if self._up else body
            return _date(_told(lambda: self._client.put_object(Body=content, **fields)))

        try:
            written = self._patience.insist(name, attempt)
        except ObjectExists:
            # An attempt before this one may have done it and its answer was lost: then our own bytes are there.
            if not tried or self.get(name) != body:
                raise
            written = None
        return written or self._head(name)[1]

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object or a range of it; see `ObjectStore.get`."""
        check_name(name)
        check_range(start, length)
        if length == 0:
            range_end(name, self._head(name)[0], start, length)
            return b""
        data = self._patience.insist(name, lambda _: self._read(name, start, length))
        if data is not None:
            return data
        size = self._head(name)[0]
        range_end(name, size, start, length)
        if start == size:
            return b""
        raise ShortRead("the server refuses a range that the object has", object_name=name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose name starts with `prefix`, in name order, a page of a thousand at a time."""
        for name, entry in self._entries(prefix):
            if is_valid_name(name):
                yield ObjectInfo(name, entry["Size"], entry["LastModified"].astimezone(UTC))

    def strangers(self) -> Iterator[str]:
        """Names under the prefix that are outside the grammar, folder markers included."""
        for name, entry in self._entries(""):
            if not is_valid_name(name):
                yield printable(name or entry["Key"])

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is fine."""
        key = self._prefix + check_name(name)
        fields: dict[str, Any] = {"Bucket": self._bucket, "Key": key}
        with suppress(ObjectMissing):
            self._patience.insist(name, lambda _: _told(lambda: self._client.delete_object(**fields)))

    def lock_facts(self) -> LockFacts:
        """Whether the bucket keeps versions and locks objects; what the credentials may not ask is not known."""
        versions = self._asked(lambda: self._client.get_bucket_versioning(Bucket=self._bucket))
        versioned = None if versions is None else versions.get("Status") == "Enabled"
        locks = self._asked(lambda: self._client.get_object_lock_configuration(Bucket=self._bucket))
        if locks is None:
            return LockFacts(versioned)
        about = locks.get("ObjectLockConfiguration", {})
        default = about.get("Rule", {}).get("DefaultRetention", {})
        days = default.get("Days") or (default.get("Years") or 0) * 365 or None
        mode = str(default.get("Mode", "")).lower() or None
        return LockFacts(versioned, about.get("ObjectLockEnabled") == "Enabled", mode, days)

    def locked_until(self, name: str) -> datetime | None:
        """Until when nobody may remove an object; see `Lockable.locked_until`."""
        fields: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + check_name(name)}

        def ask(_: int) -> Mapping[str, Any]:
            try:
                return _told(lambda: self._client.get_object_retention(**fields))
            except Failure as failure:
                if failure.code in _NO_LOCK:
                    return {}
                raise

        found = self._patience.insist(name, ask).get("Retention", {}).get("RetainUntilDate")
        return found.astimezone(UTC) if found else None

    def lock(self, name: str, until: datetime, mode: str) -> None:
        """Lock an object until then; see `Lockable.lock`. The server refuses to make a lock shorter."""
        fields: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + check_name(name)}
        fields["Retention"] = {"Mode": mode.upper(), "RetainUntilDate": until.astimezone(UTC)}
        self._patience.insist(name, lambda _: _told(lambda: self._client.put_object_retention(**fields)))

    def _asked(self, call: Callable[[], Any]) -> Mapping[str, Any] | None:
        """An answer about the bucket; an empty one if there is no such configuration, None if it may not be asked."""
        try:
            answer: Mapping[str, Any] = self._patience.insist(None, lambda _: _told(call))
        except ObjectMissing:
            return {}
        except StoreRefused:
            return None
        return answer

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _entries(self, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        fields: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        while True:
            page = self._patience.insist(None, lambda _: _told(lambda: self._client.list_objects_v2(**fields)))
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(self._prefix), entry
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == fields.get("ContinuationToken"):
                raise ShortRead("the server's listing does not go on", hint="the server's list API is broken")
            fields["ContinuationToken"] = token

    def _head(self, name: str) -> tuple[int, datetime]:
        """Size in bytes and time of writing (UTC)."""
        fields: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + name}
        found = self._patience.insist(name, lambda _: _told(lambda: self._client.head_object(**fields)))
        return int(found["ContentLength"]), found["LastModified"].astimezone(UTC)

    def _read(self, name: str, start: int, length: int | None) -> bytes | None:
        """One attempt at reading: exactly the bytes asked for, or None where the server says that there are none.

        Raises:
            Failure: another attempt may help, or not.
            ShortRead: the answer is not what was asked for, and asking again will not change that.
        """
        fields: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + name}
        ranged = bool(start) or length is not None
        if ranged:
            fields["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        try:
            answer = _told(lambda: self._client.get_object(**fields))
        except Failure as failure:
            if failure.status == 416 and ranged:
                return None
            raise
        body = answer["Body"]
        try:
            size = _announced(name, answer)
            data: bytes = _told(lambda: self._paced(body))
        finally:
            body.close()
        if len(data) != size:
            raise Failure(SHORT, text=f"the server announced {size} bytes and sent {len(data)}")
        if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            return data[start : range_end(name, size, start, length)] if ranged else data
        if not ranged:
            raise ShortRead("the server sent a part where the whole object was asked for", object_name=name)
        _check_part(name, answer.get("ContentRange", ""), start, length, size)
        return data

    def _paced(self, body: Any) -> bytes:
        """All of a body; at the pace of downloads, if there is one."""
        if self._down is None:
            whole: bytes = body.read()
            return whole
        pieces = []
        while piece := body.read(PIECE):
            self._down.take(len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    def _refuse_other_hosts(self, request: Any, **_: Any) -> None:
        if not is_same_host(request.url, self._endpoint):
            raise Failure("PermanentRedirect", 301)


def _client(endpoint: str | None, region: str | None) -> "S3Client":
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    for noisy in ("boto3", "botocore", "urllib3"):  # at DEBUG they write down headers, and with them signatures
        logging.getLogger(noisy).setLevel(logging.WARNING)
    not_in_the_stubs: dict[str, Any] = {"ignore_configured_endpoint_urls": True}
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint else "auto"},
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **not_in_the_stubs,
    )
    try:
        session = Session()
        region = region or session.region_name or ("us-east-1" if endpoint else None)
        return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except BotoCoreError as error:
        raise StoreRefused(
            f"the S3 configuration cannot be used: {error}", hint="check AWS_PROFILE and its files"
        ) from None
    except ValueError as error:
        raise UsageError(f"the S3 place is not valid: {error}") from None


def _told(call: Callable[[], T]) -> T:
    """Call boto and turn whatever it raises into a Failure."""
    from botocore import exceptions as boto

    try:
        return call()
    except boto.ClientError as error:
        raise _answered(error.response) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
        raise Failure(CREDENTIALS) from None
    except (boto.TokenRetrievalError, boto.UnauthorizedSSOTokenError, boto.SSOTokenLoadError):
        raise Failure("ExpiredToken") from None
    except boto.SSLError as error:
        raise Failure(TLS if _is_distrust(str(error)) else NETWORK, text="the TLS connection broke") from None
    except (boto.ParamValidationError, boto.InvalidRegionError) as error:
        raise UsageError(f"the S3 place is not valid: {error}") from None
    except boto.IncompleteReadError as error:
        raise Failure(SHORT, text=str(error)) from None
    except (boto.HTTPClientError, boto.ConnectionError) as error:
        raise Failure(NETWORK, text=f"the storage cannot be reached ({type(error).__name__})") from None
    except boto.BotoCoreError as error:
        raise Failure(type(error).__name__) from None


def _answered(response: Mapping[str, Any]) -> Failure:
    """The Failure that an error answer stands for."""
    about = response.get("ResponseMetadata", {})
    wait = str(about.get("HTTPHeaders", {}).get("retry-after", ""))
    code = str(response.get("Error", {}).get("Code", "")) or "no code"
    return Failure(code[:60], int(about.get("HTTPStatusCode", 0)), retry_after=float(wait) if wait.isdecimal() else 0.0)


def _is_distrust(text: str) -> bool:
    """Whether a TLS error is about whom we talk to, or how, and will be the same next time."""
    lasting = ("CERTIFICATE", "certificate", "WRONG_VERSION", "UNSUPPORTED_PROTOCOL", "HANDSHAKE_FAILURE", "VERSION")
    return any(word in text for word in lasting)


def _date(answer: Mapping[str, Any]) -> datetime | None:
    """When the server says it answered (UTC); None if it does not say."""
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _announced(name: str, answer: Mapping[str, Any]) -> int:
    """The body's length that the server announced, in bytes; refused where the body is not the object's own bytes."""
    if answer.get("ContentEncoding", "identity") not in {"", "identity", "aws-chunked"}:
        hint = "a proxy on the way, or the server, changes objects"
        raise ShortRead("the server sent the object in another encoding", object_name=name, hint=hint)
    size = answer.get("ContentLength")
    if size is None:
        raise Failure(SHORT, text="the server did not announce the object's length")
    if size > MAX_OBJECT_BYTES:
        raise ShortRead(f"the server announces {size} bytes; no object is so large", object_name=name)
    return int(size)


def _check_part(name: str, content_range: str, start: int, length: int | None, size: int) -> None:
    """Check what a part says of itself.

    Raises:
        Failure: it is another part than the one asked for.
        ShortRead: it ends early because the object does.
    """
    match = _CONTENT_RANGE.fullmatch(content_range)
    first, last, total = (int(n) for n in match.groups()) if match else (-1, -1, -1)
    if first != start or last + 1 - first != size or (length is None and last + 1 != total) or size > (length or size):
        raise Failure(SHORT, text=f"the server sent another range than the one asked for: {content_range[:60]!r}")
    if length is not None and size != length:
        raise ShortRead(f"the object has {total} bytes, asked for {length} from {start}", object_name=name)
