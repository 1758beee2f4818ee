"""Hang on purpose, see why, get out; then the same without hanging. `python examples/shutdown_deadlock [SHAPE …]`."""

from __future__ import annotations

import asyncio
import sys

from acts import with_the_kit, without_the_kit
from cannot_hang import hanging_wiring, run_and_stop
from shapes import SHAPES

from pytinykv.lifecycle import WiringError

LIMIT_S = 0.5


async def show(name: str) -> None:
    """Show one shape, hanging and explained."""
    make = SHAPES[name]
    print(f"=== {name}: {(make.__doc__ or '').strip()}")
    hung = await without_the_kit(make, LIMIT_S)
    fate = f"still hanging after {LIMIT_S} s; a timer ends it, and nothing says why" if hung else "it stopped"
    print(f"\n--- without the kit: {fate}")
    report = await with_the_kit(make, LIMIT_S)
    print(f"\n--- with the kit\n{report.render()}\n")


async def show_the_way_out() -> None:
    """Show the wiring that is refused, and the one that cannot hang."""
    print("=== the wiring that cannot hang")
    try:
        hanging_wiring().check()
    except WiringError as error:
        print(f"\n--- refused before it runs\n{error}")
    report, fate = await run_and_stop()
    print(f"\n--- two stores that talk without end, stopped in the middle of it\n{report.render()}")
    print(f"a client that was waiting got: {type(fate).__name__}: {fate}")


def main(names: list[str]) -> int:
    """Show the shapes named, or all and the way out; return the exit status."""
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        print(f"no shape {', '.join(unknown)}; there are {', '.join(SHAPES)}", file=sys.stderr)
        return 2
    for name in names or SHAPES:
        asyncio.run(show(name))
    if not names:
        asyncio.run(show_the_way_out())
    return 0


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)  # the report says it all, and this is a stage
    sys.exit(main(sys.argv[1:]))
