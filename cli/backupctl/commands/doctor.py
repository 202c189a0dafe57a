"""`backupctl doctor`: what is wrong here?"""

from typing import Any

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.servers import build_options, server_options


@click.command(epilog="Example: backupctl doctor --repository /backup/app --key keys/write.key --source app.db")
@option("--source", metavar="URL", help="Also try to read this database (nothing is stored).")
@server_options
@verb
def command(settings: Settings, source: str | None, server: dict[str, Any]) -> None:
    """Check this machine, the keys, the storage and, with --source, a database."""
    from backupctl.diagnose import diagnose
    from backupd.errors import Failed

    checks = diagnose(settings, source, build_options(server), server["lock_timeout"])
    bad = [c for c in checks if not c.passed]
    values = [{"name": c.name, "passed": c.passed, "detail": c.detail, "hint": c.hint} for c in checks]
    error = (
        Failed(f"{output.plural(len(bad), 'check')} failed: {bad[0].name}: {bad[0].detail}", hint=bad[0].hint)
        if bad
        else None
    )
    if error is not None:
        error.values = {"checks": values}  # type: ignore[attr-defined]  # the JSON document shows them beside the error
    if settings.json:
        if error is not None:
            raise error
        output.document("doctor", {"checks": values})
        return
    output.table(["check", "", "detail"], [[c.name, "ok" if c.passed else "FAILED", c.detail] for c in checks])
    if error is not None:
        raise error
