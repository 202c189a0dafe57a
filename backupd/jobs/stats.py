"""Numbers about a repository: objects, bytes, and what is kept beside it on this machine."""

from dataclasses import dataclass, field

from backupd.config.paths import Places
from backupd.disk import folder_bytes
from backupd.jobs.select import source_names
from backupd.repo.repository import Repository
from backupd.report import Problem


@dataclass(frozen=True, slots=True)
class SourceStats:
    """One source: how many snapshots, and its newest one's numbers in bytes."""

    name: str
    snapshots: int
    newest: str
    read: int
    stored: int


@dataclass(slots=True)
class RepositoryStats:
    """What was counted; sizes in bytes."""

    sources: list[SourceStats] = field(default_factory=list)
    objects: dict[str, tuple[int, int]] = field(default_factory=dict)
    read_bytes: int = 0
    cache: str = ""
    cache_bytes: int = 0
    version_cache_bytes: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def stored_bytes(self) -> int:
        """All objects together."""
        return sum(size for _, size in self.objects.values())

    def as_json(self) -> dict[str, object]:
        """JSON values."""
        return {
            "sources": [
                {
                    "source": s.name,
                    "snapshots": s.snapshots,
                    "newest": s.newest,
                    "read_bytes": s.read,
                    "stored_bytes": s.stored,
                }
                for s in self.sources
            ],
            "objects": {kind: {"count": n, "bytes": size} for kind, (n, size) in sorted(self.objects.items())},
            "read_bytes": self.read_bytes,
            "stored_bytes": self.stored_bytes,
            "cache": self.cache,
            "cache_bytes": self.cache_bytes,
            "version_cache_bytes": self.version_cache_bytes,
        }


def repository_stats(repo: Repository, places: Places) -> RepositoryStats:
    """Count; reads the snapshot objects and lists everything else."""
    stats = RepositoryStats(cache=str(places.cache))
    for info in repo.store.list():
        kind = info.name.split("/")[0]
        count, size = stats.objects.get(kind, (0, 0))
        stats.objects[kind] = (count + 1, size + info.size)
    history = repo.history()
    stats.problems = history.problems
    names = source_names(history.views)
    for name in sorted(set(names.values())):
        views = [v for v in history.views if names[v.id] == name]
        newest = views[-1].structure
        stats.sources.append(SourceStats(name, len(views), newest.taken_at, newest.read_bytes, newest.stored_bytes))
    stats.read_bytes = sum(v.structure.read_bytes for v in history.views)
    stats.cache_bytes = folder_bytes(places.cache)
    stats.version_cache_bytes = folder_bytes(places.state / "versions")
    return stats
