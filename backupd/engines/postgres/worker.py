"""A worker: one psql that reads many tables, one after the other, on its own connection to one snapshot.

psql leaves the interpreter alone: rows go from the server through it into a pipe, and from there in large blocks to the
caller. That a table is complete is told by a random word that the server itself sends after it, within the same stream;
psql ends at the first error, and a stream that ends without the word is never taken for a table.

Names come from the server and become part of what psql reads. A psql that can be told to refuse its own commands is told so
first; an older one gets nothing but ASCII, in which no encoding that a server claims to have lets a name leave its quotes.
"""

import re
import secrets
from collections.abc import Iterator, Sequence

from backupd.engines.postgres.client import Server, session_settings
from backupd.engines.postgres.plan import Piece
from backupd.engines.postgres.problems import source_error
from backupd.engines.postgres.tools import Child, Tools
from backupd.errors import BackupdError, SourceIncomplete, SourceMoved

BLOCK = 512 * 1024
_SNAPSHOT = re.compile(r"[0-9A-F-]{1,64}")
_NAME_OR_TEXT = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_ESCAPED = re.compile(r"\\|[^\x00-\x7f]")
# A backslash that begins no escape of ours: those are four or six digits, which is no command of psql's.
_COMMAND = re.compile(r"\\(?![0-9A-F]{4}|\+[0-9A-F]{6})")
_STATE = re.compile(r"(?:ERROR|FATAL|PANIC): +([0-9A-Z]{5})\b")
# A table that was locked, or is gone, when a worker came to it.
_MOVED = frozenset({"55P03", "42P01", "42703"})


