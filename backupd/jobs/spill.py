"""The queue between a source's reader and the pipeline: short in memory, and on disk once the source suffers.

What spills is sealed under a key that exists in this process only, in a file without a name: nothing of it can be read
afterwards. Must never grow in memory beyond its few buffers.
"""

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from backupd.crypto.primitives import expand, gcm_open, gcm_seal, random_bytes
from backupd.disk import unnamed_file
from backupd.engines.source import StreamInfo, View

DEPTH = 4


class SealedFile:
    """Sealed blocks in an unlinked file of this process: a spool for what memory does not hold."""

    def __init__(self, folder: Path) -> None:
        self._file = unnamed_file(folder, ".spill-")
        self._key = random_bytes(32)
        self._places: list[tuple[int, int]] = []
        self._end = 0

    def _key_nonce(self, n: int) -> bytes:
        return expand(self._key, b"spill" + n.to_bytes(8, "little"), 44)

    def __len__(self) -> int:
        """How many blocks there are."""
        return len(self._places)

    def write(self, data: bytes | bytearray) -> int:
        """Keep a block; returns its number."""
        number = len(self._places)
        sealed = gcm_seal(self._key_nonce(number), data, b"")
        self._file.seek(self._end)
        self._file.write(sealed)
        self._places.append((self._end, len(sealed)))
        self._end += len(sealed)
        return number

    def read(self, number: int) -> bytes:
        """A block."""
        at, length = self._places[number]
        self._file.seek(at)
        return gcm_open(self._key_nonce(number), self._file.read(length), b"")

    def close(self) -> None:
        """Give the space back."""
        self._file.close()


class ReadAhead:
    """Reads a stream in a thread of its own. Iterate over it once; `close` stops the thread whatever happened."""

    def __init__(self, view: View, stream: StreamInfo, folder: Path) -> None:
        self._view = view
        self._stream = stream
        self._folder = folder
        self._change = threading.Condition()
        self._memory: deque[bytes | bytearray] = deque()
        self._spill: SealedFile | None = None
        self.spilled = 0
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for buffer in self._view.read(self._stream):
                if not self._give(buffer):
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _give(self, buffer: bytes | bytearray) -> bool:
        """Hand a buffer on, through memory as long as the source does not suffer; False once nobody wants it."""
        with self._change:
            while self._spill is None and not self._stopped and len(self._memory) >= DEPTH:
                if self._view.pressing:
                    self._spill = SealedFile(self._folder)
                    break
                self._change.wait(0.2)
            if self._stopped:
                return False
            if self._spill is None:
                self._memory.append(buffer)
            else:
                self._spill.write(buffer)
                self.spilled += 1
            self._change.notify_all()
            return True

    def __iter__(self) -> Iterator[bytes | bytearray]:
        taken = 0
        while True:
            with self._change:
                while not self._memory and taken == self.spilled and not self._ended:
                    self._change.wait()
                if self._memory:
                    buffer = self._memory.popleft()
                elif taken < self.spilled and self._spill is not None:
                    buffer = self._spill.read(taken)
                    taken += 1
                else:
                    break
                self._change.notify_all()
            yield buffer
        self._thread.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop reading and give the spill back."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        self._thread.join()
        if self._spill is not None:
            self._spill.close()
