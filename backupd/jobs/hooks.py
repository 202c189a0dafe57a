"""Commands around a run, as the policy's writer gave them. What they print goes where the program's own messages go."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

from backupd.config.paths import plain_environment
from backupd.errors import Failed


def run_hooks(commands: Sequence[str], when: str, facts: Mapping[str, str], seconds: float | None = None) -> None:
    """Run commands by the shell, one after the other; the first that fails ends it.

    Args:
        commands: as written in the policy.
        when: before or after, for messages.
        facts: what they learn, as variables BACKUPD_...; never a secret.
        seconds: after which one is ended.

    Raises:
        Failed: one could not be run, failed, or took too long.
    """
    environment = plain_environment() | {f"BACKUPD_{name.upper()}": value for name, value in facts.items()}
    for number, command in enumerate(commands, 1):
        what = f"hook {number} {when} the run"
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env=environment,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{what} took longer than {seconds:g} s", hint="see what it waits for") from None
        except OSError as error:
            raise Failed(f"{what} cannot be run: {error.strerror}") from None
        if done.returncode:
            raise Failed(f"{what} failed with status {done.returncode}", hint="its own messages are above")
