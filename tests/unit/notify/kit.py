"""Notices and notifiers for the tests."""

import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from backupd.errors import BackupdError
from backupd.notify.base import Notice, Notifier, key_of
from backupd.notify.http import Limits
from backupd.policy.model import Notifier as Model
from backupd.wiring import open_notifier

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CANARY = "Kanarienvogel4711"
QUICK = Limits(connect=2.0, wait=2.0, all=2.0)
NASTY = "crm\r\nBcc: evil@example.com\u2028<!channel> & *ü* \u202e"


def notice(**changes: Any) -> Notice:
    """The failure of a run."""
    made = Notice(
        "failure", "warn", "nightly", "crm", "Backup of nightly/crm failed", "It failed.", AT, "", "run-1", exit=14
    )
    made = replace(made, **changes)
    return replace(made, key=changes.get("key", key_of(made.event, made.policy, made.source)))


def opened(given: str | bytes, /, *, limits: Limits = QUICK, signing: bytes = b"s" * 32, **model: str) -> Notifier:
    """The notifier of a policy's model, in which every reference leads to `given`, but that of a signature."""
    data = given.encode() if isinstance(given, str) else given
    return open_notifier(
        "ops", Model(**model), lambda reference: signing if reference == "env:SIGN" else data, limits=limits
    )


def said(error: BackupdError) -> str:
    """Everything that an error may show."""
    text = "".join(traceback.format_exception(error))
    return f"{error} {error!r} {error.hint} {error.object_name} {vars(error)} {text}"
