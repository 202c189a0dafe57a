"""The daemon as a process: it starts, works, reloads, survives kill -9 of anything, and ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from backupd.errors import Exit
from tests.daemon.kit import PATIENCE, Daemon, Site, until
from tests.servers.listening import listening


def test_it_works_reloads_and_ends(site: Site) -> None:
    """From an empty state folder: snapshots, readiness, metrics, a broken and a good reload, and an end in order."""
    file = site.write()
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        until(lambda: site.done("one") >= 1 and site.done("two") >= 1)
        assert daemon.get("/health") == (200, "ok\n")
        assert daemon.get("/ready") == (200, "ok\n")
        until(lambda: 'backupd_last_success_timestamp_seconds{policy="crm",source="one"}' in daemon.get("/metrics")[1])
        assert 'backupd_snapshots{policy="crm",source="two"}' in daemon.get("/metrics")[1]

        good = file.read_text()
        file.write_text(good.replace('"every": "2s"', '"every": "soon"'))
        daemon.send(signal.SIGHUP)
        (refused,) = daemon.wait_for("the policies stay as they were: the new ones are not valid")
        assert f"{file}:1:" in refused["reason"]
        file.write_text(good)
        site.write("web", ("three",))
        daemon.send(signal.SIGHUP)
        assert daemon.wait_for("policies in force", 2)[1]["policies"] == ["crm", "web"]
        until(lambda: site.done("three") >= 1)
        file.unlink()  # whatever becomes of the files meanwhile
        before = site.done("two")
        until(lambda: site.done("two") > before)
        assert daemon.stop() == 0
    said = daemon.told
    assert said[0].startswith("READY=1\nSTATUS=2 sources; http://127.0.0.1:")
    assert sum(text.startswith("RELOADING=1\nMONOTONIC_USEC=") for text in said) == 2
    assert sum(text.startswith("READY=1") for text in said) == 3, "each reload ends with one, taken or not"
    assert "WATCHDOG=1" in said
    assert any(text.startswith("STATUS=") for text in said)
    assert any(text.startswith("STOPPING=1") for text in said)
    assert daemon.lines()[-1]["event"] == "ended"
    with site.catalog() as catalog:
        assert catalog.heartbeats.all() == {}, "who ended in order is not missed"
        assert catalog.runs.unfinished() == []
        assert catalog.audit.verify() is None
        assert [entry.action for entry in catalog.audit.newest(1)] == ["stop"]
        ids = {snapshot.id for snapshot in catalog.snapshots.list()}
    assert {snapshot["id"] for snapshot in site.snapshots()} == ids, "the catalog knows what the repository has"


def test_a_second_one_is_refused(site: Site) -> None:
    site.write()
    with site.daemon() as first:
        first.wait_for("ready")
        with site.daemon(name="second") as second:
            assert second.process.wait(PATIENCE) == Exit.BUSY
            assert f":{first.pid}) is at work here" in second.log.read_text()
        assert first.stop(signal.SIGINT) == 0


def slow(site: Site, seconds: float = 2) -> Path:
    """A policy with one source, whose runs say that they began and take a while; returns the file they say it in."""
    marks = site.folder / "marks"
    site.write(sources=("one",), schedule={"every": "366d"}, hooks={"before": [f"echo $$ >> {marks}; sleep {seconds}"]})
    return marks


def submit(site: Site, key: str = "now") -> None:
    """Have a run done now."""
    from datetime import UTC, datetime

    from backupd.catalog.queue import JobSpec

    with site.catalog() as catalog:
        spec = JobSpec("run", "crm", "one", key, "run:one", max_attempts=5)
        assert catalog.queue.submit(spec, datetime.now(UTC))


def runs_of(site: Site) -> list[str]:
    with site.catalog() as catalog:
        return [run.end.outcome if run.end else "open" for run in reversed(catalog.runs.list(kinds=["run"]))]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def began(daemon: Daemon, kind: str = "run") -> int:
    """The process of the newest job of a kind."""
    return int(until(lambda: [e for e in daemon.events("job begins") if e["kind"] == kind])[-1]["pid"])


def test_a_daemon_that_was_killed_leaves_nothing_undone(site: Site) -> None:
    """kill -9: its job ends with it, the next daemon does it anew at once, and there is one snapshot."""
    marks = slow(site)
    with site.daemon() as first:
        first.wait_for("ready")
        submit(site)
        child = began(first)
        until(marks.exists)
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: gone(child))
    with site.daemon(name="second") as second:
        second.wait_for("the daemon before this one left jobs behind")
        until(lambda: site.done("one") == 1)
        assert second.stop() == 0
    assert runs_of(site) == ["lost", "done"]
    assert len(site.snapshots()) == 1


def test_a_job_that_was_killed_is_tried_again(site: Site) -> None:
    marks = slow(site)
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        submit(site)
        child = began(daemon)
        until(marks.exists)
        os.kill(child, signal.SIGKILL)
        until(lambda: site.done("one") == 1)
        assert daemon.stop() == 0
    assert runs_of(site) == ["failed", "done"]
    assert len(site.snapshots()) == 1


def test_an_end_that_was_asked_for_waits_for_the_jobs(site: Site) -> None:
    """The job comes to its end, nothing new begins, and nobody is told that something failed."""
    marks = slow(site)
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        submit(site)
        until(marks.exists)
        daemon.send(signal.SIGTERM)
        daemon.wait_for("ending")
        assert daemon.get("/ready") == (503, "draining\n")
        submit(site, "too late")
        assert daemon.process.wait(PATIENCE) == 0
    assert runs_of(site) == ["done"]


def test_an_end_that_was_asked_for_twice_puts_the_jobs_back(site: Site) -> None:
    marks = slow(site, 30)
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        submit(site)
        until(marks.exists)
        daemon.send(signal.SIGTERM)
        daemon.wait_for("ending")
        assert daemon.stop() == 0
    with site.catalog() as catalog:
        assert [job.spec.key for job in catalog.queue.list(["queued"]) if job.spec.kind == "run"] == ["now"]
        assert catalog.alerts.list_open() == []


def test_it_says_so_while_the_catalog_is_gone(site: Site) -> None:
    """And goes on where the file comes back."""
    site.write(sources=("one",))
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        until(lambda: site.done("one") >= 1)
        catalog = site.state / "catalog.sqlite"
        catalog.rename(site.folder / "aside")
        until(
            lambda: any("catalog.sqlite is gone" in t["reason"] for t in daemon.events("the daemon cannot do its work"))
        )
        assert not catalog.exists(), "nobody makes an empty one in its place"
        assert daemon.get("/ready") == (503, "failing\n")
        (site.folder / "aside").rename(catalog)
        daemon.wait_for("the daemon works again")
        assert daemon.get("/ready") == (200, "ok\n")
        assert daemon.stop() == 0


def test_a_catalog_that_is_locked_for_long_loses_no_run(site: Site) -> None:
    marks = slow(site, 1)
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        submit(site)
        until(marks.exists)
        other = apsw.Connection(str(site.state / "catalog.sqlite"))
        other.execute("begin immediate")
        daemon.wait_for("job ends", len(daemon.events("job ends")) + 1)
        other.execute("rollback")
        other.close()
        until(lambda: site.done("one") == 1)
        assert daemon.stop() == 0
    assert runs_of(site) == ["done"]


def test_a_damaged_catalog_is_refused_with_a_word(site: Site) -> None:
    site.write()
    site.state.mkdir(parents=True)
    (site.state / "catalog.sqlite").write_bytes(os.urandom(8192))
    with site.daemon() as daemon:
        assert daemon.process.wait(PATIENCE) == Exit.INTEGRITY
        assert "backupctl catalog rebuild" in daemon.log.read_text()


def test_policies_that_are_not_valid_are_refused_at_the_start(site: Site) -> None:
    site.write(schedule={"every": "never"})
    with site.daemon() as daemon:
        assert daemon.process.wait(PATIENCE) == Exit.USAGE
    words = ["--check", "--config", str(site.policies)]
    done = subprocess.run(
        [sys.executable, "-m", "backupd", *words], capture_output=True, env=site.user.env(), check=False
    )
    assert done.returncode == Exit.USAGE


def test_a_source_with_the_name_of_an_option_is_a_source(site: Site) -> None:
    site.write(sources=("--help",), schedule={"every": "1s"})
    with site.daemon() as daemon:
        daemon.wait_for("ready")
        until(lambda: site.done("--help") >= 1)
        assert daemon.stop() == 0


@pytest.mark.slow
def test_nothing_grows_over_thirty_runs(site: Site) -> None:
    """Neither descriptors nor processes nor files; and whoever hears of it hears of each run."""
    site.write(sources=("one",), schedule={"every": "1s"})
    with site.daemon("--jobs", "1") as daemon:
        daemon.wait_for("ready")
        until(lambda: site.done("one") >= 3)
        daemon.get("/")
        before = set(os.listdir(f"/proc/{daemon.pid}/fd")), len(list((site.state / "daemon").iterdir()))
        until(lambda: site.done("one") >= 33, 240)
        daemon.get("/")
        after = set(os.listdir(f"/proc/{daemon.pid}/fd")), len(list((site.state / "daemon").iterdir()))
        assert len(after[0]) <= len(before[0]) + 4, "those of one job more or less"
        assert after[1] == before[1]
        assert len(daemon.children()) <= 1
        assert daemon.stop() == 0
    assert len(site.snapshots()) == site.done("one")


def test_a_notice_that_was_not_sent_when_the_daemon_died_is_sent_by_the_next(site: Site) -> None:
    """A run fails for good while the webhook's server is down; kill -9; the next daemon tells it."""
    with listening() as server:
        address = site.folder / "webhook"
        address.write_text(server.url("/not-a-word-of-this"))
        site.write(
            sources=("one",),
            schedule={"every": "366d"},
            retries={"attempts": 1},
            hooks={"before": ["exit 7"]},
            notifiers={"ops": {"webhook": f"file:{address}"}},
            notify=[{"on": ["failure"], "to": "ops"}],
        )
        server.status = 503
        with site.daemon("--role", "scheduler", "--role", "worker") as first:
            first.wait_for("ready")
            submit(site)
            first.wait_for("not told")
            os.kill(first.pid, signal.SIGKILL)
            first.process.wait()
        server.status = 200
        server.asked.clear()
        with site.catalog() as catalog:  # no need to wait half a minute for the next try
            (waiting,) = catalog.outbox.list(waiting_only=True)
            catalog.outbox.failed(waiting.id, waiting.enqueued, waiting.enqueued, "soon")
        with site.daemon("--role", "scheduler", name="second") as second:
            second.wait_for("told")
            assert second.stop() == 0
        assert len(server.asked) == 1
        assert b"Backup of crm/one failed" in server.asked[0].body
        assert b"hook" not in server.asked[0].body
        everything = b"".join(path.read_bytes() for path in site.state.iterdir() if path.is_file())
        assert b"not-a-word-of-this" not in everything + first.log.read_bytes() + second.log.read_bytes()
