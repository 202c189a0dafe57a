"""`backupctl prune`, `forget`: what goes, and why the rest stays."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened, repository_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from backupd.jobs.prune import Prune, PruneResult
    from backupd.policy.model import Lock
    from backupd.policy.retention import Rule, Verdict
    from backupd.repo.repository import History

_COUNT = click.IntRange(0, 1_000_000)


def duration(_ctx: click.Context, _param: click.Parameter, value: str | timedelta | None) -> timedelta | None:
    """A callback: a number with s, m, h, d or w behind it."""
    from backupd.policy.words import parse_duration

    if value is None or isinstance(value, timedelta):
        return value
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    epilog="Example: backupctl prune --keep-daily 14 --keep-weekly 8 --dry-run --repository /backup/app --key keys/prune.key"
)
@click.argument("policy", required=False)
@option("--keep-last", type=_COUNT, default=0, metavar="N", help="The newest N of each source.")
@option(
    "--keep-hourly", type=_COUNT, default=0, metavar="N", help="The newest of each of the last N hours that have one."
)
@option("--keep-daily", type=_COUNT, default=0, metavar="N", help="The same for days (UTC).")
@option("--keep-weekly", type=_COUNT, default=0, metavar="N", help="The same for weeks.")
@option("--keep-monthly", type=_COUNT, default=0, metavar="N", help="The same for months.")
@option("--keep-yearly", type=_COUNT, default=0, metavar="N", help="The same for years.")
@option(
    "--keep-within",
    callback=duration,
    metavar="TIME",
    help="All that are at most this much older than the newest (30d).",
)
@option("--min-keep", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Never fewer than these.")
@option("--min-age", callback=duration, default="0s", show_default=True, metavar="TIME", help="Nothing younger goes.")
@option("--source", multiple=True, metavar="NAME", help="Only this source; may be given several times.")
@option("--gc-only", is_flag=True, help="Forget nothing; only collect what is needed no more.")
@option("--accept-damage", is_flag=True, help="Go on although snapshots are damaged: what only they need is removed.")
@option(
    "--copied",
    is_flag=True,
    help="Of a copy of a repository: believe the writers' times, not those of the copied objects.",
)
@verb
def command(
    settings: Settings,
    policy: str | None,
    source: tuple[str, ...],
    gc_only: bool,
    accept_damage: bool,
    copied: bool,
    **values: Any,
) -> None:
    """Forget what no rule keeps, and collect what nothing needs.

    Every snapshot is listed with the reason for which it stays. One whose time is not the one at which the storage got it is
    kept, and takes no other's place, so that a host whose clock is wrong cannot push good ones out. Held snapshots and the
    newest of each writer always stay.

    Space is given back in two steps: packs that nothing needs are marked, and removed by the next prune once the
    repository's grace period (25 hours) is over, so that no run under way loses anything.
    """
    from zoneinfo import ZoneInfo

    from backupd.errors import UsageError

    rule, zone, meant, lock = _rule(values), "UTC", None, None
    if policy:
        settings, meant, rule, zone, lock = _of_policy(settings, policy, source, rule)
    if rule.empty and not gc_only:
        raise UsageError(
            "nothing was said of what to keep",
            hint="--keep-last N, --keep-daily N, ..., or --gc-only to forget nothing",
        )
    if gc_only and not rule.empty:
        raise UsageError("--gc-only forgets nothing, so it takes no --keep options")
    report = TerminalReporter(settings)
    with _prune(settings, report, accept_damage, copied) as work:
        chosen = _of_sources(work.history, meant) if meant else _chosen(work.history, source)
        result = work.by_rule(rule, lambda view: view.id in chosen, ZoneInfo(zone))
        if lock is not None:
            _keep_locked(work, lock, chosen, report)
    report.clear()
    _tell(settings, "prune", result, report)


def _keep_locked(work: "Prune", lock: "Lock", chosen: set[str], report: TerminalReporter) -> None:
    """Lock what the policy promises to be locked, and tell where that is not so."""
    from backupd.store.base import lockable

    store = lockable(work.store)
    if store is None:
        report.warning("the policy promises object locks, and this storage has none")
        return
    work.keep_locked(store, timedelta(days=lock.days), lock.mode, lambda view: view.id in chosen)
    locks = work.result.locks
    if locks is not None and (locks.refused or locks.short):
        why = f": {locks.refused}" if locks.refused else ""
        report.warning(
            f"what the newest snapshots need is not locked for {output.plural(lock.days, 'day')} as the policy promises{why}"
        )


def _of_policy(
    settings: Settings, text: str, source: tuple[str, ...], rule: "Rule"
) -> "tuple[Settings, Callable[[str], bool], Rule, str, Lock | None]":
    """A policy's repository and prune key, which sources are meant, its rule and time zone, and what it promises of locks."""
    from backupctl.policies import find_policy, settings_for, sources_of
    from backupd.errors import UsageError
    from backupd.policy.retention import Rule

    policy = find_policy(settings, text).policy
    if rule != Rule():
        raise UsageError(f"policy {policy.policy} says what to keep: leave the --keep options out")
    if policy.retention is None:
        raise UsageError(f"policy {policy.policy} has no retention: everything is kept", object_name=policy.policy)
    meant = [
        one.covers if name in {None, one.name} else str(name).__eq__
        for name in source or (None,)
        for one in sources_of(policy, name)
    ]
    zone = policy.schedule.timezone if policy.schedule else "UTC"
    return (
        settings_for(settings, policy, "prune"),
        lambda name: any(fits(name) for fits in meant),
        policy.retention.rule,
        zone,
        policy.retention.lock,
    )


