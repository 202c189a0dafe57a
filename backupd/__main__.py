"""`backupd`: the daemon."""

import io
import os
import sys
import time
from pathlib import Path

import click

from backupd.config.clock import now
from backupd.config.paths import state_base
from backupd.config.policies import DEFAULT_FOLDER, load_valid, policy_files
from backupd.config.version import VERSION
from backupd.daemon.options import PORT, ROLES, Options
from backupd.errors import BackupdError, Exit, UsageError

_MOST_TOKEN = 4096
_GIGABYTE = 1024**3


def _listen(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise click.BadParameter("write HOST:PORT, such as 127.0.0.1:8733 or [::]:8733")
    return host.strip("[]"), int(port)


def _token(name: str | None) -> str | None:
    """The token of a file.

    Raises:
        UsageError: it cannot be read, or is empty.
    """
    if not name:
        return None
    try:
        with Path(name).open("rb") as file:
            token = file.read(_MOST_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"the token file {name} cannot be read", object_name=name) from None
    if not token:
        raise UsageError(f"the token file {name} is empty", object_name=name, hint="openssl rand -hex 32 > FILE")
    return token


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "BACKUPD", "max_content_width": 110},
    epilog="Example: backupd --config /etc/backupd/policies.d --state /var/lib/backupd",
)
@click.option(
    "--role",
    type=click.Choice(["all", *ROLES]),
    multiple=True,
    default=["all"],
    show_default=True,
    help="What this process does; several daemons that share a catalog on a server may divide the work.",
)
@click.option(
    "--config",
    metavar="DIR",
    envvar=["BACKUPD_CONFIG", "BACKUPCTL_CONFIG"],
    default=str(DEFAULT_FOLDER),
    show_default=True,
    help="Policies are read from here; SIGHUP reads them again.",
)
@click.option(
    "--state", metavar="DIR", envvar=["BACKUPD_STATE", "BACKUPCTL_STATE"], help="What this machine remembers."
)
@click.option(
    "--catalog",
    metavar="URL",
    envvar=["BACKUPD_CATALOG", "BACKUPCTL_CATALOG"],
    help="A catalog on a server, postgresql://user@host/db (default: a file in --state).",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_listen,
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    help="Where the status page, /health, /ready and /metrics are served.",
)
@click.option("--token-file", metavar="FILE", help="Who asks must show what is in it; needed away from loopback.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Jobs that run at once.")
@click.option("--job-memory", type=click.IntRange(1, 1024), metavar="GB", help="Memory that one job may have.")
@click.option(
    "--drain", type=click.IntRange(0, 86_400), default=600, show_default=True, help="Seconds that jobs get at the end."
)
@click.option("--verbose", "-v", is_flag=True, help="Say more.")
@click.option("--check", is_flag=True, help="Only tell whether the policies are valid.")
@click.version_option(VERSION, prog_name="backupd")
def command(
    role: tuple[str, ...],
    config: str,
    state: str | None,
    catalog: str | None,
    listen: tuple[str, int],
    token_file: str | None,
    jobs: int,
    job_memory: int | None,
    drain: int,
    verbose: bool,
    check: bool,
) -> None:
    """Run backups by policies: on schedule, verified, pruned, and watched.

    SIGHUP reads the policies again, all or none of them; SIGTERM lets the jobs at work come to their end. `backupctl status` and
    the page at --listen tell how things stand.
    """
    if check:
        found = load_valid(policy_files([config]))
        click.echo(f"{len(found)} policies are valid")
        return
    roles = frozenset(ROLES if "all" in role else role)
    options = Options(
        roles,
        Path(config).absolute(),
        state_base(state).absolute(),
        catalog,
        *listen,
        _token(token_file),
        jobs,
        job_memory * _GIGABYTE if job_memory else None,
        float(drain),
    )
    _run(options, verbose)


def _run(options: Options, verbose: bool) -> None:
    from backupd.daemon.assembly import run_daemon
    from backupd.daemon.logs import configure
    from backupd.daemon.systemd import service_manager

    environment = os.environ
    systemd = service_manager(
        environment.pop("NOTIFY_SOCKET", None),
        environment.get("WATCHDOG_USEC"),
        environment.get("WATCHDOG_PID"),
        os.getpid(),
    )
    log = configure(verbose=verbose, journal="JOURNAL_STREAM" in environment)
    run_daemon(options, now, time.monotonic, systemd, log)


def main() -> None:
    """The console script."""
    os.umask(0o077)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        command.main(prog_name="backupd", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(int(Exit.INTERRUPTED))
    except click.ClickException as error:
        sys.exit(_fail(UsageError(error.format_message(), hint="see `backupd --help`")))
    except BackupdError as error:
        sys.exit(_fail(error))


def _fail(error: BackupdError) -> int:
    sys.stderr.write(f"backupd: {error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
    return int(error.exit)


if __name__ == "__main__":
    main()
