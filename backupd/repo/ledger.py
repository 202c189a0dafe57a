"""What this machine remembers of a repository: the newest trust version and each writer's newest snapshot.

A missing tail of a chain is noticed only by one who remembers its head. The ledger is a small file in the state folder;
it is believed over the storage, and replaced whole.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path

from backupd.errors import Busy, Failed


@dataclass(slots=True)
class Ledger:
    """Remembered heads: writer to (number, hash); the highest trust version seen; of each role the records.

    Attributes:
        records: the highest number of a record that was listed.
        marks: number and hash of the newest record that was read, of roles whose records hide rows.
    """

    path: Path
    trust: int = 0
    heads: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    marks: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "Ledger":
        """Read the ledger of a repository's state folder; an absent one is empty.

        Raises:
            Failed: it is there but cannot be read: deleting it must be somebody's decision.
        """
        path = folder / "heads.json"
        try:
            document = json.loads(path.read_bytes())
            heads = {bytes.fromhex(w): (int(h["seq"]), bytes.fromhex(h["hash"])) for w, h in document["heads"].items()}
            records = {str(r): int(n) for r, n in document.get("records", {}).items()}
            marks = {str(r): (int(m["n"]), bytes.fromhex(m["hash"])) for r, m in document.get("marks", {}).items()}
            return cls(path, int(document["trust"]), heads, records, marks)
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise Failed(
                f"the ledger {path} cannot be read",
                object_name=str(path),
                hint="it remembers the newest snapshots, so that a rollback is noticed; move it away only if you know why",
            ) from None

    def remember(
        self,
        trust: int,
        heads: dict[bytes, tuple[int, bytes]],
        *,
        records: dict[str, int] | None = None,
        marks: dict[str, tuple[int, bytes]] | None = None,
        lower: bool = False,
    ) -> None:
        """Keep newer heads, records and a newer trust version; with `lower`, these heads even if they are older."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with state_lock(self.path.parent, "ledger"):
            now = Ledger.load(self.path.parent)
            self.trust = max(now.trust, trust)
            self.heads = dict(now.heads)
            self.records = {**now.records, **{r: max(n, now.records.get(r, 0)) for r, n in (records or {}).items()}}
            self.marks = {**now.marks, **{r: max(m, now.marks.get(r, m)) for r, m in (marks or {}).items()}}
            for writer, head in heads.items():
                if lower or head[0] > self.heads.get(writer, (0, b""))[0]:
                    self.heads[writer] = head
            then = now.trust, now.heads, now.records, now.marks
            if then != (self.trust, self.heads, self.records, self.marks):
                self._save()

    def _save(self) -> None:
        heads = {w.hex(): {"seq": seq, "hash": h.hex()} for w, (seq, h) in sorted(self.heads.items())}
        marks = {r: {"n": n, "hash": h.hex()} for r, (n, h) in sorted(self.marks.items())}
        document = {"trust": self.trust, "heads": heads, "records": self.records, "marks": marks}
        data = json.dumps(document, indent=1).encode()
        fresh = self.path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def state_lock(folder: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock of this machine, by a file in the state folder.

    Raises:
        Busy: somebody else holds it, and is not waited for.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            flock(fd, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"another {name} of this repository is at work on this machine",
                object_name=str(folder / f"{name}.lock"),
                hint="wait for it to end, and run again",
            ) from None
        yield
    finally:
        flock(fd, LOCK_UN)
        os.close(fd)
