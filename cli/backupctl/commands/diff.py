"""`backupctl diff`: which records were added, removed or changed between two snapshots, or since one of them."""

import csv
import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.erased import erasures_of
from backupctl.kept import Kept
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.servers import build_options, server_options
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.engines.base import Source
    from backupd.jobs.comparison import Comparison
    from backupd.records.values import Record, Value
    from backupd.repo.repository import SnapshotView

_SAMPLES, _SAMPLES_OF_ONE = 5, 20


@click.command(epilog="Example: backupctl diff crm@2026-11-21T23:00 live --table customers --key keys/read.key")
@click.argument("old")
@click.argument("new")
@option("--table", metavar="NAME", help="Only this table, with each record that differs.")
@option("--source", metavar="URL", help="The live database; without it, the policy's source of the snapshot's name.")
@option("--limit", type=click.IntRange(0), metavar="N", help="At most so many records of a table.")
@option("--columns", is_flag=True, help="Show what changed of each record: the columns that differ, old and new.")
@option("--csv", "as_csv", is_flag=True, help="Comma-separated values on standard output.")
@server_options
@verb
def command(
    settings: Settings,
    old: str,
    new: str,
    table: str | None,
    source: str | None,
    limit: int | None,
    columns: bool,
    as_csv: bool,
    server: dict[str, Any],
) -> None:
    """Tell which records differ between OLD and NEW, two snapshots; NEW may be `live`, the database as it is now.

    Tables without a key are compared as multisets. Changes of the schema are told apart from changes of data, and rows are
    then compared on the columns that both sides have. This needs the read right. Nothing is stored or changed.
    """
    from backupd.errors import UsageError

    if as_csv and settings.json:
        raise UsageError("--csv and --json are two forms of one answer: choose one")
    if new != "live" and source:
        raise UsageError("--source is for NEW `live`", hint=f"write: backupctl diff {old} live --source ...")
    report = TerminalReporter(settings)
    told = _Told(table, limit, columns, settings.json, as_csv)
    try:
        found, before, after, seconds = _compare(settings, old, new, source, server, told, report)
        report.clear()
        values = {
            "old": before.id,
            "new": after.id if after else "live",
            "tables": [_table_values(t) for t in found.tables],
            "schema_changes": [change.values() for change in found.schema_changes],
            "fetched_bytes": found.fetched_bytes,
            "seconds": round(seconds, 3),
            "warnings": report.warnings,
        }
        told.finish(values, found)
        if not settings.json and not as_csv and not settings.quiet:
            output.say("")
            output.say(f"fetched {output.size(found.fetched_bytes)} in {seconds:.1f} s")
    finally:
        told.close()


def _table_values(table: Any) -> dict[str, Any]:
    values = {"name": table.name, "added": table.added, "removed": table.removed, "changed": table.changed}
    return values if table.reason is None else {**values, "compared": False, "reason": table.reason}


def _compare(
    settings: Settings,
    old: str,
    new: str,
    source: str | None,
    server: dict[str, Any],
    told: "_Told",
    report: TerminalReporter,
) -> "tuple[Comparison, SnapshotView, SnapshotView | None, float]":
    """What differs between which snapshots, and how long it took once the key was unlocked."""
    from backupd.crypto.keyring import Right
    from backupd.jobs.compare import compare
    from backupd.jobs.comparelive import compare_with_live
    from backupd.jobs.comparison import Asked
    from backupd.jobs.select import select_snapshot
    from backupd.wiring import read_file_schema

    with opened(settings, Right.READ) as session:
        repo, places = session.opened.repo, session.opened.places
        began = time.monotonic()
        history = repo.history()
        before = select_snapshot(history, old)
        after = None if new == "live" else select_snapshot(history, new)
        views = [before] if after is None else [before, after]
        erasures = erasures_of(repo, history, views, None, report)
        told.kept.folder = places.cache
        asked = Asked(places.cache, told.table, told.take, erasures)
        if after is None:
            live = _live(settings, source, before.source, server)
            found = compare_with_live(repo, before, live, asked=asked, read_schema=read_file_schema, report=report)
            return found, before, None, time.monotonic() - began
        found = compare(repo, before, after, asked=asked, read_schema=read_file_schema, report=report)
        return found, before, after, time.monotonic() - began


def _live(settings: Settings, url: str | None, name: str, server: dict[str, Any]) -> "Source":
    """The live database: the one that is named, or the policy's source of that name.

    Raises:
        UsageError: neither is there.
    """
    from backupctl.policies import password_of, source_named
    from backupd.config.policies import database_of
    from backupd.config.urls import parse_database
    from backupd.wiring import open_source

    if url:
        return open_source(parse_database(url), timeout=server["lock_timeout"], options=build_options(server))
    found = source_named(settings, name, "name the live database with --source URL")
    options = build_options(server, exclude=found.exclude)
    options = replace(options, password=options.password or password_of(found), jobs=found.jobs)
    return open_source(database_of(found), timeout=server["lock_timeout"], options=options)


