"""What an S3 server's error codes mean, in the store's own words, and which of them may pass.

It knows codes and statuses only; it must never see a request, because a request holds the signature.
"""

from backupd.store.base import (
    ObjectExists,
    ObjectMissing,
    ShortRead,
    StoreError,
    StoreMissing,
    StoreRefused,
    StoreUnavailable,
)


class Failure(Exception):
    """One failed attempt; it never leaves the store.

    Args:
        code: the server's error code, or one of the words below for a failure on the way there.
        status: the HTTP status; 0 when there was no answer.
        text: what people are told of it.
        retry_after: seconds that the server asks to wait; 0 if it does not.
    """

    def __init__(self, code: str, status: int = 0, *, text: str = "", retry_after: float = 0.0) -> None:
        super().__init__(code, status)
        self.code = code
        self.status = status
        self.text = text
        self.retry_after = retry_after


CREDENTIALS = "credentials"
NETWORK = "network"
SHORT = "short"
TLS = "tls"

_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, as for any S3 program"
_REFUSED = {
    CREDENTIALS: ("there are no usable credentials", _CREDENTIALS_HINT),
    TLS: ("the server's certificate cannot be trusted", "check the endpoint; a private CA goes to AWS_CA_BUNDLE"),
    "ExpiredToken": ("the credentials have expired", "get a new session token, then run again"),
    "ExpiredTokenException": ("the credentials have expired", "get a new session token, then run again"),
    "TokenRefreshRequired": ("the credentials have expired", "get a new session token, then run again"),
    "InvalidToken": ("the session token is not valid", "check AWS_SESSION_TOKEN: it belongs to one pair of keys"),
    "InvalidAccessKeyId": ("the access key is not known here", "check AWS_ACCESS_KEY_ID and the endpoint"),
    "SignatureDoesNotMatch": ("the secret key does not match", "check AWS_SECRET_ACCESS_KEY and the region"),
    "AuthorizationHeaderMalformed": ("the region does not match the bucket's", "give the bucket's region: ?region=..."),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set your clock (NTP); the storage allows 15 minutes"),
    "RequestExpired": ("this machine's clock is wrong", "set your clock (NTP); the storage allows 15 minutes"),
    "QuotaExceeded": ("the storage quota is used up", "ask for a bigger quota, or free space with backupctl prune"),
    "EntityTooLarge": ("the storage takes no object of this size", "raise the server's limit for one object"),
    "NotImplemented": ("the server cannot do what this needs", "see what it can do: backupctl repo probe"),
    "BadDigest": ("the server got other bytes than were sent", "something on the way changes data: proxy or network"),
    "XAmzContentSHA256Mismatch": ("the server got other bytes than were sent", "look for a proxy on the way"),
    "InvalidObjectState": ("the object is in an archive class", "bring it back from the archive first"),
    "AccessDenied": ("access denied", "the credentials lack a permission on this bucket and prefix"),
    "AllAccessDisabled": ("access is disabled", "the account or the bucket is blocked: ask the provider"),
    "MethodNotAllowed": ("the server refuses this operation", "a lock or a policy forbids it"),
}
_BY_STATUS = {
    401: "AccessDenied",
    403: "AccessDenied",
    405: "MethodNotAllowed",
    413: "EntityTooLarge",
    501: "NotImplemented",
    507: "QuotaExceeded",
}
_PASSING_CODES = {
    NETWORK, SHORT, "SlowDown", "SlowDownRead", "SlowDownWrite", "InternalError", "ServiceUnavailable",
    "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException", "TooManyRequests",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "OperationAborted", "ConditionalRequestConflict",
    "PriorRequestNotComplete",
}  # fmt: skip
_PASSING_STATUS = {408, 429, 500, 502, 503, 504}


def may_pass(failure: Failure) -> bool:
    """Whether another attempt may succeed."""
    if failure.code in _PASSING_CODES:
        return True
    return failure.status in _PASSING_STATUS and failure.code not in _REFUSED


def final_error(failure: Failure, name: str | None) -> StoreError:
    """The store's word for a failure that is not tried again."""
    code, status = failure.code, failure.status
    if code == "NoSuchBucket":
        return StoreMissing("there is no such bucket", hint="make the bucket first, or check its name and the endpoint")
    if code == SHORT:
        return ShortRead(failure.text, object_name=name, hint="a proxy on the way, or the server, changes objects")
    if may_pass(failure):
        text = failure.text or f"the storage answers {code}"
        return StoreUnavailable(f"{text}, again and again", object_name=name, hint="try again later")
    if status == 412 or code == "PreconditionFailed":
        return ObjectExists("there is an object of this name already", object_name=name)
    if code == "NoSuchKey" or status == 404:
        return ObjectMissing("there is no object of this name", object_name=name)
    if 300 <= status < 400:
        hint = "give the bucket's own endpoint and region"
        return StoreRefused("the server redirects to another place", object_name=name, hint=hint)
    known = _REFUSED.get(code) or _REFUSED.get(_BY_STATUS.get(status, ""))
    if known is None:
        return StoreRefused(f"the storage answers {code} ({status})", object_name=name)
    return StoreRefused(known[0], object_name=name, hint=known[1])
