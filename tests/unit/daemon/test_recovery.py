"""What dead workers leave behind is found and ended, and people hear of what failed for good."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backupd.catalog.opening import Catalog
from backupd.catalog.queue import Claim, JobSpec
from backupd.daemon.recovery import Recovery
from backupd.wiring import open_catalog
from tests.unit.daemon.kit import NOW, later, quiet, spec

MINUTES = timedelta(minutes=1)


class Scene:
    """A catalog, and who is told of failures."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.failed: list[tuple[str, str]] = []
        log, self.out = quiet()
        self.recovery = Recovery(catalog, self._tell, log)

    def _tell(self, job: JobSpec, number: str, now: datetime, why: str) -> None:
        self.failed.append((job.key, why))

    def begin(self, key: str, **values: int) -> Claim:
        self.catalog.queue.submit(spec(key, **values), NOW)
        claim = self.catalog.queue.claim("w", NOW, 60)
        assert claim is not None
        self.catalog.runs.start("crm", "db", "run", NOW, job=claim.id, attempt=claim.attempt)
        return claim

    def outcomes(self) -> list[str]:
        return [run.end.outcome if run.end else "open" for run in reversed(self.catalog.runs.list())]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with open_catalog(tmp_path) as catalog:
        yield Scene(catalog)


def test_a_job_whose_worker_is_gone_is_queued_again_quietly(scene: Scene) -> None:
    scene.begin("a")
    scene.recovery.look(later(30))
    assert scene.outcomes() == ["open"]
    scene.recovery.look(later(61))
    assert (scene.outcomes(), scene.failed) == (["lost"], [])
    assert scene.catalog.queue.counts()["queued"] == 1


def test_its_last_attempt_is_told_as_a_failure_once(scene: Scene) -> None:
    scene.begin("a", max_attempts=1)
    for seconds in (61, 62, 1000):
        scene.recovery.look(later(seconds))
    assert (scene.outcomes(), [key for key, _ in scene.failed]) == (["lost"], ["a"])


def test_a_worker_that_is_known_to_be_dead_is_not_waited_for(scene: Scene) -> None:
    scene.begin("a")
    assert scene.catalog.queue.disown("another", NOW) == 0
    assert scene.catalog.queue.disown("w", NOW) == 1
    scene.recovery.look(NOW)
    claim = scene.catalog.queue.claim("x", NOW, 60)
    assert claim is not None
    assert claim.attempt == 2


def test_a_run_whose_end_was_written_down_in_the_queue_only_is_ended(scene: Scene) -> None:
    """The worker died between the two: done stays done, and a failure is told after all."""
    queue = scene.catalog.queue
    assert queue.finish(scene.begin("a"), NOW, "done", "cc" * 32)
    assert queue.fail(scene.begin("b"), NOW, "no such server")
    assert queue.fail(scene.begin("c"), NOW, "again", later(3600))
    scene.recovery.look(NOW + 2 * MINUTES)
    assert scene.outcomes() == ["open"] * 3, "it may still be at it"
    scene.recovery.look(NOW + 10 * MINUTES)
    assert scene.outcomes() == ["done", "failed", "lost"]
    assert scene.failed == [("b", "no such server")]
    done = scene.catalog.runs.list()[-1]
    assert done.end is not None
    assert done.end.snapshot == "cc" * 32
    scene.recovery.look(NOW + 20 * MINUTES)
    assert len(scene.failed) == 1


def test_a_run_that_is_at_work_for_long_is_left_alone(scene: Scene) -> None:
    claim = scene.begin("a")
    for minutes in range(1, 60):
        assert scene.catalog.queue.heartbeat(claim, NOW + minutes * MINUTES, 120)
        scene.recovery.look(NOW + minutes * MINUTES)
    assert scene.outcomes() == ["open"]


def test_a_run_whose_job_is_forgotten_is_lost(scene: Scene) -> None:
    scene.catalog.runs.start("crm", "db", "run", NOW, job="4711")
    scene.recovery.look(NOW + 60 * MINUTES)
    assert scene.outcomes() == ["open"]
    scene.recovery.look(NOW + timedelta(days=2))
    assert scene.outcomes() == ["lost"]
