"""When the sources of policies start next, as `policy check` and `policy next` show it."""

from typing import TYPE_CHECKING, Any

from backupctl import output

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from backupd.config.policies import PolicyFile
    from backupd.policy.model import Policy
    from backupd.policy.schedule import Planned


def _planned(policy: "Policy", source: str, count: int) -> "list[Planned]":
    from itertools import islice

    from backupd.config.clock import now

    return list(islice(policy.timing(source).upcoming(now()), count))


def planned_of(policy: "Policy", count: int) -> list[dict[str, Any]]:
    """Each source of a policy with its next starts."""
    from backupd.config.clock import stamp

    return [
        {
            "policy": policy.policy,
            "source": source.name,
            "next": [stamp(planned.start) for planned in _planned(policy, source.name, count)],
        }
        for source in policy.sources
    ]


def table(files: "list[PolicyFile]", count: int) -> None:
    """Policies with their next starts, with offsets; sources that start at the same times share a line."""
    from zoneinfo import ZoneInfo

    rows = []
    for loaded in files:
        schedule = loaded.policy.schedule
        zone = ZoneInfo(schedule.timezone if schedule else "UTC")
        together: dict[tuple[str, ...], list[str]] = {}
        for source in loaded.policy.sources:
            starts = tuple(_shown(p, zone) for p in _planned(loaded.policy, source.name, count))
            together.setdefault(starts, []).append(source.name)
        for starts, names in together.items():
            rows += [[loaded.policy.policy, ", ".join(names), start] for start in starts or ["no schedule"]]
    output.table(["policy", "sources", "next run"], rows)


def _shown(planned: "Planned", zone: "ZoneInfo") -> str:
    start = planned.start.astimezone(zone)
    fine = "seconds" if start.second else "minutes"
    return start.isoformat(" ", fine) + (" (after a window)" if planned.postponed else "")
