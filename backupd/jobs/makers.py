"""Other processes of this machine that make the chunks of a run: Python does that one thread at a time.

They are forked before the run has threads, and have what it has: nothing is sent to them but what is to be made. Plaintexts and
sealed chunks pass through memory that both have. What one of them cannot do, or whose process ends, is done by the run itself,
so what comes out is the same. Must never write anything anywhere, nor use a number that the run uses: what a helper seals is
sealed under keys and salts that follow from the chunk.
"""

import contextlib
import mmap
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backupd.crypto.chunks import BLOB_OVERHEAD, Kind
from backupd.engines.source import StreamInfo
from backupd.jobs.processes import ended, forked, usable
from backupd.repo.leaning import Candidates
from backupd.repo.preparing import Made, Preparer, Wanted
from backupd.repo.versions import Version
from backupd.repo.writing import WriteSession

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ENOUGH = 16 * 1024 * 1024
"""So many bytes of rows pay for the forks."""
LARGEST = 4 * 1024 * 1024
"""Plaintexts of more bytes are not made together."""
LONGEST = 120.0
"""After so many seconds nothing more is expected of a helper."""
_Asked = tuple[bytes, int, tuple[Version, ...], bool]
_Told = tuple[int, int, bytes, int | None]
_ROOM = 2 * LARGEST + LARGEST // 2


@contextmanager
def helping(session: WriteSession, streams: Sequence[StreamInfo]) -> Iterator[list["OtherProcess"]]:
    """Have helpers while a source is read: as many as there are processors left, where they pay, and none beside other threads.

    They pay where rows lean on versions before. To compress and to name takes long enough at a time for threads.

    Args:
        session: of the run.
        streams: what is read.

    Yields:
        them.
    """
    rows = [stream.size_hint for stream in streams if stream.kind == "rows"]
    warm = session.versions is not None and session.versions.warm
    pays = warm and bool(rows) and (None in rows or sum(hint or 0 for hint in rows) >= ENOUGH)
    helpers: list[OtherProcess] = []
    try:
        with contextlib.suppress(OSError):  # no more memory, descriptors or processes: then the run does with fewer
            for _ in range(usable() - 1 if pays else 0):
                helpers.append(OtherProcess(session.preparer))
                session.preparer.take_help(helpers[-1])
        yield helpers
    finally:
        for helper in helpers:
            helper.end()


class OtherProcess:
    """A helper. For one thread at a time."""

    def __init__(self, preparer: Preparer) -> None:
        self._memory = mmap.mmap(-1, _ROOM)
        from multiprocessing.connection import Pipe

        self._talk, theirs = Pipe()
        _bound(self._talk.fileno())
        self._pid = forked(lambda: _serve(preparer, self._memory, theirs))
        self._gone = self._pid is None
        theirs.close()

    def make(self, kind: Kind, wanted: Sequence[Wanted]) -> list[Made] | None:
        """Have chunks made; None if there is no such process any more, or it could not."""
        if self._gone or sum(len(one.piece) for one in wanted) > LARGEST:
            return None
        at, asked = 0, []
        for one in wanted:
            size = len(one.piece)
            self._memory[at : at + size] = one.piece
            asked.append((one.id, size, one.guess.versions, one.guess.whole))
            at += size
        try:
            self._talk.send((kind, asked))
            if not self._talk.poll(LONGEST):
                raise TimeoutError
            told = self._talk.recv()
        except (EOFError, OSError):
            self._gone = True
            return None
        return self._taken(told) if told is not None else None

    def _taken(self, told: Sequence[_Told]) -> list[Made]:
        at, made = LARGEST, []
        for codec, length, key, way in told:
            end = at + length + BLOB_OVERHEAD
            made.append(Made(codec, length, self._memory[at:end], key, way))
            at = end
        return made

    def kill(self) -> None:
        """Have it answer nothing any more: who waits for it goes on at once."""
        self._gone = True
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def end(self) -> None:
        """Nobody asks any more."""
        self._gone = True
        self._talk.close()
        if self._pid is not None:
            ended(self._pid)
        self._memory.close()


def _serve(preparer: Preparer, memory: mmap.mmap, talk: "Connection") -> None:
    """The other process."""
    _let_go(talk.fileno())
    while True:
        talk.send(_answer(preparer, memory, *talk.recv()))


def _bound(connection: int) -> None:
    """What cannot be sent, because nobody takes it, is an error after a while."""
    with socket.fromfd(connection, socket.AF_UNIX, socket.SOCK_STREAM) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(LONGEST), 0))


def _let_go(mine: int) -> None:
    """Close what the run has open: locks and connections end with it, and whoever is at the other end of a pipe sees that."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and int(name) != mine:
                os.close(int(name))


def _answer(preparer: Preparer, memory: mmap.mmap, kind: Kind, wanted: Sequence[_Asked]) -> list[_Told] | None:
    """What was made, with the blobs in memory; None if that went wrong, which the run will find as well."""
    told = []
    begin, at = 0, LARGEST
    with contextlib.suppress(Exception):
        for chunk_id, size, versions, whole in wanted:
            made = preparer.make(kind, Wanted(chunk_id, memory[begin : begin + size], Candidates(versions, whole)))
            end = at + len(made.blob)
            memory[at:end] = made.blob
            told.append((made.codec, made.payload_length, made.key, made.way))
            begin, at = begin + size, end
        return told
    return None
