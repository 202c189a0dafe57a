"""The metrics that the daemon serves, with their labels: what rules and dashboards may ask for."""

import re

_SOURCE = frozenset({"policy", "source"})
METRICS: dict[str, frozenset[str]] = {
    "backupd_last_success_timestamp_seconds": _SOURCE,
    "backupd_rpo_target_seconds": _SOURCE,
    "backupd_rpo_used_ratio": _SOURCE,
    "backupd_next_run_timestamp_seconds": _SOURCE,
    "backupd_runs_total": _SOURCE | {"outcome"},
    "backupd_run_duration_seconds_bucket": _SOURCE | {"le"},
    "backupd_run_duration_seconds_sum": _SOURCE,
    "backupd_run_duration_seconds_count": _SOURCE,
    "backupd_run_bytes_total": _SOURCE | {"stage"},
    "backupd_verify_last_success_timestamp_seconds": frozenset({"policy", "level"}),
    "backupd_verify_overdue": frozenset({"policy", "level"}),
    "backupd_drill_last_success_timestamp_seconds": _SOURCE,
    "backupd_drill_overdue": _SOURCE,
    "backupd_drill_failed": _SOURCE,
    "backupd_drill_restore_seconds": _SOURCE,
    "backupd_rto_target_seconds": _SOURCE,
    "backupd_repository_bytes": frozenset({"policy"}),
    "backupd_repository_locked_until_timestamp_seconds": frozenset({"policy"}),
    "backupd_lock_short": frozenset({"policy"}),
    "backupd_snapshots": _SOURCE,
    "backupd_brake": _SOURCE,
    "backupd_source_verdict": _SOURCE,
    "backupd_jobs": frozenset({"state"}),
    "backupd_oldest_queued_job_seconds": frozenset(),
    "backupd_worker_heartbeat_timestamp_seconds": frozenset({"worker"}),
    "backupd_notifications_total": frozenset({"notifier", "outcome"}),
    "backupd_notify_failing": frozenset(),
    "backupd_catalog_mismatch": frozenset({"policy"}),
    "backupd_build_info": frozenset({"version"}),
}
_SELECTOR = re.compile(r"\b(backupd_\w+)(?:\{([^}]*)\})?")


def strangers(expression: str) -> list[str]:
    """Metrics, or labels inside the braces of one, that the daemon does not serve."""
    found = []
    for name, braces in _SELECTOR.findall(expression):
        if name not in METRICS:
            found.append(name)
            continue
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))
        found += [f"{name}{{{label}}}" for label in sorted(labels - METRICS[name])]
    return found
