"""Groups of verbs: they name what is not built yet, and remember which verb was reached, for the failure document."""

from collections.abc import Mapping
from typing import ClassVar

import click

from backupd.errors import UsageError


class Reached:
    """The verb of this process, as far as the command line was understood, and what it has warned of so far."""

    words: ClassVar[list[str]] = []
    warnings: ClassVar[list[str]] = []

    @classmethod
    def verb(cls) -> str:
        """The verb as it stands in a document's schema; `usage` if none was reached."""
        return "-".join(cls.words) or "usage"


class VerbGroup(click.Group):
    """A group whose verbs are remembered when they are reached.

    Attributes:
        planned: verbs that are not built yet, and the second words that each may have.
    """

    planned: ClassVar[Mapping[str, frozenset[str]]] = {}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb and remember it.

        Raises:
            UsageError: it is planned, but not built yet.
        """
        groups = [c.info_name for c in _upwards(ctx) if c.parent is not None and c.info_name]
        name = args[0]
        if ctx.resilient_parsing:  # a shell asks how the line may go on; nothing is run, and nothing refused
            return super().resolve_command(ctx, args)
        if name in self.planned:
            second = next((word for word in args[1:] if not word.startswith("-")), "")
            Reached.words = [*groups, name, *([second] if second in self.planned[name] else [])]
            raise UsageError(f"`backupctl {' '.join([*groups, name])}` is not built yet in this version")
        found, command, rest = super().resolve_command(ctx, args)
        if command is not None and not isinstance(command, click.Group):
            Reached.words = [*groups, name]
        return found, command, rest


def _upwards(ctx: click.Context) -> list[click.Context]:
    """The contexts from the root to `ctx`."""
    chain: list[click.Context] = []
    here: click.Context | None = ctx
    while here is not None:
        chain.insert(0, here)
        here = here.parent
    return chain
