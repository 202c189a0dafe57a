"""Runs pg_restore on chosen entries of an archive, straight into a database; never through plain text."""

import re
from collections.abc import Iterable, Iterator, Sequence

from backupd.engines.postgres.archive import Entry
from backupd.engines.postgres.client import Server, child_environment
from backupd.engines.postgres.private import PrivateFile
from backupd.engines.postgres.tools import Child, Tools
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
            *_careful(tools, server),
            *flags,
            "-d",
            server.conninfo(database),
            archive.path,
        ]
        child = Child(
            [tools.program("pg_restore"), *words], environment, (*inherited, *chosen.inherited, *archive.inherited)
        )
        try:
            child.output.read()
            status = child.wait(_SECONDS)
        finally:
            child.kill()
    if status != 0 and not _only_unknown_setting(tools, server, child.said):
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
        words = ["-w", "-L", chosen.path, *_careful(tools, server), *flags, "-d", server.conninfo(database)]
        child = Child([tools.program("pg_restore"), *words], environment, (*inherited, *chosen.inherited), feed=True)
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
    if status != 0 and not _only_unknown_setting(tools, server, child.said):
        raise restore_failed(child.said, database)
    return count


def _careful(tools: Tools, server: Server) -> list[str]:
    """A newer pg_restore begins with a setting that an older server does not know; then errors are counted afterwards."""
    return [] if _sets_too_much(tools, server) else ["--exit-on-error"]


def _sets_too_much(tools: Tools, server: Server) -> bool:
    return tools.major >= 17 > server.major


def _only_unknown_setting(tools: Tools, server: Server, said: str) -> bool:
    errors = re.findall(r"ERROR: +([^\n]*)", said)
    return _sets_too_much(tools, server) and bool(errors) and all("transaction_timeout" in error for error in errors)


def restore_failed(said: str, database: str) -> BackupdError:
    """Why pg_restore failed: which object, and what the server said of it if that can hold no values."""
    found = _COMMAND.search(said)
    entry = "".join(c if c.isprintable() else "?" for c in found[1]).strip() if found else "an object"
    message = _MESSAGE.search(said)
    why = "the server refused it"
    if message is not None and _SAFE_MESSAGES.match(message[1]):
        why = "".join(c if c.isprintable() else "?" for c in message[1])
    return Failed(f"pg_restore failed at {entry}: {why}", object_name=database, hint="the server's log may say more")
