"""What people are told of what happened: facts in, notices out, and who hears of them.

A notice names the policy, the source, times and what to do next. It must never hold data, a table's name, a message of a database
or a storage, an address or a secret: an error is told by its word and its exit code. Of an incident it tells what a person wrote
to be told, and nothing else.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backupd.errors import Exit
from backupd.notify.base import TEST, Level, Notice, key_of, wants_starts
from backupd.policy.words import written
from backupd.report import size

if TYPE_CHECKING:
    from backupd.jobs.incident import State
    from backupd.policy.model import Notifier, Policy

_KINDS = ("webhook", "slack", "pagerduty", "ping", "apprise", "email")
_NEXT = {
    Exit.FAILED: "See the run's log for what failed.",
    Exit.USAGE: "The policy or a secret that it names is not usable: run `backupctl policy check`.",
    Exit.INCOMPLETE: "Part of the source could not be read, and nothing was published as good: run `backupctl doctor`.",
    Exit.INTEGRITY: "Stored data is damaged or forged: run `backupctl verify`, and keep what is older by `backupctl hold add`.",
    Exit.NO_REPOSITORY: "There is no repository where the policy says: was its address changed, or is its storage not mounted?",
    Exit.BUSY: "Another run holds the lock: see what is still running.",
    Exit.WRONG_KEY: "The key is wrong, missing or lacks the right: run `backupctl keys test`.",
    Exit.STORAGE_REFUSED: "The storage refused: look at its credentials, permissions and quota.",
    Exit.UNREACHABLE: "The source cannot be reached: see whether it runs, and run `backupctl doctor`.",
    Exit.SAFETY: "A safety rule refused: see the run's log for which one, before anything is run again.",
    Exit.TRY_AGAIN: "It may pass by itself; if it does not, see the run's log.",
}


def kind_of(notifier: "Notifier") -> str:
    """Which way of telling a policy's notifier is."""
    return next(kind for kind in _KINDS if getattr(notifier, kind))


def recipients(policy: "Policy", notice: Notice, failing: str | None = None) -> tuple[str, ...]:
    """The names of the policy's notifiers that hear of a notice, in the order of their rules, each once.

    A start is told to those that want starts and hear of how runs end. That a notifier fails, and the state of an incident, is
    told to those that hear of it, or if there is none to those that hear of failures; never to the failing one.

    Args:
        policy: with its rules.
        notice: what happened.
        failing: the notifier that a `notify_failed` is about.
    """
    events = {"success", "failure"} if notice.started else {notice.event}
    found = _listening(policy, events)
    if notice.event == "notify_failed" and not [name for name in found if name != failing]:
        found = _listening(policy, {"failure", "rpo_breach"})
    if notice.event == "incident" and not found:
        found = _listening(policy, {"failure", "rpo_breach", "brake"})
    if notice.started:
        found = [name for name in found if wants_starts(kind_of(policy.notifiers[name]))]
    return tuple(name for name in found if name != failing)


def _listening(policy: "Policy", events: set[str]) -> list[str]:
    return list(dict.fromkeys(rule.to for rule in policy.notify if events & set(rule.on)))


def _notice(
    event: str,
    level: Level,
    policy: str,
    source: str | None,
    title: str,
    lines: Sequence[str],
    at: datetime,
    run: str = "",
    *,
    resolved: bool = False,
    started: bool = False,
    exit_code: int | None = None,
) -> Notice:
    key = key_of(event, policy, source)
    return Notice(event, level, policy, source, title, "\n".join(lines), at, key, run, resolved, started, exit_code)


def when(moment: datetime | None) -> str:
    """A time as sentences have it."""
    return "never" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _lasted(seconds: float) -> str:
    return written(timedelta(seconds=max(0, round(seconds))))


def run_started(policy: str, source: str, run: str, at: datetime) -> Notice:
    """A run began."""
    title = f"Backup of {policy}/{source} began"
    return _notice("success", "ok", policy, source, title, [f"It began at {when(at)}."], at, run, started=True)


