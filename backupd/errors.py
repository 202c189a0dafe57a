"""The error tree: every expected failure, its exit code, its word for JSON, and what to do next.

An error says what failed, on which object, and a hint. It must never carry a secret or a record's content:
messages are built from names, sizes and numbers only.
"""

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `backupctl`, one for each kind of ending."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    INTEGRITY = 4
    OBJECTIVE_MISSED = 5
    NO_REPOSITORY = 10
    BUSY = 11
    WRONG_KEY = 12
    STORAGE_REFUSED = 13
    UNREACHABLE = 14
    SAFETY = 20
    TRY_AGAIN = 75
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_MEANS: Mapping[Exit, str] = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "usage, or a policy or configuration that is not valid",
    Exit.INCOMPLETE: "incomplete: part of a source was unreadable; nothing was published as good",
    Exit.INTEGRITY: "integrity: damaged or forged data",
    Exit.OBJECTIVE_MISSED: "objective missed: RPO, drill or verification overdue",
    Exit.NO_REPOSITORY: "no such repository",
    Exit.BUSY: "busy: somebody else is at work here",
    Exit.WRONG_KEY: "wrong or missing key or right",
    Exit.STORAGE_REFUSED: "storage refused",
    Exit.UNREACHABLE: "source or target unreachable",
    Exit.SAFETY: "refused by a safety rule",
    Exit.TRY_AGAIN: "try again: it may work later",
    Exit.INTERRUPTED: "interrupted (SIGINT)",
    Exit.TERMINATED: "terminated (SIGTERM)",
}
"""What each means, for the manual."""


class BackupdError(Exception):
    """Base of every expected failure; never raised itself.

    Args:
        message: what failed, in one sentence without secrets or records.
        object_name: the stored object, file or source it failed on, if there is one.
        hint: what to do next.
    """

    exit = Exit.FAILED
    code = "failed"

    def __init__(self, message: str, *, object_name: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.object_name = object_name
        self.hint = hint


class Failed(BackupdError):
    """Something failed that no more exact class describes."""


class UsageError(BackupdError):
    """The command line, a URL, a policy or a configuration is not valid."""

    exit = Exit.USAGE
    code = "usage"


class SourceIncomplete(BackupdError):
    """Part of a source could not be read, or its engine calls it corrupt; nothing was published as good."""

    exit = Exit.INCOMPLETE
    code = "incomplete"


class IntegrityError(BackupdError):
    """Stored data is damaged, forged, missing or of an unknown version."""

    exit = Exit.INTEGRITY
    code = "integrity"


class MissingObject(IntegrityError):
    """An object that the repository needs is not in the storage."""

    code = "missing_object"


class NoRepository(BackupdError):
    """There is no repository (or no bucket) at this place."""

    exit = Exit.NO_REPOSITORY
    code = "no_repository"


class Busy(BackupdError):
    """Somebody else is at work here and holds the lock."""

    exit = Exit.BUSY
    code = "busy"


class KeyProblem(BackupdError):
    """A key file is wrong, damaged or missing, or its passphrase does not open it."""

    exit = Exit.WRONG_KEY
    code = "wrong_key"


class MissingRight(KeyProblem):
    """The keys at hand do not hold the right that this needs."""

    code = "missing_right"


class StorageRefused(BackupdError):
    """The storage refused: credentials, permissions, quota, a full disk."""

    exit = Exit.STORAGE_REFUSED
    code = "storage_refused"


class Unreachable(BackupdError):
    """A source or target cannot be reached, is missing, encrypted, or is no database."""

    exit = Exit.UNREACHABLE
    code = "unreachable"


class ObjectiveMissed(BackupdError):
    """What was promised is not kept: a source's newest snapshot is too old, or a proof is overdue."""

    exit = Exit.OBJECTIVE_MISSED
    code = "objective_missed"


class SafetyRefused(BackupdError):
    """A safety rule refuses: an existing file, a rollback of history, leftovers beside a target."""

    exit = Exit.SAFETY
    code = "refused"


class TryAgain(BackupdError):
    """It may work later: a lock was held too long, the storage kept throttling."""

    exit = Exit.TRY_AGAIN
    code = "try_again"


class SourceMoved(TryAgain):
    """A source changed its shape while it was read: a table was dropped, truncated or altered."""

    code = "source_moved"


class Interrupted(BackupdError):
    """The user or the system asked for an end."""

    exit = Exit.INTERRUPTED
    code = "interrupted"


class Terminated(Interrupted):
    """SIGTERM arrived, or the terminal went."""

    exit = Exit.TERMINATED
    code = "terminated"
