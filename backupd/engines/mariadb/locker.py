"""Holds the tables without transactions locked until the last of their rows is read.

Writers wait behind these locks, so the server is to give them up soon when nobody is there any more to end them: the
connection is one that the server closes after a minute of silence, and a word every few seconds keeps it from that.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from backupd.engines.mariadb.barrier import PATIENCE
from backupd.engines.mariadb.client import quote_name
from backupd.engines.mariadb.worker import Worker
from backupd.errors import BackupdError, TryAgain

SILENCE = 60
_READING = 900
_WORD_EVERY = 15.0
_AGAIN = 0.2


class Locker:
    """A child that holds the locks, and reads what it locked.

    Args:
        make: starts a child whose session is set up.
        timeout: seconds for which to go on trying.
    """

    def __init__(self, make: Callable[[], Worker], *, timeout: float) -> None:
        self._make = make
        self._timeout = timeout
        self._worker = make()
        self._busy = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def hold(self, names: Sequence[str]) -> None:
        """Lock tables; a child that waited too long is ended, and the lock with it.

        Raises:
            TryAgain: they could not be had in time.
        """
        locks = ", ".join(f"{quote_name(name)} READ" for name in names)
        deadline = time.monotonic() + self._timeout
        with self._busy:
            while not self._lock(locks):
                if time.monotonic() > deadline:
                    raise TryAgain(
                        "the tables without transactions are written to without a pause", hint="run again later"
                    )
                time.sleep(_AGAIN)
                self._worker = self._make()
        if self._thread.ident is None:
            self._thread.start()

    def _lock(self, locks: str) -> bool:
        worker = self._worker
        try:
            worker.ask("UNLOCK TABLES", f"SET SESSION lock_wait_timeout = 1, wait_timeout = {SILENCE}")
            worker.ask(f"SET SESSION net_write_timeout = {_READING}")
            worker.attempt(f"SET SESSION max_statement_time = {PATIENCE}")
            worker.ask(f"LOCK TABLES {locks}")
            worker.attempt("SET SESSION max_statement_time = 0")
        except TryAgain:
            return False
        return True

    def release(self) -> None:
        """Let go of all tables."""
        with self._busy:
            self._worker.ask("UNLOCK TABLES")

    def rows(self, statement: str, marker: str, table: str) -> Iterator[bytes]:
        """The rows of a locked table; whoever takes them may take his time.

        Raises:
            SourceMoved, SourceIncomplete, Unreachable.
        """
        with self._busy:
            self._worker.ask(f"SET SESSION wait_timeout = {_READING}")
            yield from self._worker.rows(statement, marker, table)
            self._worker.ask(f"SET SESSION wait_timeout = {SILENCE}")

    def close(self) -> None:
        """End the child, and the locks with it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._worker.close()

    def _speak(self) -> None:
        """Keep the connection alive while nothing is read through it."""
        while not self._stop.wait(_WORD_EVERY):
            if self._busy.acquire(blocking=False):
                try:
                    self._worker.ask("DO 0")
                except BackupdError:  # whoever reads next is told
                    return
                finally:
                    self._busy.release()
