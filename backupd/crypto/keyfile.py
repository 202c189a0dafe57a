"""Key files: one role each, text, all header lines bound to the body. FORMAT.md, section 3.

Must never print, log or keep a passphrase, and never open a file that others could have swapped or can read.
"""

import base64
import binascii
import errno
import glob
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from backupd.crypto.kdf import KdfSettings, body_key
from backupd.crypto.primitives import (
    Unauthentic,
    chacha_open,
    chacha_seal,
    random_bytes,
    recipient_public,
    sha256,
    sign_public,
)
from backupd.errors import KeyProblem, SafetyRefused

MAX_FILE = 64 * 1024
_MAGIC = "backupd-key v1"
_HEADERS = ("role", "id", "repository", "root", "trust", "created", "writer", "public", "recipient", "kdf")


class Role(StrEnum):
    """What a key file is for."""

    WRITE = "write"
    CHECK = "check"
    PRUNE = "prune"
    READ = "read"
    ROOT = "root"
    RECOVERY = "recovery"


UNDER_PASSPHRASE = frozenset({Role.READ, Role.ROOT, Role.RECOVERY})
_SECRETS: dict[Role, frozenset[str]] = {
    Role.WRITE: frozenset({"sign", "id", "cut", "structure", "cache", "recipients"}),
    Role.CHECK: frozenset({"sign", "structure_root"}),
    Role.PRUNE: frozenset({"sign", "structure_root"}),
    Role.READ: frozenset({"sign", "structure_root", "unseal"}),
    Role.ROOT: frozenset({"sign", "structure_root"}),
    Role.RECOVERY: frozenset({"sign", "structure_root", "unseal"}),
}


def key_id(role: Role, public: bytes, recipient: bytes) -> bytes:
    """The 16-byte id of a key."""
    return sha256(b"backupd/v1/key-id" + role.encode() + b"\0" + public + recipient)[:16]


@dataclass(frozen=True, slots=True)
class Pin:
    """What a key believes without being told by the storage: repository, root fingerprint, lowest trust version."""

    repository: bytes
    root: bytes
    trust: int


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one key file: 32 bytes each by name; `epoch` for write keys; structure roots of before a rotation."""

    values: Mapping[str, bytes] = field(repr=False)
    epoch: int = 0
    older_roots: tuple[bytes, ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> bytes:
        return self.values[name]


@dataclass(frozen=True, slots=True)
class KeyHeader:
    """The readable part of a key file."""

    role: Role
    id: bytes
    pin: Pin
    created: str
    writer: bytes
    public: bytes = field(repr=False)
    recipient: bytes = field(repr=False)
    kdf: KdfSettings = field(repr=False)
    path: str = ""

    def lines(self) -> str:
        """The header as written and as bound to the body."""
        rows = [
            _MAGIC,
            f"role: {self.role}",
            f"id: {self.id.hex()}",
            f"repository: {self.pin.repository.hex()}",
            f"root: {self.pin.root.hex()}",
            f"trust: {self.pin.trust}",
            f"created: {self.created}",
        ]
        if self.writer:
            rows.append(f"writer: {self.writer.hex()}")
        rows.append(f"public: {base64.b64encode(self.public).decode()}")
        if self.recipient:
            rows.append(f"recipient: {base64.b64encode(self.recipient).decode()}")
        rows.append(f"kdf: {self.kdf.header()}")
        return "".join(f"{row}\n" for row in rows)


@dataclass(frozen=True, slots=True)
class LockedKey:
    """A key file that was read but not opened."""

    header: KeyHeader
    bound: bytes = field(repr=False)
    body: bytes = field(repr=False)

    def unlock(self, passphrase: bytes | None) -> "Key":
        """Open the body and check the public half against it.

        Raises:
            KeyProblem: wrong passphrase, or the file was altered.
        """
        key = body_key(self.header.kdf, passphrase)
        try:
            opened = chacha_open(key, self.body, self.bound)
        except Unauthentic:
            what = (
                "wrong passphrase, or the file is damaged"
                if self.header.kdf.needs_passphrase
                else "the file is damaged"
            )
            raise KeyProblem(
                f"the key file {self.header.path} does not open: {what}", object_name=self.header.path
            ) from None
        names = _SECRETS[self.header.role]
        try:
            document = json.loads(opened)
            values = {name: bytes.fromhex(document[name]) for name in names}
            epoch = int(document.get("epoch", 0))
            older = tuple(bytes.fromhex(root) for root in document.get("older_structure_roots", []))
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
            raise KeyProblem(f"the key file {self.header.path} lacks a secret of its role") from None
        if any(len(value) != 32 for value in (*values.values(), *older)) or not 0 <= epoch < 1 << 32:
            raise KeyProblem(f"the key file {self.header.path} holds a secret of the wrong length")
        self._check_public(values)
        return Key(self.header, Secrets(values, epoch, older))

    def _check_public(self, values: Mapping[str, bytes]) -> None:
        public = sign_public(values["sign"])
        recipient = recipient_public(values["unseal"]) if "unseal" in values else b""
        header = self.header
        if (public, recipient, key_id(header.role, public, recipient)) != (header.public, header.recipient, header.id):
            raise KeyProblem(f"the public half of {header.path} is not the one of its secrets; do not use this file")


@dataclass(frozen=True, slots=True)
class Key:
    """An opened key file."""

    header: KeyHeader
    secrets: Secrets = field(repr=False)

    @property
    def role(self) -> Role:
        """What the key is for."""
        return self.header.role


def new_header(
    role: Role, pin: Pin, secrets: Secrets, kdf: KdfSettings, created: datetime, writer: bytes = b""
) -> KeyHeader:
    """The header of a new key, its public half computed from the secrets."""
    public = sign_public(secrets["sign"])
    recipient = recipient_public(secrets["unseal"]) if "unseal" in secrets.values else b""
    stamp = created.strftime("%Y-%m-%dT%H:%M:%SZ")
    return KeyHeader(role, key_id(role, public, recipient), pin, stamp, writer, public, recipient, kdf)


def encode_key(header: KeyHeader, secrets: Secrets, passphrase: bytes | None) -> bytes:
    """The bytes of a key file."""
    document: dict[str, object] = {name: value.hex() for name, value in secrets.values.items()}
    if header.role is Role.WRITE:
        document["epoch"] = secrets.epoch
    if secrets.older_roots:
        document["older_structure_roots"] = [root.hex() for root in secrets.older_roots]
    bound = header.lines().encode()
    body = chacha_seal(body_key(header.kdf, passphrase), json.dumps(document).encode(), bound)
    text = base64.b64encode(body).decode()
    return bound + b"\n" + "".join(f"{text[i : i + 76]}\n" for i in range(0, len(text), 76)).encode()


def write_key_file(path: Path, data: bytes) -> None:
    """Write a new key file, 0600 and durable; an existing one is never touched.

    Raises:
        SafetyRefused: there is a file of this name.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise SafetyRefused(
            f"{path} exists; key files are never overwritten",
            object_name=str(path),
            hint="choose another folder with --keys",
        ) from None
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(data)
        file.flush()
        os.fsync(fd)
    _sync(path.parent)


