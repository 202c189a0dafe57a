"""`backupctl audit` as a user has it: restores leave notes, and a changed history is named."""

from pathlib import Path

import pytest

from tests.cli.kit import CHINOOK, User


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> User:
    """A user who has backed up, restored, exported, compared, and held a snapshot."""
    user = User(tmp_path_factory.mktemp("user"))
    user.init()
    user.back_up()
    assert user.run("restore", "latest", "back.db", key="read").code == 0
    assert user.run("restore", "latest", "back.db", "--dry-run", "--overwrite", "back.db", key="read").code == 0
    assert user.run("export", "latest", "--dir", "plain", key="recovery").code == 0
    compare = ("verify", "--against-source", "--source", str(CHINOOK))
    assert user.run(*compare, key="read").code == 0
    assert user.run("verify", "--level", "content", key="read").code == 0
    assert user.run("hold", "add", "latest", "--reason", "case 4711", key="prune").code == 0
    return user


def test_show(ready: User) -> None:
    """Everything that was done and nothing that was not, the newest last, with the contract's keys."""
    done = ready.run("audit", "show", "--json", key="check")
    assert done.code == 0, done.out
    assert done.document["schema"] == "backupctl/audit-show/1"
    entries = done.document["entries"]
    assert {"at", "who", "role", "action", "object", "detail", "record"} <= entries[0].keys()
    wanted = ["trust", "snapshot", "restore-begun", "restore", "export-begun", "export", "compare", "verify-content"]
    assert [e["action"] for e in entries] == [*wanted, "hold"]
    assert [e["role"] for e in entries[4:6]] == ["recovery", "recovery"]
    text = ready.run("audit", "show", key="check")
    assert "case 4711" in text.out.splitlines()[-1]
    assert "back.db" not in text.out
    assert len(ready.run("audit", "show", "--limit", "2", "--json", key="check").document["entries"]) == 2
    assert ready.run("audit", "show", "--since", "2999-01-01", "--json", key="check").document["entries"] == []
    assert ready.run("audit", "show", "--since", "tomorrow", key="check").code == 2
    of_source = ready.run("audit", "show", "--source", "chinook", "--json", key="check").document["entries"]
    assert {"trust", "verify-content"} & {e["action"] for e in of_source} == set()
    assert len(of_source) == 7


def test_what_a_key_does_not_open_is_counted(ready: User) -> None:
    """A write key sees its snapshots and trust, and how many entries it does not."""
    done = ready.run("audit", "show", "--json", key="write").document
    assert {e["action"] for e in done["entries"]} == {"snapshot", "trust"}
    assert done["hidden"] == 7
    assert "7 more not shown" in ready.run("audit", "show", key="write").err


def test_a_restore_from_a_storage_that_cannot_be_written(ready: User, tmp_path: Path) -> None:
    """Where no note can be left the restore is done all the same, with a warning on standard error."""
    user = User(tmp_path)
    user.init()
    user.back_up()
    (Path(user.repository) / "records/read/000000000001").mkdir(parents=True)  # what cannot be written over
    done = user.run("restore", "latest", "back.db", "--json", key="read")
    assert done.code == 0, done.out
    assert any("no note of this restore" in text for text in done.document["warnings"])
    assert (tmp_path / "back.db").read_bytes() == CHINOOK.read_bytes()


def test_verify(ready: User, tmp_path: Path) -> None:
    """A whole history says what was checked; a removed record is 4 and named; it takes the check right."""
    good = ready.run("audit", "verify", "--json", key="check")
    assert good.code == 0, good.out
    assert good.document["checked"] == {"records": 7, "snapshots": 1, "writers": 1, "trust": 1, "catalog": 0}
    assert good.document["problems"] == []
    assert "the history is whole: 7 records, 1 snapshot of 1 writer" in ready.run("audit", "verify", key="check").out
    assert ready.run("audit", "verify", key="write").code == 12
    gone = Path(ready.repository) / "records/read/000000000002"
    kept = gone.read_bytes()
    gone.unlink()
    bad = ready.run("audit", "verify", "--json", key="check")
    gone.write_bytes(kept)
    assert bad.code == 4
    assert bad.document["error"]["object"] == "records/read/000000000002"
    assert bad.document["problems"][0]["kind"] == "missing"


def test_the_daemons_own_history_stands_among_it(tmp_path: Path) -> None:
    """What the daemon wrote down is shown beside the repository's history; one entry changed by hand is exit 4, naming it."""
    import sqlite3
    from datetime import UTC, datetime

    from backupd.config.paths import state_base
    from backupd.wiring import open_catalog

    user = User(tmp_path)
    user.init()
    user.back_up()
    assert not list(tmp_path.rglob("catalog.sqlite"))
    base = state_base(str(Path(user.env()["XDG_STATE_HOME"]) / "backupd"))
    with open_catalog(base) as catalog:
        for n in range(3):
            facts = {"source": "chinook", "outcome": "failed", "exit": 14}
            catalog.audit.append("backupd", "run", f"policy-{n}", datetime.now(UTC), facts)
    shown = user.run("audit", "show", "--json", key="check").document["entries"]
    assert [(e["role"], e["action"], e["source"]) for e in shown[-3:]] == [("daemon", "daemon run", "chinook")] * 3
    assert user.run("audit", "verify", "--json", key="check").document["checked"]["catalog"] == 3
    database = sqlite3.connect(base / "catalog.sqlite")
    database.execute("update audit set object = 'policy-9' where n = 2")
    database.commit()
    database.close()
    done = user.run("audit", "verify", "--json", key="check")
    assert done.code == 4
    assert done.document["error"]["object"] == "catalog entry 2"
