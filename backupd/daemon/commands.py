"""The command of each kind of job: the words that a person would type. No secret is among them: keys and passwords are named."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backupd.config.policies import repository_of
from backupd.config.secretrefs import path_of
from backupd.errors import UsageError
from backupd.policy.model import Policy, Verify
from backupd.policy.proving import KEY_OF_LEVEL, can_verify

KEY_OF = {"run": ("write",), "prune": ("prune",), "refresh": ("check", "prune", "write", "read")}
"""Of each kind of job the keys of which a policy must name one for it to be this host's work."""


@dataclass(frozen=True, slots=True)
class Here:
    """What all commands of this daemon have in common.

    Attributes:
        policies: the folder that holds the policies in force.
        state: the state folder.
        catalog: the catalog's URL, if it is not the state folder's own.
    """

    policies: Path
    state: Path
    catalog: str | None = None

    def words(self) -> list[str]:
        """As options."""
        return ["--config", str(self.policies), "--state", str(self.state), "--json"]


def can(policy: Policy, kind: str, level: str = "") -> bool:
    """Whether this host has the key for a kind of job of a policy: what it has not is left to another host."""
    return can_verify(policy, level) if kind == "verify" else any(getattr(policy.keys, role) for role in KEY_OF[kind])


def arguments(kind: str, policy: Policy, source: str | None, payload: Mapping[str, Any], here: Here) -> list[str]:
    """The words behind `backupctl`.

    Raises:
        UsageError: there is no such kind of job, or a key's place cannot be found.
    """
    if kind in {"run", "drill"} and source is not None:
        return [kind, *here.words(), "--", policy.policy, source]  # a source may have any name, `--help` among them
    if kind == "prune":
        return ["prune", policy.policy, "--yes", *here.words()]
    if kind == "refresh":
        catalog = ["--catalog", here.catalog] if here.catalog else []
        return ["catalog", "rebuild", "--policy", policy.policy, *catalog, *here.words()]
    if kind == "verify":
        level, sample = payload.get("level"), payload.get("sample")
        if level in KEY_OF_LEVEL and isinstance(sample, int | float):
            return ["verify", "--level", level, "--sample", f"{sample:g}%", *_place(policy, level), *here.words()]
    raise UsageError(f"there is no job of kind {kind!r}")


def _place(policy: Policy, level: str) -> list[str]:
    role = next((role for role in KEY_OF_LEVEL[level] if getattr(policy.keys, role)), None)
    if role is None:
        raise UsageError(f"policy {policy.policy} names no key any more that verifies at level {level}")
    return ["--repository", str(repository_of(policy)), "--key", str(path_of(getattr(policy.keys, role)))]


def verify_payload(verify: Verify) -> dict[str, Any]:
    """What a verification's job must know."""
    return {"level": verify.level, "sample": verify.sample}
