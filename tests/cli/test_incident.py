"""incident, as a responder meets it: a read key, a laptop, and the repository."""

import json
import shutil
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import pytest

from backupd.errors import IntegrityError
from backupd.jobs.incidentpage import carried
from tests.cli.kit import User
from tests.servers.listening import listening

HOSTILE = "<script>alert(1)</script>&\"'<img src=x onerror=y>"
POLICY = """\
policy: nightly
sources: [{{name: crm, url: "sqlite:////x.db", subject: {{table: customers, key: id}}}}]
repository: {{url: "file://{repository}"}}
objectives: {{rpo: 24h}}
notify: [{{on: [incident], to: ops}}]
notifiers: {{ops: {{webhook: env:OPS}}, other: {{webhook: env:OTHER}}}}
"""


def change(path: Path, *statements: str) -> None:
    """Change the live database; closed when this returns."""
    db = sqlite3.connect(path)
    with db:
        for statement in statements:
            db.execute(statement)
    db.close()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> User:
    """Three nights of a source: one record went in the second, two in the third."""
    user = User(tmp_path_factory.mktemp("incident"))
    user.init()
    live = user.folder / "crm.db"
    change(
        live, "create table customers(id integer primary key, name text)", "create table notes(id integer primary key)"
    )
    change(live, *(f"insert into customers values ({n}, 'Kanarienvogel{n}')" for n in range(1, 40)))
    for gone in ("", "id = 7", "id in (8, 9)"):
        if gone:
            change(live, f"delete from customers where {gone}")
        user.back_up(live, "--name", "crm")
    user.back_up(live, "--name", "shop")
    return user


@pytest.fixture
def user(there: User, tmp_path: Path) -> User:
    """The same with records of its own."""
    shutil.copytree(there.folder, tmp_path / "u")
    return User(tmp_path / "u")


def nights(user: User) -> list[str]:
    """Ids of the snapshots of crm, oldest first."""
    listed = user.run("snapshots", "--source", "crm", "--json", key="check").document["snapshots"]
    return [s["id"] for s in listed]


def opened(user: User, *more: str) -> str:
    """The id of a fresh incident."""
    done = user.run(
        "incident", "open", "--source", "crm", "--reason", "records are missing", "--json", *more, key="read"
    )
    assert done.code == 0, done.err + done.out
    incident: str = done.document["incident"]
    return incident


def kept(user: User, *more: str) -> dict[str, list[str]]:
    """What a real prune keeps, and why."""
    done = user.run("prune", "--keep-last", "1", "--json", *more, key="prune")
    assert done.code == 0, done.err + done.out
    return {one["snapshot"]: one["reasons"] for one in done.document["keep"]}


def test_what_is_of_an_open_incident_survives_a_prune(user: User) -> None:
    """Snapshots from before and those that are taken meanwhile, with the reason; other sources go by the rule."""
    before = nights(user)
    incident = opened(user)
    user.back_up(user.folder / "crm.db", "--name", "crm")
    user.back_up(user.folder / "crm.db", "--name", "crm")
    there = kept(user)
    assert set(nights(user)) < set(there)
    assert len(nights(user)) == len(before) + 2
    for one in nights(user):
        assert f"held: incident {incident} (other): records are missing" in there[one]
    refused = user.run("forget", before[0], key="prune")
    assert refused.code == 20
    assert incident in refused.err


