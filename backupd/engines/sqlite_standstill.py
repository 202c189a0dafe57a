"""Whether an SQLite database stands still: proof that nobody wrote to it between two moments, without opening it.

SQLite writes with write(2) to the file or to its WAL, and each write sets the times of what it writes; the change time can
be set back by no program. So two equal looks at both, the first of them later than the newest change by more than a
clock's tick, mean that nothing was written in between. Of the WAL the change time says nothing: SQLite, run by root, gives
it to its owner whenever it opens it. After a power cut data may be newer than the times that are stored beside it, so a
proof holds for one boot of the machine; and only where the kernel keeps the times itself: on file systems of this machine.
Must never open the files (closing one would drop SQLite's locks in this process).
"""

import os
import stat
import time
from pathlib import Path

_SETTLED_NS = 2_000_000_000
"""A change younger than this may share its time with one that follows: some file systems count seconds."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "zfs"})


def standstill(path: Path) -> str | None:
    """What the system says of the file and its WAL, as one word; None if that proves nothing.

    Args:
        path: of the database.
    """
    now = time.time_ns()
    try:
        real = path.resolve(strict=True)
        parts = [_look(real, now, changed=True), _look(real.with_name(real.name + "-wal"), now, changed=False)]
        journal = os.path.lexists(real.with_name(real.name + "-journal"))
        boot = _BOOT.read_text().strip()
        if not boot or journal or _file_system(real.stat().st_dev) not in _LOCAL:
            return None
    except (OSError, RuntimeError, ValueError):
        return None
    if parts[0] == "absent" or None in parts:
        return None
    return f"stat-2 {boot} {parts[0]} {parts[1]}"


def _look(path: Path, now: int, *, changed: bool) -> str | None:
    """Identity, size and times of a file; None if it is no plain file, or was changed a moment ago."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return "absent"
    times = [found.st_mtime_ns, found.st_ctime_ns] if changed else [found.st_mtime_ns]
    if not stat.S_ISREG(found.st_mode) or max(times) > now - _SETTLED_NS:
        return None
    return ":".join(map(str, (found.st_dev, found.st_ino, found.st_size, *times)))


def _file_system(device: int) -> str | None:
    """The type of the file system on a device, as /proc/self/mountinfo has it; None if it is not there."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                if before.split(" ")[2] == wanted:
                    return after.split(" ")[0]
    except (OSError, IndexError):
        return None
    return None