def replace_key_file(path: Path, data: bytes) -> None:
    """Give a key file another content, at once: 0600 and durable beside it, then renamed over it.

    What an interrupted one left beside it is removed first; each has a name of its own, so that two at once harm nothing.

    Raises:
        OSError: as the system says; the old file is as it was.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        left.unlink(missing_ok=True)
    fresh = path.with_name(f".{path.name}.{random_bytes(8).hex()}.new")
    try:
        write_key_file(fresh, data)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse(path: Path, why: str, hint: str | None = None) -> KeyProblem:
    return KeyProblem(f"refusing the key file {path}: {why}", object_name=str(path), hint=hint)


def _copy(path: Path) -> str:
    return f"copy it: install -m 600 {path} somewhere of your own"


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refuse(path, "it is no regular file")
    if status.st_uid not in {os.geteuid(), 0}:
        raise _refuse(path, "it belongs to another user", _copy(path))
    # systemd hands credentials over as files of root, readable for the service's group
    allowed = 0o440 if status.st_uid == 0 and os.geteuid() != 0 else 0o600
    if status.st_mode & 0o077 & ~allowed:
        # where every file can be run by everybody, the file system most likely keeps no modes, and chmod does nothing
        keeps_none = status.st_mode & 0o111 == 0o111
        more = "; if its file system keeps no modes, copy it to one that does" if keeps_none else ""
        raise _refuse(path, "others can read or write it", f"chmod 600 {path}{more}")
    if status.st_nlink != 1:
        raise _refuse(path, f"it has {status.st_nlink} hard links instead of one", _copy(path))
    if status.st_size > MAX_FILE:
        raise _refuse(path, "it is too large for a key file")
    parent = path.resolve().parent.stat()
    if parent.st_uid not in {os.geteuid(), 0}:
        raise _refuse(path, "its folder belongs to another user", _copy(path))
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise _refuse(path, "everybody can write to its folder", f"chmod o-w {path.parent}")


def read_key_file(path: Path) -> LockedKey:
    """Read a key file through one descriptor, after checking that nobody else can read it or swap it.

    Raises:
        KeyProblem: missing, readable by others, or no key file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyProblem(
            f"there is no key file {path}", object_name=str(path), hint="name it with --key or BACKUPCTL_KEY"
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refuse(path, "it is a symbolic link", "name the file itself, not the link") from None
        raise _refuse(path, error.strerror or "it cannot be opened") from None
    try:
        _check_owner(path, os.fstat(fd))
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(MAX_FILE)
    finally:
        os.close(fd)
    return parse_key(data, str(path))


def parse_key(data: bytes, path: str) -> LockedKey:
    """Parse a key file's text; nothing is opened yet.

    Raises:
        KeyProblem: it is no key file of this version.
    """
    bound, separator, body = data.partition(b"\n\n")
    try:
        rows = bound.decode("ascii").split("\n")
        if rows[0] != _MAGIC or not separator:
            raise ValueError
        fields = dict(row.split(": ", 1) for row in rows[1:])
        if len(fields) != len(rows) - 1 or list(fields) != [name for name in _HEADERS if name in fields]:
            raise ValueError
        pin = Pin(bytes.fromhex(fields["repository"]), bytes.fromhex(fields["root"]), int(fields["trust"]))
        header = KeyHeader(
            Role(fields["role"]),
            bytes.fromhex(fields["id"]),
            pin,
            fields["created"],
            bytes.fromhex(fields.get("writer", "")),
            base64.b64decode(fields["public"], validate=True),
            base64.b64decode(fields.get("recipient", ""), validate=True),
            KdfSettings.parse(fields["kdf"]),
            path,
        )
        sealed = base64.b64decode(body.replace(b"\n", b""), validate=True)
    except (ValueError, KeyError, IndexError, binascii.Error):
        raise KeyProblem(f"{path} is no backupd key file of version 1, or it is damaged", object_name=path) from None
    if (len(pin.repository), len(pin.root), len(header.id)) != (16, 32, 16) or pin.trust < 1:
        raise KeyProblem(f"{path} is no backupd key file of version 1, or it is damaged", object_name=path)
    if len(header.writer) != (16 if header.role is Role.WRITE else 0):
        raise KeyProblem(f"{path} names no writer, or is no write key", object_name=path)
    return LockedKey(header, bound + b"\n", sealed)
