"""Settings of databases and roles that a snapshot brings: which of them would make the server load code."""

import re

from backupd.engines.postgres.names import literal, quoted

SUPERUSER_ROLES = "superuser-role"
_SETTING = re.compile(r"([A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*)=(.*)\Z", re.DOTALL)
# Settings whose value is a list of names, which SET takes one by one.
_LISTS = frozenset({"search_path", "temp_tablespaces", "unix_socket_directories"})
_LOADING = frozenset(
    {
        "session_preload_libraries",
        "local_preload_libraries",
        "shared_preload_libraries",
        "dynamic_library_path",
        "extension_control_path",
        "jit_provider",
    }
)
# Languages whose own settings name code that they run when they start.
_LANGUAGES = frozenset(
    {"plperl", "plperlu", "pltcl", "pltclu", "plv8", "pljava", "plpython", "plpythonu", "plpython3u"}
)


def loads_code(name: str) -> bool:
    """Whether a setting names code that the server loads or runs."""
    lower = name.lower()
    return lower in _LOADING or ("." in lower and lower.split(".", 1)[0] in _LANGUAGES)


def split_setting(text: str) -> tuple[str, str] | None:
    """The name and the value of a setting as the catalogs hold it (`name=value`); None if it is none."""
    found = _SETTING.match(text)
    return (found[1], found[2]) if found else None


def set_words(name: str, value: str) -> str:
    """`SET name TO value`, for ALTER DATABASE and ALTER ROLE."""
    return f"SET {quoted(*name.split('.'))} TO {_written(name, value)}"


def _written(name: str, value: str) -> str:
    if name.lower() not in _LISTS:
        return literal(value)
    parts = re.findall(r'"((?:[^"]|"")*)"|([^,\s"]+)', value)
    return ", ".join(literal(one.replace('""', '"') if one or not other else other) for one, other in parts) or "''"
