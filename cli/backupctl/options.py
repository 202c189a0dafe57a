"""Options: the global ones, accepted before and after the verb, and the variable that each option has.

The variable of an option is BACKUPCTL_ plus its name, without the verb; `--yes`, `--apply` and `--overwrite` have none. Secrets
never come as options: key files, passphrase files, prompts.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

MAX_TEXT = 4096
_YES = ("1", "true", "t", "yes", "y", "on")
_NO = ("0", "false", "f", "no", "n", "off")
FLAG_WORDS = {"quick": "1", "full": "1", "none": "0"}
"""What the words of `restore --check` mean to the flag `run --check`: they share a variable."""
LEVEL_WORDS = {
    **{level: level for level in ("none", "quick", "full")},
    **dict.fromkeys(_YES, "quick"),
    **dict.fromkeys(_NO, "none"),
}
"""And the other way round."""
WITHOUT_VARIABLE = frozenset({"yes", "apply", "overwrite", "help"})


class Limited(TypedDict):
    """Bytes a second, each way."""

    upload: int | None
    download: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The global options as given."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    config: str | None = None
    repository: str | None = None
    key: tuple[str, ...] = ()
    passphrase_file: str | None = None
    state: str | None = None
    yes: bool = False
    dry_run: bool = False
    limit_upload: int | None = None
    limit_download: int | None = None

    @property
    def limits(self) -> Limited:
        """How fast the repository may be written and read, as `open_store` wants to know it."""
        return {"upload": self.limit_upload, "download": self.limit_download}

    @property
    def key_paths(self) -> list[Path]:
        """The key files: --key, else BACKUPCTL_KEY."""
        return [Path(k) for k in self.key]


class Opt(click.Option):
    """An option with its variable.

    Args:
        words: what words of the variable mean here, where another verb's option of the same name has other words.
    """

    def __init__(self, *args: Any, words: Mapping[str, str] | None = None, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self._words = words or {}
        if self.envvar is None and self.name and self.name not in WITHOUT_VARIABLE and not attrs.get("no_variable"):
            self.envvar = f"BACKUPCTL_{self.name.upper()}"

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[Any]]":
        """What a shell may offer: files and folders where such are wanted."""
        from click.shell_completion import CompletionItem

        if self.metavar in {"FILE", "DIR"}:
            return [CompletionItem(incomplete, type=self.metavar.lower())]
        return super().shell_complete(ctx, incomplete)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The variable's value, in this option's own words."""
        if self.multiple:
            text = self.resolve_envvar_value(ctx)
            return (text,) if text is not None else None
        value = super().value_from_envvar(ctx)
        return self._words.get(value.strip().lower(), value) if isinstance(value, str) else value


def printable(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    """A callback: text that is stored and shown again is one line that can be printed, of bounded length."""
    for text in value if isinstance(value, tuple) else (value,):
        if text is not None and (len(text) > MAX_TEXT or not text.isprintable()):
            raise click.BadParameter(f"must be at most {MAX_TEXT} printable characters in one line")
    return value


def said(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A callback: `printable`, and not empty."""
    if value is not None and not value.strip():
        raise click.BadParameter("must not be empty")
    printable(ctx, param, value)
    return value


def size_or_off(_ctx: click.Context, _param: click.Parameter, value: str | int | None) -> int | None:
    """A callback: bytes, or with K, M, G or T behind them so many times 1024; None for `off`."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "off":
        return None
    match = re.fullmatch(r"([0-9]{1,15})\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter("must be a number of bytes, such as 500M or 20G, or off")
    times: int = 1024 ** " KMGT".index(match[2].upper() or " ")
    return int(match[1]) * times


def option(*names: str, **attrs: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`click.option` with the variable that the contract promises."""
    return click.option(*names, cls=Opt, **attrs)


class _KeyOption(Opt):
    """--key: repeatable; its variable holds several, separated by ':'."""

    def value_from_envvar(self, ctx: click.Context) -> Any:
        text = self.resolve_envvar_value(ctx)
        return tuple(part for part in text.split(os.pathsep) if part) if text else None


_GLOBAL: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--json",), {"is_flag": True, "help": "One JSON document on standard output."}),
    (("--quiet", "-q"), {"is_flag": True, "help": "No progress and no remarks."}),
    (("--verbose", "-v"), {"is_flag": True, "help": "Say more."}),
    (("--debug",), {"is_flag": True, "help": "Show a traceback when something fails."}),
    (("--config",), {"metavar": "FILE", "help": "Policies are read from here (default: /etc/backupd/policies.d)."}),
    (("--repository", "-r"), {"metavar": "URL", "help": "A folder, or s3://bucket/prefix?endpoint=...&region=..."}),
    (("--key", "-k"), {"metavar": "FILE", "multiple": True, "help": "A key file; may be given several times."}),
    (("--passphrase-file",), {"metavar": "FILE", "help": "The passphrase of keys that have one."}),
    (("--state",), {"metavar": "DIR", "help": "What this machine remembers (default: ~/.local/state/backupd)."}),
    (
        ("--limit-upload",),
        {"metavar": "SIZE", "callback": size_or_off, "help": "Bytes a second to the repository, such as 5M."},
    ),
    (
        ("--limit-download",),
        {"metavar": "SIZE", "callback": size_or_off, "help": "Bytes a second from the repository."},
    ),
    (("--yes", "-y"), {"is_flag": True, "help": "Do not ask."}),
    (("--dry-run", "-n"), {"is_flag": True, "help": "Change nothing; show what would be done."}),
]
_NAMES = [names[0][2:].replace("-", "_") for names, _ in _GLOBAL]


def is_global(param: click.Parameter) -> bool:
    """Whether a parameter is one of those that every verb has."""
    return param.name in _NAMES


def global_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the global options."""
    for names, attrs in reversed(_GLOBAL):
        cls = _KeyOption if names[0] == "--key" else Opt
        function = click.option(*names, cls=cls, **attrs)(function)
    return function


def settings_of(ctx: click.Context, values: Mapping[str, Any], before: Settings) -> Settings:
    """Join what stands before the verb with what stands behind it; the command line beats the environment."""
    changes = {}
    for name in _NAMES:
        source = ctx.get_parameter_source(name)
        given = source is ParameterSource.COMMANDLINE
        fresh = source is ParameterSource.ENVIRONMENT and getattr(before, name) == getattr(Settings(), name)
        if given or fresh:
            changes[name] = values[name]
    return replace(before, **changes)


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function a verb: it gets `settings` first, and its own options by name."""

    def wrapper(ctx: click.Context, /, **values: Any) -> Any:
        settings = settings_of(ctx, values, ctx.obj or Settings())
        ctx.find_root().obj = settings
        own = {name: value for name, value in values.items() if name not in _NAMES}
        return function(settings, **own)

    return global_options(click.pass_context(functools.update_wrapper(wrapper, function)))
