"""Runs pg_restore on chosen entries of an archive, straight into a database; never through plain text."""

import re
from collections.abc import Iterable, Iterator, Sequence

from backupd.engines.postgres.archive import Entry
from backupd.engines.postgres.client import Server, child_environment
from backupd.engines.postgres.private import PrivateFile
from backupd.engines.postgres.tools import Child, Tools, find_tools, installed
from backupd.errors import BackupdError, Failed

PRE_DATA, DATA, POST_DATA = 2, 3, 4
_SETTINGS = (
    "-c default_transaction_read_only=off -c synchronous_commit=off -c statement_timeout=0 -c lock_timeout=0 "
    "-c idle_in_transaction_session_timeout=0 -c row_security=off -c client_min_messages=error "
    "-c maintenance_work_mem=192MB"
)
# The command is of the schema; its first words name the object.
_COMMAND = re.compile(r"Command was: ([^\n(]{1,120})")
_MESSAGE = re.compile(r"ERROR: +([^\n]{1,300})")
_SECONDS = 24 * 3600.0
# Since this version, pg_restore begins with a setting that older servers do not know.
_FIRST_WITH_TIMEOUT = 17
_ERROR = b"pg_restore: error:"
_UNKNOWN_SETTING = _ERROR + (
    b" could not execute query: ERROR:  unrecognized configuration parameter " + b'"transaction_timeout"'
)
_IGNORED = re.compile(rb"pg_restore: (?:warning: )?errors ignored on restore: ([0-9]+)\Z")
_LONGEST_LINE = 1024
# What the server says may quote values; these are known to hold names only.
_SAFE_MESSAGES = re.compile(
    r"""(permission\ denied\ |must\ be\ (owner|superuser|able|a\ member)|role\ "|schema\ "|type\ "|relation\ "|table\ "
      |function\ |extension\ "|could\ not\ open\ extension\ control\ file|language\ "|tablespace\ "|collation\ "
      |text\ search\ |could\ not\ create\ unique\ index\ "|insert\ or\ update\ on\ table\ "
      |check\ constraint\ ".*is\ violated\ by\ some\ row|access\ method\ "|operator\ |publication\ "|database\ "
      |ICU\ is\ not\ supported
      |unrecognized\ |could\ not\ access\ file\ |syntax\ error\ at|column\ "|no\ schema\ has\ been\ selected|out\ of\ )""",
    re.VERBOSE,
)