def test_closing_with_a_read_key_ends_no_holding(user: User) -> None:
    """Whoever stole it could; a prune key beside it, or later, releases; and then the rule counts again."""
    incident, before = opened(user), nights(user)
    done = user.run("incident", "close", incident[:6], "--summary", "over", "--json", key="read")
    assert done.code == 0, done.err
    assert (done.document["closed"], done.document["released"]) == (True, False)
    assert set(done.document["held"]) == set(before)
    assert {"no drill ever proved a restore of it"} <= {c["what"] for c in done.document["should_change"]}
    assert set(before) <= set(kept(user, "--dry-run"))
    assert user.run("incident", "note", incident, "more", key="read").code == 20
    later = user.run("incident", "close", incident, "--summary", "reviewed", "--json", key="prune").document
    assert (later["closed"], later["released"], later["held"]) == (False, True, [])
    assert set(kept(user)) & set(before) == {before[-1]}
    (listed,) = user.run("incident", "list", "--json", key="check").document["incidents"]
    assert (listed["state"], listed["held"], listed["steps"]) == ("closed", False, 2)


def test_both_keys_close_and_release_at_once(user: User) -> None:
    """And a prune key alone closes nothing."""
    incident = opened(user)
    assert user.run("incident", "close", incident, "--summary", "x", key="prune").code == 2
    both = user.run("incident", "close", incident, "--summary", "over", "--json", key="read,prune").document
    assert (both["closed"], both["released"]) == (True, True)


def test_rights_and_refusals(user: User) -> None:
    """Check, prune and write keys open nothing (12); an unknown source is 2, an unknown incident 1; a dry run writes nothing."""
    words = ("incident", "open", "--source", "crm", "--reason", "x")
    for role in ("check", "prune", "write"):
        assert user.run(*words, key=role).code == 12
    assert user.run("incident", "open", "--source", "nobody", "--reason", "x", key="read").code == 2
    assert "still to come" in user.run(*words, "--detected", "2999-01-01", key="read").err
    assert user.run("incident", "note", "abcd", "x", key="read").code == 1
    assert user.run(*words, "--dry-run", key="read").code == 0
    assert user.run("incident", "list", "--json", key="check").document["incidents"] == []
    incident = opened(user)
    for more in (["note", incident, "x"], ["update", incident, "x"], ["close", incident, "--summary", "x"]):
        assert user.run("incident", *more, "--dry-run", key="read").code == 0
    assert user.run("incident", "list", "--json", key="root").document["incidents"][0]["steps"] == 1
    assert user.run("incident", "note", incident, "by root", key="root").code == 0


def test_triage_names_the_night_and_the_newest_snapshot_that_had_it(user: User) -> None:
    """By table, by record, from when on; the incident keeps numbers of it and no name."""
    first, second, third = nights(user)
    incident = opened(user)
    found = user.run(
        "incident", "triage", incident, "--table", "customers", "--record", "7", "--json", key="read"
    ).document
    (one,) = found["sources"]
    assert [(n["old"], n["key"]) for n in one["nights"]] == [(first, "removed")]
    assert one["nights"][0]["tables"] == [{"name": "customers", "added": 0, "removed": 1, "changed": 0, "reason": None}]
    assert one["newest_with"] == first
    words = ("incident", "triage", incident, "--table", "customers", "--nights", "1", "--json", "--record")
    (old,) = user.run(*words, "7", key="read").document["sources"]
    (there,) = user.run(*words, "12", key="read").document["sources"]
    (never,) = user.run(*words, "404", key="read").document["sources"]
    assert (old["newest_with"], there["newest_with"], never["newest_with"]) == (first, third, None)
    assert f"backupctl recover {first[:12]} customers:7 --into URL" in one["next"]
    (by_table,) = user.run("incident", "triage", incident, "--table", "customers", "--json", key="read").document[
        "sources"
    ]
    assert by_table["newest_with"] == second
    assert by_table["nights"][0]["tables"] == [
        {"name": "customers", "added": 0, "removed": 2, "changed": 0, "reason": None}
    ]
    early = user.run(
        "incident", "triage", "--source", "crm", "--since", "2020-01-01T00:00Z", "--json", key="read"
    ).document
    assert (early["incident"], early["sources"][0]["newest_before"]) == (None, None)
    assert [a["snapshot"] for a in early["sources"][0]["after"]] == [first, second, third]
    said = user.run("incident", "triage", incident, "--table", "customers", key="read")
    assert f"the newest snapshot that still had it: {second[:12]}" in said.out
    assert "Kanarienvogel" not in said.out + json.dumps(found)
    assert user.run("incident", "triage", incident, "--record", "7", key="read").code == 2


