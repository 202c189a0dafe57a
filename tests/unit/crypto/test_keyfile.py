"""Key files: what is written opens again, and nothing that was touched, swapped or left open to others does."""

import base64
import hashlib
import hmac
import json
import os
import resource
import shutil
import stat
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from backupd.crypto.kdf import KdfSettings, body_key
from backupd.crypto.keyfile import (
    MAX_FILE,
    Key,
    KeyHeader,
    Role,
    Secrets,
    encode_key,
    key_id,
    new_header,
    parse_key,
    read_key_file,
    write_key_file,
)
from backupd.crypto.primitives import argon2id, chacha_seal, sha256
from backupd.errors import Exit, Failed, KeyProblem, SafetyRefused
from tests.unit.crypto.made import CHEAP, CREATED, make_keys

KEYS = make_keys()
OTHER = make_keys(KEYS[Role.READ].header.pin)
PASSPHRASE = b"correct horse"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="changing owners takes root")


def under_passphrase(key: Key) -> Key:
    """The same key with a new header that asks for a passphrase, at the lowest cost accepted."""
    kdf = KdfSettings(os.urandom(16), **CHEAP)
    return Key(new_header(key.role, key.header.pin, key.secrets, kdf, CREATED, key.header.writer), key.secrets)


LOCKED = under_passphrase(KEYS[Role.READ])
LOCKED_BYTES = encode_key(LOCKED.header, LOCKED.secrets, PASSPHRASE)
PLAIN_BYTES = encode_key(KEYS[Role.WRITE].header, KEYS[Role.WRITE].secrets, None)


@pytest.mark.parametrize("role", list(Role))
def test_round_trip(tmp_path: Path, role: Role) -> None:
    """Every role's key comes back from its file as it was, and the file is private."""
    path = tmp_path / f"{role}.key"
    write_key_file(path, encode_key(KEYS[role].header, KEYS[role].secrets, None))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    opened = read_key_file(path).unlock(None)
    assert opened == replace(KEYS[role], header=replace(KEYS[role].header, path=str(path)))


def test_the_body_is_the_documented_one() -> None:
    """The body opens with ChaCha20-Poly1305 under the documented key over the documented header bytes."""
    bound, _, body = PLAIN_BYTES.partition(b"\n\n")
    salt = base64.b64decode(bound.rpartition(b"salt=")[2])
    start = hashlib.sha256(b"backupd/v1/no-passphrase" + salt).digest()
    key = hmac.digest(start, b"key-file\1", "sha256")
    opened = json.loads(ChaCha20Poly1305(key).decrypt(bytes(12), base64.b64decode(body), bound + b"\n"))
    values = KEYS[Role.WRITE].secrets.values
    assert opened == {name: value.hex() for name, value in values.items()} | {"epoch": 1}


def test_layout_is_the_documented_one() -> None:
    """Header lines stand in the order of FORMAT.md, the body in lines of at most 76, and the id is of role and halves."""
    header, _, body = LOCKED_BYTES.decode("ascii").partition("\n\n")
    names = [line.split(": ")[0] for line in header.split("\n")[1:]]
    assert header.startswith("backupd-key v1\n")
    assert names == ["role", "id", "repository", "root", "trust", "created", "public", "recipient", "kdf"]
    assert max(map(len, body.splitlines())) == 76
    assert "writer: " in PLAIN_BYTES.decode("ascii")
    h = LOCKED.header
    assert h.id == sha256(b"backupd/v1/key-id" + b"read\0" + h.public + h.recipient)[:16]


def test_a_passphrase_opens_it_and_another_does_not() -> None:
    """The right passphrase opens the file; a wrong, empty or missing one is a refusal with exit 12 (B14)."""
    locked = parse_key(LOCKED_BYTES, "read.key")
    assert locked.unlock(PASSPHRASE).secrets == LOCKED.secrets
    for wrong in (b"correct hors", b"", None):
        with pytest.raises(KeyProblem, match="passphrase") as caught:
            locked.unlock(wrong)
        assert caught.value.exit is Exit.WRONG_KEY
        assert PASSPHRASE.decode() not in caught.value.message