class Worker:
    """One psql on one connection.

    Args:
        server: where the database is.
        database: its name.
        environment: of the child, from `child_environment`.
        inherited: descriptors it needs.
        silence: seconds without a byte after which the server counts as lost.
    """

    def __init__(
        self,
        tools: Tools,
        server: Server,
        database: str,
        environment: dict[str, str],
        inherited: Sequence[int],
        silence: float = 900.0,
    ) -> None:
        words = ["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=sqlstate"]
        self._child = Child(
            [tools.program("psql"), *words, "-d", server.conninfo(database)], environment, inherited, feed=True
        )
        self._database = database
        self._silence = silence
        self._is_old = tools.vulnerable
        restrict = "" if self._is_old else f"\\restrict {secrets.token_hex(16)}\n"
        self._settings = restrict + session_settings(server.major)
        self._waiting = b""

    def begin(self, snapshot: str, locks: Sequence[str]) -> None:
        """Ask it to enter the snapshot and to lock tables; `ready` waits for the answer.

        Raises:
            SourceIncomplete: the snapshot has no name that a snapshot can have.
        """
        if not _SNAPSHOT.fullmatch(snapshot):
            raise SourceIncomplete(f"{self._database}: the server named no snapshot", object_name=self._database)
        text = self._settings + "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;\n"
        text += f"SET TRANSACTION SNAPSHOT '{snapshot}';\n"
        if locks:
            text += "LOCK TABLE ONLY " + ", ONLY ".join(locks) + " IN ACCESS SHARE MODE NOWAIT;\n"
        self._waiting = self._ask(text)

    def connect(self) -> None:
        """Ask it to set its session up, without a snapshot; `ready` waits for the answer."""
        self._waiting = self._ask(self._settings)

    def ready(self) -> None:
        """Wait until what `begin` or `connect` asked for is done.

        Raises:
            SourceIncomplete, TryAgain, SourceMoved.
        """
        for _ in self._answer(self._waiting, self._database):
            raise SourceIncomplete(f"{self._database}: the server said something unasked", object_name=self._database)

    def copy(self, piece: Piece) -> Iterator[bytearray]:
        """The rows of one piece, in buffers of about 512 KiB.

        Raises:
            SourceIncomplete, TryAgain, SourceMoved: they are not complete.
        """
        lock = f"LOCK TABLE ONLY {piece.lock} IN ACCESS SHARE MODE NOWAIT;\n" if piece.lock else ""
        marker = self._ask(f"{lock}{piece.settings}\n{piece.copy};\n", piece.table)
        return self._answer(marker, piece.table)

    def query(self, copy: str, name: str) -> Iterator[bytearray]:
        """The rows of a COPY statement outside a snapshot; as `copy`."""
        return self._answer(self._ask(copy + ";\n", name), name)

    def finish(self) -> None:
        """End it in order.

        Raises:
            SourceIncomplete: it does not end as it should.
        """
        try:
            self._child.write(b"COMMIT;\n", self._silence)
            assert self._child.input is not None
            self._child.input.close()
        except OSError as error:
            raise self._failure(self._database) from error
        ended = self._child.wait(60) == 0 and self._child.readable(10)
        if not ended or self._child.output.read(1):
            raise self._failure(self._database)
        self._child.output.close()

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def _ask(self, text: str, name: str | None = None) -> bytes:
        """Send statements and, behind them, one that makes the server send a word that nobody can guess."""
        word = secrets.token_hex(16)
        text = f"{text}COPY (SELECT '{word}') TO STDOUT;\n"
        try:
            encoded = (in_ascii(text) if self._is_old else text).encode()
        except ValueError:
            self._child.kill()
            raise SourceIncomplete(
                f"{name or self._database}: a name in it cannot be given to this psql",
                object_name=name or self._database,
                hint="install the newest minor release of PostgreSQL's client programs, or use capture: native",
            ) from None
        try:
            self._child.write(encoded, self._silence)
        except OSError as error:
            raise self._failure(name or self._database) from error
        return word.encode() + b"\n"

    def _answer(self, marker: bytes, name: str) -> Iterator[bytearray]:
        """What comes before the marker."""
        kept = b""
        while True:
            buffer = bytearray(BLOCK)
            filled = len(kept)
            buffer[:filled] = kept
            while filled < BLOCK:
                filled += self._read(buffer, filled, name)
                if buffer.endswith(marker, 0, filled):
                    del buffer[filled - len(marker) :]
                    if buffer:
                        yield buffer
                    return
            kept = bytes(buffer[-len(marker) :])
            del buffer[-len(marker) :]
            yield buffer

    def _read(self, buffer: bytearray, start: int, name: str) -> int:
        if self._child.output.closed:
            raise SourceIncomplete(f"{name}: the view was closed before it had been read", object_name=name)
        if not self._child.readable(self._silence):
            self._child.kill()
            raise SourceIncomplete(
                f"{name}: the server sent nothing for {self._silence:.0f} s",
                object_name=name,
                hint="look at the server and at the network in between",
            )
        with memoryview(buffer) as view, view[start:] as rest:
            count = self._child.read_into(rest)
        if not count:
            raise self._failure(name)
        return count

    def _failure(self, name: str) -> BackupdError:
        """Why it ended: by the SQLSTATE that it gave, and by no other word of the server's."""
        self._child.wait(10)
        found = _STATE.search(self._child.said)
        state = found[1] if found else None
        if state in _MOVED:
            return SourceMoved(
                f"{name} was dropped or altered, or is about to be, while it was read",
                object_name=name,
                hint="run again",
            )
        return source_error(state, f"{name} could not be read", name)


def in_ascii(text: str) -> str:
    """SQL with quoted names in ASCII, and without a backslash that psql could act on.

    Raises:
        ValueError: it cannot be written so.
    """
    text = _NAME_OR_TEXT.sub(lambda found: _escaped(found[0]), text)
    if not text.isascii() or _COMMAND.search(text):
        raise ValueError("a text is not plain")
    return text


def _escaped(part: str) -> str:
    if part[0] == "'" or not _ESCAPED.search(part):
        return part
    return "U&" + _ESCAPED.sub(lambda found: _code(ord(found[0])), part)


def _code(number: int) -> str:
    return f"\\{number:04X}" if number < 0x10000 else f"\\+{number:06X}"
