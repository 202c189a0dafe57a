"""What a change of a policy means, in words."""

from datetime import UTC, datetime
from typing import Any

import pytest

from backupd.policy.differences import differences
from backupd.policy.model import Policy

NOW = datetime(2026, 11, 23, tzinfo=UTC)
OLD: dict[str, Any] = {
    "policy": "p",
    "sources": [{"name": "a", "url": "a.db"}, {"name": "b", "url": "b.db"}],
    "repository": {"url": "s3://b"},
    "schedule": {"cron": "0 2 * * *"},
    "objectives": {"rpo": "26h"},
    "retention": {"keep": {"daily": 14}},
    "verify": [{"level": "structure", "every": "1d"}],
    "drill": {"every": "7d", "assert": [{"sql": "select 1", "min": 1}]},
    "notify": [{"on": ["failure", "rpo_breach"], "to": "ops"}],
    "notifiers": {"ops": {"webhook": "env:OPS"}},
}


def said(**changes: Any) -> list[str]:
    return differences(Policy.model_validate(OLD), Policy.model_validate(OLD | changes), NOW)


def test_nothing() -> None:
    assert said() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"sources": [OLD["sources"][0], {"name": "c", "url": "c.db"}]},
            ["source c is added", "source b is removed: it is backed"],
        ),
        (
            {"sources": [{"name": "a", "url": "x.db", "jobs": 4}, OLD["sources"][1]]},
            ["source a: url a.db becomes x.db", "source a: jobs 2 becomes 4"],
        ),
        (
            {"schedule": {"every": "6h"}},
            [
                'runs: cron "0 2 * * *", in UTC, catch up once becomes every 6h, in UTC',
                "they are up to 6h apart, and were up to 1d apart",
            ],
        ),
        ({"schedule": {"cron": "0 2 * * *", "jitter": "5m", "blackout": ["12:00-13:00"]}}, ["runs: "]),
        ({"schedule": None}, ["runs: ", "they are without a schedule, and were up to 1d apart"]),
        ({"objectives": {"rpo": "13h", "rto": "1h"}}, ["what is promised: rpo 26h becomes rpo 13h, rto 1h"]),
        (
            {"retention": {"keep": {"daily": 7}, "min_keep": 2}},
            ["what is kept: daily 14, at least 1 becomes daily 7, at least 2"],
        ),
        ({"retention": None}, ["what is kept: daily 14, at least 1 becomes everything"]),
        (
            {"retention": {"keep": {"daily": 14}, "lock": {"mode": "compliance", "days": 7}}},
            ["the lock: nothing becomes mode compliance, days 7"],
        ),
        (
            {"retries": {"attempts": 1}},
            ["how failed runs are tried again: attempts 3, backoff 5m becomes attempts 1, backoff 5m"],
        ),
        (
            {"verify": [{"level": "bytes", "every": "2d", "sample": "5%"}]},
            [
                "verification structure: every 1d, sample 100.0 becomes none",
                "verification bytes: none becomes every 2d, sample 5.0",
            ],
        ),
        ({"drill": None}, ["restore drills: every 1w becomes none"]),
        ({"drill": {"every": "7d"}}, ["what drills assert changes: 1 and now 0"]),
        (
            {
                "drill": {
                    **OLD["drill"],
                    "scratch": [{"url": "mariadb://d@h/x", "password": "env:P"}],
                    "allow": ["definer"],
                }
            },
            [
                "scratch server mariadb://d@h/x: none becomes password env:P",
                "what drills let in besides: nothing becomes definer",
            ],
        ),
        ({"notify": [{"on": ["failure"], "to": "ops"}]}, ["notification rpo_breach: ops becomes none"]),
        ({"notifiers": {"ops": {"webhook": "env:OTHER"}}}, ["notifier ops: webhook env:OPS becomes webhook env:OTHER"]),
        ({"hooks": {"before": ["echo hunter2"]}}, ["the commands before each run change: 0 and now 1"]),
        (
            {
                "sources": [
                    {
                        "name": "a",
                        "url": "a.db",
                        "references": [{"table": "o", "columns": ["c"], "parent": "c", "parent_columns": ["id"]}],
                    },
                    {"name": "b", "url": "b.db"},
                ]
            },
            ["source a: references nothing becomes table o columns c parent c parent_columns id on_delete restrict"],
        ),
        ({"policy": "q"}, ["the policy is called q and no longer p"]),
        ({"repository": {"url": "s3://c"}}, ["the repository: s3://b becomes s3://c"]),
        ({"keys": {"write": "file:w"}}, ["the keys: nothing becomes write file:w"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_change_says(changes: dict[str, Any], expected: list[str]) -> None:
    """One sentence for each thing that changes, and no others."""
    found = said(**changes)
    assert len(found) == len(expected)
    for sentence, begins in zip(found, expected, strict=True):
        assert sentence.startswith(begins)
    assert "hunter2" not in " ".join(found)
