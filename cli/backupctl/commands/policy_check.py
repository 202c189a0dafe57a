"""`backupctl policy check`: are the files valid, and do keys, repository and bucket fit what they say."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backupctl import output
from backupctl.commands.policy_times import planned_of, table
from backupctl.options import Settings, option, verb
from backupctl.policies import folder_of
from backupctl.session import opened

if TYPE_CHECKING:
    from backupd.config.policies import PolicyFile
    from backupd.crypto.keyfile import KeyHeader
    from backupd.errors import BackupdError
    from backupd.jobs.policycheck import Remark
    from backupd.policy.faults import Fault
    from backupd.policy.model import Policy


@click.command("check", epilog="Example: backupctl policy check /etc/backupd/policies.d")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@option("--no-repository", is_flag=True, help="Only read the files.")
@option("--require-repository", is_flag=True, help="Fail, with its exit code, if a repository cannot be looked at.")
@verb
def command(settings: Settings, files: tuple[str, ...], no_repository: bool, require_repository: bool) -> None:
    """Check policy files; what is wrong is told with its line and column, and the exit code is 2.

    Of a folder all *.yaml are taken. Where a key that the policy names is at hand, the repository is read: whether it is
    there, the keys are its own, and the bucket keeps the lock. No source is asked, and nothing is written.
    """
    from backupd.config.policies import load, policy_files
    from backupd.errors import UsageError

    if no_repository and require_repository:
        raise UsageError("--no-repository and --require-repository exclude each other")
    found = load(policy_files(files or [folder_of(settings)]))
    looks = [Look() if no_repository or found.faults else look(settings, loaded) for loaded in found.files]
    faults = sorted([*found.faults, *(fault for one in looks for fault in one.faults)])
    warnings = [w for loaded, one in zip(found.files, looks, strict=True) for w in (*loaded.warnings, *one.warnings)]
    values = {
        "policies": [_listed(loaded, one) for loaded, one in zip(found.files, looks, strict=True)],
        "errors": [_values(fault) for fault in faults],
        "warnings": [_values(fault) for fault in warnings],
        "next": [item for loaded in found.files for item in planned_of(loaded.policy, 5)],
    }
    trouble = next((one.trouble for one in looks if one.trouble), None) if require_repository else None
    if not settings.json:
        _notes(faults, warnings)
    if faults:
        count, where = output.plural(len(faults), "error"), output.plural(len({f.file for f in faults}), "policy file")
        _fail(UsageError(f"{count} in {where}"), values)
    if trouble:
        _fail(trouble, values)
    if settings.json:
        output.document("policy-check", values)
        return
    for loaded, one in zip(found.files, looks, strict=True):
        output.say(f"{loaded.file}: {loaded.policy.policy} is valid: {_what(loaded.policy)}")
        if one.said:
            output.say(f"  {one.said}")
    table(found.files, 5)


def _notes(faults: "list[Fault]", warnings: "list[Fault]") -> None:
    for fault in faults:
        output.note(str(fault))
    for fault in warnings:
        output.note(f"warning: {fault}")


def _fail(error: "BackupdError", values: dict[str, Any]) -> None:
    error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
    raise error


def _values(fault: "Fault") -> dict[str, Any]:
    return {"file": fault.file, "line": fault.line, "column": fault.column, "message": fault.message}


def _listed(loaded: "PolicyFile", one: "Look") -> dict[str, Any]:
    times = planned_of(loaded.policy, 5)
    starts = sorted({start for item in times for start in item["next"]})[:5]
    return {"name": loaded.policy.policy, "file": str(loaded.file), "next": starts, "repository": one.values}


def _what(policy: "Policy") -> str:
    """A policy in a few words."""
    names = ", ".join(source.name for source in policy.sources)
    kept = f"; keeps {policy.retention.rule}" if policy.retention else "; everything is kept"
    return f"{names} to {policy.repository.url}{kept}"


@dataclass
class Look:
    """What was found out about a policy's repository: None in `values` if it was not asked at all."""

    values: dict[str, Any] | None = None
    faults: "list[Fault]" = field(default_factory=list)
    warnings: "list[Fault]" = field(default_factory=list)
    trouble: "BackupdError | None" = None
    said: str = ""

    def add(self, loaded: "PolicyFile", remark: "Remark") -> None:
        """Keep a remark, with its place in the file."""
        (self.faults if remark.wrong else self.warnings).append(loaded.at(remark.where, remark.message))


