"""Has people told: what is to be told goes into the catalog's outbox, and a thread of its own delivers it from there.

A slow mail server delays no backup. What is in the outbox survives the daemon; that a notifier fails is told by another one.
"""

import random
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from backupd.catalog.opening import Catalog
from backupd.catalog.outbox import Notification
from backupd.config.clock import parse_stamp
from backupd.config.secretrefs import resolve
from backupd.daemon.logs import Logger
from backupd.errors import BackupdError
from backupd.jobs import notices
from backupd.notify.base import Notice
from backupd.notify.delivery import Attempt, deliver, supersedes
from backupd.notify.rate import Bucket, Rate, admit, leftover
from backupd.policy.model import Policy
from backupd.wiring import open_notifier

FAILING = "notify_failed"


def packed(notice: Notice) -> dict[str, Any]:
    """A notice as the outbox keeps it."""
    return {**asdict(notice), "at": notice.at.astimezone(UTC).isoformat()}


def unpacked(message: Mapping[str, Any]) -> Notice | None:
    """And back; None if it is none that this version knows."""
    known = {field.name for field in fields(Notice)}
    values = {name: value for name, value in message.items() if name in known}
    try:
        return Notice(**{**values, "at": parse_stamp(values["at"])})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


class Teller:
    """Puts notices into the outbox, for every notifier of a policy that hears of them. From any thread.

    Args:
        catalog: with the outbox.
        wake: has the postman look at once.
    """

    def __init__(self, catalog: Catalog, wake: Callable[[], None]) -> None:
        self._catalog, self._wake = catalog, wake

    def tell(self, policy: Policy, notice: Notice, failing: str | None = None) -> None:
        """Have people told; `failing` is the notifier that cannot be told, if the notice is about one."""
        for name in notices.recipients(policy, notice, failing):
            kind = notices.kind_of(policy.notifiers[name])
            for waiting in self._catalog.outbox.list(waiting_only=True, limit=1000):
                old = unpacked(waiting.message) if (waiting.policy, waiting.notifier) == (policy.policy, name) else None
                if old is not None and supersedes(notice, old, kind):
                    self._catalog.outbox.failed(waiting.id, notice.at, None, "superseded by newer news")
            key = f"{policy.policy}/{name}/{notice.id}"
            self._catalog.outbox.enqueue(key, policy.policy, name, notice.event, packed(notice), notice.at)
        self._wake()


class Postman:
    """Delivers what is in the outbox.

    Args:
        catalog: with the outbox; used from the postman's own thread.
        policy: the policy of a name, of those in force.
        clock: the time.
        log: what fails, and what was delivered.
        open_door: makes a notifier of a policy's model; another one in tests.
        pause: seconds between two looks.
    """

    def __init__(
        self,
        catalog: Catalog,
        policy: Callable[[str], Policy | None],
        clock: Callable[[], datetime],
        log: Logger,
        open_door: Callable[..., Any] = open_notifier,
        pause: float = 10.0,
    ) -> None:
        self._catalog, self._policy, self._clock, self._log = catalog, policy, clock, log
        self._open, self._pause = open_door, pause
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._ended = threading.Event()
        self._look = threading.Event()
        self._thread: threading.Thread | None = None
        self.teller = Teller(catalog, self._look.set)

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._go, name="postman", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 15.0) -> None:
        """Deliver what waits already, once, and end; what takes longer is delivered after the next start."""
        self._ended.set()
        self._look.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _go(self) -> None:
        while not self._ended.is_set():
            self._look.wait(self._pause)
            self._look.clear()
            try:
                self.round()
            except BackupdError as error:  # the catalog: the next look may find it well
                self._log.error("notices cannot be delivered now", reason=error.message)
            except Exception as error:  # noqa: BLE001  # the thread's edge: if it ended, nobody would hear of anything any more
                where = "".join(traceback.format_tb(error.__traceback__))  # not the message, which may quote an address
                self._log.critical("notices cannot be delivered now", reason=type(error).__name__, where=where)

    def round(self) -> None:
        """Deliver what is due, once."""
        while due := self._catalog.outbox.due(self._clock()):
            for one in due:
                self._deliver(one)
        self._tell_held()

    def _deliver(self, one: Notification) -> None:
        outbox, notice, now = self._catalog.outbox, unpacked(one.message), self._clock()
        policy = self._policy(one.policy)
        model = policy.notifiers.get(one.notifier) if policy else None
        if notice is None:
            outbox.failed(one.id, now, None, "this version cannot read it")
            return
        if policy is None or model is None:
            outbox.failed(one.id, now, None, "no policy names this notifier any more")
            return
        place, kind = (one.policy, one.notifier), notices.kind_of(model)
        admitted: Notice | None = notice
        if one.attempts <= 1:
            self._buckets[place], admitted = admit(self._buckets.get(place, Bucket()), notice, kind, now, Rate())
        if admitted is None:
            outbox.failed(one.id, now, None, "held back: too many at once")
            return
        self._settle(policy, one, self._send(one, admitted, model))

    def _send(self, one: Notification, notice: Notice, model: Any) -> Attempt:
        alarmed = any(
            (alert.event, alert.policy, alert.source) == (FAILING, one.policy, one.notifier)
            for alert in self._catalog.alerts.list_open()
        )
        try:
            notifier = self._open(one.notifier, model, resolve)
        except BackupdError as error:
            return Attempt("failed", one.attempts, None, error.message, error.code, alarm=not alarmed)
        try:
            return deliver(
                notice,
                notifier,
                self._clock,
                attempts=one.attempts - 1,
                since=one.enqueued,
                alarmed=alarmed,
                draw=random.random,
            )
        finally:
            notifier.close()

    def _settle(self, policy: Policy, one: Notification, attempt: Attempt) -> None:
        outbox, alerts, now = self._catalog.outbox, self._catalog.alerts, self._clock()
        facts = {"policy": one.policy, "notifier": one.notifier, "notice": one.event}
        if attempt.outcome == "sent":
            outbox.done(one.id, now)
            self._log.info("told", **facts)
            if alerts.close(FAILING, one.policy, one.notifier, now):
                works = notices.notify_works(one.policy, one.notifier, now)
                self.teller.tell(policy, works, failing=one.notifier)
            return
        outbox.failed(one.id, now, attempt.next_try, attempt.error or "")
        self._log.warning(
            "not told", **facts, reason=attempt.error, attempt=attempt.attempts, next_try=str(attempt.next_try)
        )
        if attempt.alarm:
            opened = alerts.open(FAILING, one.policy, one.notifier, attempt.error or "it fails", now)
            if opened.new:
                notice = notices.notify_failed(
                    one.policy,
                    one.notifier,
                    now,
                    since=one.enqueued,
                    attempts=attempt.attempts,
                    code=attempt.code or "failed",
                )
                alerts.mark_told(opened.alert.id, now)
                self.teller.tell(policy, notice, failing=one.notifier)

    def _tell_held(self) -> None:
        """What was held back is told of once there is room again."""
        now = self._clock()
        for (name, notifier), bucket in list(self._buckets.items()):
            held, policy = leftover(bucket, now, Rate()), self._policy(name)
            if held and policy is not None and notifier in policy.notifiers:
                self._buckets[name, notifier] = Bucket()
                notice = notices.held_back(name, notifier, now, held=held)
                key = f"{name}/{notifier}/{notice.id}"
                self._catalog.outbox.enqueue(key, name, notifier, notice.event, packed(notice), now)
                self._look.set()
