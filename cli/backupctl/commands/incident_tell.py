"""`backupctl incident update`, `close`: how it stands, told to people, and its end."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.moments import moment
from backupctl.options import Settings, option, said, size_or_off, verb
from backupctl.session import opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from backupd.jobs.incidentexposure import Given
    from backupd.notify.base import Notice
    from backupd.policy.model import Policy
    from backupd.repo.incidents import Incident

_to_policy = option(
    "--to-policy",
    metavar="FILE",
    help="Tell the notifiers of this policy (a name or FILE.yaml), not those of --config.",
)


@click.command(
    "update",
    epilog="Example: backupctl incident update 3f2a 'orders come back' --rate 5M --left 12G --key keys/read.key",
)
@click.argument("incident")
@click.argument("message", callback=said)
@option("--known", callback=said, help="What is known.")
@option("--restoring", callback=said, help="What is being brought back.")
@option("--rate", metavar="SIZE", callback=size_or_off, help="What was measured, in bytes a second, such as 5M.")
@option("--left", metavar="SIZE", callback=size_or_off, help="What is still to come, in bytes, such as 12G.")
@option("--eta", metavar="TIME", callback=moment, help="When it should be done, if not by rate and rest.")
@_to_policy
@verb
def update(
    settings: Settings,
    incident: str,
    message: str,
    known: str | None,
    restoring: str | None,
    rate: int | None,
    left: int | None,
    eta: datetime | None,
    to_policy: str | None,
) -> None:
    """Tell people how it stands: the policy's notifiers, the status page and `backupctl status`.

    Notifiers of the policies in --config hear of it whose repository and sources these are: those that name the event
    `incident`, or without any those that hear of failures. Nothing is sent but what you write: no names of customers.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.errors import UsageError
    from backupd.jobs.incident import State, add_step, find_incident, read_incidents, state_values
    from backupd.jobs.notices import incident_state

    at = now()
    if eta is None and rate and left is not None:
        try:
            eta = at + timedelta(seconds=left / rate)
        except OverflowError:
            raise UsageError("at that rate this never ends", hint="give --eta, or another rate") from None
    state = State(message, known, restoring, rate, left, eta)
    with opened(settings, Right.RESPOND) as session:
        repo = session.opened.repo
        chosen = find_incident(read_incidents(repo)[1], incident)
        listeners = policies_of(settings, chosen, to_policy)
        if not settings.dry_run:
            add_step(repo, chosen, "update", state_values(state), at)
    told = tell(settings, listeners, lambda p, source: incident_state(p.policy, source, chosen.id, at, state=state))
    _finish(settings, "incident-update", {"incident": chosen.id, **state_values(state)}, told)


