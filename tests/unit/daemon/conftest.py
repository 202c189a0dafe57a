"""A bookkeeper's office for each test that wants one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.wiring import open_catalog
from tests.unit.daemon.kit import Office


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Books over an empty catalog."""
    with open_catalog(tmp_path) as catalog:
        yield Office(catalog)
