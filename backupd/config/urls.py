"""URLs of repositories, sources and targets, as the contract writes them.

A password inside a URL is refused: it would end up in histories, process lists and logs.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

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
    parts = urlsplit(url)
    if "@" in parts.netloc and ":" in parts.netloc.rpartition("@")[0]:
        raise UsageError(
            "a password inside a URL is refused: it would show in histories and process lists",
            hint="use --password-file, PGPASSFILE or the policy; for S3 the AWS_* variables or a profile",
        )


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
    parts = urlsplit(text)
    if "#" in text:
        raise UsageError(f"{text} has a #, which no repository's URL has", hint="write %23 where it is part of a name")
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.query:
            raise UsageError(f"{text} is no folder", hint="write file:///absolute/path")
        return RepositoryUrl("file", Path(os.path.normpath(_unquoted(parts.path))))
    if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc:
        raise UsageError(
            f"{text} is no repository", hint="write file:///path or s3://bucket/prefix?endpoint=https://..."
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - S3_OPTIONS:
        raise UsageError(f"unknown option {sorted(unknown)[0]!r} in {text}", hint="known: endpoint, region")
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
        raise UsageError(f"{text} is no database URL", hint="write sqlite:////absolute/path or a plain path")
    return DatabaseUrl("sqlite", Path(os.path.normpath(Path.cwd() / path[1:])))


def _server(engine: str, text: str) -> DatabaseUrl:
    hint = f"write {engine}://user@host:port/database"
    if "#" in text:
        raise UsageError(f"{text} has a #, which no database URL has", hint="write %23 where it is part of a name")
    try:
        parts = urlsplit(text)
        port = parts.port or 0
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise UsageError(f"{text} is no database URL", hint=hint) from None
    _refuse_secret_options(options)
    user, _, host = parts.netloc.rpartition("@")
    host = unquote(parts.hostname or "") if "%" not in host else unquote(host.rpartition(":")[0] if port else host)
    host = options.pop("host", host)
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in parts.path[1:]:
        raise UsageError(f"{text} names no database", hint=hint)
    if any(not c.isprintable() for c in host + user + database):
        raise UsageError("a database URL holds characters that cannot be printed", hint=hint)
    return DatabaseUrl(engine, Path(), host, port, unquote(user), database, options)


def _refuse_secret_options(options: Mapping[str, str]) -> None:
    for name in options:
        if name.lower() in {"password", "passwd", "sslpassword"}:
            raise UsageError(
                f"{name} inside a URL is refused: it would show in histories and process lists",
                hint="use --password-file, PGPASSFILE or the policy",
            )
