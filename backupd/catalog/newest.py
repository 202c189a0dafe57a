"""The newest rows of each group, and values as rows."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Table, func, select
from sqlalchemy.sql.elements import ColumnElement

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def newest_of(table: Table, by: tuple[str, ...], time: str, count: int, *chosen: ColumnElement[bool]) -> Select[Any]:
    """The `count` newest rows of each group, newest first.

    Args:
        table: of which.
        by: the columns that make a group.
        time: the column that says how new a row is; of two that are equally new the one with the higher key counts as newer.
        count: how many of each group.
        chosen: conditions on the rows.
    """
    order = [table.c[time].desc(), *(key.desc() for key in table.primary_key)]
    place = func.row_number().over(partition_by=[table.c[name] for name in by], order_by=order)
    ranked = select(*table.primary_key, place.label("place")).where(*chosen).subquery()
    same = [key == ranked.c[key.name] for key in table.primary_key]
    return (
        select(table)
        .join(ranked, same[0] if len(same) == 1 else same[0] & same[1])
        .where(ranked.c.place <= count)
        .order_by(*order)
    )


def fields_of(value: "DataclassInstance") -> dict[str, Any]:
    """The fields of a flat value by their names."""
    return {field.name: getattr(value, field.name) for field in fields(value)}