def run_done(
    policy: str, source: str, run: str, at: datetime, *, seconds: float, warnings: int = 0, failed_before: bool = False
) -> list[Notice]:
    """A run succeeded; where the one before had failed, that is told as over.

    Args:
        policy, source, run, at: what ended when.
        seconds: how long it took.
        warnings: that it gave.
        failed_before: the newest run before this one failed.
    """
    lines = [f"It ended at {when(at)} after {_lasted(seconds)}."]
    if warnings:
        lines.append(f"It gave {_plural(warnings, 'warning')}: see the run's log.")
    title = f"Backup of {policy}/{source} succeeded"
    found = [_notice("success", "ok", policy, source, title, lines, at, run, exit_code=int(Exit.DONE))]
    if failed_before:
        again = f"Backup of {policy}/{source} succeeds again"
        found.append(
            _notice("failure", "ok", policy, source, again, lines, at, run, resolved=True, exit_code=int(Exit.DONE))
        )
    return found


def run_failed(
    policy: str,
    source: str,
    run: str,
    at: datetime,
    *,
    exit_code: int,
    code: str,
    last_good: datetime | None,
    next_run: datetime | None = None,
) -> Notice:
    """A run failed for good, all its retries included.

    Args:
        policy, source, run, at: what failed when.
        exit_code: of the run.
        code: the error's word.
        last_good: when the newest good snapshot was taken.
        next_run: when it will be run again.
    """
    known = Exit(exit_code) if exit_code in list(Exit) else Exit.FAILED
    lines = [
        f"It failed at {when(at)}: {code} (exit {exit_code}).",
        f"The newest good snapshot was taken: {when(last_good)}.",
    ]
    if next_run is not None:
        lines.append(f"The next run is at {when(next_run)}.")
    lines.append(_NEXT.get(known, "See the run's log for what ended it."))
    level: Level = "breach" if known is Exit.INTEGRITY else "warn"
    title = f"Backup of {policy}/{source} failed"
    return _notice("failure", level, policy, source, title, lines, at, run, exit_code=exit_code)


def job_failed(policy: str, kind: str, run: str, at: datetime, *, exit_code: int, code: str) -> Notice:
    """A job that is about the policy's repository (a prune, a look at it) failed for good; its backups are another matter.

    Args:
        policy, kind, run, at: what failed when.
        exit_code: of the job.
        code: the error's word.
    """
    known = Exit(exit_code) if exit_code in list(Exit) else Exit.FAILED
    lines = [
        f"It failed at {when(at)}: {code} (exit {exit_code}). Backups go on.",
        _NEXT.get(known, "See the run's log for what ended it."),
    ]
    level: Level = "breach" if known is Exit.INTEGRITY else "warn"
    return _notice(
        "failure", level, policy, kind, f"The job {kind} of {policy} failed", lines, at, run, exit_code=exit_code
    )


def job_works(policy: str, kind: str, run: str, at: datetime) -> Notice:
    """It succeeds again."""
    lines = [f"It ended at {when(at)}."]
    title = f"The job {kind} of {policy} succeeds again"
    return _notice("failure", "ok", policy, kind, title, lines, at, run, resolved=True, exit_code=int(Exit.DONE))


def rpo_breach(policy: str, source: str, at: datetime, *, rpo: timedelta, last_good: datetime | None) -> Notice:
    """The newest good snapshot is older than promised."""
    lines = [
        f"Promised: at most {written(rpo)} are lost. The newest good snapshot was taken: {when(last_good)}.",
        f"See why it does not run: `backupctl status`; and run it now: `backupctl run {policy} {source}`.",
    ]
    return _notice("rpo_breach", "breach", policy, source, f"{policy}/{source} is not protected as promised", lines, at)


def rpo_kept(policy: str, source: str, at: datetime, *, rpo: timedelta, last_good: datetime) -> Notice:
    """The breach is over."""
    lines = [f"The newest good snapshot was taken: {when(last_good)}, within the {written(rpo)} that are promised."]
    title = f"{policy}/{source} is protected as promised again"
    return _notice("rpo_breach", "ok", policy, source, title, lines, at, resolved=True)


def verify_failed(
    policy: str, run: str, at: datetime, *, level: str, problems: int, again: datetime | None = None
) -> Notice:
    """A verification found problems, or could not be done (with none).

    Args:
        policy, run, at: what failed when.
        level: of the verification.
        problems: that it found.
        again: when it is done again.
    """
    found = _plural(problems, "problem") if problems else "no problem, but could not be done"
    lines = [f"The verification (level {level}) of {when(at)} found {found}."]
    if problems:
        lines.append(
            "Run `backupctl verify` to see the objects; the next run stores again what is still in the source."
        )
    else:
        lines.append("See its log for what was in the way, or run `backupctl verify`.")
    if again is not None:
        lines.append(f"It is {'looked at' if problems else 'tried'} again at {when(again)}.")
    title = f"Verification of {policy} failed"
    return _notice("verify_failed", "breach" if problems else "warn", policy, None, title, lines, at, run)


