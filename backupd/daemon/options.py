"""What a daemon is told when it starts."""

from dataclasses import dataclass, field
from pathlib import Path

ROLES = ("scheduler", "worker", "web")
PORT = 8733


@dataclass(frozen=True, slots=True)
class Options:
    """How a daemon runs.

    Attributes:
        roles: of scheduler, worker and web those that it plays.
        policies: the folder (or the file) of policies.
        state: the state folder.
        catalog: URL of a catalog on a server; None for a file in the state folder.
        host, port: where the status page, health and metrics are served.
        token: what somebody must show who asks from elsewhere than this machine, or always if it is set.
        slots: how many jobs may run at once, besides one restore.
        job_memory: bytes of data that a job may have; None for no limit.
        drain: seconds that jobs at work are given when the daemon is asked to end.
    """

    roles: frozenset[str]
    policies: Path
    state: Path
    catalog: str | None = None
    host: str = "127.0.0.1"
    port: int = PORT
    token: str | None = field(default=None, repr=False)
    slots: int = 2
    job_memory: int | None = None
    drain: float = 600.0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can ask."""
        return self.host in {"127.0.0.1", "::1", "localhost"}
