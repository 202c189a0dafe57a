"""What each way of telling hands over."""

import hashlib
import hmac
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import UsageError
from backupd.notify.apprise import Apprise
from backupd.notify.base import NotifyRefused, NotifyUnreachable, Secret, one_line, wants_starts
from backupd.notify.http import Limits
from backupd.notify.pagerduty import event
from backupd.notify.ping import joined, rid_of
from backupd.notify.slack import message
from tests.servers.listening import Listener, listening
from tests.unit.notify.kit import CANARY, NASTY, notice, opened, said

PD_KEY = "R0123456789abcdef0123456789ABCDE"


def body_of(server: Listener) -> dict[str, Any]:
    """The one body that arrived."""
    (asked,) = server.asked
    found: dict[str, Any] = json.loads(asked.body)
    return found


def test_a_notice_is_one_line_in_each_part() -> None:
    """Newlines, marks of direction and lone surrogates in names are spelled out; ids tell notices apart."""
    made = notice(policy=NASTY, source=NASTY, title=NASTY, run=NASTY, text=f"a\n{NASTY}\ud800")
    parts = [made.policy, made.source or "", made.title, made.run, made.key, *made.text.split("\n")]
    assert all(part.isprintable() for part in parts)
    assert "crm\\r\\nBcc" in made.title
    assert made.text.count("\n") == 1 + NASTY.count("\n")
    json.dumps(made.text).encode()
    assert one_line("x" * 500) == "x" * 199 + "…"
    assert notice().id == notice().id
    others = [
        notice(resolved=True),
        notice(started=True),
        notice(run="b"),
        notice(source="b"),
        notice(at=datetime.now(UTC)),
    ]
    assert len({made.id, notice().id, *(other.id for other in others)}) == 7


@pytest.mark.parametrize("url", ["ftp://a", "https://a b", "https://a/<b>", "https://a/|", "javascript:x", "https://ü"])
def test_a_notice_links_only_to_plain_pages(url: str) -> None:
    """Anything else is a mistake of the caller's."""
    with pytest.raises(ValueError, match="URL"):
        notice(url=url)
    with pytest.raises(ValueError, match="offset"):
        notice(at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="level"):
        notice(level="bad")