def _rule(values: dict[str, Any]) -> "Rule":
    from backupd.policy.retention import Rule

    named = {key.removeprefix("keep_"): value for key, value in values.items() if value is not None}
    return Rule(**named)


def _chosen(history: "History", sources: tuple[str, ...]) -> set[str]:
    """Ids of the snapshots of the named sources; of all without a name."""
    from backupd.errors import UsageError
    from backupd.jobs.select import of_source

    if not sources:
        return {view.id for view in history.views}
    chosen: set[str] = set()
    for name in sources:
        found = of_source(history.views, name)
        if not found:
            raise UsageError(f"there is no source {name!r} here", hint="`backupctl snapshots` lists them")
        chosen |= {view.id for view in found}
    return chosen


def _of_sources(history: "History", meant: "Callable[[str], bool]") -> set[str]:
    """Ids of the snapshots of a policy's sources, of whichever writer; some may have none yet."""
    return {view.id for view in history.views if meant(view.source)}


class _prune:  # noqa: N801  # a context manager, used as a function
    """Open the repository with the prune right, under this machine's lock."""

    def __init__(self, settings: Settings, report: TerminalReporter, accept_damage: bool, copied: bool = False) -> None:
        self._settings, self._report, self._accept, self._copied = settings, report, accept_damage, copied

    def __enter__(self) -> "Prune":
        from contextlib import ExitStack

        from backupd.config.clock import now
        from backupd.crypto.keyring import Right
        from backupd.jobs.prune import Prune
        from backupd.repo.ledger import state_lock
        from backupd.store.dryrun import DryRunStore
        from backupd.wiring import open_store

        settings = self._settings
        self._stack = ExitStack()
        inner = open_store(repository_url(settings), **settings.limits)
        store = DryRunStore(inner, now) if settings.dry_run else inner
        session = self._stack.enter_context(opened(settings, Right.PRUNE, store=store, fresh=True))
        try:
            if not settings.dry_run:
                self._stack.enter_context(state_lock(session.opened.repo.ledger.path.parent, "prune", wait=False))
            repo = session.opened.repo
            return Prune(
                repo,
                now(),
                self._report,
                dry_run=settings.dry_run,
                accept_damage=self._accept,
                copied=self._copied,
                cache=session.opened.places.cache,
            )
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@click.command(
    epilog="Example: backupctl forget 3f2a91 --reason 'test run' --repository /backup/app --key keys/prune.key"
)
@click.argument("snapshot")
@option("--reason", default="", help="Why; recorded and signed, for whoever looks later.")
@option("--accept-damage", is_flag=True, help="Go on although other snapshots are damaged.")
@verb
def forget(settings: Settings, snapshot: str, reason: str, accept_damage: bool) -> None:
    """Remove one snapshot by name.

    A signed record tells what was removed. The newest snapshot of a writer and held ones cannot be removed. The space is
    given back as `prune` gives it.
    """
    from backupd.jobs.select import select_snapshot

    report = TerminalReporter(settings)
    with _prune(settings, report, accept_damage) as work:
        result = work.by_name(select_snapshot(work.history, snapshot), f"by name: {reason}" if reason else "by name")
    report.clear()
    _tell(settings, "forget", result, report)


