"""The erasure ledger, for verbs through which rows leave the repository: what they hide, and what it takes to go without."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backupctl.options import option, said
from backupd.errors import IntegrityError, MissingRight, UsageError

if TYPE_CHECKING:
    from backupd.jobs.erasure import Erasures
    from backupd.repo.repository import History, Repository, SnapshotView
    from backupd.report import Reporter


def erased_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --with-erased and --reason; the verb gets the reason, or None, as `with_erased`."""

    @functools.wraps(function)
    def wrapper(*args: Any, with_erased: bool, reason: str | None, **values: Any) -> Any:
        if with_erased and reason is None:
            raise UsageError("--with-erased needs --reason TEXT", hint="the reason is recorded and signed")
        if reason is not None and not with_erased:
            raise UsageError("--reason is for --with-erased")
        return function(*args, with_erased=reason, **values)

    text = "Bring back rows of people who were erased too, or go on where the erasure ledger cannot be read."
    decorated = option("--reason", callback=said, help="Why, for --with-erased; recorded and signed.")(wrapper)
    return option("--with-erased", is_flag=True, help=text)(decorated)


def erasures_of(
    repo: "Repository", history: "History", views: "list[SnapshotView]", reason: str | None, report: "Reporter"
) -> "Erasures | None":
    """What the ledger hides of the sources of some snapshots; None if nothing, or if a reason says to go without.

    Raises:
        IntegrityError, MissingRight: the ledger cannot be believed.
    """
    from backupd.jobs.erasure import read_ledger

    try:
        found = read_ledger(repo, history).of_snapshots(views)
    except (IntegrityError, MissingRight) as error:
        if reason is None:
            raise
        report.warning(f"{error.message}; goes on without it")
        return None
    if found is None or reason is None:
        return found
    report.warning("rows of people who were erased are brought back: take them out before anybody uses it")
    return None


def reason_facts(reason: str | None) -> dict[str, object]:
    """What the note in the audit says of it."""
    return {} if reason is None else {"reason": f"with erased: {reason}"}
