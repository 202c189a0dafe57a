"""A reading child: the client program on a pipe, holding one consistent snapshot on the server.

It gets statements on its standard input and prints rows. The end of each answer is told by a line with a number drawn at
random, and by nothing else: a child that ends before is a failure, however whole its output looks.
"""

import contextlib
import fcntl
import os
import secrets
import select
import subprocess
import time
from collections.abc import Iterator, Sequence

from backupd.engines.base import ServerPlace
from backupd.engines.mariadb.client import OPTIONAL_SESSION, SESSION, as_source_error, explain
from backupd.engines.mariadb.tools import Tools, end, said_number
from backupd.errors import BackupdError, SourceIncomplete, Unreachable

_PIPE = 1 << 20
_BUFFER = 512 << 10
_SMALL = 64 << 10
_TAIL = 64
_ANSWER = 1 << 20
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)
_PAUSE = 0.001


class Worker:
    """One child. Not for two threads at once.

    Args:
        timeout: seconds to wait for the answer of a statement that is no table.
        stall: seconds without a byte after which a table counts as lost.
    """

    def __init__(self, tools: Tools, place: ServerPlace, *, timeout: float, stall: float) -> None:
        self._place = place
        self._timeout = timeout
        self._stall = stall
        words = ("--batch", "--skip-column-names", "--quick", "--unbuffered", "--skip-reconnect", "--binary-mode")
        command = tools.client_command(*words, "--default-character-set=utf8mb4", f"--database={place.database}")
        self._child = tools.spawn(command, stdin=subprocess.PIPE)
        self._broken = False
        assert self._child.stdout is not None
        self._output = self._child.stdout.fileno()
        with contextlib.suppress(OSError):  # above the user's limit: the usual size will do
            fcntl.fcntl(self._output, _SET_PIPE_SIZE, _PIPE)

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be read through it any more."""
        return self._broken

    def close(self) -> None:
        """Kill the child: its transaction is rolled back."""
        self._broken = True
        end(self._child)

    def settle(self) -> None:
        """Set the session up; text comes as it is stored."""
        self.ask(*SESSION, "SET SESSION character_set_results = binary")
        self.attempt(*OPTIONAL_SESSION)

    def attempt(self, *statements: str) -> None:
        """Run statements that not every server knows: a block takes care of what fails."""
        for statement in statements:
            name = statement.removeprefix("SET SESSION ").split(" =")[0]
            if self.ask(f"SHOW VARIABLES LIKE '{name.split(',')[0]}'"):
                self.ask(statement)

    def ask(self, *statements: str) -> bytes:
        """Run statements with short answers; what they printed.

        Raises:
            Unreachable, TryAgain, Failed.
        """
        self.send(*statements)
        return self.answer()

    def send(self, *statements: str) -> None:
        """Give statements to the child and do not wait; `answer` does."""
        self._end = secrets.token_hex(16).encode()
        # One column without a separator in it: `rows` relies on that.
        text = "".join(f"{statement};\n" for statement in statements)
        text += f"SELECT CONCAT('{self._end.decode()}', ' ', @@warning_count);\n"
        try:
            assert self._child.stdin is not None
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(self._child.stdin.fileno(), rest) :]
        except (OSError, ValueError):
            raise self._failure("reading") from None

    def answer(self, timeout: float | None = None) -> bytes:
        """What the statements of `send` printed; all of it must come within `timeout`, by default that of all answers.

        Raises:
            Unreachable, TryAgain, Failed: the child is ended, then.
        """
        parts, _ = self._collect(self._timeout if timeout is None else timeout)
        return parts

    def _collect(self, timeout: float) -> tuple[bytes, int]:
        printed = bytearray()
        deadline = time.monotonic() + timeout
        while True:
            printed += self._read(max(0.0, deadline - time.monotonic()))
            if (found := self._found_end(printed)) is not None:
                return bytes(printed[: found[0]]), found[1]
            if len(printed) > _ANSWER:
                self.close()
                raise Unreachable("the server's answer makes no sense", object_name=str(self._place))

    def rows(self, statement: str, marker: str, table: str) -> Iterator[bytes]:
        """The rows of a table as buffers; the marker becomes `\\N`.

        Raises:
            SourceMoved, SourceIncomplete, Unreachable: the table is not what it was, or not all of it came.
        """
        null = marker.encode()
        whole = False
        try:
            self.send(statement)
            pending = bytearray()
            while True:
                self._fill(pending, table)
                if (found := self._found_end(pending)) is not None:
                    position, warnings = found
                    if warnings:
                        raise SourceIncomplete(
                            f"{warnings} values of table {table} could not be written as text",
                            object_name=table,
                            hint="raise max_allowed_packet on the server, or see its SHOW WARNINGS",
                        )
                    whole = True
                    if position:
                        yield bytes(pending[:position]).replace(null, b"\\N")
                    return
                cut = _last_field(pending)
                if cut:
                    buffer = bytes(pending[:cut]).replace(null, b"\\N")
                    del pending[:cut]
                    yield buffer
        finally:
            if not whole:
                self.close()

    def _fill(self, pending: bytearray, table: str) -> None:
        """Read until there is a good deal, or the end."""
        while True:
            part = self._read(self._stall, table)
            pending += part
            if len(pending) >= _BUFFER or self._found_end(pending) is not None:
                return
            if len(part) < _SMALL:
                time.sleep(_PAUSE)  # the child writes 4 KiB at a time: let some of them come together

    def _found_end(self, printed: bytearray) -> tuple[int, int] | None:
        """Where the line that ends the answer begins, and the warnings that it tells."""
        if not printed.endswith(b"\n"):
            return None
        position = printed.rfind(self._end, max(0, len(printed) - _TAIL))
        if position < 0:
            return None
        count = bytes(printed[position + len(self._end) + 1 : -1])
        return (position, int(count)) if count.isdigit() else None

    def _read(self, timeout: float, table: str | None = None) -> bytes:
        if self._broken:
            raise Unreachable(f"the connection to {self._place} is gone", hint="run again")
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(max(1, round(timeout * 1000))):
            self.close()
            raise Unreachable(
                f"{self._place} said nothing for {timeout:.1f} s",
                object_name=table,
                hint="check the server and the network",
            )
        part = os.read(self._output, _BUFFER)  # so that no buffer is over 1 MiB
        if not part:
            raise self._failure("reading", table)
        return part

    def _failure(self, doing: str, table: str | None = None) -> BackupdError:
        """What made the child end; its own words are looked at for the number alone."""
        said = b""
        if self._child.stderr is not None and not self._broken:
            with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
                self._child.wait(5)
                said = self._child.stderr.read(1 << 14) or b""
        self.close()
        number = said_number(said)
        error = explain(number, self._place, doing if table is None else f"{doing} table {table}", subject=table)
        return error if table is None else as_source_error(error, number, table)


def _last_field(pending: bytearray) -> int:
    """Where the last field begins, unless it is longer than the marker or the last line can be: then all may go."""
    size = len(pending)
    tail = max(0, size - _TAIL)
    last = max(pending.rfind(b"\n", tail), pending.rfind(b"\t", tail))
    if last >= 0:
        return last + 1
    return size if size > _TAIL else 0


def settle_all(workers: Sequence[Worker]) -> None:
    """Set the sessions of all up."""
    for worker in workers:
        worker.settle()
