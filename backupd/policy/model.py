"""A policy: what is protected, where to, when, for how long, how it is proven, and who hears of it.

The models are strict: unknown keys, wrong types and contradictions are refused. The JSON Schema in `policies/schema/` is made of
them. Secrets are named, never held.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from backupd.policy.allowing import ALLOWED, check_kind
from backupd.policy.blackout import PATTERN, Blackout, covers_everything, parse_window
from backupd.policy.retention import Rule
from backupd.policy.retrying import Retries
from backupd.policy.schedule import Timing, check_cron
from backupd.policy.words import Duration, Positive, SecretRef, Share

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=0, le=100_000)]
_Item = TypeVar("_Item")
Many = Annotated[tuple[_Item, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""A list, which stays as it was read."""
Event = Literal[
    "success",
    "failure",
    "rpo_breach",
    "drill_failed",
    "brake",
    "verify_failed",
    "lock_short",
    "notify_failed",
    "incident",
]
_EVERY_DATABASE = re.compile(r"(postgresql|mariadb|mysql)(\+\w+)?://[^?]*/(\*|%2[Aa])(\?|$)")
SOURCE_NAME = r"^[^/@\\\x00-\x1f\x7f]{1,128}$"
MONTH, YEAR = timedelta(days=28), timedelta(days=365)


class Model(BaseModel):
    """The base of all parts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Subject(Model):
    """Whose records the source holds: the table and column that a person is known by."""

    table: Text
    key: Text


class Reference(Model):
    """What belongs together though the database does not know it: rows of a table refer to rows of a parent."""

    table: Text
    columns: Annotated[Many[Text], Field(min_length=1)]
    parent: Text
    parent_columns: Annotated[Many[Text], Field(min_length=1)]
    on_delete: Literal["cascade", "set null", "set default", "restrict"] = "restrict"

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.columns) != len(self.parent_columns):
            raise ValueError("columns and parent_columns must be as many")
        return self


class Source(Model):
    """A database."""

    name: Annotated[str, StringConstraints(pattern=SOURCE_NAME)]
    url: Text
    password: SecretRef | None = None
    subject: Subject | None = None
    references: Many[Reference] = ()
    exclude: Many[Text] = ()
    capture: Literal["rows", "native"] = "rows"
    globals: bool = False
    check: bool = False
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    tags: Many[Text] = ()

    @property
    def all_databases(self) -> bool:
        """Whether it stands for every database of a server, each of which is a source called NAME.DATABASE."""
        return _EVERY_DATABASE.match(self.url) is not None

    def covers(self, name: str) -> bool:
        """Whether a source of that name in the repository is this one, or one of its databases."""
        return name.startswith(f"{self.name}.") if self.all_databases else name == self.name


class RepositoryRef(Model):
    """Where snapshots go."""

    url: Text
    region: Text | None = None
    endpoint: Text | None = None


KeyRef = Annotated[str, StringConstraints(pattern=r"^(file|credential):.+$")]


class Keys(Model):
    """Where the key files are; jobs whose key is not here are left to other hosts."""

    write: KeyRef | None = None
    check: KeyRef | None = None
    prune: KeyRef | None = None
    read: KeyRef | None = None


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}") from None
    return name


def _cron(text: str) -> str:
    check_cron(text)
    return text


def _window(text: str) -> str:
    parse_window(text)
    return text


WindowText = Annotated[str, AfterValidator(_window), WithJsonSchema({"type": "string", "pattern": PATTERN})]


class Schedule(Model):
    """When."""

    cron: Annotated[str, AfterValidator(_cron)] | None = None
    every: Positive | None = None
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    jitter: Duration = timedelta(0)
    catch_up: Literal["once", "never"] = "once"
    max_duration: Positive | None = None
    blackout: Many[WindowText] = ()

    @field_validator("blackout", mode="after")
    @classmethod
    def _leaves_time(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if covers_everything(map(parse_window, value)):
            raise ValueError("these windows cover the whole week: nothing would ever run")
        return value

    @property
    def windows(self) -> Blackout | None:
        """When no run starts."""
        return Blackout(tuple(map(parse_window, self.blackout)), ZoneInfo(self.timezone)) if self.blackout else None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.cron is None) == (self.every is None):
            raise ValueError("give either cron or every")
        if self.every and not timedelta(seconds=1) <= self.every <= timedelta(days=366):
            raise ValueError("every must be between 1s and 366d")
        return self


class Retry(Model):
    """How often a run is tried, all in all, and how long after the first failure again; the wait doubles each time."""

    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    backoff: Positive = timedelta(minutes=5)

    @field_validator("backoff", mode="after")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if value > timedelta(days=1):
            raise ValueError("a day is the longest wait")
        return value

    @property
    def rule(self) -> Retries:
        """As `retrying.retry_at` takes it."""
        return Retries(self.attempts, self.backoff)


class Objectives(Model):
    """What is promised: at most so much is lost, and it is back within that time."""

    rpo: Positive | None = None
    rto: Positive | None = None


class Keep(Model):
    """How many of each."""

    last: Count = 0
    hourly: Count = 0
    daily: Count = 0
    weekly: Count = 0
    monthly: Count = 0
    yearly: Count = 0
    within: Positive | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.within and not any((self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)):
            raise ValueError("this keeps nothing: say how many")
        return self

    def longest(self, gap: timedelta | None) -> timedelta | None:
        """For how long at least some snapshot is kept; None if that cannot be told.

        Args:
            gap: the longest time between two runs.
        """
        units = {"hourly": timedelta(hours=1), "daily": timedelta(days=1), "weekly": timedelta(weeks=1)}
        units |= {"monthly": MONTH, "yearly": YEAR}
        found: list[timedelta] = [getattr(self, name) * unit for name, unit in units.items()]
        if self.last and gap is None and not any(found) and not self.within:
            return None
        return max([*found, self.within or timedelta(0), self.last * (gap or timedelta(0))])


class Lock(Model):
    """Object lock of the bucket."""

    mode: Literal["compliance", "governance"]
    days: Annotated[int, Field(ge=1, le=36_500)]


class Retention(Model):
    """What stays."""

    keep: Keep
    min_keep: Annotated[int, Field(ge=1, le=100_000)] = 1
    min_age: Duration = timedelta(0)
    lock: Lock | None = None

    @property
    def rule(self) -> Rule:
        """As `retention.plan` takes it."""
        return Rule(**self.keep.model_dump(), min_keep=self.min_keep, min_age=self.min_age)


class Verify(Model):
    """How stored data is checked."""

    level: Literal["structure", "bytes", "content"]
    every: Positive
    sample: Share = 100.0


class Assertion(Model):
    """What a restored database must answer; without a source, that of each of the policy's sources."""

    sql: Text
    source: Text | None = None
    min: int | float | None = None
    max: int | float | None = None
    equals: int | float | str | None = None
    max_drop: Share | None = None
    within: Positive | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(getattr(self, name) is None for name in ("min", "max", "equals", "max_drop", "within")):
            raise ValueError("this asserts nothing: give min, max, equals, max_drop or within")
        return self