@click.command(
    "close",
    epilog="Example: backupctl incident close 3f2a --summary 'all orders are back' --key keys/read.key --key keys/prune.key",
)
@click.argument("incident")
@option("--summary", required=True, callback=said, help="What it came to; recorded and signed. No names of customers.")
@_to_policy
@verb
def close(settings: Settings, incident: str, summary: str, to_policy: str | None) -> None:
    """Close an incident, release what it held, and list what should change.

    A read, recovery or root key closes it; what it held goes by the rules again only with a prune or root key beside it, since
    whoever steals a read key must not end that. It may be released later by the same command with that key.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.errors import UsageError
    from backupd.jobs.incident import add_step, find_incident, read_incidents, release_held, views_of
    from backupd.jobs.incidentexposure import should_change
    from backupd.jobs.notices import incident_over
    from backupd.wiring import read_keys

    at = now()
    roles = {key.header.role for key in read_keys(settings.key_paths)}
    may_close, may_release = (bool(roles & set(right.value)) for right in (Right.RESPOND, Right.PRUNE))
    closed = released = False
    with opened(settings, Right.PRUNE if may_release and not may_close else Right.RESPOND) as session:
        repo = session.opened.repo
        history, known = read_incidents(repo)
        chosen = find_incident(known, incident)
        if chosen.is_open and not may_close:
            raise UsageError(
                f"incident {chosen.id} is open, and a prune key cannot close it", hint="add --key with read.key"
            )
        if chosen.is_open:
            closed = True
            if not settings.dry_run:
                add_step(repo, chosen, "close", {"summary": summary}, at)
        views = views_of(chosen, history.views)
        given, listeners = given_of(settings, chosen, at), policies_of(settings, chosen, to_policy)
        changes = should_change(history, chosen, views, given)
    if may_release and not chosen.released:
        released = True
        with opened(settings, Right.PRUNE) as session:
            repo = session.opened.repo
            _, known = read_incidents(repo)
            if not settings.dry_run:
                release_held(repo, known, find_incident(known, chosen.id), summary, at)
    told: list[dict[str, Any]] = []
    if closed:
        told = tell(settings, listeners, lambda p, s: incident_over(p.policy, s, chosen.id, at, summary=summary))
    held = [] if released or chosen.released else [view.id for view in views]
    values = {"incident": chosen.id, "closed": closed, "released": released, "held": held, "should_change": changes}
    if not settings.json:
        would = "would be " if settings.dry_run else ""
        output.say(f"incident {chosen.id} {would if closed else 'was '}{'closed' if closed else 'closed before'}")
        output.say(f"what it held {would}released" if released else f"{output.plural(len(held), 'snapshot')} stay held")
        if held:
            output.say(f"  to let them go: backupctl incident close {chosen.id} --summary '...' --key prune.key")
        for change in changes:
            output.say(f"should change: {change['source']}: {change['what']} -> {change['do']}")
    _finish(settings, "incident-close", values, told, quiet=not closed)


def policies_of(settings: Settings, incident: "Incident", to_policy: str | None) -> "list[tuple[Policy, str]]":
    """Whose notifiers hear of an incident: the policy that is named, or those of the folder that store these sources here."""
    from backupctl.policies import find_policy, folder_of
    from backupctl.session import repository_url
    from backupd.config.policies import load_valid, policy_files, repository_of

    names = sorted({covered.source for covered in incident.sources})
    if to_policy is not None:
        policy = find_policy(settings, to_policy).policy
        mine = [name for name in names if any(source.covers(name) for source in policy.sources)]
        return [(policy, ", ".join(mine or names))]
    folder = folder_of(settings)
    known = load_valid(policy_files([folder])) if folder.exists() else []
    here, found = str(repository_url(settings)), []
    for policy in (loaded.policy for loaded in known):
        mine = [name for name in names if any(source.covers(name) for source in policy.sources)]
        if mine and str(repository_of(policy)) == here:
            found.append((policy, ", ".join(mine)))
    return found


def given_of(settings: Settings, incident: "Incident", at: datetime, exposed: tuple[str, ...] = ()) -> "Given":
    """What policies at hand tell for a report."""
    from backupd.crypto.keyfile import Role
    from backupd.jobs.incidentexposure import Given

    found = policies_of(settings, incident, None)
    pairs = [(c.source, p) for c in incident.sources for p, _ in found if any(s.covers(c.source) for s in p.sources)]
    subjects = {n: s.subject.table for n, p in pairs for s in p.sources if s.covers(n) and s.subject}
    rpo = {name: p.objectives.rpo.total_seconds() for name, p in pairs if p.objectives.rpo}
    locked = {name: bool(p.retention and p.retention.lock) for name, p in pairs}
    return Given(tuple(dict.fromkeys(Role(role) for role in exposed)), subjects, rpo, locked, at)


def tell(
    settings: Settings, policies: "list[tuple[Policy, str]]", notice: "Callable[[Policy, str], Notice]"
) -> list[dict[str, Any]]:
    """Send it to whoever listens; of each what came of it."""
    from backupd.config.secretrefs import resolve
    from backupd.errors import BackupdError
    from backupd.jobs.notices import recipients
    from backupd.wiring import open_notifier

    found: list[dict[str, Any]] = []
    for policy, source in policies:
        made = notice(policy, source)
        for name in recipients(policy, made):
            one: dict[str, Any] = {"policy": policy.policy, "notifier": name, "sent": False, "error": None}
            found.append(one)
            if settings.dry_run:
                continue
            try:
                notifier = open_notifier(name, policy.notifiers[name], resolve)
                try:
                    notifier.send(made)
                finally:
                    notifier.close()
                one["sent"] = True
            except BackupdError as error:
                one["error"] = error.message
    return found


def _finish(
    settings: Settings, name: str, values: dict[str, Any], told: list[dict[str, Any]], *, quiet: bool = False
) -> None:
    """Say who was told, honestly.

    Raises:
        Failed: what was recorded did not reach somebody.
    """
    from backupd.errors import Failed

    values = {**values, "told": told, "dry_run": settings.dry_run}
    failed = [one for one in told if one["error"]]
    if failed:
        error = Failed(
            f"it is recorded, but {len(failed)} of {output.plural(len(told), 'notifier')} were not told: {failed[0]['error']}",
            hint="tell those people yourself; the status page shows it",
        )
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document(name, values)
        return
    if quiet:
        return
    if told:
        names = ", ".join(f"{one['policy']}/{one['notifier']}" for one in told)
        output.say(f"{'would be told' if settings.dry_run else 'told'}: {names}")
    else:
        output.say("nobody was told: no policy at hand has a notifier for it (--to-policy FILE names one)")
    output.say("the status page shows it after the daemon's next look at the repository")
