"""Passphrase to key, in a child process: Argon2id's memory is given back when the child ends.

The parent sends the parameters and the passphrase through a pipe and reads 32 bytes back. Nothing secret is in
arguments, the environment or a file.
"""

import base64
import json
import sys
from dataclasses import dataclass

from backupd.crypto.primitives import argon2id, expand, sha256
from backupd.errors import Failed, KeyProblem

SALT = 16


@dataclass(frozen=True, slots=True)
class KdfSettings:
    """How a key file's body key is made. `memory_kib` 0 means that there is no passphrase."""

    salt: bytes
    memory_kib: int = 0
    passes: int = 0
    lanes: int = 0

    @property
    def needs_passphrase(self) -> bool:
        """Whether a passphrase opens the file."""
        return self.memory_kib > 0

    def header(self) -> str:
        """The value of the `kdf:` line."""
        salt = base64.b64encode(self.salt).decode()
        if not self.needs_passphrase:
            return f"none salt={salt}"
        return f"argon2id m={self.memory_kib} t={self.passes} p={self.lanes} salt={salt}"

    @classmethod
    def parse(cls, value: str) -> "KdfSettings":
        """Parse the `kdf:` line's value; hostile parameters are refused before anything is allocated.

        Raises:
            KeyProblem: not one of the two forms, or out of bounds.
        """
        settings = cls._parse(value)
        if settings.header() != value:
            raise KeyProblem("the key file's kdf line cannot be read")
        return settings

    @classmethod
    def _parse(cls, value: str) -> "KdfSettings":
        name, *pairs = value.split(" ")
        try:
            options = dict(pair.split("=", 1) for pair in pairs)
            salt = base64.b64decode(options.pop("salt"), validate=True)
            numbers = {k: int(v) for k, v in options.items() if v.isascii() and v.isdigit() and len(v) < 12}
        except (ValueError, KeyError):
            raise KeyProblem("the key file's kdf line cannot be read") from None
        if len(salt) != SALT:
            raise KeyProblem("the key file's salt has the wrong length")
        if name == "none" and not options:
            return cls(salt)
        if name != "argon2id" or numbers.keys() != {"m", "t", "p"} or options.keys() != numbers.keys():
            raise KeyProblem("the key file's kdf line cannot be read")
        if not (8192 <= numbers["m"] <= 4 << 20 and 1 <= numbers["t"] <= 16 and 1 <= numbers["p"] <= 16):
            raise KeyProblem("the key file asks for an Argon2id cost out of bounds; it is damaged or hostile")
        return cls(salt, numbers["m"], numbers["t"], numbers["p"])


def body_key(settings: KdfSettings, passphrase: bytes | None) -> bytes:
    """Return the 32-byte key of a key file's body; with a passphrase, by Argon2id in a child process.

    Raises:
        Failed: the child could not do it (not enough memory, for one).
    """
    if not settings.needs_passphrase:
        return expand(sha256(b"backupd/v1/no-passphrase" + settings.salt), b"key-file", 32)
    import subprocess

    request = {
        "salt": settings.salt.hex(),
        "m": settings.memory_kib,
        "t": settings.passes,
        "p": settings.lanes,
        "length": len(passphrase or b""),
    }
    child = subprocess.run(
        [sys.executable, "-P", "-m", "backupd.crypto.kdf"],
        input=json.dumps(request).encode() + b"\n" + (passphrase or b""),
        capture_output=True,
        check=False,
    )
    if child.returncode != 0 or len(child.stdout) != 32:
        raise Failed(
            f"deriving the key from the passphrase failed; it takes {settings.memory_kib // 1024} MiB of memory",
            hint="free some memory and try again",
        )
    return child.stdout


def _child() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    passphrase = sys.stdin.buffer.read()
    if len(passphrase) != request["length"]:
        raise SystemExit(1)
    salt = bytes.fromhex(request["salt"])
    key = argon2id(passphrase, salt, memory_kib=request["m"], passes=request["t"], lanes=request["p"])
    sys.stdout.buffer.write(key)


if __name__ == "__main__":
    _child()