def test_the_child_derives_what_the_library_does() -> None:
    """The key from the child process is Argon2id of the passphrase with the header's salt and cost."""
    settings = KdfSettings(bytes(range(16)), 8192, 2, 3)
    passphrase = b"line\nfeed \x00 and \xff"
    assert body_key(settings, passphrase) == argon2id(passphrase, settings.salt, memory_kib=8192, passes=2, lanes=3)


def test_a_child_without_memory_is_a_clean_failure() -> None:
    """Where the child cannot get the memory there is one error with a hint, and no traceback reaches the user."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, old[1]))
    try:
        with pytest.raises(Failed, match="memory") as caught:
            body_key(KdfSettings(bytes(16), 4 << 20, 1, 1), b"passphrase")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    assert caught.value.hint


def _lines(data: bytes) -> list[str]:
    return data.decode("ascii").partition("\n\n")[0].split("\n")


def _with_header(data: bytes, lines: list[str]) -> bytes:
    return "\n".join(lines).encode() + b"\n\n" + data.partition(b"\n\n")[2]


def _touch(line: str) -> str:
    """The line with its value changed to another that reads as well."""
    name, value = line.split(": ", 1)
    other = {
        "role": {"read": "recovery", "write": "check"}.get(value, "read"),
        "created": "2026-01-02T03:04:06Z",
        "trust": "2",
        "kdf": value[:-6] + ("B" if value[-6:-5] != "B" else "C") + value[-5:],
    }
    if name in other:
        return f"{name}: {other[name]}"
    return f"{name}: {'1' if value[0] != '1' else '2'}{value[1:]}"


@pytest.mark.parametrize("n", range(1, 10))
def test_every_header_line_is_bound(n: int) -> None:
    """A passphrase file with any one header line changed, dropped or doubled is refused (B14)."""
    lines = _lines(LOCKED_BYTES)
    changed = [*lines[:n], _touch(lines[n]), *lines[n + 1 :]]
    dropped = [*lines[:n], *lines[n + 1 :]]
    doubled = [*lines[: n + 1], *lines[n:]]
    for bad in (changed, dropped, doubled):
        assert bad != lines
        with pytest.raises(KeyProblem):
            parse_key(_with_header(LOCKED_BYTES, bad), "read.key").unlock(PASSPHRASE)


@pytest.mark.parametrize("n", range(1, 10))
def test_every_header_line_is_bound_without_a_passphrase(n: int) -> None:
    """Damage to any header line of a file without a passphrase is noticed, the writer's line included (B14)."""
    lines = _lines(PLAIN_BYTES)
    assert lines[7].startswith("writer: ")
    with pytest.raises(KeyProblem):
        parse_key(_with_header(PLAIN_BYTES, [*lines[:n], _touch(lines[n]), *lines[n + 1 :]]), "w.key").unlock(None)


def test_lines_may_not_be_moved_added_or_written_otherwise() -> None:
    """Another order, an unknown line, CRLF, a missing magic, non-ASCII and a second blank line are refused (B14)."""
    lines = _lines(LOCKED_BYTES)
    bad = [
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines, "note: hello"],
        [line + "\r" for line in lines],
        ["backupd-key v2", *lines[1:]],
        lines[1:],
        [*lines[:6], "created: é", *lines[7:]],
        ["", *lines],
        [*lines[:2], f"id: {lines[2][4:].upper()}", *lines[3:]],
        [*lines[:5], "trust: 01", *lines[6:]],
    ]
    for header in bad:
        with pytest.raises(KeyProblem):
            parse_key(_with_header(LOCKED_BYTES, header), "read.key").unlock(PASSPHRASE)


@pytest.mark.parametrize("half", ["public", "recipient", "id"])
def test_a_public_half_that_is_not_the_secrets_own_is_refused(half: str) -> None:
    """Who can write the body can put another's public half in front of it, and it is still refused (B12, B14)."""
    key, other = KEYS[Role.READ], OTHER[Role.READ]
    forged = replace(key.header, **{half: getattr(other.header, half)})
    forged_id = replace(forged, id=key_id(forged.role, forged.public, forged.recipient)) if half != "id" else forged
    for header in (forged, forged_id):
        with pytest.raises(KeyProblem, match="public half"):
            parse_key(encode_key(header, key.secrets, None), "read.key").unlock(None)


