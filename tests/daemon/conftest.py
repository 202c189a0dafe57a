"""A site for each test of the daemon."""

from pathlib import Path

import pytest

from tests.cli.kit import User
from tests.daemon.kit import Site, copy_of


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and an empty repository."""
    folder = tmp_path_factory.mktemp("site")
    User(folder).init()
    return folder


@pytest.fixture
def site(template: Path, tmp_path: Path) -> Site:
    """A machine with a repository and keys; its policies are to be written."""
    return copy_of(template, tmp_path)
