"""Times on the command line."""

from datetime import datetime

import click


def moment(_ctx: click.Context, _param: click.Parameter, value: str | datetime | None) -> datetime | None:
    """A callback: a time; one without an offset is local."""
    from backupd.config.clock import parse_stamp

    if value is None or isinstance(value, datetime):
        return value
    try:
        return parse_stamp(value)
    except (ValueError, OverflowError):
        raise click.BadParameter("write a time like 2026-11-21 or 2026-11-21T23:00") from None


def past(ctx: click.Context, param: click.Parameter, value: str | datetime | None) -> datetime | None:
    """A callback: a time that was: with one to come, every snapshot would count as taken before it."""
    from backupd.config.clock import now

    found = moment(ctx, param, value)
    if found is not None and found > now():
        raise click.BadParameter("that is still to come")
    return found
