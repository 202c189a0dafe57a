"""The server programs of MariaDB and MySQL that are on this machine, and the files that belong to them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backupd.engines.mariadb.client import Vendor
from backupd.engines.mariadb.tools import at_hand
from backupd.engines.throwaway import WAYS_OUT, Owner, not_runnable, said_by
from backupd.errors import Unreachable

PRODUCTS: Mapping[Vendor, str] = {"mariadb": "MariaDB", "mysql": "MySQL"}
_DAEMONS: Mapping[Vendor, tuple[str, ...]] = {"mariadb": ("mariadbd", "mysqld"), "mysql": ("mysqld",)}
_INSTALLERS = ("mariadb-install-db", "mysql_install_db")
_FOLDERS = (
    "usr/sbin",
    "usr/libexec",
    "usr/local/mysql/bin",
    "usr/local/mariadb/bin",
    "opt/homebrew/opt/mariadb*/bin",
    "opt/homebrew/opt/mysql*/bin",
    "usr/local/opt/mariadb*/bin",
    "usr/local/opt/mysql*/bin",
)
_VERSION = re.compile(r"\bVer (\d{1,3})\.(\d{1,3})\.(\d{1,3})(\S*)")
_SHARES = ("share/mysql", "share/mariadb", "share")
_PLUGINS = ("lib/mysql/plugin", "lib64/mysql/plugin", "lib/mariadb/plugin", "lib/plugin")


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one server.

    Attributes:
        daemon: the server.
        installer: what makes MariaDB's system tables; None for MySQL, whose server does that itself.
        base: the folder below which its other files are; None if they are where they were built for.
    """

    vendor: Vendor
    version: tuple[int, int, int]
    daemon: str
    installer: str | None
    base: Path | None

    @property
    def text(self) -> str:
        """Product and version."""
        return f"{PRODUCTS[self.vendor]} {'.'.join(map(str, self.version))}"

    @property
    def places(self) -> list[str]:
        """The daemon's options that say where its files are."""
        if self.base is None:
            return []
        share = _first(self.base, _SHARES, "english/errmsg.sys")
        plugins = _first(self.base, _PLUGINS, "")
        words = [f"--basedir={self.base}"]
        words += [f"--lc-messages-dir={share}", f"--character-sets-dir={share}/charsets"] if share else []
        return words + ([f"--plugin-dir={plugins}"] if plugins else [])


def choose(vendor: Vendor, version: tuple[int, ...], folders: Sequence[Path], owner: Owner | None) -> Installation:
    """The server of the same series, else of the lowest newer one.

    Args:
        version: of the snapshot's server.
        folders: where to look first.
        owner: who must be able to run it.

    Raises:
        Unreachable: there is none.
    """
    found = list(_installed(vendor, folders))
    fit = [one for one in found if one.version[:2] >= version[:2]]
    fit.sort(key=lambda one: (one.version[:2], -one.version[2]))
    for one in fit:
        if said_by([one.daemon, "--no-defaults", "--version"], owner) is not None:
            return one
    if fit:
        raise not_runnable(Path(fit[0].daemon).parent, owner)
    newest = max((one.version for one in found), default=())
    have = f"the newest here is {'.'.join(map(str, newest))}" if newest else "there is none here"
    package = "mariadb-server" if vendor == "mariadb" else "mysql-server"
    raise Unreachable(
        f"{PRODUCTS[vendor]}'s server program ({_DAEMONS[vendor][0]}) of version"
        f" {'.'.join(map(str, version[:2]))} or newer is needed; {have}",
        object_name=_DAEMONS[vendor][0],
        hint=f"install it (Debian: apt-get install {package}), {WAYS_OUT}",
    )


def _installed(vendor: Vendor, folders: Sequence[Path]) -> Iterator[Installation]:
    """Every whole installation of a vendor's at hand."""
    places = [*folders, *(path for pattern in _FOLDERS for path in sorted(Path("/").glob(pattern)))]
    for daemon in dict.fromkeys(at_hand(_DAEMONS[vendor], places)):
        found = _VERSION.search(said_by([daemon, "--no-defaults", "--version"], None) or "")
        if found is None or ("mariadb" in found[4].lower()) != (vendor == "mariadb"):
            continue
        base = _base(daemon)
        installer = None
        if vendor == "mariadb":
            near = [Path(daemon).parent, *([base / "bin", base / "scripts"] if base else [])]
            installer = next(iter(at_hand(_INSTALLERS, [*near, *folders])), None)
            if installer is None:
                continue
        yield Installation(vendor, (int(found[1]), int(found[2]), int(found[3])), daemon, installer, base)


def _base(daemon: str) -> Path | None:
    """The folder that has the messages of a server in it, without which it does not start."""
    above = Path(daemon).parent.parent
    # The last one is where packages have it that were unpacked, and not installed.
    for base in (above, Path(daemon).resolve().parent.parent, above / "usr"):
        if _first(base, _SHARES, "english/errmsg.sys"):
            return base
    return None


def _first(base: Path, folders: Sequence[str], holding: str) -> Path | None:
    return next((base / folder for folder in folders if (base / folder / holding).exists()), None)
