"""Runs pg_dump and its like: the schema's archive, its plain text, the roles, and the whole database as one archive.

Their status and their messages are checked before a stream counts as complete.
"""

import hashlib
import os
import re
import threading
from collections.abc import Iterator, Sequence

from backupd.engines.postgres.archive import read_archive
from backupd.engines.postgres.client import Server, child_environment
from backupd.engines.postgres.private import PrivateFile
from backupd.engines.postgres.tools import SILENCE, Child, Tools
from backupd.errors import BackupdError, IntegrityError, SourceIncomplete, TryAgain

BLOCK = 512 * 1024
_SPEECH = re.compile(r"(?:ERROR|FATAL|error): +(?:query failed: )?(?:ERROR: +)?([^\n]{1,200})")
_LOCKED = ("lock timeout", "could not obtain lock")


def said_by(said: str) -> str:
    """The first complaint in what a tool said, fit to be printed; tools that read no rows cannot quote any."""
    found = _SPEECH.search(said)
    return "".join(c if c.isprintable() else "?" for c in found[1]) if found else "it gave no reason"


def run_tool(
    program: str, arguments: Sequence[str], server: Server, name: str, *, tools: Tools, silence: float = SILENCE
) -> Iterator[bytearray]:
    """What a dump tool writes, in blocks of at most 512 KiB.

    Args:
        silence: seconds without a byte after which the server counts as lost.

    Raises:
        SourceIncomplete, TryAgain: it failed, after whatever it has written.
    """
    with child_environment(server) as (environment, inherited):
        child = Child([tools.program(program), *arguments], environment, inherited)
        try:
            yield from _blocks(child, program, name, silence)
            status = child.wait(600)
        except BaseException:
            child.kill()
            raise
        child.output.close()
    if status != 0:
        raise _tool_failed(program, child.said, name)


def native_archive(arguments: Sequence[str], server: Server, name: str, *, tools: Tools) -> Iterator[bytearray]:
    """pg_dump's archive with all rows, read by pg_restore from beginning to end while it passes by.

    An exit status of 0 alone proves little: whatever is between pg_dump and here may have cut the archive off.

    Raises:
        SourceIncomplete, TryAgain: pg_dump failed, or pg_restore cannot read what it wrote; after all of it was given.
    """
    reader = Child([tools.program("pg_restore"), "-f", os.devnull], {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, feed=True)
    try:
        for block in run_tool("pg_dump", arguments, server, name, tools=tools):
            _feed(reader, block, name)
            yield block
        assert reader.input is not None
        reader.input.close()
        if reader.wait(600) != 0:
            raise _unreadable(reader, name)
    finally:
        reader.kill()


def _feed(reader: Child, block: bytearray, name: str) -> None:
    try:
        reader.write(memoryview(block))
    except (BrokenPipeError, TimeoutError):
        reader.wait(5)
        raise _unreadable(reader, name) from None


def _unreadable(reader: Child, name: str) -> SourceIncomplete:
    return SourceIncomplete(
        f"pg_restore cannot read the archive that pg_dump wrote of {name}: {said_by(reader.said)}",
        object_name=name,
        hint="run again; if it happens again, look at the memory and the client programs of this machine",
    )


def _blocks(child: Child, program: str, name: str, silence: float = SILENCE) -> Iterator[bytearray]:
    blocks = child.blocks(BLOCK, silence)
    while True:
        try:
            block = next(blocks, None)
        except TimeoutError:
            raise SourceIncomplete(
                f"{program} wrote nothing of {name} for {silence:.0f} s",
                object_name=name,
                hint="look at the server and at the network in between",
            ) from None
        if block is None:
            return
        yield block


def _tool_failed(program: str, said: str, name: str) -> BackupdError:
    message = f"{program} failed on {name}: {said_by(said)}"
    if any(words in said for words in _LOCKED):
        return TryAgain(message, object_name=name, hint="somebody alters a table; try again later")
    return SourceIncomplete(
        message, object_name=name, hint="`backupctl doctor --source URL` looks for missing privileges"
    )


class SchemaDump:
    """The schema of one snapshot: made once, by whoever asks first, and then read from a private file.

    Args:
        arguments: what pg_dump needs to know of the snapshot and of tables to leave out.
    """

    def __init__(self, tools: Tools, server: Server, database: str, arguments: Sequence[str]) -> None:
        self._tools = tools
        self._server = server
        self._database = database
        self._arguments = list(arguments)
        self._lock = threading.Lock()
        self._file: PrivateFile | None = None
        self._restrict_key = ""

    def archive(self) -> Iterator[bytes]:
        """pg_dump's archive of everything but rows."""
        file = self._made()
        for offset in range(0, file.size, BLOCK):
            yield file.read(offset, BLOCK)

    def text(self) -> Iterator[bytearray]:
        """The same as SQL, with the database's own settings, to be read and for psql."""
        file = self._made()
        words = ["--create", "-f", "-"]
        if not self._tools.vulnerable:
            # psql refuses its own commands until it reads this word again; it must be the same for the same schema, and
            # beyond the reach of who can put words into a schema.
            words += [f"--restrict-key={self._restrict_key}"]
        child = Child(
            [self._tools.program("pg_restore"), *words, file.path],
            {"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            file.inherited,
        )
        try:
            yield from _blocks(child, "pg_restore", self._database)
            if child.wait(600) != 0:
                raise _tool_failed("pg_restore", child.said, self._database)
        finally:
            child.kill()

    def close(self) -> None:
        """Forget it."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _made(self) -> PrivateFile:
        with self._lock:
            if self._file is None:
                self._file = self._make()
            return self._file

    def _make(self) -> PrivateFile:
        words = ["-Fc", "-Z0", "--section=pre-data", "--section=post-data", "--no-blobs", "-w", *self._arguments]
        words += ["-d", self._server.conninfo(self._database)]
        file = PrivateFile()
        try:
            for block in run_tool("pg_dump", words, self._server, self._database, tools=self._tools):
                file.write(block)
            digest = hashlib.sha256()
            for entry in read_archive(file.read).entries:
                digest.update(repr((entry.desc, entry.tag, entry.defn, entry.owner)).encode("utf-8", "surrogateescape"))
            self._restrict_key = digest.hexdigest()
        except IntegrityError as error:
            file.close()
            raise SourceIncomplete(
                f"pg_dump ended well on {self._database}, but what it wrote cannot be used: {error.message}",
                object_name=self._database,
                hint="run again; if this pg_dump is newer than backupd, update backupd or name older --tools",
            ) from error
        except BaseException:
            file.close()
            raise
        return file


def dump_roles(tools: Tools, server: Server, database: str, *, passwords: bool) -> Iterator[bytearray]:
    """Roles, their memberships and settings, and tablespaces, as SQL."""
    words = ["--globals-only", "-w", "-d", server.conninfo(database), "-l", database]
    if not passwords:
        words.append("--no-role-passwords")
    if not tools.vulnerable:
        words.append(f"--restrict-key={hashlib.sha256(server.conninfo('').encode()).hexdigest()}")
    return run_tool("pg_dumpall", words, server, "the roles", tools=tools)
