"""What is told of a recovery's plan: for people a table of numbers and the records by their keys, for programs a document."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from backupctl import output
from backupctl.options import Settings

if TYPE_CHECKING:
    from backupd.jobs.stored import StoredTables
    from backupd.model import Cell
    from backupd.records.plan import Entry, Plan
    from backupd.records.undo import UndoPlan
    from backupd.records.values import Value

_SHOWN, _LONGEST = 10, 100


def _key_of(entry: "Entry", stored: "StoredTables") -> "list[Value]":
    """The values of a record's key; of one without a key all of them."""
    table = stored.tables[entry.table]
    shown = table.shown(entry.row)
    if not entry.keyed:
        return list(shown)
    names = [name for name, _ in table.columns]
    chosen = list(entry.change.key) if entry.change is not None else list(table.key)
    return [shown[names.index(name)] for name in chosen if name in names]


def _plain_key(values: "Iterable[Value]") -> object:
    from backupd.records.values import as_json

    found = [as_json(value) for value in values]
    return found[0] if len(found) == 1 else found


def plan_records(plan: "Plan", stored: "StoredTables") -> Iterator[dict[str, Any]]:
    """The plan's records as a document has them, one by one: there may be many."""
    for entry in plan.entries:
        yield {
            "op": entry.op,
            "table": entry.table,
            "key": _plain_key(_key_of(entry, stored)),
            **({"reason": entry.reason} if entry.reason else {}),
            **({"columns": list(entry.columns)} if entry.columns else {}),
        }


def plan_values(plan: "Plan") -> dict[str, Any]:
    """The rest of the plan as a document has it."""
    return {
        "counts": plan.counts,
        "digest": plan.digest,
        "triggers": {name: list(some) for name, some in plan.triggers.items()},
        "obstacles": list(plan.obstacles),
    }


def say_plan(settings: Settings, plan: "Plan", stored: "StoredTables", values: Mapping[str, Any]) -> None:
    """The plan for people."""
    from backupd.records.plan import OPS

    counted: dict[str, dict[str, int]] = {}
    for entry in plan.entries:
        counted.setdefault(entry.table, dict.fromkeys(OPS, 0))[entry.op] += 1
    rows = [[name, *(output.count(n) if n else "" for n in some.values())] for name, some in sorted(counted.items())]
    output.table(["table", *OPS], rows, right=range(1, len(OPS) + 1))
    if settings.quiet:
        return
    told: dict[str, int] = {}
    for entry in plan.entries:
        told[entry.op] = told.get(entry.op, 0) + 1
        if entry.op == "same" or (told[entry.op] > _SHOWN and not settings.verbose):
            continue
        key = ", ".join(_short(value) for value in _key_of(entry, stored))
        why = "; ".join(part for part in (entry.reason, ", ".join(entry.columns)) if part)
        output.say(f"  {entry.op:<8}  {entry.table}  {key}" + (f"  ({why})" if why else ""))
    hidden = sum(n - _SHOWN for op, n in told.items() if op != "same" and n > _SHOWN)
    if hidden and not settings.verbose:
        output.say(f"  and {hidden:,} more (--verbose shows all)")
    for name, some in plan.triggers.items():
        output.say(f"triggers on {name}: {', '.join(some)}")
    for text in plan.obstacles:
        output.say(f"missing: {text}")
    for text in plan.warnings:
        output.note(f"warning: {text}")
    _say_end(values, f"plan {plan.digest}: nothing was written; --apply carries it out, --sql FILE writes a script")


def _say_end(values: Mapping[str, Any], otherwise: str) -> None:
    if values.get("sql"):
        output.say(f"written as a script: {values['sql']}")
    if values["applied"]:
        output.say("done in one transaction")
        output.say(f"undo with: backupctl recover --undo {values['undo']} --into ... --apply")
        if values.get("undo_until"):
            output.say(f"that file holds records in the clear; it is removed after {values['undo_until']}")
    elif not values.get("sql"):
        output.say(otherwise)


def _short(value: "Value") -> str:
    from backupd.records.values import as_text

    text = as_text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _read(cell: "Cell") -> "Value":
    """A cell of an undo file: servers' texts are bytes."""
    return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell


def undo_records(plan: "UndoPlan") -> Iterator[dict[str, Any]]:
    """What is taken back as a document has it, row by row: there may be many."""
    for entry in plan.entries:
        yield {
            "op": entry.op,
            "table": entry.table,
            "key": _plain_key(map(_read, entry.key.values())),
            **({"reason": entry.reason} if entry.reason else {}),
        }


def undo_values(plan: "UndoPlan") -> dict[str, Any]:
    """The rest of it."""
    return {"counts": plan.counts, "triggers": {name: list(some) for name, some in plan.triggers.items()}}


def say_undo(settings: Settings, plan: "UndoPlan", values: Mapping[str, Any]) -> None:
    """What is taken back, for people."""
    counts = ", ".join(f"{n:,} {op}" for op, n in plan.counts.items() if n) or "nothing"
    output.say(f"taken back: {counts}" if values["applied"] else f"would be taken back: {counts}")
    for entry in plan.entries if settings.verbose else [e for e in plan.entries if e.op == "conflict"]:
        key = ", ".join(_short(_read(cell)) for cell in entry.key.values())
        output.say(f"  {entry.op:<8}  {entry.table}  {key}" + (f"  ({entry.reason})" if entry.reason else ""))
    _say_end(values, "nothing was written; --apply carries it out")