@pytest.mark.parametrize(
    ("has", "says"), [(Role.CHECK, Role.READ), (Role.READ, Role.RECOVERY), (Role.CHECK, Role.ROOT)]
)
def test_a_key_of_one_role_is_no_key_of_another(has: Role, says: Role) -> None:
    """A body under a header of another role is refused: a secret is missing, or the id does not fit (B14)."""
    key = KEYS[has]
    with pytest.raises(KeyProblem):
        parse_key(encode_key(replace(key.header, role=says), key.secrets, None), "x.key").unlock(None)


def test_only_write_keys_name_a_writer() -> None:
    """A write key without a writer, and another key with one or with half of one, are no key files."""
    write, check = KEYS[Role.WRITE], KEYS[Role.CHECK]
    for header, secrets in [
        (replace(write.header, writer=b""), write.secrets),
        (replace(check.header, writer=bytes(16)), check.secrets),
        (replace(check.header, writer=bytes(5)), check.secrets),
    ]:
        with pytest.raises(KeyProblem):
            parse_key(encode_key(header, secrets, None), "x.key")


def test_truncated_and_damaged_files() -> None:
    """A file cut anywhere, with a changed or added body byte, or empty, is refused (B14)."""
    size = len(PLAIN_BYTES)
    head = PLAIN_BYTES.index(b"\n\n") + 2
    cuts = [PLAIN_BYTES[:n] for n in [*range(0, head, 37), *range(head, size - 1, 11), size - 2]]
    touched = [
        PLAIN_BYTES[:n] + (b"A" if PLAIN_BYTES[n : n + 1] != b"A" else b"B") + PLAIN_BYTES[n + 1 :]
        for n in (head, head + 99)
    ]
    for bad in [*cuts, *touched, PLAIN_BYTES + b"AAAA\n", PLAIN_BYTES[:head] + b"?" + PLAIN_BYTES[head:]]:
        with pytest.raises(KeyProblem):
            parse_key(bad, "write.key").unlock(None)


@pytest.mark.parametrize(
    "body",
    [b"not json", b"[]", b'"text"', b"5", b"null", b"{}", b"\xff", b"[" * 20000, b'{"sign": 5}', b'{"sign": "zz"}'],
    ids=lambda body: body[:8].decode("latin-1"),
)
def test_a_body_that_is_no_key_is_a_key_problem(body: bytes) -> None:
    """Whatever stands in an authentic body, the outcome is a refusal, never another exception (B14)."""
    header = KEYS[Role.CHECK].header
    bound = header.lines().encode()
    sealed = chacha_seal(body_key(header.kdf, None), body, bound)
    with pytest.raises(KeyProblem):
        parse_key(bound + b"\n" + base64.b64encode(sealed) + b"\n", "check.key").unlock(None)


@pytest.mark.parametrize(
    "change", [{"sign": "00" * 31}, {"epoch": -1}, {"epoch": 1 << 32}, {"epoch": "x"}, {"epoch": None}]
)
def test_secrets_have_their_lengths(change: dict[str, object]) -> None:
    """A secret of another length and an epoch beyond u32 are refused (B14)."""
    key = KEYS[Role.WRITE]
    document = {name: value.hex() for name, value in key.secrets.values.items()} | {"epoch": 1} | change
    bound = key.header.lines().encode()
    sealed = chacha_seal(body_key(key.header.kdf, None), json.dumps(document).encode(), bound)
    with pytest.raises(KeyProblem):
        parse_key(bound + b"\n" + base64.b64encode(sealed) + b"\n", "write.key").unlock(None)


