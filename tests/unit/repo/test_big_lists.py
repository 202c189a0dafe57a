"""Lists of a source of 16 million chunks: memory follows the depth of a tree and the length of a block, never the source."""

import subprocess
import sys
from pathlib import Path

import pytest

TREE = """
import hashlib, os, resource, sys, tempfile
from backupd.crypto.chunks import Kind
from backupd.repo.nodes import ChunkRef, PackPlace
from backupd.repo.trees import TreeBuilder, finish_trees, walk

count = int(sys.argv[1])
place = PackPlace(bytes(32))
file = tempfile.TemporaryFile()
end = 0

def store(plain):
    global end
    at = end
    end += len(plain) + -len(plain) % 4
    os.pwrite(file.fileno(), plain, at)
    return ChunkRef(hashlib.blake2b(plain, digest_size=32).digest(), place, at // 4, len(plain), len(plain), 1)

def build():
    builder = TreeBuilder(store)
    add, spots = builder.add, [slice(at, at + 32) for at in range(0, 32 * 1024, 32)]
    for first in range(0, count, 1024):
        names = hashlib.shake_256(first.to_bytes(8, "little")).digest(32 * 1024)
        for spot in spots[: count - first]:
            add(ChunkRef(names[spot], place, first, 30_000, 65_536, 1))
    finish_trees([builder], lambda: None)
    return builder

builder = build()

def load(ref):
    return os.pread(file.fileno(), ref.plain_length, ref.offset * 4)

visited = 0
def seen(ref):
    global visited
    visited += 1
    return visited > 4 and visited % 8 != 0
some = sum(1 for _ in walk(builder.top, Kind.PAGES, load, seen, totals=(count, count * 65_536)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, len(builder.top), end, some)
"""

VERSIONS = """
import os, resource, sys, tempfile
from pathlib import Path
from backupd.crypto.chunks import Kind
from backupd.repo.blobs import Held
from backupd.repo.nodes import ChunkRef, PackPlace
from backupd.repo.versions import Anchors, ListReader, ListWriter, Recent, Version

count = int(sys.argv[1])
folder = Path(tempfile.mkdtemp(dir=sys.argv[2]))
place = PackPlace(bytes(32))
writer = ListWriter(folder, 0, bytes(32), b"label", Recent())
for n in range(count):
    ref = ChunkRef(n.to_bytes(32, "little"), place, n % 1_000_000, 30_000, 65_536, 1)
    writer.extend([Version(ref, Held(1, n, 30_000, 65_536, 1), 0, 7, (n, n))], [Anchors(n, n, 7, (n, n))])
writer.finish()
reader = ListReader(folder, 0, bytes(32), b"label", Kind.ROWS, count, 5, Recent())
for n in range(0, count, 997):
    version = reader.version(n)
    assert version is not None and version.ref.id == n.to_bytes(32, "little") and version.sums == (n, n)
assert reader.version(count) is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measured(script: str, *words: str) -> list[int]:
    """What a script prints: first its peak memory, in MiB."""
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tree_of_sixteen_million_chunks() -> None:
    """A tebibyte in chunks of 64 KiB: its tree is built and walked within the memory that a small one takes."""
    small = measured(TREE, "20000")
    large = measured(TREE, "16000000")
    assert large[0] < small[0] + 25
    assert large[1] < 8192  # the top node is what the snapshot object holds
    assert large[2] < 16_000_000 * 60
    assert large[3] > 0


@pytest.mark.slow
def test_a_version_list_of_many_chunks(tmp_path: Path) -> None:
    """The list that the next run leans on: memory does not follow its length, written or read."""
    small = measured(VERSIONS, "10000", str(tmp_path))
    large = measured(VERSIONS, "300000", str(tmp_path))
    assert large[0] < small[0] + 20
