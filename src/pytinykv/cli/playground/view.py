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
    from pytinykv.cli.playground.keys import Keys
    from pytinykv.cli.playground.observe import Observer, OperatorFacts, RegionView

Cells = Mapping[str, str | Text]
"""A row: what stands under each title."""

_NEEDS: Final = {"memory": 88, "address": 76, "regions": 58, "pid": 50, "keys": 66, "applied": 58, "term": 48}
"""Columns that are left out of a terminal narrower than this."""
_MIDDLE: Final = 60
_OTHER_LINES: Final = 12
"""Lines of the picture that are not stores, regions or moves: titles, rules, empty lines, the summary, keys and an answer."""
_MOVES_MAX: Final = 4
"""How many operators are shown: those that run, then the last that have ended."""
_RECENT_S: Final = 30.0
"""For how long one that has ended is shown."""


class Picture:
    """Draws the cluster as it is now."""

    def __init__(self, cluster: LocalCluster, observer: Observer, console: Console, keys: Keys | None = None) -> None:
        """`keys`: what was typed, if a keyboard is there."""
        self._keys = keys
        self._cluster = cluster
        self._observer = observer
        self._console = console
        self._seen: tuple[float, int] = (time.monotonic(), 0)
        """When the rate was computed last (monotonic), and how many writes there were then."""
        self._rate = 0.0
        """Writes per second between the last two looks; 0 before the second."""

    def draw(self) -> RenderableType:
        """Return the picture; it fits into the terminal as it is at the moment."""
        width, height = self._console.size
        moves = self._moves()
        lines = max(1, height - _OTHER_LINES - len(self._cluster.stores) - len(moves))
        below = [self._summary(width), *([] if self._keys is None else self._keys_lines(self._keys))]
        between = [""] if moves else []
        return Group(self._stores(width), "", self._regions(width, lines), *between, *moves, "", *below)

    # --- stores -------------------------------------------------------------------------------------------------

    def _stores(self, width: int) -> Table:
        rows = [self._store_cells(process) for process in self._cluster.stores]
        return _table(rows, width, numbers={"id", "pid", "leads", "regions", "writes", "memory"})

    def _store_cells(self, process: ServerProcess) -> Cells:
        facts = self._observer.facts_of(process)
        is_up = self._observer.answers(process)
        leads = sum(peer.is_leader for peer in facts.regions) if is_up else 0
        return {
            "store": self._store_name(process),
            "id": str(facts.store or ""),
            "state": self._state(process),
            "address": process.addr,
            "pid": str(process.child.pid) if process.is_running else "",
            "leads": Text(str(leads), style="bold green") if leads else "0",
            "regions": str(len(facts.regions)) if is_up else "",
            "writes": f"{facts.writes:,}",
            "memory": size(facts.resident_bytes) if is_up else "",
        }

    def _store_name(self, process: ServerProcess) -> str | Text:
        if self._keys is None:
            return process.name
        return Text(f"▶ {process.name}", style="bold") if self._keys.chosen is process else f"  {process.name}"

    def _state(self, process: ServerProcess) -> Text:
        if self._keys is not None and self._keys.is_coming(process):
            return Text("starting", style="yellow")
        if not process.is_running:
            return Text("down", style="bold red") if process.died and process.child.returncode else Text("stopped")
        if not self._observer.answers(process):
            return Text("silent", style="yellow")
        return Text("up", style="green")

    # --- regions ------------------------------------------------------------------------------------------------

    def _regions(self, width: int, lines: int) -> RenderableType:
        regions = sorted(self._observer.regions(), key=lambda region: region.start)
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

    # --- moves --------------------------------------------------------------------------------------------------

    def _moves(self) -> list[Text]:
        """Return a line for each thing the scheduler does or has just done."""
        facts = self._observer.scheduler
        recent = [one for one in facts.ended if one.ended_ago_s <= _RECENT_S]
        return [_move(one) for one in [*facts.running, *recent][:_MOVES_MAX]]

    # --- last lines ----------------------------------------------------------------------------------------------

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
        running = len(self._observer.scheduler.running)
        if running:
            text.append(f" · {running} operator{'s' if running > 1 else ''}", style="cyan")
        return text.append(" · Ctrl-C stops" if width >= _MIDDLE else "", style="dim")

    def _keys_lines(self, keys: Keys) -> list[Text]:
        """Return the keys, and below them what the last one has done: both fit into 60 columns."""
        digits = f"1-{min(9, len(self._cluster.stores))}"
        text = f"{digits} ↑ ↓ choose · s stop · k kill · b bring back · q quit"
        lines = [Text(text, style="dim"), Text(keys.message, style="yellow")]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines


def _table(rows: Sequence[Cells], width: int, *, numbers: AbstractSet[str]) -> Table:
    """Return a table of the columns for which there is room."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1), header_style="bold")
    titles = [title for title in rows[0] if width >= _NEEDS.get(title, 0)]
    for title in titles:
        table.add_column(title, justify="right" if title in numbers else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(row[title] for title in titles))
    return table


def _move(operator: OperatorFacts) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    steps, done = operator.steps, operator.done_steps
    if operator.is_running:
        text.append("now ", style="cyan")
        step = f", step {done + 1} of {len(steps)}: {steps[done]}" if done < len(steps) else ""
        return text.append(f"region {operator.region}: {operator.what}{step} ({operator.took_s:.1f} s)")
    text.append(f"{operator.ended_ago_s:.0f} s ago ", style="dim")
    how = "done" if operator.status == "success" else operator.reason or operator.status
    return text.append(f"region {operator.region}: {operator.what}, {how} after {operator.took_s:.1f} s", style="dim")


def _range(region: RegionView) -> str:
    start, end = (shorten(escaped(bytes.fromhex(bound)), 14) for bound in (region.start, region.end))
    return "all" if not start and not end else f"{start or '…'} to {end or '…'}"
