"""Adding a record to those of its role; two programs that add one together come one behind the other.

Must never be asked for a role that may not sign the type: readers ignore what such a record says.
"""

from collections.abc import Mapping

from backupd.crypto.keyring import Signer
from backupd.crypto.primitives import sha256
from backupd.errors import IntegrityError, TryAgain
from backupd.repo.format import kind_of
from backupd.repo.records import NONE, encode_record, record_name
from backupd.repo.repository import Repository, read_object
from backupd.store.base import ObjectExists


def append_record(repo: Repository, signer: Signer, document: Mapping[str, object], owner: bytes = b"") -> str:
    """Store a record behind the newest one of its role, linked to it; returns its name.

    With `owner`, of a writer's record, it is sealed so that this writer can read it.

    Raises:
        TryAgain: others kept winning.
        IntegrityError: somebody has used up the numbers: what is stored behind them nobody would read.
    """
    for _ in range(100):
        names = [info.name for info in repo.store.list(f"records/{signer.role}/") if kind_of(info.name)]
        n = int(names[-1].rsplit("/", 1)[1]) + 1 if names else 1
        previous = sha256(read_object(repo.store, names[-1])) if names else NONE
        name = record_name(signer.role, n)
        if not kind_of(name):
            raise IntegrityError(
                f"{names[-1]} has the last number there is: no record can stand behind it",
                object_name=names[-1],
                hint="somebody who may write to the storage put it there: find out who, and remove it",
            )
        try:
            repo.store.put(name, encode_record(name, document, repo.id, signer, repo.keyring, previous, owner))
        except ObjectExists:
            continue
        return name
    raise TryAgain("other programs kept writing records of this role", hint="run again")
