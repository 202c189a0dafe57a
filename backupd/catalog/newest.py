"""The newest rows of each group, and values as rows."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import FromClause, Select, Table, and_, func, select
from sqlalchemy.sql.elements import ColumnElement

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def newest_of(
    table: Table, by: Sequence[str], time: str, where: Mapping[str, object] | None = None, *, tie: str = "id"
) -> Select[Any]:
    """The newest row of each group. An index on what is equal, the group and the time makes this fast.

    Args:
        table: of which; its key has one column besides those of `by`.
        by: the columns that make a group.
        time: the column that says how new a row is; one without a time is never the newest.
        where: what other columns must equal.
        tie: of two that are equally new, the one that has more of this.
    """
    rows = table.alias("rows")
    (key,) = (column.name for column in table.primary_key if column.name not in by)
    groups = select(*(table.c[name] for name in by)).where(*_chosen(table, time, where)).distinct().subquery("groups")
    same = [rows.c[name] == groups.c[name] for name in by]
    first = select(rows.c[key]).where(*same, *_chosen(rows, time, where))
    first = first.order_by(rows.c[time].desc(), rows.c[tie].desc()).limit(1)
    found = select(groups, first.scalar_subquery().label("found")).subquery("found")
    shared = [table.c[column.name] == found.c[column.name] for column in table.primary_key if column.name in by]
    return select(table).join(found, and_(table.c[key] == found.c.found, *shared))


def newest_few(
    table: Table, by: Sequence[str], time: str, count: int, where: Mapping[str, object] | None = None
) -> Select[Any]:
    """The `count` newest rows of each group, newest first; otherwise as `newest_of`."""
    order = [table.c[time].desc(), table.c.id.desc()]
    place = func.row_number().over(partition_by=[table.c[name] for name in by], order_by=order)
    ranked = select(table.c.id, place.label("place")).where(*_chosen(table, time, where)).subquery("ranked")
    return select(table).join(ranked, table.c.id == ranked.c.id).where(ranked.c.place <= count).order_by(*order)


def _chosen(rows: FromClause, time: str, where: Mapping[str, object] | None) -> list[ColumnElement[bool]]:
    return [rows.c[time].is_not(None), *(rows.c[name] == value for name, value in (where or {}).items())]


def fields_of(value: "DataclassInstance") -> dict[str, Any]:
    """The fields of a flat value by their names."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
