"""Whether tonight's snapshot of a source is unlike all that is known of it: a pure function of numbers.

The bounds are learnt from the source's own nights, those on which an alarm was raised among them; a source that is hardly
known has wide fixed ones. Tables are opaque labels here, and no sentence that is made here tells one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import dropwhile, pairwise
from math import sqrt

from backupd.policy.nights import (
    KINDS,
    MATURE,
    WEEK,
    Kind,
    Loss,
    Night,
    Stage,
    family_of,
    is_noise,
    percent,
    plural,
    stage_of,
    sudden_loss,
)

_PEERS = 7
"""Nights with the same cause that teach what such nights store."""
_KNOWN = 3
"""Fewer nights say nothing of what is stored anew."""
_ALL, _ALL_OF_A_STRANGER = 0.5, 0.9
"""Shares of all chunks."""
_LEAST_CHUNKS = 16
_LEAST_FRESH = 256 * 1024
_ALIKE = 8
"""Nights that stored less than such a part of what tonight stored anew are no measure of how well it compresses."""
_RANDOM, _ORDERLY = 0.9, 0.6
LEARNT_SLOWLY: frozenset[Kind] = frozenset({"entropy_up"})
"""Kinds that stay sudden for a week, night after night, whatever a person says of the first."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One way in which a night is sudden.

    Attributes:
        why: what happened, the bound and what it was learnt from; without a subject, and without a name in it.
        numbers: tonight's, and the bound.
        table: the label of the table, or of the family of tables, that it is about.
    """

    kind: Kind
    why: str
    numbers: Mapping[str, float]
    table: str | None = field(default=None, repr=False)

    def sentence(self, name: str | None = None) -> str:
        """With a subject in front: the table's name only where it may be told."""
        subject = "the whole source" if self.table is None else name or "a table"
        return f"{subject}: {self.why}"


def judge(history: Iterable[Night], tonight: Night) -> list[Alarm]:
    """In which ways tonight is sudden; the same for any order of `history`.

    Args:
        history: other nights of the same source; those that are later are left out.
        tonight: the night to judge.

    Returns:
        For `table_missing` and `table_shrunk` one alarm for each table, for every other kind at most one; by `KINDS`, then the
        greatest loss first. Nothing for a source of which no night is known.
    """
    before = [n for n in history if n.taken_at <= tonight.taken_at]
    if any(later.taken_at < earlier.taken_at for earlier, later in pairwise(before)):
        before.sort(key=lambda n: n.taken_at)  # of two of one second the order that they were given in counts
    if not before:
        return []
    counted = [n for n in before if n.tables is not None]
    work = _Judgement(tonight, before, stage_of(before, tonight.taken_at))
    found = _judge_tables(tonight, counted) if counted and tonight.tables is not None else []
    if not counted or stage_of(counted, tonight.taken_at) is not MATURE or tonight.tables is None:
        found += work.rows()
    found += [*work.size(), *work.all_new(), *work.entropy()]
    return sorted(found, key=lambda a: (KINDS.index(a.kind), -a.numbers.get("lost", 0.0), a.table or ""))


def _recent(before: Sequence[Night], tonight: Night) -> Sequence[Night]:
    """The last night, and all within a week."""
    first = len(before) - 1
    while first > 0 and before[first - 1].taken_at >= tonight.taken_at - WEEK:
        first -= 1
    return before[first:]


def _learnt(stage: Stage, nights: int, loss: Loss) -> str:
    bound = f"more than {percent(loss.bound)} is sudden"
    if stage is not MATURE and not loss.peak:
        return f"{bound} where only {plural(nights, 'night')} {'is' if nights == 1 else 'are'} known"
    return f"{bound}: in {plural(nights, 'night')} it was never more than {percent(loss.peak)}"


# ---- tables