def verify_passed(policy: str, run: str, at: datetime, *, level: str) -> Notice:
    """A verification after one that failed found nothing."""
    lines = [f"The verification (level {level}) of {when(at)} found nothing wrong."]
    return _notice(
        "verify_failed", "ok", policy, None, f"Verification of {policy} passes again", lines, at, run, resolved=True
    )


def brake_set(policy: str, source: str, run: str, at: datetime, *, signs: int) -> Notice:
    """A sudden change stopped pruning."""
    lines = [
        f"The run of {when(at)} shows {_plural(signs, 'sign')} of a sudden change.",
        "Until the brake is released, nothing is pruned.",
        "See the signs: `backupctl brake list`. If the change was meant: `backupctl brake release`.",
        "If it was not, keep all snapshots and look for who made it.",
    ]
    return _notice(
        "brake", "breach", policy, source, f"Sudden change in {policy}/{source}: pruning stopped", lines, at, run
    )


def brake_released(policy: str, source: str, at: datetime) -> Notice:
    """Somebody released the brake."""
    lines = [f"The brake was released at {when(at)}; snapshots are pruned by the policy again."]
    title = f"Pruning of {policy}/{source} goes on"
    return _notice("brake", "ok", policy, source, title, lines, at, resolved=True)


def lock_short(policy: str, at: datetime, *, promised: timedelta, locked_until: datetime | None) -> Notice:
    """Objects are locked for less long than promised."""
    lines = [
        f"Promised: {written(promised)} of object lock. The newest snapshot is locked until: {when(locked_until)}.",
        "A prune of this policy makes locks longer where its credentials may: see what it says: `backupctl prune`.",
    ]
    return _notice(
        "lock_short", "breach", policy, None, f"Snapshots of {policy} are locked for too short a time", lines, at
    )


def lock_kept(policy: str, at: datetime, *, locked_until: datetime) -> Notice:
    """They are locked as promised again."""
    lines = [f"The newest snapshot is locked until: {when(locked_until)}."]
    title = f"Snapshots of {policy} are locked as promised again"
    return _notice("lock_short", "ok", policy, None, title, lines, at, resolved=True)


def drill_failed(
    policy: str, source: str, run: str, at: datetime, *, failed: int, checks: int, again: datetime | None = None
) -> Notice:
    """A restore drill failed: the restore itself (with no check failed), or some of its checks.

    Args:
        policy, source, run, at: what failed when.
        failed, checks: how many checks failed, of how many.
        again: when it is tried again.
    """
    what = f"{failed} of {_plural(checks, 'check')} failed" if failed else "the restore itself failed"
    lines = [
        f"In the drill of {when(at)} {what}.",
        f"Until a drill passes, this source may not come back: see the drill's log, and run `backupctl drill {policy}`.",
    ]
    return _drill("breach", policy, source, f"Restore drill of {policy}/{source} failed", lines, at, run, again)


def drill_slow(
    policy: str,
    source: str,
    run: str,
    at: datetime,
    *,
    took: timedelta,
    rto: timedelta,
    again: datetime | None = None,
) -> Notice:
    """A restore drill brought everything back, and took longer than is promised.

    Args:
        policy, source, run, at: what was drilled when.
        took, rto: how long the restore took, and may take.
        again: when it is tried again.
    """
    lasted = _lasted(took.total_seconds())
    lines = [
        f"In the drill of {when(at)} all came back, and the restore took {lasted}; promised: {written(rto)}.",
        "On the worst day it will take as long: give it a faster host or link, or promise what can be kept.",
    ]
    title = f"A restore of {policy}/{source} takes longer than promised"
    return _drill("breach", policy, source, title, lines, at, run, again)


def drill_untried(
    policy: str, source: str, run: str, at: datetime, *, exit_code: int, code: str, again: datetime | None = None
) -> Notice:
    """A restore drill could not be tried: nothing is known of whether the source comes back.

    Args:
        policy, source, run, at: what was to be drilled when.
        exit_code, code: of the error, and its word.
        again: when it is tried again.
    """
    lines = [
        f"The drill of {when(at)} could not be tried: {code} (exit {exit_code}).",
        f"Nothing is known of whether this source comes back: see the drill's log, and run `backupctl drill {policy}`.",
    ]
    title = f"Restore drill of {policy}/{source} could not be tried"
    return _drill("warn", policy, source, title, lines, at, run, again)


