"""`backupctl verify`: is everything there, whole, and what it was?"""

import time

import click

from backupctl import output
from backupctl.options import Settings, option, verb
from backupctl.progress import TerminalReporter
from backupctl.session import opened


def _sample(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        share = float(value.removesuffix("%"))
    except ValueError:
        raise click.BadParameter("write a share like 5%") from None
    if not 0 < share <= 100:
        raise click.BadParameter("must be more than 0% and at most 100%")
    return share


@click.command(epilog="Example: backupctl verify --level content --repository /backup/app --key keys/read.key")
@click.argument("snapshot", required=False)
@option(
    "--level",
    type=click.Choice(["structure", "bytes", "content"]),
    default="bytes",
    show_default=True,
    help="structure: signatures, chains, lists, presence. bytes: also every stored byte. content: also open every chunk.",
)
@option("--sample", default="100%", callback=_sample, help="Share of the packs to read, chosen at random (5%).")
@verb
def command(settings: Settings, snapshot: str | None, level: str, sample: float) -> None:
    """Verify the repository, or what one snapshot needs.

    structure and bytes need the check right, content the read right. Whatever is damaged, forged or missing is named, and
    the exit code is 4. Packs found bad are recorded, so that the next run stores anew what they held.
    """
    from backupd.config.clock import now
    from backupd.crypto.keyring import Right
    from backupd.errors import IntegrityError
    from backupd.jobs.select import select_snapshot
    from backupd.jobs.verify import Level, verify

    began = time.monotonic()
    report = TerminalReporter(settings)
    wanted = Level[level.upper()]
    with opened(settings, Right.READ if wanted is Level.CONTENT else Right.CHECK) as session:
        repo = session.opened.repo
        only = select_snapshot(repo.history().views, snapshot) if snapshot else None
        result = verify(repo, wanted, only=only, sample=sample, now=now(), report=report)
        if not result.problems:
            repo.ledger.remember(repo.trust.version, result.heads, records=result.records)
    report.clear()
    seconds = time.monotonic() - began
    values = {
        "level": level,
        "checked": {
            "snapshots": result.snapshots,
            "packs": result.packs,
            "chunks": result.chunks,
            "bytes": result.size,
        },
        "problems": [{"object": p.object, "kind": p.kind, "detail": p.detail} for p in result.problems],
        "seconds": round(seconds, 3),
        "warnings": report.warnings,
    }
    if result.problems:
        first = result.problems[0]
        error = IntegrityError(
            f"{output.plural(len(result.problems), 'problem')} found, the first: {first.object}: {first.detail}",
            object_name=first.object,
            hint="other snapshots may be whole: `backupctl verify SNAPSHOT` tells for each; run a backup now to heal",
        )
        error.values = values  # type: ignore[attr-defined]  # the JSON document shows them beside the error
        raise error
    if settings.json:
        output.document("verify", values)
        return
    output.say(
        f"no problems: {output.plural(result.snapshots, 'snapshot')}, {output.plural(result.packs, 'pack')}, "
        f"{output.plural(result.chunks, 'chunk')}, {output.size(result.size)} at level {level} in {seconds:.1f} s"
    )
