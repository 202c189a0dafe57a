"""Secrets by reference: `file:`, `env:`, `credential:`, `exec:`, `aws-sm:`. What they give is never told to anybody.

A message names the reference and what failed, never what was read.
"""

import os
import shlex
import subprocess
from pathlib import Path

from backupd.errors import UsageError

MOST = 65_536
_SECONDS = 30


def resolve(reference: str) -> bytes:
    """What a reference leads to; one trailing newline is ignored.

    Raises:
        UsageError: it leads nowhere.
    """
    kind, _, rest = reference.partition(":")
    try:
        data = {"file": _file, "env": _env, "credential": _credential, "exec": _exec, "aws-sm": _aws}[kind](rest)
    except KeyError:
        raise UsageError(
            f"{kind!r} is no kind of reference", hint="file:, env:, credential:, exec: or aws-sm:"
        ) from None
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data or len(data) > MOST:
        raise UsageError(f"{reference} leads to nothing, or to more than a secret", object_name=reference)
    return data


def path_of(reference: str) -> Path:
    """The file behind `file:` or `credential:`.

    Raises:
        UsageError: there are no credentials.
    """
    kind, _, rest = reference.partition(":")
    if kind == "file":
        return Path(rest)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise UsageError(
            f"{reference}: there are no credentials here",
            object_name=reference,
            hint="systemd gives them (LoadCredential=) and sets CREDENTIALS_DIRECTORY; elsewhere use file:PATH",
        )
    if "/" in rest or rest in {".", ".."}:
        raise UsageError(f"{reference}: a credential's name has no slash", object_name=reference)
    return Path(folder) / rest


def _file(name: str) -> bytes:
    return _read(Path(name), f"file:{name}")


def _credential(name: str) -> bytes:
    return _read(path_of(f"credential:{name}"), f"credential:{name}")


def _read(path: Path, reference: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"{reference} cannot be read: {error.strerror}", object_name=reference) from None


def _env(name: str) -> bytes:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise UsageError(f"the variable {name} is not set", object_name=f"env:{name}")
    return value


def _exec(command: str) -> bytes:
    reference = f"exec:{command}"
    try:
        words = shlex.split(command)
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"{reference} cannot be run ({type(error).__name__})", object_name=reference) from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"{reference} gave nothing within {_SECONDS} s", object_name=reference) from None
    if done.returncode:
        raise UsageError(f"{reference} failed with status {done.returncode}", object_name=reference)
    return done.stdout


def _aws(name: str) -> bytes:
    from backupd.store.s3_secrets import secret

    return secret(name)
