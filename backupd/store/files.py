"""The few system calls by which the folder store changes a disk.

They stand behind one small class so that a test can record their order or let one of them fail, without a hook in the
store itself. It must never decide anything: each method is one call, and an OSError passes through unchanged.
"""

import os

from backupd.disk import set_direct


class Files:
    """The operating system's own calls, all relative to open folders so that no link on the way is followed."""

    def open(self, name: str, flags: int, folder: int, mode: int = 0o600) -> int:
        """Open `name` in `folder` and return its descriptor; never inherited by children, never through a link."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data`; returns how many bytes."""
        return os.write(fd, data)

    def set_direct(self, fd: int, *, direct: bool) -> bool:
        """Have writes to an open file go past the page cache, or not; False where the system has no such thing."""
        return set_direct(fd, direct=direct)

    def fsync(self, fd: int) -> None:
        """Make a file or a folder durable."""
        os.fsync(fd)

    def link(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        """Give a file a second name, which must not exist yet."""
        os.link(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder, follow_symlinks=False)

    def rename(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        """Move a file over whatever has the new name."""
        os.replace(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)

    def unlink(self, name: str, folder: int) -> None:
        """Remove a file's name."""
        os.unlink(name, dir_fd=folder)

    def mkdir(self, name: str, folder: int) -> None:
        """Make a folder that only its owner may enter, whatever the umask."""
        os.mkdir(name, 0o700, dir_fd=folder)
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & 0o777 != 0o700:
            os.chmod(name, 0o700, dir_fd=folder)
