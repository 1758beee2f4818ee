"""Tables: with lines and colours on a terminal, aligned columns into a pipe, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """A column's title, and whether it holds numbers."""

    title: str
    is_number: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of texts under their titles."""
    if sys.stdout.isatty():
        _print_rich(columns, rows)
    else:
        print(plain_table(columns, rows))


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns, two spaces apart; an empty cell is a dash, so that every line has the same fields."""
    lines = [[column.title for column in columns], *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    )


def _print_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
    Console().print(table)


def style_of(cell: str) -> str:
    """Return the colour of a cell that holds a state."""
    state = cell.partition(" ")[0]
    return {"up": "green", "silent": "yellow", "offline": "yellow", "none": "yellow", "down": "red"}.get(state, "")


def size(number: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
