"""`python -m pytinykv.simulation`: run histories in this process, one after the other, and say how they ended.

`tinykv sim` runs one or more of these at a time, each with `--json` and a share of the histories.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from pytinykv.lifecycle.children import die_with_parent
from pytinykv.simulation import SCENARIOS, Result, run_scenario
from pytinykv.simulation.scenarios.storm import KINDS, pair_for
from pytinykv.simulation.shrinking import shrink, tell_again
from pytinykv.simulation.timeline import timeline_text
from pytinykv.simulation.timeline_page import timeline_html


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return 0 if all histories were right, 1 if not."""
    options = _parse(arguments)
    if options.list:
        for name in SCENARIOS:
            _say(f"{name:50} {SCENARIOS[name].summary}")
        return 0
    if options.verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    else:
        logging.disable()  # programs that fail of a broken disk say so, and that is no news here
    failed = 0
    for name, seed in _histories(options):
        if options.json:
            _say(msgspec.json.encode({"scenario": name, "seed": seed}).decode())
        keep_lines = options.trace or bool(options.timeline)
        added = pair_for(seed) if options.pairs and name == "storm" else options.added
        result = run_scenario(
            name, seed, without=options.without, added=added, is_long=options.long, keep_lines=keep_lines
        )
        if not result.ok:
            failed += 1
            result = _look_closer(result, options)
        if options.timeline:
            write_timeline(result, Path(options.timeline))
        result.lines = result.lines if options.trace else []
        _report(result, options)
        if failed and options.until_failure:
            return 1
    return 1 if failed else 0


def _look_closer(failed: Result, options: argparse.Namespace) -> Result:
    """Tell a failure again with fewer kinds of faults, and draw it, as far as that was asked for."""
    if options.shrink:
        failed = shrink(failed, partial(tell_again, keep_lines=bool(failed.lines)))
    if options.keep:
        drawn = failed if failed.lines else tell_again(failed, failed.without, keep_lines=True)
        for suffix in (".txt", ".html"):
            write_timeline(drawn, Path(options.keep) / f"{failed.scenario}-{failed.seed}{suffix}")
    return failed


def write_timeline(result: Result, path: Path) -> None:
    """Write the history for reading: a page if the file's name says so, else text. Raises OSError."""
    draw = timeline_html if path.suffix in {".html", ".htm"} else timeline_text
    path.write_text(draw(result), encoding="utf-8")


def _histories(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Yield scenario and seed of each history: all scenarios with one seed, then with the next one."""
    names = list(SCENARIOS) if "all" in options.scenario else options.scenario
    place, shares = options.share
    for number in range(options.count * len(names)):
        if number % shares == place:
            yield names[number % len(names)], options.seed + number // len(names)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pytinykv.simulation", description="Run simulated histories.")
    parser.add_argument(
        "--scenario", nargs="+", default=["all"], choices=["all", *SCENARIOS], metavar="NAME", help="some, or `all`"
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first failure")
    parser.add_argument(
        "--share", type=_share, default=(0, 1), metavar="I/N", help="only every N-th history, from I on"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON when a history begins, and its result"
    )
    parser.add_argument("--digest", action="store_true", help="print the digest of each history and nothing else")
    parser.add_argument("--trace", action="store_true", help="print the last events of each history")
    parser.add_argument(
        "--without", action="append", default=[], metavar="KIND", help="leave out a kind of fault; may be repeated"
    )
    parser.add_argument(
        "--with", type=_kinds, default=(), dest="added", metavar="KIND[,KIND]", help="put in kinds of faults"
    )
    parser.add_argument(
        "--pairs", action="store_true", help="put a pair of faults into each storm, another for each seed, all in turn"
    )
    parser.add_argument(
        "--shrink", action="store_true", help="tell a failure again with as few kinds of faults as will do"
    )
    parser.add_argument(
        "--timeline", metavar="FILE", help="write the last history for reading, to a .txt or .html file"
    )
    parser.add_argument("--long", action="store_true", help="five stores and more time, where the scenario allows it")
    parser.add_argument(
        "--keep", metavar="DIR", help="write each history that fails for reading, as text and as a page"
    )
    parser.add_argument("--verbose", action="store_true", help="show the logs of the simulated programs")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    return parser.parse_args(arguments)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(","))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise argparse.ArgumentTypeError(
            f"no kind of fault: {', '.join(unknown)}; there are {', '.join(sorted(KINDS))}"
        )
    return kinds


def _share(text: str) -> tuple[int, int]:
    place, _, shares = text.partition("/")
    return int(place), int(shares)


def _report(result: Result, options: argparse.Namespace) -> None:
    if options.json:
        _say(msgspec.json.encode(result).decode())
        return
    if options.digest:
        _say(result.digest)
        return
    for line in result.lines:
        _say(line)
    verdict = "ok" if result.ok else f"FAILED ({result.checker})"
    _say(
        f"{result.scenario} seed {result.seed}: {verdict}, {result.operations} operations ({result.unknown} of unknown "
        f"outcome), {result.virtual_s:.1f} virtual s, {result.speed:.0f} per second of a core, digest {result.digest}"
    )
    if not result.ok:
        trace = f"\n{result.traceback}" if options.verbose else ""
        _say(f"{result.failure}\nagain: {result.command}{trace}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main())