def test_an_update_reaches_notifiers_status_and_nobody_else(user: User) -> None:
    """The webhook gets what the person wrote, rate and time left; without a policy it is said that nobody was told."""
    incident = opened(user)
    alone = user.run("incident", "update", incident, "looking", key="read")
    assert alone.code == 0
    assert "nobody was told" in alone.out
    folder = user.folder / "policies"
    folder.mkdir()
    (folder / "p.yaml").write_text(POLICY.format(repository=user.repository))
    user.environment["BACKUPCTL_CONFIG"] = str(folder)
    words = (
        "incident",
        "update",
        incident,
        HOSTILE,
        "--known",
        "since 3",
        "--restoring",
        "orders",
        "--rate",
        "1M",
        "--left",
        "60M",
    )
    with listening() as server:
        user.environment["OPS"] = server.url("/ops")
        done = user.run(*words, "--json", key="read")
        assert done.code == 0, done.err
        body = json.loads(server.asked[0].body)
        assert len(server.asked) == 1
        over = user.run("incident", "close", incident, "--summary", "all back", "--json", key="read")
        assert over.document["told"] == [{"policy": "nightly", "notifier": "ops", "sent": True, "error": None}]
    assert body["event"] == "incident"
    assert HOSTILE in body["text"]
    assert "Being restored: orders" in body["text"]
    assert "Measured rate: 1.0 MB/s. Left: 62.9 MB." in body["text"]
    assert json.loads(server.asked[1].body)["resolved"] is True


def test_an_update_that_reaches_nobody_fails_and_is_recorded(user: User) -> None:
    """Exit 1 with who was not told; the record stands, and `status` tells it."""
    incident = opened(user)
    file = user.folder / "p.yaml"
    file.write_text(POLICY.format(repository="/elsewhere"))
    with listening() as server:
        server.status = 403
        user.environment["OPS"] = server.url("/ops")
        done = user.run("incident", "update", incident, "orders gone", "--to-policy", str(file), "--json", key="read")
    assert done.code == 1
    assert done.document["told"][0]["sent"] is False
    status = user.run("status", "--json", "--direct", key="check").document
    assert status["sentence"].count(incident[:8]) == 1
    assert "orders gone" in status["sentence"]
    (crm,) = [source for source in status["sources"] if source["name"] == "crm"]
    assert crm["incidents"][0]["message"] == "orders gone"


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not any(name.startswith("on") or name == "src" for name, _ in attrs)