SALT = "AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.mark.parametrize(
    "line",
    [
        f"argon2id m=1099511627776 t=3 p=4 salt={SALT}",
        f"argon2id m=4194305 t=3 p=4 salt={SALT}",
        f"argon2id m=8191 t=3 p=4 salt={SALT}",
        f"argon2id m=65536 t=0 p=4 salt={SALT}",
        f"argon2id m=65536 t=17 p=4 salt={SALT}",
        f"argon2id m=65536 t=3 p=0 salt={SALT}",
        f"argon2id m=65536 t=3 p=17 salt={SALT}",
        f"argon2id m=-65536 t=3 p=4 salt={SALT}",
        f"argon2id m=65536 t=3 p=4 m=65536 salt={SALT}",
        f"argon2id m=065536 t=3 p=4 salt={SALT}",
        f"argon2id t=3 m=65536 p=4 salt={SALT}",
        f"argon2id m=65536  t=3 p=4 salt={SALT}",
        f"argon2id m=65536 t=3 p=4 k=1 salt={SALT}",
        f"argon2id m=65536 t=3 salt={SALT}",
        f"argon2id m=6_5536 t=3 p=4 salt={SALT}",
        f"argon2id m={'9' * 5000} t=3 p=4 salt={SALT}",
        "argon2id m=65536 t=3 p=4 salt=AAAAAAAAAAAAAAAAAAA=",
        "argon2id m=65536 t=3 p=4 salt=AAAAAAAAAAAAAAAAAAAAAB==",
        "argon2id m=65536 t=3 p=4 salt=????",
        "argon2id m=65536 t=3 p=4",
        f"argon2i m=65536 t=3 p=4 salt={SALT}",
        f"none m=65536 salt={SALT}",
        "none salt=",
        "none",
        "",
    ],
)
def test_hostile_costs_are_refused_before_anything_is_allocated(line: str) -> None:
    """A cost out of bounds or a line not as documented is refused while parsing, in a few KiB of memory (B14)."""
    lines = _lines(LOCKED_BYTES)
    data = _with_header(LOCKED_BYTES, [*lines[:-1], f"kdf: {line}"])
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    tracemalloc.start()
    try:
        with pytest.raises(KeyProblem):
            parse_key(data, "read.key")
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime == children


@pytest.mark.parametrize(
    "line", [f"argon2id m=4194304 t=16 p=16 salt={SALT}", f"argon2id m=8192 t=1 p=1 salt={SALT}", f"none salt={SALT}"]
)
def test_costs_at_the_bounds_are_read(line: str) -> None:
    """The dearest and the cheapest cost of FORMAT.md are accepted and written back as they stood."""
    assert KdfSettings.parse(line).header() == line


def test_the_cost_does_not_show_the_salt_to_a_reader_without_passphrase() -> None:
    """A changed salt gives another key, with and without a passphrase."""
    assert body_key(KdfSettings(bytes(16)), None) != body_key(KdfSettings(b"\1" * 16), None)


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    """A good write key in a private folder."""
    path = tmp_path / "write.key"
    write_key_file(path, PLAIN_BYTES)
    return path


def test_a_missing_file_is_told_with_a_hint(tmp_path: Path) -> None:
    """An absent key file is a key problem that says how to name one."""
    with pytest.raises(KeyProblem, match="no key file") as caught:
        read_key_file(tmp_path / "absent.key")
    assert caught.value.hint


