"""Where an S3 bucket is: endpoint rules, checked before anything is sent.

It must never let credentials or data go to another host in the clear.
"""

import ipaddress
from urllib.parse import urlencode, urlsplit

from backupd.errors import UsageError


def checked_endpoint(endpoint: str) -> str:
    """Return the endpoint if it is `https://host[:port]`, or `http://` for this very machine.

    Raises:
        UsageError: it is not.
    """
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"not a valid endpoint: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError("an endpoint is https://host[:port]")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError("an endpoint holds no credentials, query or fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise UsageError(f"http:// is for this machine only, not for {host}", hint="use https://")
    return endpoint.rstrip("/")


def place_url(bucket: str, prefix: str, endpoint: str | None, region: str | None) -> str:
    """The repository's URL, for people."""
    query = urlencode({k: v for k, v in (("endpoint", endpoint), ("region", region)) if v}, safe=":/")
    return f"s3://{bucket}/{prefix.rstrip('/')}".rstrip("/") + (f"?{query}" if query else "")


def is_same_host(url: str, endpoint: str | None) -> bool:
    """Whether a request to `url` goes where it should: the endpoint's host and port, or Amazon over TLS without one."""
    target = urlsplit(url)
    if endpoint is None:
        host = target.hostname or ""
        return target.scheme == "https" and host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    own = urlsplit(endpoint)
    return (target.scheme, target.hostname, target.port) == (own.scheme, own.hostname, own.port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
