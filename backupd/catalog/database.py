"""The one connection to the catalog's database."""


class Database:
    """Transactions."""

    def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError
