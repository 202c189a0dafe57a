"""What is shipped for systemd: hardened as far as it says, and naming commands that there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from backupctl.__main__ import VERBS

UNITS = sorted((Path(__file__).resolve().parents[1] / "deploy/systemd").glob("*"))
BY_POLICY = [unit for unit in UNITS if unit.suffix == ".service" and "run" not in unit.name]


def test_every_service_has_its_timer_and_its_verb() -> None:
    services = {unit.stem for unit in UNITS if unit.suffix == ".service"}
    assert services == {unit.stem for unit in UNITS if unit.suffix == ".timer"}
    for unit in UNITS:
        for verb in re.findall(r"^ExecStart=/usr/local/bin/backupctl (\S+)", unit.read_text(), re.MULTILINE):
            assert verb in VERBS


@pytest.mark.parametrize("unit", BY_POLICY, ids=lambda unit: unit.name)
def test_exposure(unit: Path) -> None:
    """systemd's own judgement of the unit is at most 1.5 of 10; without systemd, that the lines which it is made of are there."""
    text = unit.read_text()
    for line in (
        "CapabilityBoundingSet=\n",
        "ProtectSystem=strict\n",
        "PrivateUsers=yes\n",
        "User=backupd\n",
        "LimitCORE=0\n",
    ):
        assert line in text
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True, check=False
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= 1.5
