"""The demo's last chapters: a policy, the daemon that follows it, retention, and the sentence that says how things stand."""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from backupctl.story import Story
from backupd.errors import Failed

_PATIENCE = 60.0
_POLICY = """\
policy: demo
sources:
  - {{name: telecom, url: "sqlite:///{folder}/telecom.db"}}
repository: {{url: "{folder}/repository"}}
keys: {{write: "file:{folder}/keys/write.key", check: "file:{folder}/keys/check.key", prune: "file:{folder}/keys/prune.key"}}
schedule: {{every: 4s}}   # a policy for real says cron: "30 2 * * *" and timezone: Europe/Berlin
objectives: {{rpo: 24h}}
retention: {{keep: {{last: 2}}}}
"""


def tell_nights(story: Story) -> None:
    """Two scheduled runs, seconds apart, what retention lets go, and how things stand."""
    story.chapter("Every night by itself: a policy, and the daemon that follows it. Two nights, a few seconds apart.")
    folder = story.folder / "policies"
    folder.mkdir(mode=0o700)
    (folder / "demo.yaml").write_text(_POLICY.format(folder=story.folder))
    story.backupctl("policy", "check", "--config", "policies")
    story.tell("  $ backupd --config policies --listen 127.0.0.1:0")
    with _daemon(story) as events:
        ready = _wait(events, "ready")
        story.tell(f"     its status page while it runs: {ready['page']}")
        for n in (1, 2):
            ended = _wait(events, "job ends", kind="run")
            if ended["exit"]:
                raise Failed(f"the daemon's run {n} ended with {ended['exit']}")
            story.tell(f"     run {n} of 2 done, at {ended['at'][11:19]} UTC")
        story.numbers["page"] = ready["page"]
    story.tell("     asked to end, it let its jobs come to their end, and ended")
    story.tell()
    story.chapter("Retention: the policy keeps the last two; the reason stands beside each.")
    pruned = story.backupctl("prune", "demo", "--config", "policies", "--yes")
    for kept in pruned["keep"]:
        story.tell(f"     keeps {kept['snapshot'][:12]}: {', '.join(kept['reasons'])}")
    story.tell(f"     lets {len(pruned['forget'])} go; what only they needed is removed after a grace period of a day")
    story.tell()
    story.chapter("How things stand, in one sentence.")
    status = story.backupctl("status", "--config", "policies")
    story.tell(f"     {status['sentence']}")
    story.tell()
    story.numbers |= {"pruned": len(pruned["forget"]), "sentence": status["sentence"]}


@contextlib.contextmanager
def _daemon(story: Story) -> Iterator["queue.Queue[dict[str, Any]]"]:
    """A daemon at work, and the events of its log."""
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    child = subprocess.Popen(
        [sys.executable, "-m", "backupd", "--config", "policies", "--listen", "127.0.0.1:0", "--drain", "30"],
        cwd=story.folder,
        env=story.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    reader = threading.Thread(target=_read, args=(child.stdout, events), daemon=True)
    reader.start()
    try:
        yield events
    finally:
        child.send_signal(signal.SIGTERM)
        said = child.communicate(timeout=_PATIENCE)[1]
        reader.join(_PATIENCE)
    if child.returncode:
        raise Failed(f"the daemon ended with {child.returncode}: {said.strip()[-300:]}")


def _read(lines: IO[str], events: "queue.Queue[dict[str, Any]]") -> None:
    for line in lines:
        with contextlib.suppress(ValueError):
            events.put(json.loads(line))
    events.put({"event": "end"})


def _wait(events: "queue.Queue[dict[str, Any]]", name: str, **facts: str) -> dict[str, Any]:
    """The next event of this name.

    Raises:
        Failed: the daemon ended, or nothing of the kind came.
    """
    until = time.monotonic() + _PATIENCE
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(queue.Empty):
            event = events.get(timeout=left)
            if event["event"] == "end":
                break
            if event["event"] == name and all(event.get(key) == value for key, value in facts.items()):
                return event
    raise Failed(f"the daemon did not come to {name!r}")
