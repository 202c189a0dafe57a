"""Runs `backupctl` in processes of their own without starting Python anew for each: a server that has everything imported forks.

`python -m tests.cli.forking` is the server: it reads a JSON document a line from standard input (`arguments`, `cwd`, `env`,
`out`, `err`) and answers with a line, the exit code. The server has no threads, no open databases and no connections; each
child gets a session, a folder, an environment and files of its own, and goes through the console script's own `main`. What
is about starting the program (its time, its imports, signals) is tested with real commands.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

_LIMIT = 300.0


class ForkServer:
    """The server, from the outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )
        atexit.register(self.close)

    def run(self, arguments: list[str], *, cwd: Path, env: dict[str, str], out: Path, err: Path) -> int:
        """Run a command; standard output and error go to files. A negative code is the number of a signal.

        Raises:
            TimeoutError: it took too long.
        """
        document = {"arguments": arguments, "cwd": str(cwd), "env": env, "out": str(out), "err": str(err)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(document) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the fork server has ended")
        code = int(answer)
        if code == -signal.SIGALRM:
            raise TimeoutError(f"backupctl {' '.join(arguments)} took more than {_LIMIT:.0f} seconds")
        return code

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@lru_cache(maxsize=1)
def server() -> ForkServer:
    """One for each process that runs tests."""
    return ForkServer()


def _import_all() -> None:
    import importlib
    import pkgutil

    import backupctl.commands
    import backupd

    for package in (backupctl.commands, backupd):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if "migrations" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in ("boto3", "botocore.session", "sqlalchemy.dialects.sqlite", "rich.progress", "alembic.migration"):
        importlib.import_module(name)


def _child(asked: dict[str, Any]) -> None:
    """Become a command; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _LIMIT)
        for number, name, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, asked["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            fd = os.open(name, flags, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.argv = ["backupctl", *asked["arguments"]]
        from backupctl.__main__ import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _serve() -> None:
    _import_all()
    import gc

    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
