"""Metrics: what Prometheus parses is what the overview says, and nothing more."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backupd.catalog.totals import DURATION_BOUNDS
from backupd.daemon.metrics import OUTCOMES, exposition, write_textfile
from backupd.daemon.overview import Overview
from backupd.errors import StorageRefused
from tests.unit.daemon import samples

CRM = {"policy": "customers-nightly", "source": "crm"}
PER_SOURCE, PER_POLICY, PER_LEVEL = {"policy", "source"}, {"policy"}, {"policy", "level"}
NAMES = {
    "backupd_last_success_timestamp_seconds": PER_SOURCE,
    "backupd_rpo_target_seconds": PER_SOURCE,
    "backupd_rpo_used_ratio": PER_SOURCE,
    "backupd_next_run_timestamp_seconds": PER_SOURCE,
    "backupd_source_verdict": PER_SOURCE,
    "backupd_snapshots": PER_SOURCE,
    "backupd_drill_last_success_timestamp_seconds": PER_SOURCE,
    "backupd_drill_overdue": PER_SOURCE,
    "backupd_drill_failed": PER_SOURCE,
    "backupd_drill_restore_seconds": PER_SOURCE,
    "backupd_rto_target_seconds": PER_SOURCE,
    "backupd_brake": PER_SOURCE,
    "backupd_runs_total": {*PER_SOURCE, "outcome"},
    "backupd_run_duration_seconds_bucket": {*PER_SOURCE, "le"},
    "backupd_run_duration_seconds_count": PER_SOURCE,
    "backupd_run_duration_seconds_sum": PER_SOURCE,
    "backupd_run_bytes_total": {*PER_SOURCE, "stage"},
    "backupd_verify_last_success_timestamp_seconds": PER_LEVEL,
    "backupd_verify_overdue": PER_LEVEL,
    "backupd_repository_bytes": PER_POLICY,
    "backupd_repository_locked_until_timestamp_seconds": PER_POLICY,
    "backupd_lock_short": PER_POLICY,
    "backupd_catalog_mismatch": PER_POLICY,
    "backupd_jobs": {"state"},
    "backupd_oldest_queued_job_seconds": set(),
    "backupd_worker_heartbeat_timestamp_seconds": {"worker"},
    "backupd_notifications_total": {"notifier", "outcome"},
    "backupd_notify_failing": set(),
    "backupd_build_info": {"version"},
}


def parsed(overview: Overview) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample; one that comes twice is an error of ours."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(exposition(overview).decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(overview: Overview, name: str, **labels: str) -> float | None:
    return parsed(overview).get((f"backupd_{name}", frozenset(labels.items())))


def test_names_and_labels_are_those_that_rules_are_written_for() -> None:
    """Between them the samples show every name, with exactly its labels."""
    seen: dict[str, set[str]] = {}
    for make in (samples.well, samples.breach):
        for name, labels in parsed(make()):
            assert seen.setdefault(name, {label for label, _ in labels}) == {label for label, _ in labels}
    assert seen == NAMES


@pytest.mark.parametrize("name", samples.ALL)
def test_the_numbers_of_each_source_are_those_of_the_overview(name: str) -> None:
    """Present where the overview knows a number, absent where it does not."""
    overview = samples.ALL[name]()
    found = parsed(overview)
    for source in overview.sources:
        labels = frozenset({"policy": source.policy, "source": source.name}.items())
        expected = {
            "last_success_timestamp_seconds": source.last_good and source.last_good.timestamp(),
            "rpo_target_seconds": source.rpo_seconds,
            "rpo_used_ratio": source.rpo_used,
            "next_run_timestamp_seconds": source.next_run and source.next_run.timestamp(),
            "drill_last_success_timestamp_seconds": source.drilled_at and source.drilled_at.timestamp(),
            "drill_overdue": float(source.drill_overdue),
            "drill_failed": float(source.drill_failed_at is not None),
            "drill_restore_seconds": source.restore_seconds,
            "rto_target_seconds": source.rto_seconds,
            "snapshots": source.snapshots,
            "source_verdict": {"ok": 0, "warn": 1, "breach": 2}[source.verdict],
        }
        assert {key: found.get((f"backupd_{key}", labels)) for key in expected} == expected


def test_what_is_wrong_is_one() -> None:
    """Overdue, short, braked, mismatching and silent are 1 in the worst case and 0 (or absent) in the best."""
    for make, wrong in ((samples.breach, 1.0), (samples.well, 0.0)):
        overview = make()
        assert value(overview, "brake", policy="shop-hourly", source="shop") == wrong
        assert value(overview, "lock_short", policy="customers-nightly") == wrong
        assert value(overview, "catalog_mismatch", policy="customers-nightly") == wrong
        assert value(overview, "verify_overdue", policy="customers-nightly", level="content") == wrong
        assert value(overview, "notify_failing") == wrong
    assert (
        value(samples.breach(), "verify_last_success_timestamp_seconds", policy="customers-nightly", level="content")
        is None
    )
    assert value(samples.well(), "repository_locked_until_timestamp_seconds", policy="shop-hourly") is None


def test_a_drill_that_nobody_promised_cannot_be_overdue() -> None:
    """No sample, so that no rule fires."""
    overview = replace(samples.well(), sources=(samples.source(drill_every_seconds=None),))
    assert value(overview, "drill_overdue", **CRM) is None
    assert value(overview, "drill_failed", **CRM) is None


def test_counters_are_the_totals_and_every_outcome_has_one_from_the_beginning() -> None:
    """A source without totals starts at 0, or its first failure would be no increase."""
    overview = samples.breach()
    assert value(overview, "runs_total", **CRM, outcome="done") == 70
    assert value(overview, "runs_total", **CRM, outcome="lost") == 0
    for outcome in OUTCOMES:
        assert value(overview, "runs_total", policy="customers-nightly", source="archive", outcome=outcome) == 0
    assert value(overview, "run_bytes_total", **CRM, stage="read") == 1_000_000
    assert value(overview, "run_bytes_total", **CRM, stage="stored") == 5_000
    assert value(samples.well(), "notifications_total", notifier="ops", outcome="failed") == 1
    assert b"_created" not in exposition(samples.well())


def test_the_histogram_sums_its_classes_up() -> None:
    """Each class holds those below it; the last is the count."""
    total = samples.totals("crm")
    for place, bound in enumerate(DURATION_BOUNDS):
        expected = sum(total.durations[: place + 1])
        assert value(samples.well(), "run_duration_seconds_bucket", **CRM, le=str(float(bound))) == expected
    assert value(samples.well(), "run_duration_seconds_bucket", **CRM, le="+Inf") == sum(total.durations)
    assert value(samples.well(), "run_duration_seconds_count", **CRM) == sum(total.durations)
    assert value(samples.well(), "run_duration_seconds_sum", **CRM) == total.seconds


def test_a_name_with_quotes_backslashes_and_lines_stays_one_label() -> None:
    """It is parsed back as it was."""
    name = 'a"b\\c\nbackupd_runs_total{x="1"} 99'
    overview = replace(samples.well(), sources=(samples.source(name),))
    assert value(overview, "snapshots", policy="customers-nightly", source=name) == 27


def test_every_family_says_what_it_is() -> None:
    """A help text and a type for each."""
    for family in text_string_to_metric_families(exposition(samples.well()).decode()):
        assert family.documentation
        assert family.type in {"gauge", "counter", "histogram"}


def test_a_textfile_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """The exporter's user may read it."""
    path = tmp_path / "backupd.prom"
    path.write_text("old")
    before = path.stat().st_ino
    write_textfile(samples.well(), path)
    assert path.read_bytes() == exposition(samples.well())
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["backupd.prom"]


def test_a_textfile_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """With the path, and what to do."""
    with pytest.raises(StorageRefused, match="cannot be written") as caught:
        write_textfile(samples.well(), tmp_path / "nowhere" / "backupd.prom")
    assert str(caught.value.object_name).endswith("nowhere/backupd.prom")
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(StorageRefused):
        write_textfile(samples.well(), tmp_path / "folder.prom")
    assert os.listdir(tmp_path) == ["folder.prom"]
