"""The checks of `backupctl doctor`. Each returns what it found; none changes anything but throw-away objects."""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from backupctl.options import Settings
from backupctl.session import Passphrase, repository_url
from backupd.errors import BackupdError

if TYPE_CHECKING:
    from backupd.wiring import ServerOptions


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    passed: bool
    detail: str
    hint: str | None = None


def _try(name: str, work: Callable[[], str]) -> Check:
    try:
        return Check(name, True, work())
    except BackupdError as error:
        return Check(name, False, error.message, error.hint)
    except OSError as error:
        return Check(name, False, error.strerror or "input/output error")


def _several(name: str, work: Callable[[], list[Check]]) -> list[Check]:
    try:
        return work()
    except BackupdError as error:
        return [Check(name, False, error.message, error.hint)]
    except OSError as error:
        return [Check(name, False, error.strerror or "input/output error")]


def diagnose(settings: Settings, source: str | None, options: "ServerOptions", timeout: float) -> list[Check]:
    """Run every check that the given options allow."""
    checks = [
        _try("program", _program),
        _try("post-quantum keys", _mlkem),
        _try("state folder", lambda: _state(settings)),
    ]
    if settings.key_paths:
        checks += [_try(f"key {path}", lambda path=path: _key(path)) for path in settings.key_paths]  # type: ignore[misc]
    if settings.repository:
        checks += [_try("storage", lambda: _storage(settings))]
        if settings.key_paths:
            checks += [_try("repository", lambda: _repository(settings))]
    if source:
        checks += _several("source", lambda: _source(source, options, timeout))
    return checks


def _program() -> str:
    return f"backupd {version('backupd')}, Python {sys.version.split()[0]}, {os.cpu_count()} processors"


def _mlkem() -> str:
    from backupd.crypto.primitives import require_mlkem

    require_mlkem()
    return f"cryptography {version('cryptography')} has ML-KEM-768"


def _state(settings: Settings) -> str:
    from backupd.config.paths import places
    from backupd.errors import Failed

    here = places(bytes(16), settings.state)
    for folder in (here.state.parent, here.cache.parent):
        there = next(p for p in (folder, *folder.parents) if p.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=there, prefix=".backupd-doctor-") as file:
                file.write(bytes(4096))
                file.flush()
        except OSError as error:
            raise Failed(
                f"{there} cannot be written to: {error.strerror or 'input/output error'}",
                object_name=str(there),
                hint="name other folders with --state and XDG_CACHE_HOME, or mend this one",
            ) from None
    return f"{here.state.parent} and {here.cache.parent} can be written to"


def _key(path: Path) -> str:
    from backupd.crypto.keyfile import read_key_file

    header = read_key_file(path).header
    return f"{header.role} key of repository {header.pin.repository.hex()[:12]}, made {header.created}"


def _storage(settings: Settings) -> str:
    from backupd.config.clock import now
    from backupd.errors import Failed
    from backupd.store.probe import probe
    from backupd.wiring import open_store

    store = open_store(repository_url(settings), **settings.limits)
    try:
        found = probe(store, now=now())
    finally:
        store.close()
    bad = [fact.follows for fact in found.facts if not fact.honoured]
    if found.level == "C":
        raise Failed(bad[0], hint="`backupctl repo probe` tells all")
    return f"level {found.level}" + (f": {bad[0]}" if bad else ", everything is honoured")


def _repository(settings: Settings) -> str:
    from backupd.crypto.keyring import Right
    from backupd.wiring import open_repository, open_store, read_keys

    store = open_store(repository_url(settings), **settings.limits)
    try:
        found = open_repository(
            store, read_keys(settings.key_paths), Right.LIST, Passphrase(settings).for_key, settings.state
        )
        return f"trust version {found.repo.trust.version} verifies against the pin"
    finally:
        store.close()


def _source(source: str, options: "ServerOptions", timeout: float) -> list[Check]:
    """A file is opened for reading; a server is asked what would keep a capture from being whole."""
    from backupd.config.urls import parse_database
    from backupd.wiring import examine_source, open_source

    url = parse_database(source)
    if url.engine != "sqlite":
        findings = examine_source(url, options, timeout=timeout)
        bad = any(f.level == "error" for f in findings)
        whole = Check("source", not bad, f"{url} " + ("cannot be captured whole" if bad else "can be captured whole"))
        return [whole, *(Check(f"{f.level}: {f.object}", f.level != "error", f.detail, f.hint) for f in findings)]
    with open_source(url, timeout=timeout).view() as view:
        size = sum(stream.size_hint or 0 for stream in view.streams)
        told = f"opens: {len(view.tables)} tables, {size:,} bytes" + "".join(f"; {w}" for w in view.warnings)
        return [Check("source", True, told)]
