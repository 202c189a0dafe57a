"""Makes of the object store for tests: each gives a fresh, empty one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from backupd.store.base import ObjectStore
from backupd.store.files import Files
from backupd.store.folder import FolderStore
from backupd.store.memory import MemoryStore


def utc_now() -> datetime:
    """The time, as a store's clock tells it."""
    return datetime.now(UTC)


class NoLinks(Files):
    """A file system that refuses hard links."""

    def link(self, source: str, source_folder: int, target: str, target_folder: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def memory_store() -> MemoryStore:
    """A store in memory with the real clock."""
    return MemoryStore(utc_now)


def folder_store(root: Path) -> FolderStore:
    """A store in a folder that is made."""
    return FolderStore(root, create=True)


def folder_store_without_links(root: Path) -> FolderStore:
    """A store in a folder whose file system has no hard links."""
    return FolderStore(root, create=True, files=NoLinks())


@contextmanager
def moto_store() -> Iterator[ObjectStore]:
    """An S3 store against moto in this process; made-up credentials."""
    import boto3
    from moto import mock_aws

    from backupd.store.s3 import S3Store

    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="conformance")
        store = S3Store("conformance", "some/place", region="us-east-1")
        try:
            yield store
        finally:
            store.close()
