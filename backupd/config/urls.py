"""URLs of repositories, sources and targets, as the contract writes them.

A password inside a URL is refused: it would end up in histories, process lists and logs.
"""

import os
from dataclasses import dataclass
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
    """A source's or target's place. `engine` is sqlite, postgresql, mariadb or mysql."""

    engine: str
    path: Path

    def __str__(self) -> str:
        return f"{self.engine}:///{self.path}"


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
        raise UsageError(
            f"{engine} sources are not built yet in this version; sqlite is", hint="sqlite:////path/to/database"
        )
    path = unquote(rest.partition("?")[0])
    if engine != "sqlite" or not path.startswith("/") or path == "/" or "?" in rest:
        raise UsageError(f"{text} is no database URL", hint="write sqlite:////absolute/path or a plain path")
    return DatabaseUrl("sqlite", Path(os.path.normpath(Path.cwd() / path[1:])))
