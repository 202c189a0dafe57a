"""Alert rules and the dashboard: they ask for what the daemon serves, and every alert fires and stays silent where it should."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from backupctl.__main__ import VERBS
from tests.conftest import do_without
from tests.deploy.metrics import strangers
from tests.servers import promtool
from tests.servers.packages import Unavailable
from tests.servers.promtool import Promtool

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FOLDER = DEPLOY / "prometheus"
RULES = FOLDER / "rules.yaml"
TESTS = sorted(FOLDER.glob("rules*_test.yaml"))
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/backupd.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def tool() -> Promtool:
    """promtool from Debian's package."""
    try:
        return promtool.unpacked()
    except Unavailable as error:
        do_without("promtool", error)


def test_prometheus_takes_the_rules(tool: Promtool) -> None:
    """`promtool check rules` finds every rule and nothing wrong."""
    said = tool.run("check", "rules", RULES)
    assert said.startswith("0\n"), said
    assert f"{len(ALERTS)} rules found" in said


@pytest.mark.parametrize("tests", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent(tool: Promtool, tests: Path) -> None:
    """`promtool test rules`: what fires, when, with which labels and words."""
    said = tool.run("test", "rules", tests)
    assert said.startswith("0\n"), said


def _tried(firing: bool) -> set[str]:
    """Alerts that the rules' tests make fire, or find silent."""
    found = set()
    for scenario in (case for tests in TESTS for case in yaml.safe_load(tests.read_text())["tests"]):
        for one in scenario.get("alert_rule_test", []):
            if bool(one["exp_alerts"]) == firing:
                found.add(one["alertname"])
        for one in scenario.get("promql_expr_test", []):
            if firing:
                found |= {m for s in one.get("exp_samples", []) for m in re.findall(r'alertname="(\w+)"', s["labels"])}
            elif "exp_samples" not in one:
                pattern = re.findall(r'alertname=~?"([^"]+)"', one["expr"])[0]
                found |= {rule["alert"] for rule in ALERTS if re.fullmatch(pattern, rule["alert"])}
    return found


def test_every_alert_is_tried_both_ways() -> None:
    """Each alert has a test in which it fires and one in which it does not."""
    names = {rule["alert"] for rule in ALERTS}
    assert _tried(firing=True) == names
    assert _tried(firing=False) == names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    """It has a severity, a summary, a description with a first command that there is, and a place in the README."""
    assert strangers(rule["expr"]) == []
    assert rule["labels"]["severity"] in {"critical", "warning"}
    texts = rule["annotations"]
    assert texts["summary"]
    assert "Look first: `" in texts["description"]
    commands = re.findall(r"`([^`]+)`", texts["description"])
    assert commands
    for command in commands:
        program, verb = command.split()[:2]
        assert program in {"backupctl", "systemctl", "journalctl"}
        assert program != "backupctl" or verb in VERBS
    file, _, anchor = texts["runbook"].partition("#")
    assert file == "deploy/prometheus/README.md"
    assert anchor == rule["alert"].lower()
    assert f"\n### {rule['alert']}\n" in (FOLDER / "README.md").read_text()


def test_the_dashboard_asks_for_what_the_daemon_serves(tool: Promtool, tmp_path: Path) -> None:
    """Every expression of every panel parses, and uses only the daemon's metrics and their labels."""
    expressions = [target["expr"] for panel in PANELS for target in panel["targets"]]
    assert [stranger for one in expressions for stranger in strangers(one)] == []
    rules = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(expressions)]
    file = tmp_path / "panels.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    said = tool.run("check", "rules", file)
    assert said.startswith("0\n"), said
    assert f"{len(expressions)} rules found" in said


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Panels have numbers of their own, places that do not overlap, and the data source that the reader chose."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in DASHBOARD["panels"]):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$(?:\{)?(\w+)", json.dumps(DASHBOARD))) - {"__all"} == variables