def test_a_breach_is_reported_signed_and_checked_offline(user: User) -> None:
    """Deadline, keys, persons; hostile words are text; a changed file is 4, and no repository is needed to see it."""
    file = user.folder / "policies" / "p.yaml"
    file.parent.mkdir()
    file.write_text(POLICY.format(repository=user.repository))
    user.environment["BACKUPCTL_CONFIG"] = str(file.parent)
    incident = opened(user, "--kind", "breach", "--detected", "2026-11-20T10:00:00Z")
    assert user.run("incident", "note", incident, HOSTILE, key="read").code == 0
    assert user.run("restore", "latest:crm", "back.db", key="read").code == 0
    words = ("incident", "report", incident, "--exposed", "read", "--exposed", "write")
    done = user.run(*words, "--out", "out", "--since", "2020-01-01T00:00Z", "--json", key="read")
    assert done.code == 0, done.err
    said = done.document["report"]
    breach = said["breach"]
    assert (breach["notice_until"], len(breach["exposed"])) == ("2026-11-23T10:00:00Z", 3)
    assert [e["subjects"] for e in breach["exposed"]] == [39, 38, 36]
    assert {k["role"]: k["opens_rows"] for k in breach["keys"]} == {"read": True, "write": False}
    assert [r["outcome"] for r in said["restored"] if r["action"] == "restore"] == ["done"]
    assert [s["snapshot"] for s in said["evidence"]["snapshots"]] == nights(user)
    assert said["evidence"]["problems"] == []
    page = (user.folder / f"out/incident-{incident}.html").read_text()
    assert not _Tags(page).seen & {"script", "img", "link", "iframe"}
    assert "&lt;script&gt;" in page
    elsewhere = {name: value for name, value in user.env().items() if name != "BACKUPCTL_REPOSITORY"}
    for suffix in ("json", "html"):
        path = user.folder / f"out/incident-{incident}.{suffix}"
        key = str(user.folder / "keys/check.key")
        checked = user.run("incident", "report", "--verify", str(path), "--key", key, env=elsewhere)
        assert checked.code == 0, checked.err
        assert "by read key" in checked.out
        path.write_text(path.read_text().replace("2026-11-23T10", "2026-11-29T10"))
        assert user.run("incident", "report", "--verify", str(path), "--key", key, env=elsewhere).code == 4
        if suffix == "json":  # what is not signed has no place in it, and no reader may be shown the first of two
            for added in (' "note": "nothing was lost",', ' "statement": {"summary": "nothing was lost"},'):
                with pytest.raises(IntegrityError):
                    carried(path.read_bytes().replace(b"{", b"{" + added.encode(), 1))
    assert user.run(*words, "--out", "out", key="read").code == 20


def test_what_was_lost_is_counted_from_what_triage_found(user: User) -> None:
    """And what of it is still missing after it came back; the linked restore is named."""
    first, _, third = nights(user)
    incident = opened(user)
    words = ("incident", "triage", incident, "--table", "customers", "--record", "7")
    assert user.run(*words, key="read").code == 0
    change(user.folder / "crm.db", "insert into customers values (7, 'back')")
    newest = user.back_up(user.folder / "crm.db", "--name", "crm")["snapshot"]
    assert user.run("restore", first, "back.db", key="read").code == 0
    done = user.run("audit", "show", "--json", key="check").document["entries"]
    restore = [e["record"] for e in done if e["action"] == "restore"][-1]
    assert user.run("incident", "note", incident, "7 came back", "--recovery", restore, key="read").code == 0
    assert user.run("incident", "note", incident, "x", "--recovery", "records/read/000000000999", key="read").code == 2
    said = user.run("incident", "report", incident, "--dry-run", "--json", key="read").document["report"]
    (lost,) = said["lost"]
    assert (lost["before"], lost["after"], lost["newest"]) == (first, third, newest)
    assert [table["removed"] for table in lost["tables"]] == [3]
    assert [(table["removed"], table["changed"]) for table in lost["still"]] == [(2, 1)]
    assert [r["linked"] for r in said["restored"] if r["record"] == restore] == [True]
    assert "breach" not in said


def test_records_that_were_taken_away_are_noticed(user: User) -> None:
    """A step without its opening stops every prune; one without the step before it is told, and nothing is released."""
    incident = opened(user)
    assert user.run("incident", "note", incident, "by recovery", key="recovery").code == 0
    assert user.run("incident", "note", incident, "by root", key="root").code == 0
    records = Path(user.repository) / "records"
    note = next((records / "recovery").iterdir())
    note.rename(user.folder / "hidden")
    listed = user.run("incident", "list", "--json", key="check").document
    assert [p["kind"] for p in listed["problems"]] == ["missing"]
    assert user.run("incident", "close", incident, "--summary", "x", key="read,prune").code == 4
    for record in (records / "read").iterdir():
        record.unlink()
    refused = user.run("prune", "--keep-last", "1", key="prune")
    assert refused.code == 4
    assert "no record opens that" in refused.err