def _tell(settings: Settings, name: str, result: "PruneResult", report: TerminalReporter) -> None:
    from backupd.config.clock import stamp

    keep = [v for v in result.verdicts if v.keep]
    gone = [v for v in result.verdicts if not v.keep]
    if settings.json:
        values = {
            "keep": [{"snapshot": v.snapshot.id, "source": v.snapshot.source[-1], "reasons": v.reasons} for v in keep],
            "forget": [
                {"snapshot": v.snapshot.id, "source": v.snapshot.source[-1], "reasons": [_why_gone(name)]} for v in gone
            ],
            "freed_bytes": result.freed,
            "pending": result.pending,
            "pending_packs": result.pending_packs,
            "pending_until": stamp(result.until) if result.until else None,
            "locked": sorted(result.refused),
            "locks": _locks(result),
            "warnings": report.warnings,
            "dry_run": settings.dry_run,
        }
        output.document(name, values)
        return
    if name == "prune":
        _table(result.verdicts)
    would = "would be " if settings.dry_run else ""
    output.say(f"{output.plural(len(keep), 'snapshot')} kept, {len(gone):,} {would}forgotten")
    output.say(f"{output.size(result.freed)} {would}freed" + _pending(result))
    if result.locks and result.locks.until:
        longer = f" ({output.plural(result.locks.extended, 'lock')} made longer)" if result.locks.extended else ""
        output.say(f"what the newest snapshots need is locked until {result.locks.until:%Y-%m-%d %H:%M} UTC{longer}")
    if result.refused:
        output.note(
            f"{output.plural(len(result.refused), 'object')} cannot be removed yet: the storage has them locked"
        )


def _locks(result: "PruneResult") -> dict[str, object] | None:
    from backupd.config.clock import stamp

    found = result.locks
    if found is None:
        return None
    until = stamp(found.until) if found.until else None
    return {"until": until, "objects": found.objects, "extended": found.extended, "short": found.short}


def _pending(result: "PruneResult") -> str:
    if not result.pending_packs:
        return ""
    until = f", from {result.until:%Y-%m-%d %H:%M} UTC on" if result.until else ""
    return f"; {output.size(result.pending)} in {output.plural(result.pending_packs, 'pack')} wait for a later prune{until}"


def _why_gone(name: str) -> str:
    return "no rule keeps it" if name == "prune" else "by name"


def _table(verdicts: "list[Verdict]") -> None:
    if not verdicts:
        return
    rows = [
        [
            v.snapshot.id[:12],
            v.snapshot.source[-1],
            f"{v.snapshot.stored_at:%Y-%m-%d %H:%M:%S}",
            "keep" if v.keep else "forget",
            "; ".join(v.reasons) or _why_gone("prune"),
        ]
        for v in verdicts
    ]
    output.table(["id", "source", "stored (UTC)", "", "why"], rows)