def look(settings: Settings, loaded: "PolicyFile") -> Look:
    """Look at the repository of a policy, if one of its keys, or --key, is at hand."""
    from backupd.errors import BackupdError

    found = Look({"url": loaded.policy.repository.url, "read": False})
    assert found.values is not None
    headers = _headers(loaded, found)
    usable = [name for name, header in headers.items() if settings.passphrase_file or not header.kdf.needs_passphrase]
    if not usable and not settings.key:
        found.trouble = _no_key(loaded.policy)
        found.warnings.append(loaded.at(("repository",), f"it was not looked at: {found.trouble.message}"))
        return found
    try:
        _read(settings, loaded, headers, usable, found)
    except BackupdError as error:
        found.trouble = error
        found.values["error"] = output.error_values(error)
        found.warnings.append(loaded.at(("repository",), f"it could not be looked at: {error.message}"))
    return found


def _no_key(policy: "Policy") -> "BackupdError":
    from backupd.errors import KeyProblem

    return KeyProblem(
        f"no key that policy {policy.policy} names is at hand and opens without a passphrase",
        hint="name one with --key, and its passphrase with --passphrase-file; --no-repository only reads the files",
    )


def _headers(loaded: "PolicyFile", found: Look) -> "dict[str, KeyHeader]":
    """The key files that the policy names and that are here."""
    from backupd.config.secretrefs import path_of
    from backupd.crypto.keyfile import read_key_file
    from backupd.errors import BackupdError
    from backupd.jobs.policycheck import roles_of

    headers = {}
    for role in roles_of(loaded.policy):
        try:
            headers[role] = read_key_file(Path(path_of(getattr(loaded.policy.keys, role)))).header
        except BackupdError as error:
            found.warnings.append(loaded.at(("keys", role), error.message))
    return headers


def _read(
    settings: Settings, loaded: "PolicyFile", headers: "dict[str, KeyHeader]", usable: list[str], found: Look
) -> None:
    from backupd.config.clock import now
    from backupd.config.policies import repository_of
    from backupd.crypto.keyring import Right
    from backupd.jobs.policycheck import key_remarks, lock_remarks, trust_remarks
    from backupd.store.base import Lockable

    assert found.values is not None
    policy = loaded.policy
    paths = settings.key or tuple(headers[name].path for name in usable)
    with opened(replace(settings, repository=str(repository_of(policy)), key=paths), Right.LIST) as session:
        trust = session.opened.repo.trust
        facts = session.store.lock_facts() if isinstance(session.store, Lockable) else None
    found.values |= {"read": True, "id": trust.repository.hex(), "trust": trust.version, "keys": sorted(headers)}
    if facts is not None:
        lock = {"enabled": facts.enabled, "mode": facts.mode, "days": facts.days}
        found.values |= {"versioned": facts.versioned, "object_lock": lock}
    for remark in (*key_remarks(headers, trust), *trust_remarks(policy, trust, now()), *lock_remarks(policy, facts)):
        found.add(loaded, remark)
    keys = f"; keys here: {', '.join(sorted(headers))}" if headers else ""
    found.said = f"repository {trust.repository.hex()[:8]} was read: trust version {trust.version}{keys}{_locks(facts)}"


def _locks(facts: Any) -> str:
    if facts is None:
        return ""
    if facts.days:
        return f"; locks objects for {facts.days} days ({facts.mode})"
    return "; locks nothing" if facts.enabled is not None else ""