def test_links_are_refused(key_path: Path) -> None:
    """A symbolic link to a key file, and a file with a second hard link, are refused (B15)."""
    link = key_path.with_name("link.key")
    link.symlink_to(key_path)
    with pytest.raises(KeyProblem):
        read_key_file(link)
    read_key_file(key_path)
    hard = key_path.with_name("hard.key")
    hard.hardlink_to(key_path)
    for path in (key_path, hard):
        with pytest.raises(KeyProblem, match="hard link"):
            read_key_file(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO that nobody writes to, a folder and a device are refused without waiting (B15)."""
    fifo = tmp_path / "fifo.key"
    os.mkfifo(fifo, 0o600)
    for path in (fifo, tmp_path, Path("/dev/null")):
        with pytest.raises(KeyProblem, match="no regular file"):
            read_key_file(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o601, 0o610])
def test_files_open_to_others_are_refused(key_path: Path, mode: int) -> None:
    """A key file that group or others can read, write or run is refused with the command that mends it (B15)."""
    key_path.chmod(mode)
    with pytest.raises(KeyProblem, match="others") as caught:
        read_key_file(key_path)
    assert caught.value.hint == f"chmod 600 {key_path}"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_files_are_read(key_path: Path, mode: int) -> None:
    """Modes 0600 and 0400 are fine."""
    key_path.chmod(mode)
    assert read_key_file(key_path).header.role is Role.WRITE


def test_a_folder_that_everybody_can_write_to_is_refused(key_path: Path) -> None:
    """In a world-writable folder anybody could swap the file, unless the folder is sticky (B15)."""
    key_path.parent.chmod(0o777)
    with pytest.raises(KeyProblem, match="folder"):
        read_key_file(key_path)
    key_path.parent.chmod(0o1777)
    read_key_file(key_path)


def test_a_large_file_is_refused(key_path: Path) -> None:
    """A file over 64 KiB is refused before it is read (B15)."""
    key_path.write_bytes(PLAIN_BYTES + b"\n" * (MAX_FILE + 1 - len(PLAIN_BYTES)))
    with pytest.raises(KeyProblem, match="too large"):
        read_key_file(key_path)


@root_only
def test_another_users_file_is_refused(key_path: Path) -> None:
    """A file that belongs to another user than root and oneself is refused (B15)."""
    os.chown(key_path, 65534, 65534)
    with pytest.raises(KeyProblem, match="another user"):
        read_key_file(key_path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that an unprivileged child can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@root_only
@pytest.mark.parametrize(("mode", "read"), [(0o440, True), (0o400, False), (0o444, False), (0o460, False)])
def test_a_service_reads_roots_credential(open_folder: Path, mode: int, read: bool) -> None:
    """A service reads a file of root's that its group may read, as systemd hands it over, and nothing looser (B15)."""
    path = open_folder / "write.key"
    write_key_file(path, PLAIN_BYTES)
    os.chown(path, 0, 65534)
    path.chmod(mode)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            read_key_file(path)
        except KeyProblem:
            os._exit(7)
        except BaseException:
            os._exit(8)
        os._exit(0)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == (0 if read else 7)


@pytest.mark.parametrize("first", ["bad", "good"])
def test_a_file_swapped_after_it_was_opened(tmp_path: Path, first: str) -> None:
    """A swap between opening and checking is seen: what was opened is what is checked, and its name is gone (B15)."""
    path = tmp_path / "check.key"
    files = {
        "good": (encode_key(KEYS[Role.CHECK].header, KEYS[Role.CHECK].secrets, None), 0o600),
        "bad": (encode_key(OTHER[Role.CHECK].header, OTHER[Role.CHECK].secrets, None), 0o644),
    }
    for name, (data, mode) in files.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(mode)
    (tmp_path / first).rename(path)
    second = tmp_path / ("good" if first == "bad" else "bad")
    swaps: list[Path] = []

    def swap(_frame: object, event: str, what: object) -> None:
        if event == "c_return" and what is os.open and not swaps:
            swaps.append(second)
            second.replace(path)

    sys.setprofile(swap)
    try:
        outcome: object = read_key_file(path).header.id
    except KeyProblem as error:
        outcome = error.message
    finally:
        sys.setprofile(None)
    assert swaps
    assert ("0 hard links" if first == "good" else "others can read") in str(outcome)


def test_key_files_are_never_overwritten(key_path: Path) -> None:
    """Writing over an existing file or through a symbolic link is refused and changes nothing."""
    link = key_path.with_name("link.key")
    link.symlink_to(key_path.with_name("target"))
    for path in (key_path, link):
        with pytest.raises(SafetyRefused):
            write_key_file(path, b"other")
    assert key_path.read_bytes() == PLAIN_BYTES
    assert not key_path.with_name("target").exists()


def test_the_mode_does_not_follow_the_umask(tmp_path: Path) -> None:
    """Whatever the umask, a new key file is 0600."""
    for mask in (0o000, 0o077, 0o277):
        old = os.umask(mask)
        try:
            write_key_file(tmp_path / f"{mask}.key", PLAIN_BYTES)
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / f"{mask}.key").stat().st_mode) == 0o600


def test_secrets_do_not_show() -> None:
    """The repr of secrets, keys and locked keys, and every message about them, holds no secret."""
    key = KEYS[Role.READ]
    locked = parse_key(encode_key(key.header, key.secrets, None), "read.key")
    shown = repr(key) + repr(key.secrets) + repr(locked) + repr(locked.unlock(None)) + repr(key.header)
    for secret in key.secrets.values.values():
        for form in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
            assert form not in shown
    assert repr(locked.body)[2:-1] not in shown
    assert isinstance(key.header, KeyHeader)
    assert isinstance(key.secrets, Secrets)