class Complaints:
    """Counts the errors that pg_restore tells of, in all that it says.

    It quotes commands of the archive, which may look like its own lines. So its own count at the very end decides: whatever
    is quoted only adds to the number of lines here, and then the two differ.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self.errors = 0
        self.benign = 0
        self.ignored = -1

    def hear(self, said: bytes) -> None:
        """Take what it says next."""
        *whole, rest = said.split(b"\n")
        for end in whole:
            self._append(end)
            self._count(bytes(self._line))
            self._line.clear()
        self._append(rest)

    def _append(self, part: bytes) -> None:
        self._line += part[: max(0, _LONGEST_LINE - len(self._line))]

    def _count(self, line: bytes) -> None:
        if line.startswith(_ERROR):
            self.errors += 1
            self.benign += line == _UNKNOWN_SETTING
        elif found := _IGNORED.match(line):
            self.ignored = int(found[1])

    @property
    def are_benign(self) -> bool:
        """Whether all that failed is the one setting, which each session sets once."""
        return self.errors == self.benign == self.ignored == 1


def restore_tools(bin_folders: Sequence[str], server: Server, *, at_least: int) -> Tools:
    """The programs to restore with: rather some that set nothing that the server does not know.

    Raises:
        Failed: there are none of version `at_least` or newer.
    """
    if server.major < _FIRST_WITH_TIMEOUT:
        fit = [tools for tools in installed(bin_folders) if at_least <= tools.major < _FIRST_WITH_TIMEOUT]
        if fit:
            return min(fit, key=lambda tools: (abs(tools.major - server.major), -tools.minor))
    return find_tools(bin_folders, at_least=at_least, nearest=server.major)


def split_entries(entries: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """What comes before the rows, and what comes after them: indexes, constraints, triggers; and all grants.

    Grants come last, because an owner may have taken from itself the right to insert.
    """
    before, after, section = [], [], PRE_DATA
    for entry in entries:
        if entry.section in {PRE_DATA, DATA, POST_DATA}:
            section = max(section, entry.section)
        if section == PRE_DATA and entry.desc not in {"ACL", "DEFAULT ACL"}:
            before.append(entry)
        else:
            after.append(entry)
    return before, after


def restore_entries(
    tools: Tools,
    server: Server,
    database: str,
    archive: PrivateFile,
    entries: Sequence[Entry],
    flags: Sequence[str],
) -> None:
    """Execute entries of an archive in a database.

    Args:
        flags: more of pg_restore's options, like `-j 2`.

    Raises:
        Failed: the server refused something.
    """
    if not entries:
        return
    with PrivateFile() as chosen, child_environment(server, _SETTINGS) as (environment, inherited):
        chosen.write("".join(f"{entry.number};\n" for entry in entries).encode())
        words = [
            "-w",
            "-L",
            chosen.path,
            *_careful(tools, server, flags),
            "-d",
            server.conninfo(database),
            archive.path,
        ]
        complaints = Complaints()
        child = Child(
            [tools.program("pg_restore"), *words],
            environment,
            (*inherited, *chosen.inherited, *archive.inherited),
            hear=complaints.hear,
        )
        try:
            child.output.read()
            status = child.wait(_SECONDS)
        finally:
            child.kill()
    if status != 0 and not (_sets_too_much(tools, server) and complaints.are_benign):
        raise restore_failed(child.said, database)


def feed_restore(
    tools: Tools, server: Server, database: str, blocks: Iterator[bytes], entries: Sequence[Entry], flags: Sequence[str]
) -> int:
    """Feed a whole archive to pg_restore as it arrives; returns its size. If it breaks off, pg_restore is killed.

    Raises:
        Failed: the server refused something.
        BackupdError: whatever the blocks raise.
    """
    count = 0
    with PrivateFile() as chosen, child_environment(server, _SETTINGS) as (environment, inherited):
        chosen.write("".join(f"{entry.number};\n" for entry in entries).encode())
        words = ["-w", "-L", chosen.path, *_careful(tools, server, flags), "-d", server.conninfo(database)]
        complaints = Complaints()
        child = Child(
            [tools.program("pg_restore"), *words],
            environment,
            (*inherited, *chosen.inherited),
            feed=True,
            hear=complaints.hear,
        )
        assert child.input is not None
        try:
            try:
                for block in blocks:
                    count += len(block)
                    rest = memoryview(block)
                    while rest:
                        rest = rest[child.input.write(rest) or 0 :]
                child.input.close()
            except BrokenPipeError:
                child.wait(10)
            status = child.wait(_SECONDS)
        finally:
            child.kill()
    if status != 0 and not (_sets_too_much(tools, server) and complaints.are_benign):
        raise restore_failed(child.said, database)
    return count


def _careful(tools: Tools, server: Server, flags: Sequence[str]) -> list[str]:
    """The options, with the one that ends it at the first error.

    Where it begins with a setting that the server does not know, errors are counted afterwards; its own count is of no use
    then if several sessions are at work, so there is one.
    """
    if not _sets_too_much(tools, server):
        return ["--exit-on-error", *flags]
    words = list(flags)
    if "-j" in words:
        place = words.index("-j")
        del words[place : place + 2]
    return words


def _sets_too_much(tools: Tools, server: Server) -> bool:
    return tools.major >= _FIRST_WITH_TIMEOUT > server.major


def restore_failed(said: str, database: str) -> BackupdError:
    """Why pg_restore failed: which object, and what the server said of it if that can hold no values."""
    said = said.replace(_UNKNOWN_SETTING.decode(), "").replace("Command was: SET transaction_timeout = 0;", "")
    found = _COMMAND.search(said)
    entry = "".join(c if c.isprintable() else "?" for c in found[1]).strip() if found else "an object"
    message = _MESSAGE.search(said)
    why = "the server refused it"
    if message is not None and _SAFE_MESSAGES.match(message[1]):
        why = "".join(c if c.isprintable() else "?" for c in message[1])
    return Failed(f"pg_restore failed at {entry}: {why}", object_name=database, hint="the server's log may say more")
