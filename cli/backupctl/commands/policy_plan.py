"""`backupctl policy plan`: what a change of a policy means, and which snapshots it would let go."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, verb
from backupctl.policies import find_policy, settings_for
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.policy.model import Policy
    from backupd.policy.retention import Candidate

_ORDER = ("check", "prune", "read")


@click.command("plan", epilog="Example: backupctl policy plan nightly.yaml nightly-new.yaml --key keys/check.key")
@click.argument("old")
@click.argument("new")
@verb
def command(settings: Settings, old: str, new: str) -> None:
    """Compare two versions of a policy: what changes, and which snapshots the next prune would forget because of it.

    The repository is read with a check, prune or read key: the policy's, or --key. Nothing is changed.
    """
    from backupd.config.clock import now
    from backupd.config.policies import repository_of
    from backupd.policy.differences import differences

    before, after = find_policy(settings, old).policy, find_policy(settings, new).policy
    changes = _changes(before.model_dump(mode="json"), after.model_dump(mode="json"))
    moved = repository_of(before) != repository_of(after)
    snapshots, grace = ([], 0) if moved else _snapshots(settings, before, after)
    goes, stays = _difference(before, after, snapshots)
    said = differences(before, after, now())
    if settings.json:
        values = {
            "changes": changes,
            "said": said,
            "forget": [_listed(c) for c in goes],
            "keep": [_listed(c) for c in stays],
            "freed_after_hours": None if moved else grace,
        }
        output.document("policy-plan", values)
        return
    if not changes:
        output.say("nothing changes")
        return
    for sentence in said:
        output.say(sentence)
    output.say("")
    if moved:
        output.say("another repository: no snapshot of the old one is forgotten, and no policy prunes it any more")
        return
    for word, some in (("forget", goes), ("keep", stays)):
        more = "that the old one keeps" if word == "forget" else "that the old one would forget"
        output.say(f"the next prune would {word} {output.plural(len(some), 'snapshot')} {more}")
        for candidate in some:
            output.say(f"  {candidate.id[:12]}  {candidate.source[-1]}  {candidate.stored_at:%Y-%m-%d %H:%M}")
    if goes:
        output.say(f"what only they need is removed by a prune at least {grace} hours later, or when its lock ends")


def _changes(old: Any, new: Any, path: str = "") -> list[dict[str, Any]]:
    """Every key whose value differs, by its path."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [c for key in keys for c in _changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [c for n, (a, b) in enumerate(zip(old, new, strict=True)) for c in _changes(a, b, f"{path}.{n}")]
    return [] if old == new else [{"path": path, "old": old, "new": new}]


def _listed(candidate: "Candidate") -> dict[str, Any]:
    from backupd.config.clock import stamp

    return {"snapshot": candidate.id, "source": candidate.source[-1], "stored_at": stamp(candidate.stored_at)}


def _snapshots(settings: Settings, before: "Policy", after: "Policy") -> "tuple[list[Candidate], int]":
    """The snapshots of sources that both policies name, as a retention rule sees them; and how long garbage waits, in hours."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.prune import all_candidates

    role = next((role for role in _ORDER if getattr(after.keys, role)), "check")
    with opened(settings_for(replace(settings, repository=None), after, role), Right.CHECK) as session:
        repo = session.opened.repo
        history = repo.history()
        found = all_candidates(repo, history.views, history.records)
        grace = repo.trust.policy.grace_hours
    return [c for c in found if all(_covers(policy, c.source[-1]) for policy in (before, after))], grace


def _covers(policy: "Policy", name: str) -> bool:
    return any(source.covers(name) for source in policy.sources)


def _difference(
    before: "Policy", after: "Policy", snapshots: "list[Candidate]"
) -> "tuple[list[Candidate], list[Candidate]]":
    """Those that only the old rule keeps, and those that only the new one keeps."""
    from zoneinfo import ZoneInfo

    from backupd.config.clock import now
    from backupd.policy.retention import Rule, plan

    kept = []
    for policy in (before, after):
        rule = policy.retention.rule if policy.retention else Rule()
        zone = ZoneInfo(policy.schedule.timezone if policy.schedule else "UTC")
        kept.append({v.snapshot.id for v in plan(snapshots, rule, now(), zone) if v.keep})
    old, new = kept
    return [c for c in snapshots if c.id in old - new], [c for c in snapshots if c.id in new - old]
