"""What a notice is, what a notifier does with it, and how that fails.

A notice is sentences about policies, sources and times. It must never hold data, secrets, or a stranger's text; a failure names
the notifier and never its address, because an address of this kind is a secret.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol, get_args

from backupd.errors import BackupdError, Exit, UsageError

Level = Literal["ok", "warn", "breach"]
MOST_TITLE = 200
MOST_TEXT = 4000
TEST = "test"
"""The event of a notice that somebody sent to see whether it arrives."""
_STARTING = frozenset({"ping"})


class NotifyFailed(BackupdError):
    """A notice was not delivered.

    Args:
        message, hint: as of every error.
        retry: whether the same may succeed later.
        after: seconds that the other side asked to wait, if it did.
    """

    code = "notify_failed"

    def __init__(self, message: str, *, retry: bool, after: float | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry = retry
        self.after = after


class NotifyRefused(NotifyFailed):
    """The other side said no: to the address, the credentials or the notice."""

    exit = Exit.STORAGE_REFUSED
    code = "notify_refused"


class NotifyUnreachable(NotifyFailed):
    """There was no connection that can be trusted, or no answer in time."""

    exit = Exit.UNREACHABLE
    code = "notify_unreachable"


class NotifyLater(NotifyFailed):
    """The other side has a trouble of its own, or asked for patience."""

    exit = Exit.TRY_AGAIN
    code = "notify_later"


def one_line(text: str, most: int = MOST_TITLE) -> str:
    """Text as one line that can be printed: whatever else is in it (newlines, escapes, marks of direction) is spelled out."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text if len(text) <= most else text[: most - 1] + "…"


def key_of(event: str, policy: str, source: str | None) -> str:
    """What notices of one matter share: later ones of the same key replace or resolve earlier ones."""
    return one_line("/".join(part for part in (event, policy, source) if part is not None), 400)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that people, or a service that watches, should know.

    Whatever is given is made printable, so that no name can start a header, a line or a command of its own.

    Attributes:
        event: an event of the policy model, or `test`.
        level: ok, warn, breach.
        policy: of which policy.
        source: of which source; None if it is about the whole policy.
        title: one short sentence.
        text: a few more, each on a line of its own, with what to do next.
        at: when it happened.
        key: what notices of the same matter share, see `key_of`.
        run: the run's id; empty if there is none.
        resolved: the matter is over.
        started: a run began; for notifiers that want to know, see `wants_starts`.
        exit: the run's exit code, if it ended.
        url: where more is to be seen, if there is such a page.
    """

    event: str
    level: Level
    policy: str
    source: str | None
    title: str
    text: str
    at: datetime
    key: str
    run: str
    resolved: bool = False
    started: bool = False
    exit: int | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ValueError(f"{self.level!r} is no level")
        if self.at.tzinfo is None:
            raise ValueError("a notice's time needs its offset")
        if self.url is not None and not (self.url.startswith(("https://", "http://")) and _is_plain(self.url)):
            raise ValueError("a notice's page needs a plain http or https URL")
        text = "\n".join(one_line(line, MOST_TEXT) for line in self.text.split("\n"))[:MOST_TEXT]
        cleaned = {name: one_line(getattr(self, name)) for name in ("event", "policy", "title", "run")}
        cleaned |= {"text": text, "key": one_line(self.key, 400)}
        if self.source is not None:
            cleaned["source"] = one_line(self.source)
        for name, value in cleaned.items():
            object.__setattr__(self, name, value)

    @property
    def id(self) -> str:
        """The same for every attempt to deliver this notice, different for every other one: 32 hexadecimal digits."""
        said = (self.key, self.run, self.at.astimezone(UTC).isoformat(), self.resolved, self.started, self.level)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:32]

    @property
    def place(self) -> str:
        """Policy and source, as people read them."""
        return self.policy if self.source is None else f"{self.policy}/{self.source}"


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and not set(url) & set(" <>|\"'`\\")


class Notifier(Protocol):
    """One way to tell somebody.

    Attributes:
        name: as the policy calls it.
        kind: email, webhook, slack, pagerduty, ping or apprise.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def send(self, notice: Notice) -> None:
        """Deliver it, once, within bounded time; what this kind has no use for is passed over.

        Raises:
            NotifyFailed: it was not delivered.
            UsageError: the secret cannot be had, or is not what this kind needs.
        """

    def preview(self, notice: Notice) -> str:
        """What `send` would hand over, for people to read; without any secret, and without reading one."""

    def close(self) -> None:
        """Give back what is held."""


def wants_starts(kind: str) -> bool:
    """Whether notifiers of this kind hear of starts; they are no event that a policy could name."""
    return kind in _STARTING


@dataclass(frozen=True, slots=True)
class Secret:
    """A reference to a secret and the way to it. It is read when it is needed and never kept."""

    reference: str
    resolve: Callable[[str], bytes]

    def data(self) -> bytes:
        """What the reference leads to.

        Raises:
            UsageError: it leads nowhere.
        """
        return self.resolve(self.reference)

    def line(self, what: str) -> str:
        """The same as one line of plain text.

        Raises:
            UsageError: it leads nowhere, or to something else than `what`.
        """
        text = self.data().decode("utf-8", errors="replace").strip()
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise self.problem(f"is no {what}: one line of plain characters without spaces")
        return text

    def problem(self, sentence: str, hint: str | None = None) -> UsageError:
        """An error about what the reference leads to; `sentence` must not quote it."""
        return UsageError(f"what {self.reference} leads to {sentence}", object_name=self.reference, hint=hint)
