"""What a repository and a bucket say against a policy."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from backupd.crypto.keyfile import Role
from backupd.jobs.policycheck import Remark, key_remarks, lock_remarks, trust_remarks
from backupd.policy.model import Policy
from backupd.repo.trust import Policy as TrustPolicy
from backupd.store.base import LockFacts
from tests.jobs_kit import template

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LOCK = {"mode": "compliance", "days": 30}
KEEP = {"keep": {"daily": 40}}
LOCKED = LockFacts(True, True, "compliance", 30)


def policy(**more: Any) -> Policy:
    values = {"policy": "p", "sources": [{"name": "a", "url": "a.db"}], "repository": {"url": "s3://b"}}
    return Policy.model_validate(values | more)


def said(remarks: Any) -> list[tuple[str, bool]]:
    return [(".".join(map(str, remark.where)), remark.wrong) for remark in remarks]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (None, []),
        (LOCKED, []),
        (LockFacts(None, None), [("retention.lock", False)]),
        (LockFacts(False, False), [("retention.lock", True)]),
        (LockFacts(True, True), [("retention.lock", True)]),
        (replace(LOCKED, days=29), [("retention.lock.days", True)]),
        (replace(LOCKED, days=31), [("retention.lock.days", False)]),
        (replace(LOCKED, mode="governance"), [("retention.lock.mode", False)]),
        (replace(LOCKED, mode="governance", days=7), [("retention.lock.mode", False), ("retention.lock.days", True)]),
    ],
)
def test_a_lock_that_the_bucket_keeps_or_not(facts: LockFacts | None, expected: list[tuple[str, bool]]) -> None:
    """Shorter than asked for is wrong; longer, another mode and not knowing are warnings."""
    assert said(lock_remarks(policy(retention=KEEP | {"lock": LOCK}), facts)) == expected


def test_a_lock_that_the_policy_does_not_know_of() -> None:
    assert said(lock_remarks(policy(retention=KEEP), LOCKED)) == [("retention", False)]
    assert said(lock_remarks(policy(), LOCKED)) == [("repository", False)]
    assert said(lock_remarks(policy(retention=KEEP), LockFacts(True, False))) == []


def test_keys_that_are_others() -> None:
    """Of the wrong role, of another repository, unknown to trust, revoked: each is wrong, at its own place."""
    made = template()
    headers = {role.value: made.keys[role].header for role in (Role.WRITE, Role.CHECK, Role.PRUNE, Role.READ)}
    assert list(key_remarks(headers, made.trust)) == []
    assert said(key_remarks({"write": headers["check"]}, made.trust)) == [("keys.write", True)]
    other = replace(made.trust, repository=bytes(16))
    assert said(key_remarks({"check": headers["check"]}, other)) == [("keys.check", True)]
    stranger = replace(headers["check"], id=bytes(16))
    assert said(key_remarks({"check": stranger}, made.trust)) == [("keys.check", True)]
    revoked = replace(made.trust, writers=tuple(replace(w, last_good=(0, bytes(32))) for w in made.trust.writers))
    (remark,) = key_remarks(headers, revoked)
    assert remark == Remark(("keys", "write"), "this key was revoked", wrong=True)


def test_what_the_repositorys_own_policy_makes_of_it() -> None:
    """A wait that is no longer than a session, runs that are longer than one, and trust that has expired."""
    trust = template().trust
    nightly = policy(schedule={"cron": "0 2 * * *", "max_duration": "23h"})
    assert said(trust_remarks(nightly, replace(trust, policy=TrustPolicy(max_session_hours=24)), NOW)) == []
    short = replace(trust, policy=TrustPolicy(max_session_hours=12, grace_hours=12), expires="2026-11-22T00:00:00Z")
    found = list(trust_remarks(nightly, short, NOW))
    assert said(found) == [("repository", False), ("repository", False), ("schedule.max_duration", False)]
    assert ["expired" in found[0].message, "12 h" in found[1].message, "12 h" in found[2].message] == [True] * 3
