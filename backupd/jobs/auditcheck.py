"""Are the chains whole? Recomputes them from the stored bytes, whether or not what they hold can be opened.

Three chains: the records of each role (numbered without gaps, each with the hash of the one before), the snapshots of each
writer, and the versions of trust. Reads, collects what is wrong, and changes nothing.
"""

from dataclasses import dataclass, field

from backupd.crypto.keyfile import Role
from backupd.errors import IntegrityError, MissingObject
from backupd.jobs.audit import trust_versions
from backupd.repo.format import kind_of
from backupd.repo.records import NONE, Link, record_link, record_name
from backupd.repo.repository import Repository, gaps, read_object
from backupd.report import Problem


@dataclass(slots=True)
class AuditCheck:
    """What was looked at, and what is wrong, in the order of the chains."""

    trust: int = 0
    records: int = 0
    snapshots: int = 0
    writers: int = 0
    problems: list[Problem] = field(default_factory=list)


def check_audit(repo: Repository) -> AuditCheck:
    """Recompute every chain.

    Raises:
        IntegrityError: the versions of trust do not follow each other: then there is nothing to check the rest by.
    """
    result = AuditCheck(trust=len(trust_versions(repo)))
    numbers: dict[str, set[int]] = {role: set() for role in repo.ledger.records}
    for info in repo.store.list("records/"):
        if kind_of(info.name):
            _, role, n = info.name.split("/")
            numbers.setdefault(role, set()).add(int(n))
    for role, there in sorted(numbers.items()):
        _role_chain(repo, Role(role), there, result)
    history = repo.history()
    result.snapshots = len(history.views)
    result.writers = len({view.object.writer for view in history.views})
    result.problems += history.problems
    return result


def _role_chain(repo: Repository, role: Role, there: set[int], result: AuditCheck) -> None:
    """One role's records: all there, each signed by one of that role, each naming the one before."""
    last = max(repo.ledger.records.get(role, 0), max(there, default=0))
    for first, end in gaps(there, last):
        what = f"records {first} to {end} are" if end > first else "a record is"
        result.problems.append(
            Problem(record_name(role, first), "missing", f"{what} missing; records are never removed")
        )
    before: tuple[int, Link | None] = (0, None)
    for n in sorted(there):
        name = record_name(role, n)
        result.records += 1
        try:
            link = record_link(read_object(repo.store, name), name, repo.trust)
        except IntegrityError as error:
            kind = "missing" if isinstance(error, MissingObject) else "damaged"
            result.problems.append(Problem(name, kind, error.message))
            before = (n, None)
            continue
        previous = NONE if n == 1 else before[1].digest if before[0] == n - 1 and before[1] else link.previous
        if link.previous != previous:
            result.problems.append(Problem(name, "chain", "it does not follow the record before it"))
        before = (n, link)