def _judge_tables(tonight: Night, before: Sequence[Night]) -> list[Alarm]:
    """Tables of which rows are gone, and those that are gone; all these nights know their tables."""
    stage, recent = stage_of(before, tonight.taken_at), _recent(before, tonight)
    most = max(sum(rows or 0 for rows in (night.tables or {}).values()) for night in recent)
    missing = _missing(tonight, before, recent, max(1.0, stage.missing * most))
    told = {family_of(alarm.table or "") for alarm in missing}
    return missing + _shrunk(tonight, before, recent, stage, stage.of_all * most, told)


def _shrunk(
    tonight: Night, before: Sequence[Night], recent: Sequence[Night], stage: Stage, least: float, told: set[str]
) -> list[Alarm]:
    """Families that lost at least so many rows; but for those that were told."""
    now = tonight.families()
    was: dict[str, int] = {}
    for night in recent:
        for family, rows in night.families().items():
            was[family] = max(was.get(family, 0), rows or 0)
    found = []
    nights: list[tuple[datetime, Mapping[str, int | None]]] = []
    for family, rows in was.items():
        left = now.get(family, 0)
        if left is None or family in told or rows - left < least or is_noise(rows, left, stage.table):
            continue
        nights = nights or [(night.taken_at, night.families()) for night in before]
        counts = _counts(nights, family)
        lately = [
            count for taken, count in counts if taken >= tonight.taken_at - (WEEK if stage is MATURE else 2 * WEEK)
        ]
        if left >= min(lately, default=1) and (stage is not MATURE or not left):
            continue  # it was no larger a few days ago: it comes and goes, or whether it does is not known yet
        series = list(dropwhile(lambda count: not count[1], counts))
        if loss := sudden_loss(rows, left, stage.table, series):
            gone = f"{rows - left:,} of {rows:,} rows are gone ({percent((rows - left) / rows)})"
            why = f"{gone}; {_learnt(stage, len(before), loss)}"
            found.append(Alarm("table_shrunk", why, loss.numbers, family))
    return found


def _counts(nights: Iterable[tuple[datetime, Mapping[str, int | None]]], family: str) -> list[tuple[datetime, int]]:
    """The rows of a family; where it was missing it had none."""
    return [(taken, rows) for taken, families in nights if (rows := families.get(family, 0)) is not None]


def _missing(tonight: Night, before: Sequence[Night], recent: Sequence[Night], least: float) -> list[Alarm]:
    """Tables with rows that were there for a while and are gone, where no table of their family ever went."""
    there = tonight.tables or {}
    rows: dict[str, int] = {}
    for night in recent:
        for label, count in (night.tables or {}).items():
            if label not in there:
                rows[label] = max(rows.get(label, 0), count or 0)
    gone = {label: count for label, count in rows.items() if count >= least}
    usual = _families_that_lose(before) if gone else frozenset()
    heirs: dict[int, frozenset[str]] = {}  # of the night a table was last there: families with a new table since
    found = []
    for label, count in gone.items():
        had = [night for night in before if label in (night.tables or {})]
        passing = had[0] is not before[0] and tonight.taken_at - had[0].taken_at < WEEK
        family = family_of(label)
        last = had[-1]
        if id(last) not in heirs:
            heirs[id(last)] = frozenset(map(family_of, there.keys() - (last.tables or {}).keys()))
        if passing or family in heirs[id(last)] or family in usual:
            continue
        why = f"it is missing, with {plural(count, 'row')}; in {plural(len(before), 'night')} nothing like it went"
        found.append(Alarm("table_missing", why, {"before": count, "now": 0, "lost": count}, label))
    return found


def _families_that_lose(nights: Sequence[Night]) -> frozenset[str]:
    """Families of which a table with rows went before."""
    found = set()
    for earlier, later in pairwise(nights):
        tables = earlier.tables or {}
        found |= {family_of(label) for label in tables.keys() - (later.tables or {}).keys() if tables[label]}
    return frozenset(found)


# ---- the whole source