def test_a_webhooks_signature_can_be_verified_as_its_docstring_says() -> None:
    """HMAC-SHA256 over the time, a dot and the body as it arrived; any change breaks it."""
    with listening() as server:
        opened(server.url("/hook"), webhook="env:URL", secret="env:SIGN").send(notice(source="crm-ü"))
    (asked,) = server.asked
    parts = dict(part.split("=", 1) for part in asked.headers["Backupd-Signature"].split(","))
    for body, genuine in ((asked.body, True), (asked.body + b" ", False)):
        code = hmac.new(b"s" * 32, parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(code, parts["v1"]) is genuine
    assert abs(datetime.now(UTC).timestamp() - int(parts["t"])) < 60
    values = body_of(server)
    assert asked.headers["Backupd-Id"] == values["id"] == notice(source="crm-ü").id
    assert asked.headers["Content-Type"] == "application/json"
    assert values | {"id": ""} == {
        "schema": "backupd/notice/1", "id": "", "event": "failure", "level": "warn", "resolved": False, "started": False,
        "policy": "nightly", "source": "crm-ü", "title": "Backup of nightly/crm failed", "text": "It failed.",
        "at": "2026-03-04T05:06:07Z", "key": "failure/nightly/crm-ü", "run": "run-1", "exit": 14, "url": None,
    }  # fmt: skip


def test_a_webhook_without_a_secret_is_not_signed_and_a_short_one_is_refused() -> None:
    """A secret under 16 bytes signs nothing."""
    with listening() as server:
        opened(server.url(), webhook="env:URL").send(notice())
        with pytest.raises(UsageError, match="fewer than 16") as caught:
            opened(server.url(), webhook="env:URL", secret="env:SIGN", signing=CANARY[:15].encode()).send(notice())
    assert CANARY[:15] not in said(caught.value)
    assert [name for asked in server.asked for name in asked.headers if "Signature" in name] == []


def test_slack_reads_no_markup_in_names() -> None:
    """Names stand in plain text; the line for notifications is escaped."""
    made = notice(
        title=f"Backup of {NASTY} failed", text=NASTY, source=NASTY, url="https://status.example.com/?a=1&b=2"
    )
    with listening() as server:
        opened(server.url("/services/T/B/x"), slack="env:URL").send(made)
    values = body_of(server)
    assert values == message(made)
    assert "<!" not in values["text"]
    assert "&lt;!channel&gt; &amp;" in values["text"]
    assert values["mrkdwn"] is False
    marked = [block["text"] for block in values["blocks"] if block.get("text", {}).get("type") == "mrkdwn"]
    assert marked == [{"type": "mrkdwn", "text": "<https://status.example.com/?a=1&amp;b=2|More>"}]
    rest = [block for block in values["blocks"] if block.get("text", {}).get("type") != "mrkdwn"]
    texts = [e for block in rest for e in [block.get("text"), *block.get("elements", [])] if e]
    assert [text["type"] for text in texts] == ["plain_text"] * 3
    long = message(notice(title="t" * 500, text="x" * 9000))
    assert len(long["blocks"][0]["text"]["text"]) <= 150
    assert len(long["blocks"][1]["text"]["text"]) <= 3000


def test_pagerduty_opens_and_closes_one_incident() -> None:
    """A resolution has the same key as what it resolves; a success resolves the failure."""
    with listening() as server:
        notifier = opened(f"{server.url('/v2/enqueue')}?routing_key={PD_KEY}", pagerduty="env:KEY")
        for each in (
            notice(),
            notice(resolved=True, level="ok"),
            notice(event="success", level="ok"),
            notice(started=True),
        ):
            notifier.send(each)
    bodies = [json.loads(asked.body) for asked in server.asked]
    assert [body["event_action"] for body in bodies] == ["trigger", "resolve", "resolve"]
    assert {body["dedup_key"] for body in bodies} == {"backupd/failure/nightly/crm"}
    assert {body["routing_key"] for body in bodies} == {PD_KEY}
    assert {asked.path for asked in server.asked} == {"/v2/enqueue"}
    payload = bodies[0]["payload"]
    assert payload["severity"] == "error"
    assert payload["source"] == "nightly/crm"
    assert payload["timestamp"] == "2026-03-04T05:06:07Z"
    severities = [event(notice(level=level, event="test"))["payload"]["severity"] for level in ("ok", "warn", "breach")]
    assert severities == ["info", "error", "critical"]
    long = event(notice(policy="p" * 200, source="s" * 200))["dedup_key"]
    assert len(long) <= 255
    assert long == event(notice(policy="p" * 200, source="s" * 200, resolved=True))["dedup_key"]


@pytest.mark.parametrize(
    "secret", ["short", f"{CANARY}-{CANARY}", f"https://events.example.com/?routing_key={CANARY}!", "https://[", "a b"]
)
def test_what_is_no_integration_key_is_refused_unseen(secret: str) -> None:
    """Nothing is sent, nothing is quoted."""
    with pytest.raises(UsageError) as caught:
        opened(secret, pagerduty="env:KEY").send(notice())
    assert CANARY not in said(caught.value)


@pytest.mark.parametrize(
    ("url", "suffix", "rid", "expected"),
    [
        ("https://hc/ping/u", "/start", None, "https://hc/ping/u/start"),
        ("https://hc/ping/u/", "/fail", None, "https://hc/ping/u/fail"),
        ("https://hc/ping/u//", "", None, "https://hc/ping/u"),
        ("https://hc/ping/u?create=1", "/start", "r", "https://hc/ping/u/start?create=1&rid=r"),
        ("https://hc/ping/u/?create=1#x", "/fail", "a b&c", "https://hc/ping/u/fail?create=1&rid=a%20b%26c"),
        ("https://hc", "/start", None, "https://hc/start"),
        ("https://hc/u%2Fv", "", "r", "https://hc/u%2Fv?rid=r"),
    ],
)
def test_a_pings_suffix_goes_behind_the_path(url: str, suffix: str, rid: str | None, expected: str) -> None:
    """Not behind the query, and with one slash."""
    assert joined(url, suffix, rid) == expected


def test_a_ping_tells_starts_and_ends_of_runs_and_no_words() -> None:
    """No body, no names; the end of a breach is no success of a run."""
    run = "5e0c6a4e-7c3f-4b6f-9a53-3a3b0c6f2a11"
    with listening() as server:
        notifier = opened(server.url("/ping/u?create=1"), ping="env:URL")
        made = notice(run=run)
        for each in (
            replace(made, event="success", level="ok", started=True),
            replace(made, event="success", level="ok"),
            made,
            replace(made, event="rpo_breach", level="ok", resolved=True),
            replace(made, event="rpo_breach", level="breach", run=""),
            replace(made, event="test", level="ok", run=""),
        ):
            notifier.send(each)
    paths = [asked.path for asked in server.asked]
    ends = [f"/start?create=1&rid={run}", f"?create=1&rid={run}", f"/fail?create=1&rid={run}"]
    assert paths == ["/ping/u" + end for end in [*ends, "/fail?create=1", "/log?create=1"]]
    assert {(asked.method, asked.body) for asked in server.asked} == {("GET", b"")}
    assert uuid.UUID(rid_of("run-1") or "") == uuid.UUID(rid_of("run-1") or "")
    assert rid_of("run-1") != rid_of("run-2")
    assert wants_starts("ping")
    assert not wants_starts("slack")


def apprise(urls: str, tmp_path: Path, **changes: Any) -> Apprise:
    """An Apprise notifier whose child has an empty home."""
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **changes.pop("environment", {})}
    return Apprise(
        "ops", Secret("env:A", lambda _: urls.encode()), "the notifier ops (apprise)", environment, **changes
    )


