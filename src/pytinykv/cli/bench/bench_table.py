"""The tables of a bench: narrow enough for a terminal of 80 columns."""

from __future__ import annotations

from rich import box
from rich.table import Table


def bench_table(
    title: str,
    *headings: str,
    left: frozenset[str] = frozenset({"operation", "target"}),
    folded: frozenset[str] = frozenset(),
) -> Table:
    """Return a table whose headings stay on one line on a terminal of 80 columns.

    `left` are not numbers. `folded` may hold any text: it takes several lines where the other columns leave too little room.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        is_left = heading in left
        is_folded = heading in folded
        table.add_column(
            heading,
            justify="left" if is_left else "right",
            no_wrap=not is_folded,
            overflow="fold" if is_folded else "ellipsis",
        )
    return table
