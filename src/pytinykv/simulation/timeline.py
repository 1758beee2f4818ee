"""A history as a person reads it: what clients did and saw, what broke, who died. As text, and as a page with lanes.

Made from the lines of the trace, without the single messages.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pytinykv.simulation.scenario import Result

WORLD: Final = "world"
_HIDDEN: Final = frozenset({"deliver", "close"})
_HOST: Final = re.compile(r"^(scheduler|store-\d+|client-\d+)$")
_BAD: Final = frozenset({"crash", "power_cut", "fails", "hurts", "partition", "stall", "fail", "unknown"})


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
        if rest and _HOST.match(rest[0]):
            host, *rest = rest
        yield Moment(float(at), host, kind, " ".join(rest))


def timeline_text(result: Result) -> str:
    """Return the events as lines: time, host, what."""
    lines = [f"{_title(result)}\n"]
    lines += [f"{at_s:12.6f}  {host:<10} {kind:<9} {text}\n" for at_s, host, kind, text in moments(result.lines)]
    if not result.ok:
        lines.append(f"\n{result.failure}\n")
    return "".join(lines)


def timeline_html(result: Result) -> str:
    """Return a self-contained page: a lane per host, time downwards."""
    events = list(moments(result.lines))
    hosts = sorted({each.host for each in events if each.host != WORLD}, key=_lane_order)
    lanes = [WORLD, *hosts]
    head = "".join(f"<th>{html.escape(lane)}</th>" for lane in lanes)
    rows = "".join(_row(each, lanes) for each in events)
    failure = "" if result.ok else f"<pre class=bad>{html.escape(result.failure)}</pre>"
    title = html.escape(_title(result))
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p><code>{html.escape(result.command)}</code></p>{failure}"
        f"<table><thead><tr><th>s</th>{head}</tr></thead><tbody>{rows}</tbody></table>\n"
    )


_STYLE: Final = (
    "body{font:13px sans-serif;margin:1em}table{border-collapse:collapse}"
    "th{position:sticky;top:0;background:#eee;padding:2px 6px}"
    "td{border-left:1px solid #ddd;padding:0 6px;max-width:22em;overflow-wrap:anywhere;vertical-align:top}"
    "td:first-child{font-family:monospace;text-align:right}.bad{background:#fdd}.good{background:#dfd}"
    "tr:hover{background:#f4f4ff}"
)


def _row(each: Moment, lanes: list[str]) -> str:
    tone = " class=bad" if each.kind in _BAD else " class=good" if each.kind in {"heal", "process", "stopped"} else ""
    text = html.escape(f"{each.kind.replace('_', ' ')} {each.text}")
    cells = "".join(f"<td{tone}>{text}</td>" if lane == each.host else "<td></td>" for lane in lanes)
    return f"<tr><td>{each.at_s:.6f}</td>{cells}</tr>"


def _lane_order(host: str) -> tuple[int, str, int]:
    name, _, number = host.partition("-")
    return ("scheduler", "store", "client").index(name), name, int(number or 0)


def _title(result: Result) -> str:
    verdict = "right" if result.ok else f"failed ({result.checker})"
    kinds = f" [{', '.join(result.kinds)}]" if result.kinds else ""
    return f"{result.scenario} seed {result.seed}{kinds}: {verdict}, digest {result.digest}"