def test_apprise_delivers_what_it_is_given(tmp_path: Path) -> None:
    """To all of its URLs; one that fails is a failure."""
    with listening() as server:
        url = f"json://127.0.0.1:{server.port}/{CANARY}"
        apprise(f"{url}1 {url}2\n", tmp_path).send(notice(started=True))
        assert server.asked == []
        apprise(f"{url}1 {url}2\n", tmp_path).send(notice())
        assert sorted(asked.path for asked in server.asked) == [f"/{CANARY}1", f"/{CANARY}2"]
        assert "It failed." in json.loads(server.asked[0].body)["message"]
        server.status = 500
        with pytest.raises(NotifyUnreachable) as caught:
            apprise(url, tmp_path).send(notice())
    assert caught.value.retry
    assert CANARY not in said(caught.value)


def test_apprise_says_what_is_missing_and_takes_no_nonsense(tmp_path: Path) -> None:
    """Without it the hint says how to install it; a child that hangs is ended."""
    for urls in ("", f"nothing-like-{CANARY}://x"):
        with pytest.raises(UsageError) as caught:
            apprise(urls, tmp_path).send(notice())
        assert CANARY not in said(caught.value)
    (tmp_path / "apprise.py").write_text("raise ImportError\n")
    with pytest.raises(UsageError) as caught:
        apprise("json://127.0.0.1:1", tmp_path, environment={"PYTHONPATH": str(tmp_path)}).send(notice())
    assert "backupd[apprise]" in str(caught.value.hint)
    (tmp_path / "apprise.py").write_text("import time\ntime.sleep(60)\n")
    hanging = apprise("json://127.0.0.1:1", tmp_path, environment={"PYTHONPATH": str(tmp_path)}, limits=Limits(all=1.0))
    with pytest.raises(NotifyUnreachable, match="within 1 s"):
        hanging.send(notice())


@pytest.mark.parametrize("kind", ["webhook", "slack", "pagerduty", "ping", "apprise"])
def test_a_preview_reads_no_secret(kind: str) -> None:
    """It shows what would be sent without asking where to."""

    def refuse(_reference: str) -> bytes:
        raise AssertionError("read")

    from backupd.policy.model import Notifier as Model
    from backupd.wiring import open_notifier

    notifier = open_notifier("ops", Model(**{kind: "env:URL"}), refuse)
    assert notifier.kind == kind
    assert notifier.preview(notice())
    assert notifier.preview(notice(started=True))
    assert notifier.preview(notice(resolved=True))
    notifier.close()


def test_secrets_are_read_at_each_sending() -> None:
    """So that a changed one is used at once, and none is kept."""
    with listening() as server:
        given = [server.url("/a"), server.url("/b")]
        from backupd.policy.model import Notifier as Model
        from backupd.wiring import open_notifier

        notifier = open_notifier("ops", Model(webhook="env:URL"), lambda _: given.pop(0).encode())
        notifier.send(notice())
        server.status = 404
        with pytest.raises(NotifyRefused):
            notifier.send(notice())
    assert [asked.path for asked in server.asked] == ["/a", "/b"]
