"""Signed reports as files: written privately and never over another file, and checked by the pin of a key file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupctl.options import Settings
from backupd.errors import Failed, IntegrityError, KeyProblem, SafetyRefused, UsageError

if TYPE_CHECKING:
    from backupd.crypto.keyring import Signer
    from backupd.repo.repository import Repository
    from backupd.repo.statements import Stated
    from backupd.repo.trust import Trust

_LARGEST = 64 * 1024 * 1024


def signed_with_trust(repo: "Repository", document: dict[str, Any], signer: "Signer") -> dict[str, Any]:
    """A statement, signed, with all that it takes to check it without the repository."""
    from backupd.repo.format import trust_name
    from backupd.repo.repository import read_object
    from backupd.repo.statements import carrying, sign_statement

    signed = sign_statement(document, [signer], repository=repo.id)
    return carrying(signed, [read_object(repo.store, trust_name(n)) for n in range(1, repo.trust.version + 1)])


def require_folder(folder: Path) -> None:
    """Make the folder that reports go to, before there is one.

    Raises:
        Failed: it cannot be had, or written to.
    """
    why = "it is not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ready = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        ready, why = False, str(error.strerror)
    if not ready:
        raise Failed(
            f"no report can be written to {folder}: {why}",
            object_name=str(folder),
            hint="name another place with --out",
        )


def write_new(path: Path, text: str) -> None:
    """Write a file that only its owner may read.

    Raises:
        SafetyRefused: it is there already.
        Failed: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SafetyRefused(
            f"{path} is there already", object_name=str(path), hint="name another place with --out"
        ) from None
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}", object_name=str(path)) from None


def check_file(
    settings: Settings, path: Path, read: Callable[[bytes], dict[str, Any]], kind: str
) -> "tuple[Stated, Trust]":
    """Check a report against the pin of a key file, which is not opened for it.

    Args:
        settings: name the key.
        path: the file.
        read: finds the signed document in it.
        kind: what it must say that it is.

    Raises:
        IntegrityError: it is not what was signed, or another kind of report.
    """
    from backupd.repo.statements import check_carried
    from backupd.wiring import read_keys

    keys = read_keys(settings.key_paths)
    if not keys:
        raise KeyProblem("a key file says which root is trusted: none was given", hint="name any key with --key")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", object_name=str(path)) from None
    if len(data) > _LARGEST:
        raise IntegrityError("this is no signed report: it is too large for one", object_name=str(path))
    pin = keys[0].header.pin
    try:
        stated, trust = check_carried(read(data), pin.repository, pin.root, pin.trust)
        if stated.document.get("statement") != kind:
            raise IntegrityError(f"this is no {kind.removeprefix('backupd ')}")
    except IntegrityError as error:
        raise IntegrityError(error.message, object_name=str(path), hint=error.hint) from None
    return stated, trust


def signers_of(stated: "Stated") -> list[dict[str, str]]:
    """Who signed, as in documents."""
    return [{"key": key.hex(), "role": str(role)} for key, role in stated.signers]
