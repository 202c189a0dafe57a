"""The kinds of objects that a restore leaves out, and refuses, unless they are named: the words of `allow`. Pure.

The engines know what they mean; a test compares the two. A policy is checked without any engine, on hosts that have none.
"""

from collections.abc import Mapping

KINDS: Mapping[str, frozenset[str]] = {
    "postgresql": frozenset(
        {
            "event-trigger",
            "extension",
            "language",
            "c-function",
            "foreign-server",
            "subscription",
            "unknown-statement",
            "missing-roles",
            "superuser-role",
        }
    ),
    "mariadb": frozenset({"definer", "foreign-server", "directory"}),
    "sqlite": frozenset(),
}
"""Of each engine the kinds that it knows."""
EVERYTHING = "all"
ALLOWED = (*sorted(frozenset[str]().union(*KINDS.values())), EVERYTHING)
"""What `allow` may hold."""


def family(engine: str) -> str:
    """The engine under which a database's is known here: MySQL's servers take what MariaDB's take."""
    return "mariadb" if engine == "mysql" else engine


def check_kind(word: str) -> str:
    """The same word.

    Raises:
        ValueError: no engine knows such a kind.
    """
    if word not in ALLOWED:
        raise ValueError(f"there is no such kind: {', '.join(ALLOWED)}")
    return word
