"""The postman: from the outbox to a real web server, over refusals, restarts and floods; secrets stay where they are."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.catalog.opening import Catalog
from backupd.daemon.postman import Postman, Teller, packed, unpacked
from backupd.jobs import notices
from backupd.policy.model import Policy
from backupd.wiring import open_catalog
from tests.servers.listening import Listener, listening
from tests.unit.daemon.kit import NOW, lines, policy, quiet

SECRET = "hunter2-in-the-path"
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


class Office:
    """A postman with a clock that is moved, and a policy that tells two notifiers."""

    def __init__(self, folder: Path, catalog: Catalog, *servers: Listener) -> None:
        self.catalog, self.now = catalog, NOW
        for name, server in zip(("ops", "boss"), servers, strict=False):
            (folder / name).write_text(server.url(f"/{SECRET}/{name}"))
        self.policy: Policy | None = policy(
            notifiers={name: {"webhook": f"file:{folder}/{name}"} for name in ("ops", "boss")},
            notify=[{"on": ["failure", "success"], "to": "ops"}, {"on": ["notify_failed"], "to": "boss"}],
        )
        log, self.out = quiet()
        self.log = log
        self.postman = Postman(catalog, lambda _: self.policy, lambda: self.now, log)

    def fail(self, source: str = "db", run: str = "1") -> None:
        assert self.policy
        notice = notices.run_failed("crm", source, run, self.now, exit_code=14, code="unreachable", last_good=None)
        self.postman.teller.tell(self.policy, notice)

    def states(self) -> list[str | None]:
        return [one.outcome for one in reversed(self.catalog.outbox.list())]

    def everything(self) -> str:
        c = self.catalog
        return f"{c.outbox.list()} {c.alerts.list()} {c.audit.newest()} {self.out.getvalue()}"


@pytest.fixture
def servers() -> Iterator[tuple[Listener, Listener]]:
    with listening() as ops, listening() as boss:
        yield ops, boss


@pytest.fixture
def office(tmp_path: Path, servers: tuple[Listener, Listener]) -> Iterator[Office]:
    with open_catalog(tmp_path) as catalog:
        yield Office(tmp_path, catalog, *servers)


def titles(server: Listener) -> list[str]:
    return [json.dumps(json.loads(asked.body)) for asked in server.asked]


def test_what_is_told_is_delivered_once(office: Office, servers: tuple[Listener, Listener]) -> None:
    office.fail()
    office.fail()
    office.postman.round()
    office.postman.round()
    assert len(servers[0].asked) == 1
    assert "Backup of crm/db failed" in titles(servers[0])[0]
    assert office.states() == ["sent"]
    assert servers[1].asked == []


def test_what_was_refused_for_now_is_tried_again_later(office: Office, servers: tuple[Listener, Listener]) -> None:
    servers[0].status = 503
    office.fail()
    office.postman.round()
    office.postman.round()
    assert (len(servers[0].asked), office.states()) == (1, [None])
    servers[0].status = 200
    office.now += MINUTE
    office.postman.round()
    assert (len(servers[0].asked), office.states()) == (2, ["sent"])


def test_newer_news_takes_the_place_of_what_waits(office: Office, servers: tuple[Listener, Listener]) -> None:
    """An incident that is over is not opened again by a late notice."""
    servers[0].status = 503
    office.fail()
    office.postman.round()
    office.now += MINUTE / 2
    done = notices.run_done("crm", "db", "2", office.now, seconds=1, failed_before=True)
    assert office.policy
    for notice in done:
        office.postman.teller.tell(office.policy, notice)
    servers[0].status = 200
    office.now += MINUTE
    office.postman.round()
    assert office.states() == ["failed", "sent", "sent"]
    assert office.catalog.outbox.list()[-1].reason == "superseded by newer news"
    assert "succeeds again" in titles(servers[0])[-1]


def test_a_flood_is_held_back_and_told_as_a_number(office: Office, servers: tuple[Listener, Listener]) -> None:
    for n in range(60):
        office.fail(f"source-{n}")
    office.postman.round()
    sent = len(servers[0].asked)
    assert 0 < sent < 60
    office.now += DAY
    office.postman.round()
    office.postman.round()
    assert len(servers[0].asked) == sent + 1
    assert f"{60 - sent} notices of crm were held back" in titles(servers[0])[-1]


def test_that_a_notifier_fails_is_told_by_another_once_until_it_works(
    office: Office, servers: tuple[Listener, Listener]
) -> None:
    servers[0].status = 404
    office.fail()
    office.postman.round()
    assert office.states()[0] == "failed"
    assert len(servers[1].asked) == 1
    assert "The notifier ops of crm fails" in titles(servers[1])[0]
    office.fail(run="2")
    office.postman.round()
    assert len(servers[1].asked) == 1
    assert [a.event for a in office.catalog.alerts.list_open()] == ["notify_failed"]
    servers[0].status = 200
    office.fail(run="3")
    office.postman.round()
    assert "works again" in titles(servers[1])[-1]
    assert office.catalog.alerts.list_open() == []


def test_secrets_are_neither_in_the_catalog_nor_in_the_log(office: Office, servers: tuple[Listener, Listener]) -> None:
    """The address of a webhook is one. Neither where it works, nor where it fails, nor where it leads nowhere."""
    office.fail()
    office.postman.round()
    for status in (404, 503, 302):
        servers[0].status = status
        servers[0].headers = {"Location": servers[0].url(f"/{SECRET}/moved")} if status == 302 else {}
        office.fail(run=str(status))
        office.postman.round()
    assert office.policy
    place = str(office.policy.notifiers["ops"].webhook).removeprefix("file:")
    Path(place).write_text(f"http://127.0.0.1:1/{SECRET}")
    office.fail(run="nobody listens")
    office.postman.round()
    Path(place).write_text(f"no url at all: {SECRET}")
    office.fail(run="nonsense")
    office.postman.round()
    assert len(office.catalog.outbox.list()) >= 6
    assert SECRET not in office.everything()


def test_what_waits_survives_the_daemon(office: Office, servers: tuple[Listener, Listener], tmp_path: Path) -> None:
    """Killed before it was sent, and while it was: the next one sends it."""
    office.fail()
    (taken,) = office.catalog.outbox.due(NOW)
    assert taken.attempts == 1
    with open_catalog(tmp_path) as again:
        other = Postman(again, lambda _: office.policy, lambda: NOW + 3 * MINUTE, office.log)
        other.round()
    assert (len(servers[0].asked), office.states()) == (1, ["sent"])


@pytest.mark.parametrize("message", [{}, {"at": 7}, {"at": "2026-01-01T00:00:00Z"}, {"title": ["x"]}, None])
def test_what_cannot_be_read_stops_nothing(
    office: Office, servers: tuple[Listener, Listener], message: dict[str, Any] | None
) -> None:
    """A message of another version, or one that was damaged."""
    odd = message if message is not None else {**packed(office_notice()), "level": "dreadful"}
    office.catalog.outbox.enqueue("odd", "crm", "ops", "failure", odd, NOW)
    office.fail()
    office.postman.round()
    assert office.states() == ["failed", "sent"]
    assert len(servers[0].asked) == 1


def office_notice():  # type: ignore[no-untyped-def]
    return notices.run_failed("crm", "db", "1", NOW, exit_code=14, code="unreachable", last_good=None)


def test_a_notice_comes_out_of_the_outbox_as_it_went_in() -> None:
    notice = replace(office_notice(), url="https://example.com/", resolved=True)
    assert unpacked(json.loads(json.dumps(packed(notice)))) == notice
    assert unpacked({**packed(notice), "of a later version": 7}) == notice


def test_a_policy_that_is_gone_tells_nobody(office: Office, servers: tuple[Listener, Listener]) -> None:
    office.fail()
    office.policy = None
    office.postman.round()
    assert (servers[0].asked, office.states()) == ([], ["failed"])


def test_its_thread_lives_on_whatever_happens(office: Office, servers: tuple[Listener, Listener]) -> None:
    """A notifier that breaks in a way that nobody thought of is logged without its message, and others are told."""

    def broken(name: str, *_: object) -> object:
        raise RuntimeError(SECRET)

    postman = Postman(office.catalog, lambda _: office.policy, lambda: office.now, office.log, broken, pause=0.05)
    postman.start()
    try:
        office.fail()
        wait_for(lambda: any(line["event"] == "notices cannot be delivered now" for line in lines(office.out)))
        assert postman._thread is not None
        assert postman._thread.is_alive()
    finally:
        postman.stop()
    assert SECRET not in office.out.getvalue()
    assert not postman._thread.is_alive()


def test_what_waits_when_it_ends_is_delivered_first(office: Office, servers: tuple[Listener, Listener]) -> None:
    postman = Postman(office.catalog, lambda _: office.policy, lambda: office.now, office.log, pause=60)
    postman.start()
    office.fail()
    postman.stop()
    assert len(servers[0].asked) == 1


def test_a_teller_elsewhere_only_leaves_it_in_the_outbox(office: Office, servers: tuple[Listener, Listener]) -> None:
    """A worker on another host: the scheduler's postman delivers."""
    woken: list[int] = []
    assert office.policy
    Teller(office.catalog, lambda: woken.append(1)).tell(office.policy, office_notice())
    assert (woken, office.states()) == ([1], [None])


def wait_for(fact: Any, seconds: float = 20) -> datetime | None:
    end = time.monotonic() + seconds
    while not fact() and time.monotonic() < end:
        time.sleep(0.02)
    assert fact()
    return None
