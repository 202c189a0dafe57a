"""notify test, as a user meets it."""

import json
from pathlib import Path

import pytest

from tests.cli.kit import User
from tests.servers.listening import listening
from tests.servers.processes import free_ports

CANARY = "Kanarienvogel4711"
POLICY = """\
policy: {name}
sources: [{{name: music, url: "sqlite:////music.db"}}]
repository: {{url: "file:///backup"}}
notifiers: {notifiers}
"""


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with two policies, which both have a notifier `both`."""
    user = User(tmp_path)
    folder = tmp_path / "policies"
    folder.mkdir()
    notifiers = (
        "{ops: {webhook: env:OPS}, both: {slack: env:OPS}, beat: {ping: env:OPS}, mail: {email: ops@example.com}}"
    )
    (folder / "a.yaml").write_text(POLICY.format(name="nightly", notifiers=notifiers))
    (folder / "b.yaml").write_text(POLICY.format(name="hourly", notifiers="{both: {slack: env:OPS}}"))
    user.environment = {"BACKUPCTL_CONFIG": str(folder)}
    return user


def test_a_test_notice_is_sent_and_says_what_it_is(user: User) -> None:
    """For real; a heartbeat is not told of a success that was none."""
    with listening() as server:
        user.environment["OPS"] = server.url(f"/{CANARY}")
        done = user.run("notify", "test", "ops", "--json")
        assert done.code == 0, done.err
        said = user.run("notify", "test", "beat")
    document = done.document
    assert {key: document[key] for key in ("schema", "ok", "notifier", "kind", "sent")} == {
        "schema": "backupctl/notify-test/1", "ok": True, "notifier": "ops", "kind": "webhook", "sent": True,
    }  # fmt: skip
    body = json.loads(server.asked[0].body)
    assert body["event"] == "test"
    assert body["title"].startswith("TEST of the notifier ops")
    assert server.asked[1].path == f"/{CANARY}/log"
    assert "beat (ping): a test notice was taken by" in said.out
    assert CANARY not in done.out + done.err + said.out + said.err


def test_a_dry_run_shows_it_and_sends_nothing(user: User) -> None:
    """It does not even ask for the secret."""
    done = user.run("notify", "test", "ops", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.document["sent"] is False
    assert json.loads(done.document["detail"])["event"] == "test"
    said = user.run("notify", "test", "mail", "-n").out
    assert "mail (email) would be sent:\n  Subject: [backupd] OK: TEST" in said


@pytest.mark.parametrize(("status", "code"), [(403, 13), (302, 13), (503, 75)])
def test_failures_have_their_codes_and_a_word(user: User, status: int, code: int) -> None:
    """Refused 13, for now 75; the address is not told, not even with --debug."""
    with listening() as server:
        user.environment["OPS"] = server.url(f"/{CANARY}")
        server.status = status
        done = user.run("notify", "test", "ops", "--json", "--debug")
    assert done.code == code
    assert done.document["ok"] is False
    assert done.document["schema"] == "backupctl/notify-test/1"
    assert done.document["error"]["exit"] == code
    assert "the notifier ops (webhook)" in done.document["error"]["message"]
    assert CANARY not in done.out + done.err


def test_what_cannot_be_reached_is_14_and_a_bad_secret_2(user: User) -> None:
    """With a hint."""
    user.environment["OPS"] = f"http://127.0.0.1:{free_ports(1)[0]}/{CANARY}"
    done = user.run("notify", "test", "ops", "--json")
    assert done.code == 14
    assert done.document["error"]["hint"]
    for secret in (f"http://example.com/{CANARY}", CANARY):
        user.environment["OPS"] = secret
        done = user.run("notify", "test", "ops")
        assert done.code == 2
        assert "env:OPS" in done.err
        assert CANARY not in done.err
    del user.environment["OPS"]
    assert "the variable OPS is not set" in user.run("notify", "test", "ops").err


def test_a_name_that_several_policies_use_needs_the_policy(user: User) -> None:
    """And one that none uses is refused with those that there are."""
    done = user.run("notify", "test", "both")
    assert done.code == 2
    assert "hourly, nightly" in done.err
    assert "--policy" in done.err
    with listening() as server:
        user.environment["OPS"] = server.url()
        assert user.run("notify", "test", "both", "--policy", "hourly").code == 0
    assert "hourly" in json.loads(server.asked[0].body)["text"] + server.asked[0].body.decode()
    done = user.run("notify", "test", "nobody")
    assert done.code == 2
    assert "there are: beat, both, mail, ops" in done.err
    assert user.run("notify", "test", "ops", "--policy", "hourly").code == 2
