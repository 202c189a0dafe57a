"""`backupctl forget`: see `prune`."""

from backupctl.commands.prune import forget as command

__all__ = ["command"]
