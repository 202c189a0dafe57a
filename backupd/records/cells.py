"""Cells as JSON and back, exactly: bytes in base64, and numbers that JSON has no word for by name."""

import base64
import binascii
import math
from collections.abc import Iterable, Mapping

from backupd.model import Cell

Exact = tuple[tuple[type, Cell], ...]
"""Cells with their types: 1 and 1.0 are two."""


def exact(cells: Iterable[Cell]) -> Exact:
    """Cells as what they are counted by."""
    return tuple((type(cell), cell) for cell in cells)


def same(a: Cell, b: Cell) -> bool:
    """Whether two cells are one."""
    return type(a) is type(b) and a == b


def cell_document(cell: Cell) -> object:
    """A cell as JSON holds it."""
    match cell:
        case bytes():
            return {"base64": base64.b64encode(cell).decode()}
        case float() if not math.isfinite(cell):
            return {"float": repr(cell)}
        case _:
            return cell


def cells_document(cells: Mapping[str, Cell]) -> dict[str, object]:
    """Cells by their columns."""
    return {name: cell_document(cell) for name, cell in cells.items()}


def parse_cell(value: object) -> Cell:
    """The cell of a document.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool):
        raise ValueError("a cell is no truth value")
    if value is None or isinstance(value, int | float | str):
        return value
    ((name, text),) = value.items() if isinstance(value, dict) and len(value) == 1 else (("", None),)
    if name == "base64" and isinstance(text, str):
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as error:
            raise ValueError("no base64") from error
    if name == "float" and text in ("inf", "-inf", "nan"):
        return float(text)
    raise ValueError("no cell")


def parse_cells(value: object) -> dict[str, Cell]:
    """Cells by their columns.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(value, dict):
        raise ValueError("no cells")
    return {str(name): parse_cell(cell) for name, cell in value.items()}