class ScratchServer(Model):
    """A server on which drills make databases of their own; that of the URL is only where they connect to."""

    url: Text
    password: SecretRef | None = None


AllowedKind = Annotated[str, AfterValidator(check_kind), WithJsonSchema({"type": "string", "enum": list(ALLOWED)})]


class Drill(Model):
    """How restores are proven; without a scratch server of an engine, a drill starts one for itself."""

    every: Positive
    assertions: Many[Assertion] = Field(default=(), alias="assert")
    scratch: Many[ScratchServer] = ()
    allow: Many[AllowedKind] = ()


class Notifier(Model):
    """One way to tell somebody."""

    webhook: SecretRef | None = None
    secret: SecretRef | None = None
    slack: SecretRef | None = None
    pagerduty: SecretRef | None = None
    ping: SecretRef | None = None
    apprise: SecretRef | None = None
    email: Text | None = None
    smtp: SecretRef | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        ways = [n for n in ("webhook", "slack", "pagerduty", "ping", "apprise", "email") if getattr(self, n)]
        if len(ways) != 1:
            raise ValueError("give one of webhook, slack, pagerduty, ping, apprise and email")
        if self.secret and not self.webhook:
            raise ValueError("secret signs a webhook; there is none")
        return self


class Notify(Model):
    """Who hears of what."""

    on: Many[Event]
    to: Name


class Hooks(Model):
    """Commands around each run; one that fails before it fails the run."""

    before: Many[Text] = ()
    after: Many[Text] = ()


class Policy(Model):
    """A policy file."""

    policy: Name
    sources: Many[Source]
    repository: RepositoryRef
    keys: Keys = Keys()
    schedule: Schedule | None = None
    retries: Retry = Retry()
    objectives: Objectives = Objectives()
    retention: Retention | None = None
    verify: Many[Verify] = ()
    drill: Drill | None = None
    notify: Many[Notify] = ()
    notifiers: dict[Name, Notifier] = Field(default_factory=dict)
    hooks: Hooks = Hooks()

    @field_validator("sources", mode="after")
    @classmethod
    def _some(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        if not value:
            raise ValueError("name at least one")
        return value

    def source_of(self, name: str) -> str:
        """The name of the source with which one in the repository runs: its own, or that of its whole server."""
        return next((source.name for source in self.sources if source.covers(name)), name)

    def timing(self, source: str) -> Timing:
        """When a source of that name runs; the databases of a server run with it."""
        key, when = f"{self.policy}/{self.source_of(source)}", self.schedule
        if when is None:
            return Timing(key)
        return Timing(key, when.cron, when.every, when.timezone, when.jitter, when.catch_up, when.windows)


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file."""
    found = Policy.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A policy of backupd",
        "description": "What is protected, where to, when, for how long, how it is proven, and who hears of it.",
        **{key: value for key, value in found.items() if key not in {"title", "description"}},
    }
