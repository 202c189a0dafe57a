"""The loop: what it does when nothing works, how it takes policies, what it tells, and what it forgets."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from backupd.catalog.checks import Verification
from backupd.catalog.opening import Catalog
from backupd.daemon.inforce import InForce
from backupd.daemon.options import Options
from backupd.daemon.planner import Planner
from backupd.daemon.service import Every, Loop, Parts, State, run
from backupd.daemon.signals import Signals
from backupd.daemon.steward import Steward
from backupd.daemon.systemd import Systemd
from backupd.daemon.view import STALLED, Viewer
from backupd.daemon.workers import Workers
from backupd.errors import BackupdError, Failed, TryAgain, UsageError
from backupd.wiring import open_catalog
from tests.unit.daemon.kit import NOW, FakeBooks, FakeChild, Ticks, Told, lines, quiet, spec


class Heard(Systemd):
    """A service manager that remembers."""

    said: list[str] = []  # noqa: RUF012 - made anew for each scene

    def _say(self, text: str, patience: float = 0.0) -> None:
        self.said.append(text.partition("\n")[0])


class Scene:
    """A daemon's loop over a real catalog, with clocks that are moved and processes that are fakes."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.catalog, self.ticks, self.now = catalog, Ticks(), NOW
        self.policies = folder / "policies.d"
        self.policies.mkdir()
        self.options = Options(frozenset({"scheduler", "worker"}), self.policies, folder / "state", drain=100)
        Heard.said = []
        self.systemd = Heard("x", 30.0)
        log, self.out = quiet()
        self.parts = Parts(catalog, lambda: self.now, self.ticks, log, self.systemd, State(last_step=self.ticks()))
        self.parts.planner = Planner(catalog.queue, catalog.plans)
        self.steward = Steward(catalog, lambda policies, now: [], Told())
        self.trouble: dict[str, BackupdError] = {}
        self.parts.check = lambda: self.fails("check")
        self.parts.adopted = self.adopted
        self.parts.look = self.steward.look
        self.parts.name = "host:1"
        self.books = FakeBooks(catalog.queue)
        self.children: list[FakeChild] = []
        start: Callable[..., FakeChild] = lambda command: self.children.append(FakeChild(command)) or self.children[-1]  # type: ignore[func-returns-value]  # noqa: E731
        self.parts.workers = Workers(
            "host:1",
            2,
            catalog.queue,
            lambda job: None,
            start,
            self.books,
            log,
            self.ticks,  # type: ignore[arg-type, return-value]
        )
        self.loop = Loop(self.options, self.parts)

    def fails(self, what: str) -> None:
        if what in self.trouble:
            raise self.trouble[what]

    def adopted(self, found: InForce) -> None:
        self.fails("adopted")
        self.steward.adopt(found, self.now)

    def write(self, name: str, **more: object) -> None:
        values = {
            "policy": name,
            "sources": [{"name": "db", "url": "/x.db"}],
            "repository": {"url": "/repo"},
            "keys": {"write": "file:/k"},
            "schedule": {"cron": "0 * * * *"},
            **more,
        }
        (self.policies / f"{name}.yaml").write_text(json.dumps(values))

    def step(self, seconds: float = 1) -> None:
        self.ticks.at += seconds
        self.now += timedelta(seconds=seconds)
        self.loop.step()

    def in_force(self) -> list[str]:
        return [policy.policy for policy in self.parts.state.policies or ()]

    def events(self) -> list[str]:
        return [line["event"] for line in lines(self.out)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with open_catalog(tmp_path / "state") as catalog:
        found = Scene(tmp_path, catalog)
        found.write("crm")
        found.loop.load()
        yield found


def test_what_is_due_is_planned_begun_and_ended(scene: Scene) -> None:
    for _ in range(130):
        scene.step(60)
        for child in scene.children:
            child.end = child.end or _done()
    kinds = [(kind, key.partition(":")[0]) for kind, key, _, _ in scene.books.log]
    assert kinds.count(("ended", "crm/db")) == 2
    assert scene.catalog.heartbeats.all().keys() == {"host:1"}


def _done():  # type: ignore[no-untyped-def]
    from backupd.daemon.child import Ended

    return Ended(0, {})


def test_trouble_is_said_once_told_and_over_when_it_is_over(scene: Scene) -> None:
    scene.step()
    scene.trouble["check"] = TryAgain("the catalog is locked")
    for _ in range(10):
        scene.step()
    assert scene.events().count("the daemon cannot do its work") == 1
    assert scene.parts.state.trouble == "the catalog is locked"
    assert "STATUS=failing: the catalog is locked" in scene.systemd.said
    scene.trouble["check"] = Failed("the catalog is gone")
    scene.step()
    assert scene.events().count("the daemon cannot do its work") == 2, "another trouble is said as well"
    scene.trouble.clear()
    scene.step()
    assert scene.events()[-1] == "the daemon works again"
    assert scene.parts.state.trouble == ""


def test_a_loop_that_fails_for_long_is_not_called_alive(scene: Scene) -> None:
    """Neither to the service manager, which begins anew, nor by /health."""
    viewer = Viewer(scene.catalog, scene.parts.state, lambda: scene.now, scene.ticks)
    scene.step()
    assert viewer.health().ready
    scene.trouble["check"] = TryAgain("locked")
    scene.step()
    health = viewer.health()
    assert (health.alive, health.ready, health.word) == (True, False, "failing")
    for _ in range(40):
        scene.step(10)
    assert not viewer.health().alive
    assert viewer.health().word == "stalled"
    assert STALLED < 400
    before = scene.systemd.said.count("WATCHDOG=1")
    assert before > 0
    for _ in range(40):
        scene.step(10)
    assert scene.systemd.said.count("WATCHDOG=1") == before
    scene.trouble.clear()
    scene.step(10)
    assert scene.systemd.said.count("WATCHDOG=1") == before + 1


def test_a_set_that_is_not_valid_changes_nothing(scene: Scene) -> None:
    scene.write("web", schedule={"every": "soon"})
    scene.loop.reload()
    assert scene.in_force() == ["crm"]
    assert [text for text in scene.systemd.said if text.startswith(("RE", "ST"))] == ["RELOADING=1", "READY=1"]
    scene.write("web")
    scene.loop.reload()
    assert scene.in_force() == ["crm", "web"]
    assert not scene.parts.state.reloading


def test_a_reload_that_the_catalog_interrupts_is_tried_again(scene: Scene) -> None:
    """Until then everything is as before: policies, tasks and promises."""
    scene.write("web")
    scene.trouble["adopted"] = TryAgain("locked")
    scene.loop.reload()
    assert scene.parts.planner
    assert scene.in_force() == ["crm"]
    assert not any("web" in name for name in scene.parts.planner.names)
    scene.step(10)
    assert scene.in_force() == ["crm"]
    scene.trouble.clear()
    scene.step(30)
    assert scene.in_force() == ["crm", "web"]
    assert any("web" in name for name in scene.parts.planner.names)


def test_a_daemon_without_valid_policies_does_not_start(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "state") as catalog:
        scene = Scene(tmp_path, catalog)
        with pytest.raises(UsageError):
            scene.loop.load()


def test_the_same_set_again_is_no_news(scene: Scene) -> None:
    scene.loop.reload()
    assert scene.events().count("policies in force") == 1
    assert "the policies are as they were" in scene.events()


def test_undo_files_go_after_six_hours_of_work_at_the_earliest(scene: Scene) -> None:
    """After a start the clock may be wrong, and what is removed does not come back."""
    tidied: list[float] = []
    scene.parts.tidy = lambda _now: tidied.append(scene.ticks())
    scene.write("crm")
    scene.loop.load()
    begun = scene.ticks()
    for hours in (0, 5, 1, 5, 1):
        scene.ticks.at += hours * 3600
        scene.loop.step()
    assert [round(at - begun) for at in tidied] == [6 * 3600, 12 * 3600]


def test_what_is_of_no_use_any_more_is_forgotten(scene: Scene) -> None:
    """Workers that died long ago, and plans that no task has; not the promises of today, however old."""
    old = NOW - timedelta(days=500)
    for level, ended in (("structure", old), ("bytes", NOW)):
        scene.catalog.verifications.add(Verification("crm", level, ended, ended, ok=True))
    scene.catalog.heartbeats.beat("dead:7", NOW - timedelta(days=2))
    scene.catalog.heartbeats.beat("asleep:8", NOW - timedelta(hours=2))
    scene.catalog.plans.remember({"since:crm/db": old, "since:gone/db": old, "gone/db": old})
    scene.step()
    assert set(scene.catalog.heartbeats.all()) == {"asleep:8", "host:1"}
    assert [one.level for one in scene.catalog.verifications.list()] == ["bytes"]
    planned = scene.catalog.plans.planned()
    assert planned["since:crm/db"] == old
    assert not {"since:gone/db", "gone/db"} & set(planned)


def test_the_loop_ends_in_order(scene: Scene) -> None:
    """What is at work comes to its end; what does not is asked to, and then ended; nothing new begins."""
    for n in range(3):
        scene.catalog.queue.submit(spec(f"j{n}", priority=50), NOW)
    scene.step()
    assert len(scene.children) == 2
    scene.children[0].obeys = False

    class Asked(Signals):
        """An end was asked for; waiting moves the clocks."""

        def __init__(self) -> None:
            self.stop, self.reload, self.waits = 1, False, 0

        def wait(self, seconds: float, descriptors: object = ()) -> bool:
            self.waits += 1
            scene.ticks.at += 10
            scene.now += timedelta(seconds=10)
            assert self.waits < 100
            return False

    run(scene.loop, scene.parts, Asked(), scene.options)
    assert scene.systemd.said[-1] != ""
    assert "STOPPING=1" in scene.systemd.said
    assert [child.stops for child in scene.children] == [[False, True], [False]]
    ended = {key: why for kind, key, _, why in scene.books.log if kind == "ended"}
    assert ended == {"j0": "the daemon ends", "j1": "the daemon ends"}
    assert scene.catalog.queue.counts()["queued"] >= 1


def test_every_so_often() -> None:
    every = Every(10)
    assert [every.due(t) for t in (0.0, 1.0, 9.9, 10.0, 15.0, 20.0)] == [True, False, False, True, False, True]
    assert every.due(21, now=True)
    assert not every.due(30)
