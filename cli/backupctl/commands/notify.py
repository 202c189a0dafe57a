"""`backupctl notify`: does a notifier of a policy reach whom it should."""

from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, option, settings_of, verb
from backupctl.policies import find_policy, folder_of
from backupctl.verbs import VerbGroup
from backupd.errors import UsageError

if TYPE_CHECKING:
    from backupd.policy.model import Policy


@click.group(cls=VerbGroup, epilog="Example: backupctl notify test ops")
@global_options
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """See whether notices arrive."""
    ctx.find_root().obj = settings_of(ctx, values, ctx.obj or Settings())


@command.command("test", epilog="Example: backupctl notify test ops --policy customers-nightly")
@click.argument("name")
@option("--policy", metavar="POLICY", help="The policy that names it, if several do.")
@verb
def test(settings: Settings, name: str, policy: str | None) -> None:
    """Send a notice that is marked as a test, for real; with --dry-run show it and send nothing.

    A heartbeat is sent to /log, which changes nothing there. PagerDuty opens an incident of severity info.
    """
    from backupd.config.clock import now
    from backupd.config.secretrefs import resolve
    from backupd.jobs.notices import trial_notice
    from backupd.wiring import open_notifier

    found = _policy_of(settings, name, policy)
    notifier = open_notifier(name, found.notifiers[name], resolve)
    notice = trial_notice(found.policy, name, now())
    if settings.dry_run:
        shown = notifier.preview(notice)
        _tell(settings, name, notifier.kind, shown, sent=False)
        return
    try:
        notifier.send(notice)
    finally:
        notifier.close()
    _tell(settings, name, notifier.kind, f"taken by {_TAKEN[notifier.kind]}", sent=True)


_TAKEN = {
    "email": "the mail server; see whether it arrives in the mailbox",
    "webhook": "the receiver",
    "slack": "Slack",
    "pagerduty": "PagerDuty; resolve the incident there",
    "ping": "the service, as an entry of its log that changes nothing",
    "apprise": "the services that Apprise was given",
}


def _tell(settings: Settings, name: str, kind: str, detail: str, *, sent: bool) -> None:
    if settings.json:
        output.document("notify-test", {"notifier": name, "kind": kind, "sent": sent, "detail": detail})
        return
    if sent:
        output.say(f"{name} ({kind}): a test notice was {detail}")
        return
    output.say(f"{name} ({kind}) would be sent:")
    for line in detail.splitlines():
        output.say(f"  {line}".rstrip())


def _policy_of(settings: Settings, name: str, policy: str | None) -> "Policy":
    """The policy whose notifier is meant.

    Raises:
        UsageError: no policy has it, or several do.
    """
    from backupd.config.policies import load_valid, policy_files

    if policy is not None:
        found = [find_policy(settings, policy).policy]
    else:
        found = [loaded.policy for loaded in load_valid(policy_files([folder_of(settings)]))]
    having = [each for each in found if name in each.notifiers]
    if len(having) == 1:
        return having[0]
    if having:
        names = ", ".join(sorted(each.policy for each in having))
        raise UsageError(f"several policies have a notifier {name!r}: {names}", hint="name one with --policy")
    names = ", ".join(sorted({each for one in found for each in one.notifiers}))
    where = f"policy {found[0].policy}" if policy is not None else str(folder_of(settings))
    raise UsageError(f"there is no notifier {name!r} in {where}", hint=f"there are: {names}" if names else None)
