"""Erasures for tests: added to a kit's ledger as `erase add` does, and the ledger read again."""

from collections.abc import Sequence

from backupd.crypto.keyfile import Role
from backupd.engines.live import Live
from backupd.engines.sqlite_database import LazyDatabase
from backupd.engines.sqlite_references import read_relations
from backupd.jobs.compare import StoredSide
from backupd.jobs.erasing import Found, add_erasure, erasure_from, look_for, records_hash
from backupd.jobs.erasure import Erasures, read_ledger
from backupd.jobs.pagefile import Groups
from backupd.jobs.storedtables import opened_tables
from backupd.model import LiveSchema
from backupd.records.references import parse_reference
from backupd.records.subject import parse_subject
from backupd.repo.reading import PackCache
from backupd.repo.repository import SnapshotView
from backupd.report import Reporter, Tally
from tests.jobs_kit import Kit, utc_now

REASON = "request 17"


def erase(
    kit: Kit,
    subject: str,
    references: Sequence[str] = (),
    *,
    role: Role = Role.READ,
    live: Live | None = None,
    report: Reporter | None = None,
) -> Found:
    """Add an erasure; an SQLite file says itself what refers to what."""
    repo = kit.repo(Role.READ, host="eraser")
    cache = PackCache(repo, sparse=True)

    def schema(view: SnapshotView) -> LiveSchema:
        side = StoredSide(repo, view, cache)
        if side.content["engine"] == "sqlite":
            return read_relations(side.file(Groups()))
        given = LiveSchema({}, tuple(map(parse_reference, references)))
        return given if live is None else live.schema()

    try:
        found = look_for(
            repo.history().views,
            parse_subject(subject),
            lambda view: opened_tables(repo, view, open_file=LazyDatabase, erased=None),
            schema,
            records_hash(repo)[0],
            report or Tally(),
            live,
        )
    finally:
        cache.close()
    add_erasure(kit.repo(role, host="eraser"), erasure_from(repo, found, parse_subject(subject), REASON, utc_now()))
    return found


def erased(kit: Kit, *, host: str = "reader", role: Role = Role.READ) -> Erasures:
    """What the ledger hides of the newest snapshot's source, as a host sees it."""
    repo = kit.repo(role, host=host)
    history = repo.history()
    found = read_ledger(repo, history).of_snapshots(history.views[-1:])
    assert found is not None
    return found
