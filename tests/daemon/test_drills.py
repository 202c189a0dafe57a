"""A daemon that drills: by the real verb, from the first snapshot on, with what it found in catalog, repository and metrics."""

from datetime import UTC, datetime
from typing import Any

from backupd.catalog.queue import JobSpec
from tests.daemon.kit import Site, until


def test_a_daemon_drills_what_it_has_backed_up(site: Site) -> None:
    """Nothing before there is a snapshot; one that passes proves it, one that does not is an alert, and one may be asked for."""
    keys = {role: f"file:{site.folder}/keys/{role}.key" for role in ("write", "check", "read")}
    asked: dict[str, Any] = {"sql": "select count(*) from t", "min": 1}
    spread, now = 2 * 3600, datetime.now(UTC).timestamp()  # of their first times: those of one of these are over
    days = next(days for days in (7, 6, 5, 11, 13) if now % (days * 86400) > spread)
    drill = {"every": f"{days}d", "assert": [asked, {**asked, "min": 1000, "source": "two"}]}
    site.write(schedule={"every": "366d"}, keys=keys, drill=drill)
    with site.daemon() as daemon, site.catalog() as catalog:
        daemon.wait_for("ready")
        until(lambda: [e for e in daemon.events("job ends") if e["kind"] == "refresh"])
        assert [e for e in daemon.events("job begins") if e["kind"] == "drill"] == []
        for source in ("one", "two"):
            assert catalog.queue.submit(JobSpec("run", "crm", source, source, source), datetime.now(UTC))
        until(lambda: {drill.source for drill in catalog.drills.list()} == {"one", "two"})
        assert {(d.source, d.passed, bool(d.restore_seconds)) for d in catalog.drills.list()} == {
            ("one", True, True),
            ("two", False, True),
        }
        (alert,) = until(catalog.alerts.list_open)
        assert (alert.event, alert.source) == ("drill_failed", "two")
        assert alert.sentence.startswith("1 of ")
        assert "select count(*) from t" in alert.sentence
        done = site.user.run("drill", "crm", "two", "--queue", "--wait", "--json", "--config", str(site.policies))
        assert (done.code, [job["outcome"] for job in done.document["jobs"]]) == (1, ["failed"])
        metrics = daemon.get("/metrics")[1]
        assert 'backupd_drill_failed{policy="crm",source="two"} 1.0' in metrics
        assert 'backupd_drill_last_success_timestamp_seconds{policy="crm",source="one"}' in metrics
        assert daemon.stop() == 0
    assert {s["source"]: bool(s["drilled_at"]) for s in site.snapshots()} == {"one": True, "two": False}
