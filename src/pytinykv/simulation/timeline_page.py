"""The page of a history: `timeline.html` beside this module, with the history's spans in it. It needs nothing else."""

from __future__ import annotations

import html
from importlib.resources import files

import msgspec

from pytinykv.simulation.scenario import Result
from pytinykv.simulation.timeline import title_of
from pytinykv.simulation.timeline_spans import spans_of


def timeline_html(result: Result) -> str:
    """Return a self-contained page: a lane for each program and client, time to the right."""
    page = files("pytinykv.simulation").joinpath("timeline.html").read_text(encoding="utf-8")
    data = msgspec.json.encode(spans_of(result)).decode().replace("<", "\\u003c")  # no end of the script in a value
    parts = {
        "TITLE": html.escape(f"{result.scenario}, seed {result.seed}"),
        "VERDICT": "right" if result.ok else html.escape(f"failed: {result.checker}"),
        "VERDICT_CLASS": "right" if result.ok else "failed",
        "SUMMARY": html.escape(title_of(result)),
        "COMMAND": html.escape(result.command),
        "FAILURE": html.escape(result.failure),
        "DATA": data,
    }
    for name, text in parts.items():
        page = page.replace(f"@{name}@", text, 1 if name == "DATA" else -1)
    return page
