"""What a policy's repository, keys and bucket say against the policy: asked of them without writing anything.

What contradicts the policy is wrong; what will only disappoint whoever trusts it is a warning. Must never touch a source, and
never write to a store.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.config.clock import stamp
from backupd.crypto.keyfile import KeyHeader, Role
from backupd.policy.model import Lock, Policy
from backupd.repo.trust import Trust
from backupd.store.base import LockFacts

Where = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to say about a place in a policy.

    Attributes:
        where: the keys that lead to it.
        message: what.
        wrong: whether the policy cannot be kept as it is written.
    """

    where: Where
    message: str
    wrong: bool = False


def key_remarks(keys: Mapping[str, KeyHeader], trust: Trust) -> Iterator[Remark]:
    """Whether the key files are what the policy says they are, and this repository's, and trusted.

    Args:
        keys: the headers of key files by the names that the policy gives them.
        trust: the repository's.
    """
    for name, header in keys.items():
        where: Where = ("keys", name)
        known = trust.signer_public(header.id)
        if header.role.value != name:
            yield Remark(where, f"this is a {header.role} key", wrong=True)
        elif header.pin.repository != trust.repository:
            yield Remark(where, f"this key is of another repository ({header.pin.repository.hex()[:8]}...)", wrong=True)
        elif known is None or known[0] is not header.role:
            yield Remark(where, "the repository's trust document does not name this key", wrong=True)
        elif trust.is_revoked(header.id) or trust.last_record(header.id):
            yield Remark(where, "this key was revoked", wrong=True)


def trust_remarks(policy: Policy, trust: Trust, now: datetime) -> Iterator[Remark]:
    """What the repository's own policy makes of this one."""
    own, schedule = trust.policy, policy.schedule
    if trust.expires and trust.expires < stamp(now):
        yield Remark(("repository",), f"its trust document expired on {trust.expires}: nothing is pruned on its word")
    if own.grace_hours < own.max_session_hours + 1:
        said = (
            f"garbage waits {own.grace_hours} h and a session may last {own.max_session_hours} h there: prune refuses"
        )
        yield Remark(("repository",), said)
    if schedule and schedule.max_duration and schedule.max_duration > timedelta(hours=own.max_session_hours):
        said = f"the repository ends sessions after {own.max_session_hours} h: no run may take longer"
        yield Remark(("schedule", "max_duration"), said)


def lock_remarks(policy: Policy, facts: LockFacts | None) -> Iterator[Remark]:
    """What the bucket makes of the lock that the policy asks for; `facts` are None where objects cannot be locked at all."""
    lock = policy.retention.lock if policy.retention else None
    if facts is None:
        return
    if lock is not None:
        yield from _lock_kept(lock, facts)
    elif facts.days:
        said = f"the bucket locks objects for {facts.days} days: what is pruned earlier gives its space back only then"
        yield Remark(("retention",) if policy.retention else ("repository",), said)


def _lock_kept(lock: Lock, facts: LockFacts) -> Iterator[Remark]:
    where: Where = ("retention", "lock")
    if facts.enabled is None:
        yield Remark(where, "the storage does not say whether the bucket locks objects: see that it does")
    elif not facts.enabled:
        yield Remark(where, "the bucket has no object lock: this cannot be kept", wrong=True)
    elif facts.days is None:
        yield Remark(
            where, "the bucket could lock objects, but has no default retention: nothing is locked", wrong=True
        )
    else:
        if facts.mode != lock.mode:
            yield Remark((*where, "mode"), f"the bucket's default is {facts.mode}: that is what objects get")
        if facts.days < lock.days:
            said = f"the bucket's default is {facts.days} days: objects are locked no longer than that"
            yield Remark((*where, "days"), said, wrong=True)
        elif facts.days > lock.days:
            said = f"the bucket's default is {facts.days} days: space is given back no earlier"
            yield Remark((*where, "days"), said)


def roles_of(policy: Policy) -> tuple[str, ...]:
    """The keys that a policy names, the one that tells most without a passphrase first."""
    return tuple(role.value for role in (Role.CHECK, Role.PRUNE, Role.WRITE, Role.READ) if getattr(policy.keys, role))