class _Told:
    """What is told of records: samples for people, all of them for programs."""

    def __init__(self, table: str | None, limit: int | None, columns: bool, as_json: bool, as_csv: bool) -> None:
        self.table, self._columns = table, columns
        self._as_json, self._as_csv = as_json, as_csv
        self._most = limit if limit is not None or as_json or as_csv else _SAMPLES_OF_ONE if table else _SAMPLES
        self.kept = Kept()
        self._counts: dict[str, int] = {}
        self._samples: dict[str, list[Record]] = {}

    @property
    def take(self) -> "Callable[[str, Record], None] | None":
        """What is told of each record; None if programs ask for numbers only."""
        return None if (self._as_json or self._as_csv) and self.table is None else self._take

    def _take(self, name: str, record: "Record") -> None:
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._most is not None and self._counts[name] > self._most:
            return
        if self._as_json:
            self.kept.add(output.item(self._values(record)))
        elif self._as_csv:
            if self._counts[name] == 1:
                self.kept.add(_csv_line(_csv_head(record)))
            self.kept.add(_csv_line(_csv_cells(record, self._columns)))
        else:
            self._samples.setdefault(name, []).append(record)

    def close(self) -> None:
        """Give what was kept back."""
        self.kept.close()

    def _values(self, record: "Record") -> dict[str, object]:
        from backupd.records.values import as_json, named

        only = record.differing if self._columns else None
        key = [as_json(value) for value in record.key]
        return {
            "op": record.op,
            "key": None if not key else key[0] if len(key) == 1 else key,
            "old": None if record.old is None else named(record.columns, record.old, only),
            "new": None if record.new is None else named(record.columns, record.new, only),
        }

    def finish(self, values: dict[str, Any], found: "Comparison") -> None:
        """Print everything."""
        if self._as_json and self.table is not None:
            output.long_document("diff", values, "records", self.kept)
        elif self._as_json:
            output.document("diff", values)
        elif self._as_csv and self.table is not None:
            for line in self.kept:
                output.data(line)
        elif self._as_csv:
            output.data(_csv_line(["table", "added", "removed", "changed", "reason"]))
            for t in found.tables:
                output.data(_csv_line([t.name, str(t.added), str(t.removed), str(t.changed), t.reason or ""]))
        else:
            self._say(values, found)

    def _say(self, values: dict[str, Any], found: "Comparison") -> None:
        differing = [t for t in found.tables if t.added or t.removed or t.changed or t.reason]
        output.say(f"from {values['old'][:12]} to {values['new'][:12]}")
        output.say("")
        if differing:
            rows = [[t.name, "-", "-", "-", t.reason] if t.reason else [t.name, *_counted(t), ""] for t in differing]
            output.table(["table", "added", "removed", "changed", ""], rows, right=[1, 2, 3])
        same = len(found.tables) - len(differing)
        if same:
            output.say(f"{output.plural(same, 'table')} without a difference")
        for change in found.schema_changes:
            types = " -> ".join(kind for kind in (change.old, change.new) if kind)
            parts = [change.table, change.change, change.object, f"({types})" if types else None]
            output.say("schema: " + " ".join(part for part in parts if part))
        for name, records in self._samples.items():
            output.say("")
            output.say(f"{name}, {len(records)} of {output.plural(self._counts[name], 'record')}:")
            for record in records:
                self._say_record(record)

    def _say_record(self, record: "Record") -> None:
        from backupd.records.values import as_text

        names = [record.columns[at] for at in record.differing] if record.op == "changed" else []
        key = ", ".join(_short(as_text(value)) for value in record.key) or "(no key)"
        output.say(f"  {record.op:<8} {key}" + (f"  {', '.join(names)}" if names else ""))
        if not self._columns:
            return
        for at in record.differing:
            sides = [None if row is None else _short(as_text(row[at])) for row in (record.old, record.new)]
            output.say(f"      {record.columns[at]}: " + " -> ".join(side for side in sides if side is not None))


def _counted(table: Any) -> list[str]:
    return [output.count(table.added), output.count(table.removed), output.count(table.changed)]


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text):,} characters)"


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _csv_head(record: "Record") -> list[str]:
    return ["op", *(f"{side} {name}" for side in ("old", "new") for name in record.columns)]


def _csv_cells(record: "Record", only_differing: bool) -> list[str]:
    shown = set(record.differing) | set(record.keyed) if only_differing else set(range(len(record.columns)))

    def cell(row: "tuple[Value, ...] | None", at: int) -> str:
        from backupd.records.values import as_csv

        return "" if row is None or at not in shown else as_csv(row[at])

    return [record.op, *(cell(row, at) for row in (record.old, record.new) for at in range(len(record.columns)))]
