"""The live picture: who leads which region, in which term, how far each replica is, which store is up.

Narrow terminals get fewer columns, low ones fewer regions. Nothing is drawn that could scroll: the picture has to fit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pytinykv.cli.tables import size
from pytinykv.cli.text import escaped, shorten

if TYPE_CHECKING:
    from rich.console import Console

    from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
    from pytinykv.cli.playground.observe import Observer, RegionView

Cells = Mapping[str, str | Text]
"""A row: what stands under each title."""

_NEEDS: Final = {"memory": 88, "address": 76, "regions": 58, "pid": 50, "keys": 66, "applied": 58, "term": 48}
"""Columns that are left out of a terminal narrower than this."""
_MIDDLE: Final = 60
_OTHER_LINES: Final = 8
"""Lines of the picture that are not stores or regions: titles, rules, the last line."""


class Picture:
    """Draws the cluster as it is now."""

    def __init__(self, cluster: LocalCluster, observer: Observer, console: Console) -> None:
        self._cluster = cluster
        self._observer = observer
        self._console = console
        self._seen: tuple[float, int] = (time.monotonic(), 0)
        self._rate = 0.0

    def draw(self) -> RenderableType:
        """Return the picture; it fits into the terminal as it is at the moment."""
        width, height = self._console.size
        lines = max(1, height - _OTHER_LINES - len(self._cluster.stores))
        return Group(self._stores(width), "", self._regions(width, lines), "", self._summary(width))

    # --- stores -------------------------------------------------------------------------------------------------

    def _stores(self, width: int) -> Table:
        rows = [self._store_cells(process) for process in self._cluster.stores]
        return _table(rows, width, numbers={"id", "pid", "leads", "regions", "writes", "memory"})

    def _store_cells(self, process: ServerProcess) -> Cells:
        facts = self._observer.facts_of(process)
        is_up = self._observer.answers(process)
        leads = sum(peer.is_leader for peer in facts.regions) if is_up else 0
        return {
            "store": process.name,
            "id": str(facts.store or ""),
            "state": self._state(process),
            "address": process.addr,
            "pid": str(process.child.pid) if process.is_running else "",
            "leads": Text(str(leads), style="bold green") if leads else "0",
            "regions": str(len(facts.regions)) if is_up else "",
            "writes": f"{facts.writes:,}",
            "memory": size(facts.resident_bytes) if is_up else "",
        }

    def _state(self, process: ServerProcess) -> Text:
        if not process.is_running:
            return Text("down", style="bold red") if process.died else Text("stopped")
        if not self._observer.answers(process):
            return Text("silent", style="yellow")
        return Text("up", style="green")

    # --- regions ------------------------------------------------------------------------------------------------

    def _regions(self, width: int, lines: int) -> RenderableType:
        regions = self._observer.regions()
        rows = [self._region_cells(region) for region in regions[:lines]]
        if len(regions) > lines:
            rows.append(dict.fromkeys(rows[0], "…") | {"region": f"+{len(regions) - lines}"})
        return (
            _table(rows, width, numbers={"region", "term", "applied"}) if rows else Text("no region answers", "yellow")
        )

    def _region_cells(self, region: RegionView) -> Cells:
        if region.leader is None:
            leader = Text("electing", style="yellow")
        else:
            leader = Text(self._name_of(region.leader), style="bold green")
        applied = max(region.applied.values(), default=0)
        return {
            "region": str(region.region),
            "keys": _range(region),
            "leader": leader,
            "term": str(region.term),
            "applied": f"{applied:,}",
            "replicas": self._replicas(region, applied),
        }

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

    # --- last line ----------------------------------------------------------------------------------------------

    def _summary(self, width: int) -> Text:
        writes = self._observer.writes
        now = time.monotonic()
        before, counted = self._seen
        if now - before >= 1.0:
            self._rate = max(0, writes - counted) / (now - before)
            self._seen = (now, writes)
        text = Text(f"{writes:,} keys written, {self._rate:,.0f}/s · ", no_wrap=True, overflow="ellipsis")
        scheduler = self._cluster.scheduler
        if scheduler.is_running:
            text.append("scheduler up", style="green")
            text.append(f" (pid {scheduler.child.pid})" if width >= _MIDDLE else "")
        else:
            text.append("scheduler down", style="bold red")
        return text.append(" · Ctrl-C stops" if width >= _MIDDLE else "", style="dim")


def _table(rows: Sequence[Cells], width: int, *, numbers: AbstractSet[str]) -> Table:
    """Return a table of the columns for which there is room."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1), header_style="bold")
    titles = [title for title in rows[0] if width >= _NEEDS.get(title, 0)]
    for title in titles:
        table.add_column(title, justify="right" if title in numbers else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(row[title] for title in titles))
    return table


def _range(region: RegionView) -> str:
    start, end = (shorten(escaped(bytes.fromhex(bound)), 14) for bound in (region.start, region.end))
    return "all" if not start and not end else f"{start or '…'} to {end or '…'}"
