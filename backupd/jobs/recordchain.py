"""Records that are missing, or do not follow each other: whoever acts on what records say must know first that all are there.

A missing tail is noticed only by one who has seen it: this machine remembers how many records of each role it saw.
"""

from collections.abc import Collection, Iterable

from backupd.crypto.keyfile import Role
from backupd.repo.format import kind_of
from backupd.repo.records import Record
from backupd.repo.repository import Repository, gaps
from backupd.report import Problem

EVERY = frozenset(Role)


def numbers_listed(repo: Repository, roles: Collection[str] = EVERY) -> dict[str, set[int]]:
    """Of each role the numbers of the records that are stored."""
    numbers: dict[str, set[int]] = {}
    for info in repo.store.list("records/"):
        if kind_of(info.name):
            _, role, n = info.name.split("/")
            if role in roles:
                numbers.setdefault(role, set()).add(int(n))
    return numbers


def record_problems(
    repo: Repository, records: Iterable[Record], roles: Collection[str] = EVERY, what: str = "a hold"
) -> list[Problem]:
    """What is wrong with the numbers and links of records.

    Args:
        repo: the repository.
        records: those that verified.
        roles: whose records are looked at.
        what: what a missing record may have been.
    """
    remembered = {role: n for role, n in repo.ledger.records.items() if role in roles}
    numbers: dict[str, set[int]] = {**{role: set() for role in remembered}, **numbers_listed(repo, roles)}
    found = []
    for role, there in numbers.items():
        last = max(remembered.get(role, 0), max(there, default=0))
        found += [
            Problem(f"records/{role}/{first:012d}", "missing", f"records are never removed, and this one may be {what}")
            for first, _ in gaps(there, last)
        ]
    by_place = {(record.role, record.n): record for record in records if record.role in roles}
    for (role, n), record in by_place.items():
        before = by_place.get((role, n - 1))
        if before is not None and record.previous != before.digest:
            found.append(Problem(record.name, "chain", "it does not follow the record before it"))
    return found
