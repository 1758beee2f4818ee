"""A history as a person reads it: what clients did and saw, what broke, who died. As text; `timeline_page` draws it.

Made from the lines of the trace, without the single messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pytinykv.simulation.scenario import Result

WORLD: Final = "world"
_HIDDEN: Final = frozenset({"deliver", "close"})
_OF_THE_WORLD: Final = frozenset({"partition", "heal", "nemeses"})
"""Events of no host, though a group of hosts may be one alone."""
_HOST: Final = re.compile(r"^(scheduler|store-\d+|client-\d+)$")


class Moment(NamedTuple):
    """One event: when, in whose lane, and what."""

    at_s: float
    host: str
    kind: str
    text: str


def moments(lines: Iterable[str]) -> Iterator[Moment]:
    """Yield the events of a trace that a person wants to see."""
    for line in lines:
        at, kind, *rest = line.replace("power cut", "power_cut").split(" ")
        if kind in _HIDDEN:
            continue
        host = WORLD
        if rest and kind not in _OF_THE_WORLD and _HOST.match(rest[0]):
            host, *rest = rest
        yield Moment(float(at), host, kind, " ".join(rest))


def timeline_text(result: Result) -> str:
    """Return the events as lines: time, host, what."""
    lines = [f"{title_of(result)}\n"]
    lines += [f"{at_s:12.6f}  {host:<10} {kind:<9} {text}\n" for at_s, host, kind, text in moments(result.lines)]
    if not result.ok:
        lines.append(f"\n{result.failure}\n")
    return "".join(lines)


def lane_order(host: str) -> tuple[int, str, int]:
    """Sort hosts: the scheduler, stores, clients, by number."""
    name, _, number = host.partition("-")
    return ("scheduler", "store", "client").index(name), name, int(number or 0)


def title_of(result: Result) -> str:
    """Return what was told, and how it ended, on one line."""
    verdict = "right" if result.ok else f"failed ({result.checker})"
    kinds = f" [{', '.join(result.kinds)}]" if result.kinds else ""
    return f"{result.scenario} seed {result.seed}{kinds}: {verdict}, digest {result.digest}"
