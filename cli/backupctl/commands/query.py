"""`backupctl query`: read-only SQL over a snapshot, no server, nothing restored."""

import csv
import io
import re
import time
from typing import TYPE_CHECKING

import click

from backupctl import output
from backupctl.erased import erasures_of
from backupctl.kept import Kept
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.repo.repository import History, SnapshotView

_SHOWN = 1000
_WIDEST = 200
_SCHEMA = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


@click.command(
    epilog='Example: backupctl query latest:crm "select * from customers where id = 4711" --key keys/read.key'
)
@click.argument("snapshot")
@click.argument("sql")
@option("--attach", multiple=True, metavar="NAME=SNAPSHOT", help="Another snapshot, whose tables are NAME.TABLE.")
@option(
    "--engine",
    type=click.Choice(["sqlite", "duckdb"]),
    default="sqlite",
    show_default=True,
    help="What runs the statement; DuckDB is an extra, for sums and joins over whole tables.",
)
@option("--limit", type=click.IntRange(0), metavar="N", help="At most so many rows (a table for people: 1,000).")
@option("--csv", "as_csv", is_flag=True, help="Comma-separated values on standard output.")
@verb
def command(
    settings: Settings, snapshot: str, sql: str, attach: tuple[str, ...], engine: str, limit: int | None, as_csv: bool
) -> None:
    """Run one SELECT over the tables of SNAPSHOT, in SQLite's SQL or DuckDB's.

    Tables outside of the schema public are written "schema.table", in quotes. Of servers, whole numbers are integers and
    bytes are blobs; everything else (numeric, timestamps, arrays, JSON, booleans) is text as the server wrote it: write CAST(x
    AS REAL) to compare or sort numeric by value. Looking up by a key, by a range of it or in its order reads a few chunks, where
    the key is of integers, UUIDs, bytes or texts stored byte by byte; anything else reads whole tables.

    --engine duckdb loads the columns that the statement reads into memory first. Of servers, numeric(p,s) up to 38 digits is
    DECIMAL, and floating-point numbers, booleans, dates, times, timestamps and UUIDs are what they are; numeric without
    digits, arrays, JSON, intervals and enums are text. Of files, columns are what they are declared. A column with a value that
    is none of its type is text, which is told. This needs the read right.
    """
    from backupd.errors import UsageError

    if as_csv and settings.json:
        raise UsageError("--csv and --json are two forms of one answer: choose one")
    most = limit if limit is not None or as_csv or settings.json else _SHOWN
    kept = Kept()
    try:
        columns, values = _run(settings, snapshot, sql, attach, engine, as_csv, most, kept)
        _tell(settings, columns, values, as_csv, kept)
    finally:
        kept.close()


def _views(history: "History", snapshot: str, attach: tuple[str, ...]) -> "dict[str, SnapshotView]":
    from backupd.errors import UsageError
    from backupd.jobs.select import select_snapshot

    views = {"main": select_snapshot(history, snapshot)}
    for text in attach:
        name, equals, other = text.partition("=")
        if not equals or not _SCHEMA.fullmatch(name) or name.lower() in {"temp", *(known.lower() for known in views)}:
            raise UsageError(
                "--attach is not NAME=SNAPSHOT with a new name of letters, digits and underscores",
                hint="for example: --attach before=crm@2026-11-21T23:00",
            )
        views[name] = select_snapshot(history, other)
    if len(views) > 10:
        raise UsageError("at most 9 snapshots can be attached")
    return views


def _run(
    settings: Settings,
    snapshot: str,
    sql: str,
    attach: tuple[str, ...],
    engine: str,
    as_csv: bool,
    most: int | None,
    kept: Kept,
) -> tuple[tuple[str, ...], dict[str, object]]:
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.jobs.audit import append_audit, snapshot_facts
    from backupd.jobs.query import query
    from backupd.records.values import as_csv as csv_cell
    from backupd.records.values import as_json, as_text
    from backupd.wiring import open_file_database, run_duckdb, run_sql

    report = TerminalReporter(settings)
    with opened(settings, Right.READ) as session:
        repo = session.opened.repo
        kept.folder = session.opened.places.cache
        began = time.monotonic()
        history = repo.history()
        views = _views(history, snapshot, attach)
        erased = {view.id: erasures_of(repo, history, [view], None, report) for view in views.values()}
        for view in views.values():
            append_audit(repo, "query", snapshot_facts(view), now(), report)
        count, more = 0, False
        run = run_duckdb if engine == "duckdb" else run_sql
        with query(
            repo, views, sql, run_sql=run, open_file=open_file_database, erased=lambda view: erased[view.id]
        ) as answer:
            report.phase("reading")
            for remark in answer.remarks:
                report.warning(remark)
            for row in answer.rows:
                if most is not None and count >= most:
                    more = True
                    break
                count += 1
                if settings.json:
                    kept.add(output.item([as_json(value) for value in row]))
                elif as_csv:
                    kept.add(_csv_line([csv_cell(value) for value in row]))
                else:
                    kept.add("\t".join(_cell(as_text(value)) for value in row))
            report.clear()
            values: dict[str, object] = {
                "snapshot": views["main"].id,
                "engine": engine,
                "columns": list(answer.columns),
                "row_count": count,
                "more": more,
                "fetched_bytes": answer.fetched(),
                "seconds": round(time.monotonic() - began, 3),
                "left_out": list(answer.left_out),
                "warnings": report.warnings,
            }
            return answer.columns, values


def _cell(text: str) -> str:
    text = output.plain(text)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}... ({len(text):,} characters)"


def _tell(settings: Settings, columns: tuple[str, ...], values: dict[str, object], as_csv: bool, kept: Kept) -> None:
    if settings.json:
        output.long_document("query", values, "rows", kept)
        return
    if as_csv:
        output.data(_csv_line(list(columns)))
        for line in kept:
            output.data(line)
        return
    output.table(columns, [line.split("\t") for line in kept])
    if settings.quiet:
        return
    rows, fetched, seconds = values["row_count"], values["fetched_bytes"], values["seconds"]
    assert isinstance(rows, int)
    assert isinstance(fetched, int)
    output.note(f"{output.plural(rows, 'row')}, fetched {output.size(fetched)} in {seconds:.1f} s")
    if values["more"]:
        output.note("there are more rows: --limit N shows more of them, --csv and --json all")
    if values["left_out"]:
        output.note(f"not captured, or without rows of their own: {', '.join(map(str, values['left_out']))}")  # type: ignore[call-overload]


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
