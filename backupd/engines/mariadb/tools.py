"""The server's own client programs as child processes, and the private file that tells them where to connect.

A password is only ever in that file (0600, in a folder of this user alone), never among the arguments and never in the
environment. The children get no environment of ours, and the kernel kills them when we die.
"""

import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backupd.engines.base import ServerPlace
from backupd.engines.children import die_with_us
from backupd.engines.mariadb.client import Vendor, is_true, require_options, socket_of
from backupd.errors import Failed, SourceIncomplete

CLIENT: Mapping[Vendor, tuple[str, ...]] = {"mariadb": ("mariadb", "mysql"), "mysql": ("mysql",)}
DUMP: Mapping[Vendor, tuple[str, ...]] = {"mariadb": ("mariadb-dump", "mysqldump"), "mysql": ("mysqldump",)}
"""The client programs by the server that they are for; MySQL's have names that MariaDB's go by as well."""

INSTALL: Mapping[Vendor, str] = {
    "mariadb": "install MariaDB's client programs (mariadb-client)",
    "mysql": "install MySQL's own client programs (mysql-client); MariaDB's, by whatever name, will not do",
}
_STALL = 900.0
_PART = 1 << 20
_SAID = 64 << 10


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the client programs are, and the option file that they read.

    Attributes:
        running: dump programs at work; they are killed when the tools are closed.
    """

    client: str
    dump: str | None
    options: Path
    environment: Mapping[str, str]
    vendor: Vendor = "mariadb"
    running: set["subprocess.Popen[bytes]"] = field(default_factory=set, compare=False, repr=False)

    def client_command(self, *words: str) -> list[str]:
        """The client program with its option file first; then `words`."""
        return [self.client, f"--defaults-file={self.options}", *words]

    def dump_command(self, *words: str) -> list[str]:
        """The dump program with its option file first; then `words`.

        Raises:
            Failed: there is none.
        """
        if self.dump is None:
            raise Failed(f"{DUMP[self.vendor][0]} was not found", hint=INSTALL[self.vendor])
        return [self.dump, f"--defaults-file={self.options}", *words]

    def dump_knows(self, option: str) -> bool:
        """Whether the dump program's help names an option."""
        command = [*self.dump_command()[:1], "--no-defaults", "--help"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=30, env=dict(self.environment))
        return option.encode() in done.stdout

    def spawn(self, command: Sequence[str], *, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        """Start a child with pipes for its output; it dies with the thread that started it."""
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=self.environment,
            cwd=self.options.parent,
            preexec_fn=die_with_us(),  # noqa: PLW1509  # one system call, of a library that is loaded already
        )


def find_program(programs: Mapping[Vendor, tuple[str, ...]], vendor: Vendor, folders: Sequence[Path]) -> str | None:
    """The first of a vendor's programs that is in one of the folders, else on the path; for MySQL, only its own."""
    found = at_hand(programs[vendor], folders)
    return next((path for path in found if vendor != "mysql" or "MariaDB" not in version_of(path)), None)


