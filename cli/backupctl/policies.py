"""From what a user writes for a policy to the policy, and what it says of keys, places and passwords."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backupctl.options import Settings
from backupd.errors import BackupdError, KeyProblem, UsageError

if TYPE_CHECKING:
    from backupd.config.policies import PolicyFile
    from backupd.model import Reference
    from backupd.policy.model import Policy, Source


def folder_of(settings: Settings) -> Path:
    """Where policies are read from."""
    from backupd.config.policies import DEFAULT_FOLDER

    return Path(settings.config) if settings.config else DEFAULT_FOLDER


def find_policy(settings: Settings, text: str) -> "PolicyFile":
    """The policy that is meant: a file if it ends in .yaml, otherwise one of the folder by its name.

    Raises:
        UsageError: there is none, or it is not valid.
    """
    from backupd.config.policies import load_valid, policy_files

    if text.endswith(".yaml"):
        return load_valid([Path(text)])[0]
    found = load_valid(policy_files([folder_of(settings)]))
    for loaded in found:
        if loaded.policy.policy == text:
            return loaded
    names = ", ".join(sorted(loaded.policy.policy for loaded in found))
    raise UsageError(f"there is no policy {text!r} in {folder_of(settings)}", hint=f"there are: {names}")


def settings_for(settings: Settings, policy: "Policy", role: str) -> Settings:
    """The settings with the policy's repository and key, unless the command line names others.

    Raises:
        KeyProblem: the policy says that this key is on another host.
    """
    from backupd.config.policies import repository_of
    from backupd.config.secretrefs import path_of

    if not settings.repository:
        settings = replace(settings, repository=str(repository_of(policy)))
    if not settings.key:
        reference = getattr(policy.keys, role)
        if reference is None:
            raise KeyProblem(
                f"policy {policy.policy} names no {role} key: this is left to the host that has it",
                hint=f"name it with --key, or in the policy as keys: {{{role}: file:/path/{role}.key}}",
            )
        settings = replace(settings, key=(str(path_of(reference)),))
    return settings


def reading_settings(settings: Settings, policy: "Policy") -> Settings:
    """The settings with the policy's repository, and the least of its keys that may list what is in it.

    Raises:
        KeyProblem: the policy says that all its keys are on other hosts.
    """
    role = next((role for role in ("check", "prune", "write", "read") if getattr(policy.keys, role)), "check")
    return settings_for(replace(settings, repository=None), policy, role)


def sources_of(policy: "Policy", name: str | None) -> "list[Source]":
    """The policy's sources, or the one of that name, or the one that stands for the server with that database.

    Raises:
        UsageError: there is none.
    """
    found = [source for source in policy.sources if name in {None, source.name} or source.covers(name or "")]
    if not found:
        names = ", ".join(source.name for source in policy.sources)
        raise UsageError(f"policy {policy.policy} has no source {name!r}", hint=f"it has: {names}")
    return found


def joined_failure(failed: list[BackupdError], total: int, values: dict[str, Any]) -> BackupdError:
    """The failure of a policy some of whose sources failed: the first one's kind.

    Args:
        failed: the errors.
        total: how many sources there are.
        values: what the JSON document shows beside the error.
    """
    error = first = failed[0]
    if total > 1:
        error = type(first)(
            f"{len(failed)} of {total} sources failed, the first: {first.message}",
            object_name=first.object_name,
            hint=first.hint,
        )
    error.values = values  # type: ignore[attr-defined]
    return error


def password_of(source: "Source") -> str | None:
    """The password of a source's role.

    Raises:
        UsageError: it cannot be had, or is no text.
    """
    from backupd.config.secretrefs import resolve

    if source.password is None:
        return None
    try:
        text = resolve(source.password).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{source.password} is no UTF-8 text", object_name=source.password) from None
    if set(text) & set("\0\r\n"):
        raise UsageError(f"{source.password} is no password: it has several lines", object_name=source.password)
    return text


def references_of(source: "Source | None") -> "list[Reference]":
    """What a policy says of a source's tables that the database does not know: which rows belong to which."""
    from backupd.records.references import undeclared

    said = source.references if source else ()
    return [undeclared(r.table, r.columns, r.parent, r.parent_columns, r.on_delete) for r in said]


def source_if_known(settings: Settings, name: str) -> "Source | None":
    """The one source of that name among all policies, if there are policies, and one of them has it.

    Raises:
        UsageError: the policies are not valid.
    """
    from backupd.config.policies import load_valid, policy_files

    folder = folder_of(settings)
    known = load_valid(policy_files([folder])) if folder.exists() else []
    found = [source for loaded in known for source in loaded.policy.sources if source.name == name]
    return found[0] if len(found) == 1 else None


def source_named(settings: Settings, name: str, hint: str) -> "Source":
    """The one source of that name among all policies.

    Raises:
        UsageError: there is none, or more than one.
    """
    from backupd.config.policies import load_valid, policy_files

    folder = folder_of(settings)
    known = load_valid(policy_files([folder])) if folder.exists() else []
    sources = [source for loaded in known for source in loaded.policy.sources if source.name == name]
    if len(sources) != 1:
        word = "no policy" if not sources else "more than one policy"
        raise UsageError(f"{word} in {folder} has a source {name!r}", hint=hint)
    return sources[0]
