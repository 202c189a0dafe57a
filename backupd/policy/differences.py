"""What a change of a policy means, in words: a pure function of the old and the new one."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from backupd.policy.model import Model, Policy, Schedule
from backupd.policy.schedule import longest_gap
from backupd.policy.words import written

_NOTHING = "nothing"


def differences(old: Policy, new: Policy, now: datetime) -> list[str]:
    """One sentence for each thing that changes.

    Args:
        old: as it is.
        new: as it would be.
        now: from when on schedules are compared.
    """
    return [
        *_renamed(old, new),
        *_sources(old, new),
        *_became("the repository", old.repository.url, new.repository.url),
        *_schedule(old, new, now),
        *_became("what is promised", _keys(old.objectives), _keys(new.objectives)),
        *_became("what is kept", _kept(old), _kept(new)),
        *_became("the lock", _keys(old.retention and old.retention.lock), _keys(new.retention and new.retention.lock)),
        *_became("how failed runs are tried again", _keys(old.retries), _keys(new.retries)),
        *_listed("verification", _by(old.verify, "level"), _by(new.verify, "level")),
        *_drill(old, new),
        *_listed("notification", _told(old), _told(new)),
        *_names("notifier", old.notifiers, new.notifiers),
        *_became("the keys", _keys(old.keys), _keys(new.keys)),
        *_hooks(old, new),
    ]


def _became(what: str, old: str, new: str) -> Iterator[str]:
    if old != new:
        yield f"{what}: {old} becomes {new}"


def _renamed(old: Policy, new: Policy) -> Iterator[str]:
    if old.policy != new.policy:
        yield f"the policy is called {new.policy} and no longer {old.policy}: the jitter of its sources is drawn anew"


def _sources(old: Policy, new: Policy) -> Iterator[str]:
    before, after = ({source.name: source for source in policy.sources} for policy in (old, new))
    for name in [name for name in after if name not in before]:
        yield f"source {name} is added"
    for name in [name for name in before if name not in after]:
        yield f"source {name} is removed: it is backed up no more, and its snapshots stay until somebody forgets them"
    for name in [name for name in after if name in before]:
        one, other = before[name].model_dump(mode="json"), after[name].model_dump(mode="json")
        for key in one:
            if one[key] != other[key]:
                yield f"source {name}: {key} {_plain(one[key])} becomes {_plain(other[key])}"


def _schedule(old: Policy, new: Policy, now: datetime) -> Iterator[str]:
    yield from _became("runs", _when(old.schedule), _when(new.schedule))
    gaps = [longest_gap(policy.timing(policy.sources[0].name), now) for policy in (old, new)]
    if gaps[0] != gaps[1]:
        before, after = ("without a schedule" if gap is None else f"up to {written(gap)} apart" for gap in gaps)
        yield f"they are {after}, and were {before}"


def _when(schedule: Schedule | None) -> str:
    if schedule is None:
        return "no schedule"
    parts = [f'cron "{schedule.cron}"' if schedule.cron else f"every {_plain(schedule.every)}"]
    parts.append(f"in {schedule.timezone}")
    if schedule.jitter:
        parts.append(f"jitter {written(schedule.jitter)}")
    if schedule.blackout:
        parts.append(f"not {', '.join(schedule.blackout)}")
    if schedule.max_duration:
        parts.append(f"at most {written(schedule.max_duration)}")
    return ", ".join([*parts, f"catch up {schedule.catch_up}"])


def _kept(policy: Policy) -> str:
    return str(policy.retention.rule) if policy.retention else "everything"


def _drill(old: Policy, new: Policy) -> Iterator[str]:
    before, after = (f"every {written(p.drill.every)}" if p.drill else "none" for p in (old, new))
    yield from _became("restore drills", before, after)
    counts = [len(p.drill.assertions) if p.drill else 0 for p in (old, new)]
    if old.drill and new.drill and old.drill.assertions != new.drill.assertions:
        yield f"what drills assert changes: {counts[0]} and now {counts[1]}"
    servers = [{one.url: _keys(one, leave="url") for one in p.drill.scratch} if p.drill else {} for p in (old, new)]
    yield from _listed("scratch server", *servers)
    lets = [", ".join(sorted(p.drill.allow)) if p.drill and p.drill.allow else _NOTHING for p in (old, new)]
    yield from _became("what drills let in besides", *lets)


def _by(items: Any, key: str) -> dict[str, str]:
    """Items by one of their keys, and what else they say."""
    return {getattr(item, key): _keys(item, leave=key) for item in items}


def _told(policy: Policy) -> dict[str, str]:
    """To whom each event is told."""
    found: dict[str, list[str]] = {}
    for notify in policy.notify:
        for event in notify.on:
            found.setdefault(event, []).append(notify.to)
    return {event: ", ".join(sorted(to)) for event, to in found.items()}


def _listed(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in dict.fromkeys([*old, *new]):
        yield from _became(f"{what} {name}", old.get(name, "none"), new.get(name, "none"))


def _names(what: str, old: Mapping[str, Model], new: Mapping[str, Model]) -> Iterator[str]:
    """Where secrets are is named by references, which are no secrets."""
    yield from _listed(what, {n: _keys(v) for n, v in old.items()}, {n: _keys(v) for n, v in new.items()})


def _hooks(old: Policy, new: Policy) -> Iterator[str]:
    """Commands may hold what nobody should read twice: only that they change is said."""
    for name in ("before", "after"):
        one, other = getattr(old.hooks, name), getattr(new.hooks, name)
        if one != other:
            yield f"the commands {name} each run change: {len(one)} and now {len(other)}"


def _keys(model: Model | None, leave: str = "") -> str:
    """What a part says, in one line."""
    values = [] if model is None else [(n, getattr(model, n)) for n in type(model).model_fields if n != leave]
    return ", ".join(f"{name} {_plain(value)}" for name, value in values if value is not None) or _NOTHING


def _plain(value: Any) -> str:
    if isinstance(value, timedelta):
        return written(value)
    if isinstance(value, dict):
        return " ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, list | tuple) and any(isinstance(part, dict) for part in value):
        return "; ".join(map(_plain, value))
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or _NOTHING
    return _NOTHING if value is None else str(value)
