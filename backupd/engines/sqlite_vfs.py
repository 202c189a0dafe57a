"""What the files that SQLite is shown in this process have in common: they are nobody else's, and are no files."""


class OwnFile:
    """Locks, closing and whatever is asked of a file besides its bytes; a base for those that have some."""

    def excepthook(self, kind: object, error: object, trace: object) -> None:
        """Let errors reach the caller only."""

    def xClose(self) -> None:  # noqa: N802
        """Nothing to close."""

    def xLock(self, level: int) -> None:  # noqa: N802
        """Nobody else can open it."""

    def xUnlock(self, level: int) -> None:  # noqa: N802
        """Nobody else can open it."""

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        """Nobody else can have one."""
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: ARG002, N802
        """Nothing of the kind is known."""
        return False