def _drill(
    level: Level,
    policy: str,
    source: str,
    title: str,
    lines: list[str],
    at: datetime,
    run: str,
    again: datetime | None,
) -> Notice:
    if again is not None:
        lines.append(f"It is tried again at {when(again)}.")
    return _notice("drill_failed", level, policy, source, title, lines, at, run)


def drill_passed(policy: str, source: str, run: str, at: datetime) -> Notice:
    """A drill after one that failed passed."""
    lines = [f"The drill of {when(at)} restored this source and all its checks passed."]
    title = f"Restore drill of {policy}/{source} passes again"
    return _notice("drill_failed", "ok", policy, source, title, lines, at, run, resolved=True)


def incident_state(policy: str, source: str, incident: str, at: datetime, *, state: "State") -> Notice:
    """How an incident stands, as a person wrote it."""
    lines = [state.message, f"Told at {when(at)}."]
    lines += [f"Known: {state.known}"] if state.known else []
    lines += [f"Being restored: {state.restoring}"] if state.restoring else []
    lines += [" ".join(said)] if (said := progress_of(state)) else []
    title = f"Incident {incident[:8]} of {policy}/{source}: {state.message}"
    return _notice("incident", "breach", policy, source, title, lines, at, incident)


def incident_over(policy: str, source: str, incident: str, at: datetime, *, summary: str) -> Notice:
    """It is closed."""
    lines = [summary, f"It was closed at {when(at)}."]
    title = f"Incident {incident[:8]} of {policy}/{source} is over"
    return _notice("incident", "ok", policy, source, title, lines, at, incident, resolved=True)


def progress_of(state: "State") -> list[str]:
    """Rate and time left, as far as they were measured."""
    said = [f"Measured rate: {size(state.rate)}/s."] if state.rate is not None else []
    if state.left is not None:
        said.append(f"Left: {size(state.left)}.")
    if state.until is not None:
        said.append(f"Expected to be done: {when(state.until)}.")
    return said


def notify_failed(policy: str, notifier: str, at: datetime, *, since: datetime, attempts: int, code: str) -> Notice:
    """A notifier fails, so that somebody may not hear of what matters; to be told by the other ones."""
    lines = [
        f"Since {when(since)}, {_plural(attempts, 'attempt')} failed: {code}.",
        f"Whoever it tells hears of nothing: run `backupctl notify test {notifier} --policy {policy}`.",
    ]
    return _about_notifier("warn", policy, notifier, f"The notifier {notifier} of {policy} fails", lines, at)


def notify_works(policy: str, notifier: str, at: datetime) -> Notice:
    """It works again."""
    lines = [f"It delivered at {when(at)}."]
    return _about_notifier("ok", policy, notifier, f"The notifier {notifier} of {policy} works again", lines, at)


def held_back(policy: str, notifier: str, at: datetime, *, held: int) -> Notice:
    """So many notices were held back by the rate limit, and none came afterwards that could have told of them."""
    lines = ["There were too many at once. See what happened: `backupctl status`."]
    title = f"{_plural(held, 'notice')} of {policy} {'was' if held == 1 else 'were'} held back"
    key = key_of("held_back", policy, notifier)
    return Notice("notify_failed", "warn", policy, None, title, "\n".join(lines), at, key, "")


def trial_notice(policy: str, notifier: str, at: datetime) -> Notice:
    """Somebody wants to see whether notices arrive."""
    ran = f"Somebody ran `backupctl notify test {notifier}` at {when(at)}."
    text = f"{ran} Nothing happened, and nothing needs to be done."
    title = f"TEST of the notifier {notifier} of {policy}: please ignore"
    return Notice(TEST, "ok", policy, None, title, text, at, key_of(TEST, policy, notifier), "")


def _about_notifier(level: Level, policy: str, notifier: str, title: str, lines: Sequence[str], at: datetime) -> Notice:
    key = key_of("notify_failed", policy, notifier)
    return Notice("notify_failed", level, policy, None, title, "\n".join(lines), at, key, "", resolved=level == "ok")


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}" + ("" if n == 1 else "s")