@dataclass(frozen=True, slots=True)
class _Judgement:
    """One night beside those before it."""

    tonight: Night
    before: Sequence[Night]
    stage: Stage

    def rows(self) -> list[Alarm]:
        """All rows together: where the tables are not known well, or at all."""
        was = max((n.rows or 0 for n in _recent(self.before, self.tonight)), default=0)
        now, floor = self.tonight.rows, self.stage.rows
        if now is None or is_noise(was, now, floor):
            return []
        loss = sudden_loss(was, now, floor, [(n.taken_at, n.rows) for n in self.before if n.rows is not None])
        if loss is None:
            return []
        gone = f"{was - now:,} of {was:,} rows are gone ({percent((was - now) / was)})"
        return [Alarm("rows_gone", f"{gone}; {_learnt(self.stage, len(self.before), loss)}", loss.numbers)]

    def size(self) -> list[Alarm]:
        """What was read."""
        was, now = max(n.read_bytes for n in _recent(self.before, self.tonight)), self.tonight.read_bytes
        if is_noise(was, now, self.stage.size):
            return []
        loss = sudden_loss(was, now, self.stage.size, [(n.taken_at, n.read_bytes) for n in self.before])
        if loss is None:
            return []
        less = f"{now:,} bytes are left of {was:,} ({percent((was - now) / was)} less)"
        return [Alarm("bytes_gone", f"{less}; {_learnt(self.stage, len(self.before), loss)}", loss.numbers)]

    def all_new(self) -> list[Alarm]:
        """Nearly everything was stored in full, and nothing that is known explains it."""
        tonight, total = self.tonight, self.tonight.chunks.get("total", 0)
        share = tonight.full_share
        if total < _LEAST_CHUNKS or share < _ALL:
            return []
        peers = [n for n in self.before if n.cause == tonight.cause]
        if len(peers) < (_PEERS if tonight.cause else _KNOWN):
            return []
        peak = max(n.full_share for n in peers)
        least = _ALL if len(peers) >= _PEERS else _ALL_OF_A_STRANGER
        bound = min(1.0, max(least, 2 * peak) + 2 / sqrt(total))
        if peak >= _ALL or share < bound:
            return []
        why = (
            f"{tonight.chunks.get('full', 0):,} of {total:,} chunks had to be stored in full ({percent(share)}); "
            f"{percent(bound)} is sudden: in {plural(len(peers), 'night')} it was never more than {percent(peak)}"
        )
        return [Alarm("all_new", why, {"now": round(share, 6), "bound": round(bound, 6)})]

    def entropy(self) -> list[Alarm]:
        """What was stored in full compresses much worse than what was stored before: as encrypted data does."""
        tonight = self.tonight
        if tonight.fresh_plain < _LEAST_FRESH or tonight.density < self.stage.density:
            return []
        measured = [n for n in self.before if n.fresh_plain >= _LEAST_FRESH]
        peers = [n for n in measured if n.fresh_plain >= tonight.fresh_plain / _ALIKE] or measured
        if not peers:
            return []
        densities = sorted(n.density for n in peers)
        if len(measured) < _KNOWN:
            bound = _RANDOM if densities[-1] <= _ORDERLY else 2.0
        else:
            # the last week teaches by the crowd only: who encrypts a little more each night must not raise the bound
            old = [n.density for n in peers if tonight.taken_at - n.taken_at >= WEEK]
            bound = max([*old, densities[int(0.9 * (len(densities) - 1))]]) + self.stage.density
        if tonight.density < bound:
            return []
        usual = percent(densities[len(densities) // 2])
        why = (
            f"what is new can only be compressed to {percent(tonight.density)} of its size; {percent(bound)} is sudden: "
            f"in {plural(len(peers), 'night')} that stored as much it was {usual}"
        )
        return [Alarm("entropy_up", why, {"now": round(tonight.density, 6), "bound": round(bound, 6)})]
