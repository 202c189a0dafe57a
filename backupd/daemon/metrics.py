"""The overview as Prometheus reads it: base units, moments instead of ages, names for which the alert rules are written.

What never happened has no sample: a rule asks with `unless` or `absent`. Counters are totals of the catalog, so they go on
after a restart; they fall only when the catalog is lost. Nothing here counts by itself, and nothing but an overview is
exposed: the registry is its own.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from backupd.catalog.totals import DURATION_BOUNDS
from backupd.daemon.overview import Overview, RunTotals, SourceView
from backupd.errors import StorageRefused

__all__ = ["CONTENT_TYPE", "exposition", "write_textfile"]

OUTCOMES = ("done", "failed", "incomplete", "cancelled", "lost")
"""Each has a sample from the beginning, so that the first failure of a source is an increase."""
_VERDICTS = {"ok": 0, "warn": 1, "breach": 2}
_Labels = tuple[str, ...]
_Sample = tuple[_Labels, float | None]


def exposition(overview: Overview) -> bytes:
    """In the text format, version 0.0.4 (`CONTENT_TYPE`)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(overview))
    return generate_latest(registry)


def write_textfile(overview: Overview, path: Path) -> None:
    """For the node exporter's textfile collector, after a run without a daemon; a reader sees the old file or the new one.

    Args:
        path: must end in `.prom`, or the collector passes it over.

    Raises:
        StorageRefused: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")  # not *.prom: the collector must not read half of it
    try:
        try:
            with open(beside, "wb") as file:
                file.write(exposition(overview))
                os.fchmod(file.fileno(), 0o644)  # the exporter is another user; names and numbers are no secret to it
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageRefused(
            f"the metrics cannot be written: {error.strerror}",
            object_name=str(path),
            hint="make its folder, and let the user of backupd write there",
        ) from error


class _Collected(Collector):
    """The metrics of one overview."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        """All of them, in a fixed order."""
        seen = self._overview
        yield from _promises(seen.sources)
        yield from _drills(seen.sources)
        yield from _runs(seen)
        yield from _repositories(seen)
        yield from _works(seen)


def _gauge(name: str, text: str, labels: _Labels, samples: Iterable[_Sample]) -> Metric:
    family = GaugeMetricFamily(f"backupd_{name}", text, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric(values, value)
    return family


def _moment(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment else None


def _per_source(
    sources: Iterable[SourceView], name: str, text: str, read: Callable[[SourceView], float | None]
) -> Metric:
    return _gauge(name, text, ("policy", "source"), (((s.policy, s.name), read(s)) for s in sources))


def _promises(sources: tuple[SourceView, ...]) -> Iterator[Metric]:
    yield _per_source(
        sources,
        "last_success_timestamp_seconds",
        "When the newest good snapshot was taken; none: never.",
        lambda s: _moment(s.last_good),
    )
    yield _per_source(
        sources, "rpo_target_seconds", "How old the newest good snapshot may become.", lambda s: s.rpo_seconds
    )
    yield _per_source(
        sources, "rpo_used_ratio", "The share of that time which has passed; above 1 is a breach.", lambda s: s.rpo_used
    )
    yield _per_source(
        sources,
        "next_run_timestamp_seconds",
        "When the next run is due, before jitter.",
        lambda s: _moment(s.next_run),
    )
    yield _per_source(
        sources,
        "source_verdict",
        "0: protected as promised. 1: needs a look. 2: a promise is broken.",
        lambda s: _VERDICTS[s.verdict],
    )
    yield _per_source(sources, "snapshots", "Snapshots of the source in its repository.", lambda s: s.snapshots)


def _drills(sources: tuple[SourceView, ...]) -> Iterator[Metric]:
    yield _per_source(
        sources,
        "drill_last_success_timestamp_seconds",
        "When a drill last proved a restore.",
        lambda s: _moment(s.drilled_at),
    )
    yield _per_source(
        sources,
        "drill_overdue",
        "1: the policy promises drills, and the last good one is too long ago, or never was though there was time enough.",
        lambda s: float(s.drill_overdue) if s.drill_every_seconds is not None else None,
    )
    yield _per_source(
        sources,
        "drill_failed",
        "1: the newest drill that this daemon knows of did not pass.",
        lambda s: float(s.drill_failed_at is not None) if s.drill_every_seconds is not None else None,
    )
    yield _per_source(
        sources,
        "drill_restore_seconds",
        "How long the restore of the newest drill took that had one.",
        lambda s: s.restore_seconds,
    )
    yield _per_source(sources, "rto_target_seconds", "How long a restore may take.", lambda s: s.rto_seconds)


def _runs(seen: Overview) -> Iterator[Metric]:
    totals = {(t.policy, t.source): t for t in seen.totals}
    for source in seen.sources:
        totals.setdefault((source.policy, source.name), RunTotals(source.policy, source.name))
    runs = CounterMetricFamily("backupd_runs", "Runs by how they ended.", labels=("policy", "source", "outcome"))
    lengths = HistogramMetricFamily("backupd_run_duration_seconds", "How long runs took.", labels=("policy", "source"))
    moved = CounterMetricFamily(
        "backupd_run_bytes",
        "Bytes that runs read from the source, and stored in the repository.",
        labels=("policy", "source", "stage"),
    )
    for key, one in totals.items():
        for outcome, count in (dict.fromkeys(OUTCOMES, 0) | dict(one.outcomes)).items():
            runs.add_metric((*key, outcome), count)
        bounds = [*(str(float(bound)) for bound in DURATION_BOUNDS), "+Inf"]
        summed = list(zip(bounds, accumulate(one.durations), strict=True))
        lengths.add_metric(key, [(bound, float(n)) for bound, n in summed], one.seconds)
        moved.add_metric((*key, "read"), one.read_bytes)
        moved.add_metric((*key, "stored"), one.stored_bytes)
    yield from (runs, lengths, moved)


def _repositories(seen: Overview) -> Iterator[Metric]:
    checks, places = seen.verifications, seen.repositories
    yield _gauge(
        "verify_last_success_timestamp_seconds",
        "When the repository was last found whole, by level.",
        ("policy", "level"),
        (((v.policy, v.level), _moment(v.last_ok)) for v in checks),
    )
    yield _gauge(
        "verify_overdue",
        "1: the policy promises this verification, and the last good one is too long ago or never was.",
        ("policy", "level"),
        (((v.policy, v.level), float(v.overdue)) for v in checks),
    )
    yield _gauge(
        "repository_bytes", "Bytes stored in the repository.", ("policy",), (((r.policy,), r.bytes) for r in places)
    )
    yield _gauge(
        "repository_locked_until_timestamp_seconds",
        "Until when the storage itself refuses to delete the newest snapshots.",
        ("policy",),
        (((r.policy,), _moment(r.locked_until)) for r in places),
    )
    yield _gauge(
        "lock_short",
        "1: snapshots are locked for less time than the policy promises.",
        ("policy",),
        (((r.policy,), float(r.lock_short) if r.lock_short is not None else None) for r in places),
    )
    yield _gauge(
        "catalog_mismatch",
        "1: the catalog and the repository do not tell the same.",
        ("policy",),
        (((r.policy,), float(r.catalog_mismatch)) for r in places),
    )
    braked = {(b.policy, b.source) for b in seen.brakes}
    yield _per_source(
        seen.sources,
        "brake",
        "1: pruning stands still after a sudden change, until a person releases the brake.",
        lambda s: float((s.policy, s.name) in braked),
    )


def _works(seen: Overview) -> Iterator[Metric]:
    yield _gauge("jobs", "Jobs in the queue by state.", ("state",), (((state,), n) for state, n in seen.queue.counts))
    yield _gauge(
        "oldest_queued_job_seconds",
        "For how long the oldest job that is due has waited; 0 if none does.",
        (),
        [((), seen.queue.oldest_queued_seconds)],
    )
    yield _gauge(
        "worker_heartbeat_timestamp_seconds",
        "When a worker was last heard of.",
        ("worker",),
        (((w.name,), _moment(w.heartbeat)) for w in seen.workers),
    )
    sent = CounterMetricFamily(
        "backupd_notifications", "Notifications by how they ended.", labels=("notifier", "outcome")
    )
    for total in seen.notifications:
        sent.add_metric((total.notifier, total.outcome), total.count)
    yield sent
    yield _gauge("notify_failing", "1: notifications do not get through.", (), [((), float(seen.notify_failing))])
    yield InfoMetricFamily("backupd_build", "What runs.", value={"version": seen.version})
