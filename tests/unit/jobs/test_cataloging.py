"""What the catalog says is gone: only what is gone, and until a person has looked."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.catalog.opening import Catalog
from backupd.crypto.keyfile import Role
from backupd.jobs.cataloging import look, note
from backupd.report import Tally
from backupd.wiring import open_catalog
from tests.jobs_kit import Kit, make_database, names, overwrite

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


class World:
    """A repository of two writers, and a catalog that knows it."""

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self.catalog, self.now = catalog, NOW
        self.kit = Kit(root)
        second = self.kit.add_writer()
        self.source = make_database(root / "crm", chunks=1)
        self.snapshots = [self.kit.backup(self.source).snapshot for _ in range(2)]
        self.kit.backup(self.source, key=second, host="second")
        assert self.look() == 0

    def look(self, role: Role = Role.CHECK, *, accept: bool = False) -> int:
        """An hour later somebody looks; how many are gone."""
        self.now += timedelta(hours=1)
        repo = self.kit.repo(role, host="looker")
        seen = look(repo, self.now, Tally())
        return note(self.catalog, "nightly", "memory:", repo.id.hex(), seen, self.now, accept=accept)

    @property
    def told(self) -> int:
        return self.catalog.repositories.all()["nightly"].vanished


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with open_catalog(tmp_path / "state", None) as catalog:
        yield World(tmp_path, catalog)


def test_what_is_gone_is_told_until_a_person_has_looked(world: World) -> None:
    """One deleted in the storage is counted at every later look, and no more once it was accepted."""
    world.kit.store.delete(names(world.kit.store, f"snapshots/{world.kit.writer.hex()}/")[0])
    assert [world.look(), world.look(), world.told] == [1, 1, 1]
    assert world.look(accept=True) == 1
    assert [world.told, world.look()] == [0, 0]


def test_what_a_key_does_not_open_is_not_gone(world: World) -> None:
    """A write key sees its own writer's snapshots alone: those of the other host are there all the same."""
    assert world.look(Role.WRITE) == 0
    assert world.look() == 0
    assert len(world.catalog.snapshots.list()) == 3


def test_what_is_damaged_is_damaged_and_not_gone(world: World) -> None:
    name = names(world.kit.store, f"snapshots/{world.kit.writer.hex()}/")[0]
    whole = world.kit.store.get(name)
    overwrite(world.kit.store, name, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert world.look() == 0
    assert world.catalog.repositories.all()["nightly"].problems
    overwrite(world.kit.store, name, whole)
    assert world.look() == 0
    assert world.catalog.repositories.all()["nightly"].problems == ()


def test_what_is_not_trusted_any_more_is_not_gone(world: World) -> None:
    """A revoked write key leaves its last good chain; the rest is reported as revoked."""
    head = world.kit.history().views[0].object
    writers = tuple(replace(entry, last_good=(head.seq, head.id)) for entry in world.kit.trust.writers[:1])
    trust = replace(
        world.kit.trust, version=world.kit.trust.version + 1, writers=(*writers, *world.kit.trust.writers[1:])
    )
    world.kit.put_trust(trust)
    assert world.look() == 0


def test_what_a_run_writes_down_during_a_look_stays(world: World) -> None:
    """A look began, a run published and told the catalog, and then the look is written down."""
    repo = world.kit.repo(Role.CHECK, host="looker")
    began = world.now + timedelta(hours=1)
    seen = look(repo, began, Tally())
    row = replace(world.catalog.snapshots.list()[0], id="ab" * 32, seq=9, last_seen=began + timedelta(minutes=1))
    world.catalog.snapshots.add(row)
    assert note(world.catalog, "nightly", "memory:", repo.id.hex(), seen, began) == 0
    assert row.id in {one.id for one in world.catalog.snapshots.list()}