def at_hand(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """All programs of these names that are in the folders, and those that the path finds."""
    places = [str(folder / name) for name in names for folder in folders]
    found = [path for path in places if os.access(path, os.X_OK)]
    return found + [path for path in map(shutil.which, names) if path is not None]


def version_of(program: str) -> str:
    """What a client program says of itself; nothing if it does not run."""
    try:
        command = [program, "--version"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=30, env={"LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


@contextmanager
def open_tools(
    place: ServerPlace, folders: Sequence[Path], *, timeout: float, vendor: Vendor = "mariadb"
) -> Iterator[Tools]:
    """The client programs, told how to reach the place; what was written for them is removed at the end.

    Raises:
        Failed: the client program is not installed.
    """
    client = find_program(CLIENT, vendor, folders)
    if client is None:
        raise Failed(f"the program {CLIENT[vendor][0]} was not found", hint=INSTALL[vendor])
    folder = Path(tempfile.mkdtemp(prefix="backupd-"))
    running: set[subprocess.Popen[bytes]] = set()
    try:
        options = folder / "client.cnf"
        descriptor = os.open(options, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(option_file(place, timeout, vendor))
        environment = {"LC_ALL": "C.UTF-8", "PATH": os.defpath, "HOME": str(folder)}
        yield Tools(client, find_program(DUMP, vendor, folders), options, environment, vendor, running)
    finally:
        for child in tuple(running):
            child.kill()
        shutil.rmtree(folder, ignore_errors=True)


def option_file(place: ServerPlace, timeout: float, vendor: Vendor = "mariadb") -> str:
    """The text of an option file for the client programs."""
    require_options(place)
    words = {"user": place.user, "password": place.password or ""}
    if path := socket_of(place):
        words["socket"] = path
        words["protocol"] = "socket"
    else:
        words["host"] = place.host or "127.0.0.1"
        words["port"] = str(place.port or 3306)
        words["protocol"] = "tcp"
    for word in ("ssl_ca", "ssl_cert", "ssl_key"):
        if word in place.options:
            words[word.replace("_", "-")] = place.options[word]
    lines = [f"{word} = {_option_value(value)}" for word, value in words.items() if value or word == "password"]
    lines += _tls_lines(place, vendor)
    limit = max(1, round(timeout))
    return "\n".join(["[client]", *lines, "max-allowed-packet = 1G", "", "[mysql]", f"connect-timeout = {limit}", ""])


def _tls_lines(place: ServerPlace, vendor: Vendor) -> list[str]:
    if is_true(
        place.options, "ssl_disabled"
    ):  # MySQL's passwords then need the server's key, as the driver asks for it
        return ["skip-ssl"] if vendor == "mariadb" else ["ssl-mode = DISABLED", "get-server-public-key"]
    identity, certificate = (is_true(place.options, word) for word in ("ssl_verify_identity", "ssl_verify_cert"))
    if vendor == "mariadb":
        if identity or certificate:
            return ["ssl-verify-server-cert"]
        # Newer programs verify by the password, and without one say on standard error that they do not.
        return [] if place.password else ["skip-ssl-verify-server-cert"]
    return ["ssl-mode = VERIFY_IDENTITY"] if identity else ["ssl-mode = VERIFY_CA"] if certificate else []


def _option_value(value: str) -> str:
    """A value in double quotes, with what the option parser would otherwise eat escaped."""
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    for raw, escaped in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\b", "\\b")):
        text = text.replace(raw, escaped)
    return f'"{text}"'


def end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child, if it still runs, and close its pipes."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was still to be written goes nowhere
                continue


def run_dump(tools: Tools, words: Sequence[str], *, limit: int, subject: str, stall: float = _STALL) -> bytes:
    """All that the dump program prints.

    Args:
        limit: more bytes than this are refused.
        subject: what is dumped, for messages.
        stall: seconds without a byte after which it is killed.

    Raises:
        SourceIncomplete: it failed, said anything on standard error, printed too much, or nothing for too long.
    """
    child = tools.spawn(tools.dump_command(*words))
    tools.running.add(child)
    try:
        printed, said, code = _take_all(child, limit=limit, subject=subject, stall=stall)
    finally:
        tools.running.discard(child)
        end(child)
    if code != 0 or said.strip():
        raise SourceIncomplete(
            f"{Path(tools.dump or DUMP[tools.vendor][0]).name} failed on {subject} (exit {code}, error {said_number(said)})",
            object_name=subject,
            hint="run `backupctl doctor --source` for what the backup user may not read",
        )
    return printed


def _take_all(child: "subprocess.Popen[bytes]", *, limit: int, subject: str, stall: float) -> tuple[bytes, bytes, int]:
    """What a child prints, the beginning of what it says on standard error, and its exit code."""
    assert child.stdout is not None
    assert child.stderr is not None
    output, complaints = child.stdout.fileno(), child.stderr.fileno()
    taken = {output: bytearray(), complaints: bytearray()}
    poll = select.poll()
    for pipe in taken:
        poll.register(pipe, select.POLLIN)
    waiting, heard = set(taken), time.monotonic()
    while waiting:
        for pipe, _ in poll.poll(max(1, round((heard + stall - time.monotonic()) * 1000))):
            heard = time.monotonic()
            part = os.read(pipe, _PART)
            if not part:
                poll.unregister(pipe)
                waiting.discard(pipe)
            elif pipe == output or len(taken[pipe]) < _SAID:
                taken[pipe] += part
        if len(taken[output]) > limit:
            raise SourceIncomplete(f"the dump of {subject} is over {limit} bytes", object_name=subject)
        if time.monotonic() - heard > stall:
            raise _stalled(subject, stall)
    try:
        code = child.wait(max(stall, 1.0))
    except subprocess.TimeoutExpired:
        raise _stalled(subject, stall) from None
    return bytes(taken[output]), bytes(taken[complaints][:_SAID]), code


def _stalled(subject: str, stall: float) -> SourceIncomplete:
    return SourceIncomplete(
        f"the dump of {subject} printed nothing for {stall:.0f} s",
        object_name=subject,
        hint="look for locks on the server's definitions, then run again",
    )


def said_number(said: bytes) -> int:
    """The server's error number in what a client program printed; 0 if there is none."""
    for words in (b"ERROR ", b"Got error: ", b"Error: ", b"Couldn't execute"):
        position = said.find(words)
        if position < 0:
            continue
        rest = said[position + len(words) : position + len(words) + 300]
        digits = b"".join(b"%c" % byte if 48 <= byte <= 57 else b" " for byte in rest).split()
        numbers = [int(number) for number in digits if len(number) == 4]
        if numbers:
            return numbers[0]
    return 0
