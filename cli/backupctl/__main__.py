"""`backupctl`: the verbs, and the one place where an error becomes a message and an exit code."""

import gc
import importlib
import io
import os
import signal
import sys
import traceback
from typing import Any

import click

from backupctl import output
from backupctl.options import Settings, global_options, settings_of
from backupctl.verbs import Reached, VerbGroup
from backupd.errors import BackupdError, Exit, Interrupted, Terminated, UsageError

VERBS = {
    "audit": "audit",
    "brake": "brake",
    "catalog": "catalog",
    "completion": "completion",
    "demo": "demo",
    "diff": "diff",
    "doctor": "doctor",
    "drill": "drill",
    "erase": "erase",
    "export": "export",
    "find": "find",
    "forget": "forget",
    "hold": "hold",
    "incident": "incident",
    "init": "init",
    "keys": "keys",
    "notify": "notify",
    "policy": "policy",
    "prune": "prune",
    "query": "query",
    "recover": "recover",
    "repo": "repo",
    "restore": "restore",
    "run": "run",
    "show": "show",
    "snapshots": "snapshots",
    "status": "status",
    "verify": "verify",
}
PLANNED = {
    **dict.fromkeys(("posture", "evidence"), frozenset[str]()),
}


class Verbs(VerbGroup):
    """Loads a verb's module when it is used; names what is not built yet."""

    planned = PLANNED

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"backupctl.commands.{VERBS[cmd_name]}").command
        return command


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Print the version of this program and of the format that it writes, and end."""
    if not value or ctx.resilient_parsing:
        return
    from backupd.config.version import VERSION
    from backupd.repo.format import VERSION as FORMAT

    output.say(f"backupctl {VERSION}, format {FORMAT}")
    ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: backupctl run --source app.db --repository /backup/app --key keys/write.key",
)
@global_options
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Tell the version.")
@click.pass_context
def cli(ctx: click.Context, /, **values: Any) -> None:
    """Encrypted, deduplicated, verified backups of databases."""
    ctx.obj = settings_of(ctx, values, Settings())


class _Signals:
    """Remembers which signal asked for an end: an exception raised in the middle of a wait may surface as another one."""

    arrived: BackupdError | None = None

    @classmethod
    def terminate(cls, number: int, _frame: object) -> None:
        cls.arrived = Terminated(f"terminated by {signal.Signals(number).name}")
        raise cls.arrived

    @classmethod
    def interrupt(cls, _signal: int, _frame: object) -> None:
        cls.arrived = Interrupted("interrupted")
        raise KeyboardInterrupt


def _wants(option: str, arguments: list[str]) -> bool:
    """Whether a flag is given, also where the command line could not be understood as a whole."""
    words = {"1", "true", "t", "yes", "y", "on"}
    return f"--{option}" in arguments or os.environ.get(f"BACKUPCTL_{option.upper()}", "").strip().lower() in words


def _fail(error: BackupdError, arguments: list[str]) -> int:
    if _wants("json", arguments):
        warned = {"warnings": Reached.warnings} if Reached.warnings else {}
        values = {**warned, **getattr(error, "values", {}), "error": output.error_values(error)}
        output.document(Reached.verb(), values, ok=False)
    else:
        output.note(f"backupctl: {error.message}")
        if error.hint:
            output.note(f"  {error.hint}")
    return int(error.exit)


def _ending(error: BaseException) -> BackupdError:
    """What an exception means to the user."""
    if _Signals.arrived is not None:
        return _Signals.arrived
    match error:
        case BackupdError():
            return error
        case click.Abort() | KeyboardInterrupt():
            return Interrupted("interrupted")
        case click.ClickException():
            return UsageError(error.format_message(), hint="see `backupctl --help`")
        case MemoryError():
            return BackupdError("out of memory")
        case OSError():
            return _system(error)
        case _:
            return _bug(error)


def _run(arguments: list[str]) -> int:
    Reached.words, Reached.warnings = [], []
    try:
        result = cli.main(arguments, prog_name="backupctl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return int(Exit.FAILED)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge: everything becomes a clear ending
        if _wants("debug", arguments):
            traceback.print_exc()
        return _fail(_ending(error), arguments)


def _bug(error: BaseException) -> BackupdError:
    # the type only: an unexpected exception's text may quote data
    return BackupdError(
        f"something unexpected happened ({type(error).__name__}); this is a bug",
        hint="run it again with --debug and report the traceback, without any customer's data in it",
    )


def _system(error: OSError) -> BackupdError:
    name = str(error.filename) if error.filename else None
    return BackupdError(f"the system refused: {error.strerror or 'input/output error'}", object_name=name, hint=name)


def _harden() -> None:
    """No core dumps and no new files that others can read: memory holds keys, files hold backups."""
    import resource

    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        pr_set_dumpable = 4
        ctypes.CDLL(None).prctl(pr_set_dumpable, 0, 0, 0, 0)


def _tune() -> None:
    """What suits a program of a few threads that hand megabytes to each other."""
    # the work is done by libraries that release the interpreter for a moment at a time: hand it over quickly
    sys.setswitchinterval(0.0001)
    # hardly anything here refers back to what holds it, and looking for it costs every run
    gc.set_threshold(50_000, 20, 20)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads for matrices, of which there are none here


def main() -> None:
    """The console script."""
    _harden()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal's character set lacks must not end a command
            stream.reconfigure(errors="backslashreplace")
    _tune()
    signal.signal(signal.SIGTERM, _Signals.terminate)
    if (
        signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    ):  # a terminal that goes leaves no restored records lying about
        signal.signal(signal.SIGHUP, _Signals.terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _Signals.interrupt)
    code = _run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    gc.freeze()  # the system takes everything back at once; the interpreter need not look for what refers to what
    sys.exit(code)


if __name__ == "__main__":
    main()
