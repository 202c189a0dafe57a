"""Synthetic sources: what a year of nights of a database looks like in numbers, without a database.

A source is a handful of tables that grow, shrink and are rewritten; each night becomes a `Night` as a run would count it.
Everything random comes from a seed.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from backupd.policy.nights import Night

CHUNK = 16 * 1024
BEGIN = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)


@dataclass
class Table:
    """Rows of some width, which compress to some part of their size."""

    rows: int
    width: int = 200
    density: float = 0.35
    churn: float = 0.01
    touched: float = 0.0
    fresh: float = 0.0
    strange: float = 0.0

    @property
    def size(self) -> int:
        return self.rows * self.width


@dataclass
class Sim:
    """One source, night after night."""

    seed: int
    tables: dict[str, Table] = field(default_factory=dict)
    day: int = 0
    cause: str | None = "first run"
    file_bytes: int | None = None
    rewritten: bool = False

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    @property
    def date(self) -> datetime:
        """Tonight; each source begins on a day of its own."""
        return BEGIN + timedelta(days=self.day + self.seed * 5)

    def grow(self, name: str, rows: float) -> None:
        """Rows are added; their bytes are stored in full."""
        table, count = self.tables[name], self.chance(rows)
        table.rows += count
        table.fresh += count * table.width

    def shrink(self, name: str, rows: float) -> None:
        """Rows are deleted."""
        table = self.tables[name]
        table.rows = max(0, table.rows - self.chance(rows))

    def rewrite(self, name: str, share: float = 1.0, *, density: float | None = None) -> None:
        """Rows are written anew so that their chunks are stored in full; with `density`, as something else."""
        table = self.tables[name]
        size = table.size * share
        if density is None:
            table.fresh += size
        else:
            table.strange += size
            table.touched = density

    def chance(self, mean: float) -> int:
        """A count around a mean."""
        if mean <= 0:
            return 0
        return max(0, round(self.random.gauss(mean, math.sqrt(mean))))

    def night(self) -> Night:
        """Tonight's numbers; what is added from now on is tomorrow's."""
        noise = self.random
        size = sum(t.size for t in self.tables.values())
        plain = payload = 0.0
        delta = 0.0
        for table in self.tables.values():
            fresh = table.size if self.cause else min(table.fresh, max(table.size, table.fresh * 0.2))
            aged = 0.0 if self.cause else table.size * min(1.0, table.churn * 20) * noise.uniform(0.01, 0.06)
            mine = min(fresh + aged, table.size)
            plain += mine + table.strange
            payload += mine * min(1.0, table.density * noise.uniform(0.93, 1.07)) + table.strange * table.touched
            delta += table.size * min(1.0, table.churn * 40) * noise.uniform(0.5, 1.0)
            table.fresh = table.strange = table.touched = 0.0
        read = self.file_bytes or size
        if self.rewritten:
            plain, payload, self.rewritten = read, read * 0.35, False
        total = max(1, read // CHUNK)
        full = min(total, math.ceil(plain / CHUNK))
        deltas = min(total - full, int(delta / CHUNK))
        chunks = {"total": total, "full": full, "delta": deltas, "reused": total - full - deltas}
        stored = int(payload + deltas * 600 + 4096)
        taken = self.date + timedelta(minutes=noise.uniform(0, 20))
        rows = sum(t.rows for t in self.tables.values())
        tables = {name: t.rows for name, t in self.tables.items()}
        cause, self.cause = self.cause, None
        return Night(taken, rows, read, stored, chunks, tables, int(plain), int(payload), cause)


Step = Callable[[Sim], None]


def _shop(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(5_000, 400_000)
        sim.tables = {
            "customers": Table(n),
            "orders": Table(n * 3, 120),
            "items": Table(n * 8, 60),
            "products": Table(n // 20 + 50, 900, 0.3, 0.002),
            "sessions": Table(n // 30, 150, 0.5, 0.5),
        }
        return
    base = sim.tables["customers"].rows
    for name, rate in (("customers", 0.001), ("orders", 0.004), ("items", 0.011), ("products", 0.0001)):
        sim.grow(name, base * rate * sim.random.uniform(0.5, 1.6))
    sim.shrink("customers", base * 0.00005)
    sim.shrink("products", 1)
    sim.tables["sessions"].rows = int(base / 30 * sim.random.uniform(0.6, 1.5))


def _weekly(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(20_000, 200_000)
        sim.tables = {
            "accounts": Table(n),
            "ledger": Table(n * 5, 90),
            "staging": Table(0, 150),
            "report": Table(n // 2, 200),
        }
        return
    n = sim.tables["accounts"].rows
    sim.grow("accounts", n * 0.0004)
    sim.grow("ledger", n * 0.01)
    weekday = sim.date.weekday()
    if weekday == 5:
        sim.grow("staging", n * sim.random.uniform(0.5, 3.0))
    if weekday == 0:
        sim.tables["staging"].rows = 0
        sim.rewrite("report")


def _purge(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(10_000, 100_000)
        daily = sim.random.uniform(0.01, 0.03)
        sim.tables = {"users": Table(n), "events": Table(int(n * daily * 75), 110, 0.3, 0.0)}
        sim.daily = n * daily  # type: ignore[attr-defined]
        return
    sim.grow("users", sim.tables["users"].rows * 0.0007)
    sim.grow("events", sim.daily * sim.random.uniform(0.6, 1.5))  # type: ignore[attr-defined]
    if sim.date.day == 1:
        sim.shrink("events", sim.daily * 30)  # type: ignore[attr-defined]


def _seasonal(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(20_000, 200_000)
        sim.tables = {"guests": Table(n), "bookings": Table(n, 160), "open": Table(n // 10, 160), "rates": Table(5_000)}
        return
    n = sim.tables["guests"].rows
    season = 1 + 0.8 * math.sin(2 * math.pi * (sim.day + sim.seed * 37 % 365) / 365)
    sim.grow("guests", n * 0.001 * season)
    sim.grow("bookings", n * 0.002 * season)
    sim.tables["open"].rows = int(n * (0.02 + 0.08 * season) * sim.random.uniform(0.93, 1.07))
    if sim.day % 30 == 3:
        sim.rewrite("rates")


def _tiny(sim: Sim) -> None:
    if not sim.tables:
        sizes = [sim.random.randint(1, 250) for _ in range(6)]
        sim.tables = {f"t{n}": Table(rows, 80) for n, rows in enumerate(sizes)}
        return
    for name, table in sim.tables.items():
        if sim.random.random() < 0.2:
            sim.grow(name, 1 + table.rows * 0.01)
        if sim.random.random() < 0.1:
            sim.shrink(name, 1 + table.rows * 0.01)


def _partitions(sim: Sim) -> None:
    if not sim.tables:
        sim.daily = sim.random.randint(5_000, 60_000)  # type: ignore[attr-defined]
        sim.tables = {f"log/{n:03d}": Table(sim.daily * 30, 140, 0.25, 0.0) for n in range(12)}  # type: ignore[attr-defined]
        sim.tables["hosts"] = Table(800)
        return
    month = 12 + (sim.day + sim.seed * 7 % 30) // 30
    name = f"log/{month:03d}"
    if name not in sim.tables:
        sim.tables[name] = Table(0, 140, 0.25, 0.0)
        sim.tables.pop(f"log/{month - 12:03d}", None)
    sim.grow(name, sim.daily * sim.random.uniform(0.6, 1.6))  # type: ignore[attr-defined]


def _gdpr(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(10_000, 300_000)
        sim.tables = {"people": Table(n), "consents": Table(n * 2, 60), "mails": Table(n * 4, 400)}
        return
    n = sim.tables["people"].rows
    sim.grow("people", n * 0.0008)
    sim.grow("consents", n * 0.002)
    sim.grow("mails", n * 0.006)
    gone = n * min(0.01, sim.random.paretovariate(1.5) * 0.0002)
    for name, times in (("people", 1), ("consents", 2), ("mails", 4)):
        sim.shrink(name, gone * times)


def _upgrade(sim: Sim) -> None:
    _shop(sim)
    if sim.day == 90 + sim.seed % 200:
        sim.rewrite("orders")
        sim.tables["orders"].width += 12
        sim.tables["order_state"] = Table(8, 40)


def _queue(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(5_000, 80_000)
        sim.tables = {
            "users": Table(n),
            "jobs": Table(50, 300),
            "cache": Table(0, 2_000, 0.6),
            "mail_queue": Table(3, 500),
        }
        return
    n = sim.tables["users"].rows
    sim.grow("users", n * 0.0005)
    sim.tables["jobs"].rows = int(sim.random.lognormvariate(5, 1.2))
    sim.tables["mail_queue"].rows = int(sim.random.lognormvariate(2, 1.5))
    sim.tables["cache"].rows = 0 if sim.random.random() < 0.7 else sim.random.randint(0, n // 20)


def _reload(sim: Sim) -> None:
    if not sim.tables:
        n = sim.random.randint(20_000, 200_000)
        sim.tables = {"facts": Table(n, 180), "dims": Table(n // 10), "import/0": Table(n // 4, 180)}
        return
    sim.tables.pop(f"import/{sim.day - 1}", None)
    n = sim.tables["facts"].rows
    sim.tables[f"import/{sim.day}"] = Table(int(n / 4 * sim.random.uniform(0.8, 1.2)), 180)
    sim.rewrite(f"import/{sim.day}")
    sim.grow("facts", n * 0.002)
    sim.rewrite("dims")


def _archive(sim: Sim) -> None:
    _shop(sim)
    if sim.day == 334:
        moved = sim.tables["orders"].rows * 0.2
        sim.tables["orders_old"] = Table(0, 120)
        sim.grow("orders_old", moved)
        sim.shrink("orders", moved)


def _vacuum(sim: Sim) -> None:
    _shop(sim)
    size = sum(t.size for t in sim.tables.values())
    if sim.day % 91 == 60:
        sim.file_bytes, sim.rewritten = size, True
    else:
        sim.file_bytes = max(sim.file_bytes or 0, int(size * 1.02))


def _untidy(sim: Sim) -> None:
    """Several hands: odd small tables come and go, test data is cleaned up, a backlog piles up and is worked off."""
    _shop(sim)
    dice = sim.random.random
    if "leads" not in sim.tables:
        sim.tables |= {"leads": Table(3_000), "backlog": Table(100), "notes": Table(400, 1_500, 0.45)}
    sim.grow("leads", sim.random.uniform(0, 40))
    sim.grow("notes", 3)
    backlog = sim.tables["backlog"]
    backlog.rows = int(
        max(5, backlog.rows * sim.random.lognormvariate(0, 0.6) * (0.4 if backlog.rows > 3_000 else 1.05))
    )
    if dice() < 0.02:
        sim.tables[f"{sim.random.choice(['tmp/', 'copy_of_'])}{sim.day}"] = Table(sim.random.randint(1, 5_000))
    for name in [n for n in sim.tables if n.startswith(("tmp/", "copy_of_")) and dice() < 0.25]:
        del sim.tables[name]
    if dice() < 0.01:
        sim.shrink("leads", sim.tables["leads"].rows * sim.random.uniform(0.002, 0.02))
    if dice() < 0.01:
        sim.rewrite("products")


NORMAL: dict[str, Step] = {
    "growing shop": _shop,
    "weekly batch": _weekly,
    "monthly purge": _purge,
    "seasonal": _seasonal,
    "tiny": _tiny,
    "partitions dropped monthly": _partitions,
    "GDPR deletes": _gdpr,
    "upgrade rewrites a table": _upgrade,
    "queues and caches": _queue,
    "reloaded every night": _reload,
    "several hands": _untidy,
}
SUDDEN_BY_RIGHT: dict[str, Step] = {"yearly archive": _archive, "quarterly VACUUM": _vacuum}
"""Once or twice a year these do what cannot be told from an accident: a person is asked, and says yes."""


def year(step: Step, seed: int, days: int = 365) -> tuple[Sim, list[Night]]:
    """A source that ran for so many days, with nights that did not happen and caches that were lost."""
    sim = Sim(seed)
    nights = []
    for day in range(days):
        sim.day = day
        step(sim)
        if day and sim.random.random() < 0.02:
            continue
        if day and sim.random.random() < 0.005:
            sim.cause = "the version cache was lost"
        nights.append(sim.night())
    return sim, nights
