"""URLs of repositories, sources and targets, as the contract writes them.

A password inside a URL is refused: it would end up in histories, process lists and logs.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from backupd.errors import UsageError

S3_OPTIONS = frozenset({"endpoint", "region"})
SERVERS = ("postgresql", "mariadb", "mysql")


@dataclass(frozen=True, slots=True)
class RepositoryUrl:
    """A repository's place: a folder, or a bucket with a prefix."""

    kind: str
    path: Path | None = None
    bucket: str = ""
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"file://{_quoted(str(self.path))}"
        options = urlencode({k: v for k, v in (("endpoint", self.endpoint), ("region", self.region)) if v}, safe=":/")
        place = f"s3://{self.bucket}" + (f"/{_quoted(self.prefix)}" if self.prefix else "")
        return place + (f"?{options}" if options else "")


def _quoted(path: str) -> str:
    """A path as a URL's: what means something else there, or cannot be printed, is written as %XX."""
    return "".join(
        quote(c, safe="", errors="surrogateescape") if c in " %?#" or not c.isprintable() else c for c in path
    )


def _unquoted(path: str) -> str:
    return unquote(path, errors="surrogateescape")


def _refuse_password(url: str) -> None:
    """Refuse anything that may be a password. Whatever is refused here or later is not quoted: it may hold one.

    A password with a slash, a question mark or a number sign moves the @ out of the host's part, so all of the URL is
    looked at: the only colon that may stand before an @ is one that a port follows.
    """
    before, at, _ = url.partition("://")[2].rpartition("@")
    if at and ":" in re.sub(r"^[^/?#@:]*(\[[^]/?#@]*\])?:\d{1,5}(?=/[^:]*$)", "", before):
        raise UsageError(
            "a password inside a URL is refused: it would show in histories and process lists",
            hint="use --password-file, PGPASSFILE or the policy; for S3 the AWS_* variables or a profile",
        )


def _split(text: str, what: str, hint: str) -> SplitResult:
    """The parts of a URL.

    Raises:
        UsageError: it is none; the text is not quoted.
    """
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - looks at it
    except ValueError:
        raise UsageError(f"the {what} is no URL", hint=hint) from None
    return parts


def parse_repository(text: str) -> RepositoryUrl:
    """Parse a REPOSITORY argument.

    Raises:
        UsageError: an unknown scheme, option, or an incomplete URL.
    """
    if "://" not in text:
        if not text:
            raise UsageError("the repository is empty", hint="name a folder, file:///path or s3://bucket/prefix")
        return RepositoryUrl("file", Path(os.path.normpath(Path.cwd() / text)))
    _refuse_password(text)
    hint = "write file:///path or s3://bucket/prefix?endpoint=https://..."
    parts = _split(text, "repository", hint)
    if "#" in text:
        raise UsageError("the repository's URL has a #", hint="write %23 where it is part of a name")
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query:
            raise UsageError("the repository is no folder", hint="write file:///absolute/path")
        return RepositoryUrl("file", Path(os.path.normpath(_unquoted(parts.path))))
    if parts.scheme != "s3" or not parts.netloc or set(parts.netloc) & set("@:"):
        raise UsageError("the repository's URL is neither a folder's nor a bucket's", hint=hint)
    options = _options(parts.query, "repository", hint)
    if unknown := options.keys() - S3_OPTIONS:
        raise UsageError(
            f"unknown option {sorted(unknown)[0]!r} in the repository's URL", hint="known: endpoint, region"
        )
    return RepositoryUrl(
        "s3", None, parts.netloc, _unquoted(parts.path).strip("/"), options.get("endpoint"), options.get("region")
    )


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A source's or target's place. `engine` is sqlite, postgresql, mariadb or mysql.

    `path` belongs to sqlite; of a server, `host` is empty for the driver's default or begins with / for a socket's folder,
    and `port` is 0 for the default.
    """

    engine: str
    path: Path = Path()
    host: str = ""
    port: int = 0
    user: str = ""
    database: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.engine == "sqlite":
            return f"{self.engine}:///{self.path}"
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        options = f"?{urlencode(self.options, safe='/:')}" if self.options else ""
        host = quote(self.host, safe="") if "/" in self.host else f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.engine}://{user}{host}{port}/{quote(self.database, safe='')}{options}"


def is_url(text: str) -> bool:
    """Whether a --source is a URL (or a path) rather than a name."""
    return "://" in text or os.sep in text


def parse_database(text: str) -> DatabaseUrl:
    """Parse a SOURCE or TARGET URL.

    Raises:
        UsageError: an unknown engine, a password, or no path.
    """
    if "://" not in text:
        if not text:
            raise UsageError("the database is empty", hint="name a file, or sqlite:////path/to/file")
        return DatabaseUrl("sqlite", Path(os.path.normpath(Path.cwd() / text)))
    _refuse_password(text)
    scheme, _, rest = text.partition("://")
    engine = scheme.partition("+")[0]
    if engine in SERVERS:
        return _server(engine, text)
    path = unquote(rest.partition("?")[0])
    if engine != "sqlite" or not path.startswith("/") or path == "/" or "?" in rest:
        raise UsageError("that is no database's URL", hint="write sqlite:////absolute/path or a plain path")
    return DatabaseUrl("sqlite", Path(os.path.normpath(Path.cwd() / path[1:])))


def _options(query: str, what: str, hint: str) -> dict[str, str]:
    """A URL's options.

    Raises:
        UsageError: they cannot be read, or one stands there twice.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise UsageError(f"the options of the {what}'s URL cannot be read", hint=hint) from None
    if len({name for name, _ in pairs}) != len(pairs):
        raise UsageError(f"an option stands twice in the {what}'s URL", hint=hint)
    return dict(pairs)


def _server(engine: str, text: str) -> DatabaseUrl:
    hint = f"write {engine}://user@host:port/database"
    _refuse_secret_options(text)
    if "#" in text:
        raise UsageError("the database's URL has a #", hint="write %23 where it is part of a name")
    parts = _split(text, "database", hint)
    options = _options(parts.query, "database", hint)
    user, _, netloc = parts.netloc.rpartition("@")
    host = netloc.rpartition(":")[0] if parts.port is not None else netloc
    try:
        host, user, database = (
            unquote(part, errors="strict") for part in (host.strip("[]"), user, parts.path.removeprefix("/"))
        )
    except UnicodeDecodeError:
        raise UsageError("the database's URL holds bytes that are no UTF-8", hint=hint) from None
    host = options.pop("host", host)
    if not database or "/" in parts.path[1:] or "dbname" in options:
        raise UsageError("the database's URL names no database", hint=hint)
    if any(not c.isprintable() for c in host + user + database):
        raise UsageError("a database URL holds characters that cannot be printed", hint=hint)
    return DatabaseUrl(engine, Path(), host, parts.port or 0, user, database, options)


def _refuse_secret_options(text: str) -> None:
    names = {name.lower() for name, _ in parse_qsl(text.partition("?")[2], keep_blank_values=True)}
    for name in sorted(names & {"password", "passwd", "sslpassword", "oauth_client_secret", "pwd"}):
        raise UsageError(
            f"{name} inside a URL is refused: it would show in histories and process lists",
            hint="use --password-file, PGPASSFILE or the policy",
        )
