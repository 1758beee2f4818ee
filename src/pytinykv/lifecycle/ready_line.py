"""The ready line: what a server prints, once, when it serves, and what the process that has started it waits for.

    ready addr=127.0.0.1:20160 store=4

After the first word come facts, `name=value`, in any order; values have no blanks. A reader leaves alone what it does not
know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping


def ready_line(facts: Mapping[str, object]) -> str:
    """Return the line, without facts that are empty text."""
    return " ".join(("ready", *(f"{name}={value}" for name, value in facts.items() if value != "")))


async def read_ready_line(stdout: asyncio.StreamReader) -> dict[str, str] | None:
    """Return the facts of the next ready line; None if the output ends before. Waits for as long as that takes."""
    while line := await stdout.readline():
        words = line.decode(errors="replace").split()
        if words[:1] == ["ready"]:
            return dict(word.split("=", 1) for word in words[1:] if "=" in word)
    return None
