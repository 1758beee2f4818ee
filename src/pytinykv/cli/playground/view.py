"""The live picture: who leads which region, in which term, how far each replica is, which store is up.

Narrow terminals get fewer columns, low ones fewer regions. Nothing is drawn that could scroll: the picture has to fit.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pytinykv.cli.tables import size
from pytinykv.cli.text import escaped, shorten

if TYPE_CHECKING:
    from rich.console import Console

    from pytinykv.cli.playground.cluster import Cluster, Process
    from pytinykv.cli.playground.observe import Observer, RegionView

_WIDE: Final = 90
_MIDDLE: Final = 60
_OTHER_LINES: Final = 9
"""Lines of the picture that are not stores or regions: titles, rules, the last line."""


class Picture:
    """Draws the cluster as it is now."""

    def __init__(self, cluster: Cluster, observer: Observer, console: Console) -> None:
        self._cluster = cluster
        self._observer = observer
        self._console = console
        self._seen: tuple[float, int] = (time.monotonic(), 0)
        self._rate = 0.0

    def draw(self) -> RenderableType:
        """Return the picture; it fits into the terminal as it is at the moment."""
        width, height = self._console.size
        lines = max(1, height - _OTHER_LINES - len(self._cluster.stores))
        return Group(self._stores(width), self._regions(width, lines), self._summary())

    # --- stores -----------------------------------------------------------------------------------------------------

    def _stores(self, width: int) -> Table:
        table = _table()
        for title, justify in (("store", "left"), ("id", "right"), ("state", "left")):
            table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a literal, seen as a str
        if width >= _MIDDLE:
            table.add_column("address", no_wrap=True)
        for title in ("pid", "leads", "regions", "writes"):
            table.add_column(title, justify="right", no_wrap=True)
        if width >= _WIDE:
            table.add_column("memory", justify="right", no_wrap=True)
        for process in self._cluster.stores:
            table.add_row(*self._store_row(process, width))
        return table

    def _store_row(self, process: Process, width: int) -> list[str | Text]:
        facts = self._observer.facts_of(process)
        is_up = self._observer.answers(process)
        leads = sum(peer.is_leader for peer in facts.regions) if is_up else 0
        row: list[str | Text] = [process.name, str(facts.store or ""), self._state(process)]
        if width >= _MIDDLE:
            row.append(process.addr)
        row += [
            str(process.child.pid) if process.is_running else "",
            Text(str(leads), style="bold green") if leads else "0",
            str(len(facts.regions)) if is_up else "",
            f"{facts.writes:,}",
        ]
        if width >= _WIDE:
            row.append(size(facts.resident_bytes) if is_up else "")
        return row

    def _state(self, process: Process) -> Text:
        if not process.is_running:
            return Text("down", style="bold red")
        if not self._observer.answers(process):
            return Text("silent", style="yellow")
        return Text("up", style="green")

    # --- regions ----------------------------------------------------------------------------------------------------

    def _regions(self, width: int, lines: int) -> Table:
        table = _table()
        table.add_column("region", justify="right", no_wrap=True)
        if width >= _MIDDLE:
            table.add_column("keys", no_wrap=True, overflow="ellipsis")
        table.add_column("leader", no_wrap=True)
        table.add_column("term", justify="right", no_wrap=True)
        table.add_column("applied", justify="right", no_wrap=True)
        table.add_column("replicas (store id)", no_wrap=True, overflow="ellipsis")
        regions = self._observer.regions()
        for region in regions[:lines]:
            table.add_row(*self._region_row(region, width))
        if len(regions) > lines:
            table.add_row(f"+{len(regions) - lines}", *["…"] * (len(table.columns) - 1))
        return table

    def _region_row(self, region: RegionView, width: int) -> list[str | Text]:
        row: list[str | Text] = [str(region.region)]
        if width >= _MIDDLE:
            row.append(_range(region))
        if region.leader is None:
            leader = Text("electing", style="yellow")
        else:
            leader = Text(self._name_of(region.leader), style="bold green")
        applied = max(region.applied.values(), default=0)
        return [*row, leader, str(region.term), f"{applied:,}", self._replicas(region, applied)]

    def _replicas(self, region: RegionView, applied: int) -> Text:
        parts = []
        for store in region.stores:
            own = region.applied.get(store)
            if own is None:
                parts.append(Text(f"{store} away", style="red"))
            elif own < applied:
                parts.append(Text(f"{store} -{applied - own}", style="yellow"))
            else:
                parts.append(Text(str(store), style="green"))
        return Text("  ").join(parts)

    def _name_of(self, store: int) -> str:
        for process in self._cluster.stores:
            if self._observer.facts_of(process).store == store:
                return process.name
        return f"store {store}"

    # --- last line --------------------------------------------------------------------------------------------------

    def _summary(self) -> Text:
        writes = self._observer.writes
        now = time.monotonic()
        before, counted = self._seen
        if now - before >= 1.0:
            self._rate = max(0, writes - counted) / (now - before)
            self._seen = (now, writes)
        text = Text(f"{writes:,} keys written, {self._rate:,.0f}/s · ")
        scheduler = self._cluster.scheduler
        if scheduler.is_running:
            text.append(f"scheduler up (pid {scheduler.child.pid})", style="green")
        else:
            text.append("scheduler down", style="bold red")
        text.append(" · Ctrl-C stops", style="dim")
        return text


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1), header_style="bold")


def _range(region: RegionView) -> str:
    start, end = (shorten(escaped(bytes.fromhex(bound)), 14) for bound in (region.start, region.end))
    return "all" if not start and not end else f"{start or '…'} to {end or '…'}"
