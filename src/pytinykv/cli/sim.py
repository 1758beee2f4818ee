"""`tinykv sim`: simulated histories in some worker processes, with what they have shown so far.

    tinykv sim ──▶ python -m pytinykv.simulation --json --share 0/2       one JSON line when a history begins,
               ──▶ python -m pytinykv.simulation --json --share 1/2       one with its result

A history is one seed of one scenario. What fails is told at once, with the command that shows it again; workers that die
or hang are failures of the history they were at. Exit status: 0 all were right, 1 one was not, 130 interrupted
before that was known.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pytinykv.cli.config_file import config_option
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import OutputFile, option
from pytinykv.cli.session import INTERRUPTED
from pytinykv.cli.tables import Column, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from pytinykv.lifecycle import OwnedChild, Scope
    from pytinykv.simulation import Result
    from pytinykv.simulation.tally import Sum

SILENCE_MAX_S: Final = 900.0
"""A history takes seconds; a worker that has said nothing for this long hangs."""
ENDLESS: Final = 10**9
REFRESH_S: Final = 0.25
TRACE_LINES: Final = 200
PAIRS_NAMED: Final = 3
"""How many of the pairs of faults that have met least often are named."""


@click.command()
@option("--scenario", default="all", show_default=True, metavar="NAME", help="Which one; --list tells all.")
@option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="The first seed.")
@option("--count", type=click.IntRange(min=1), help="How many seeds; 1, or with --until-failure no end.")
@option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="one per processor",
    help="Histories at the same time.",
)
@option("--until-failure", is_flag=True, help="Stop at the first failure.")
@option("--trace", is_flag=True, help="Print the last events of each history that fails.")
@option("--without", multiple=True, metavar="KIND", help="Leave out a kind of fault; may be repeated.")
@option("--with", "added", metavar="KIND[,KIND]", help="Put in kinds of faults, whatever the seed draws.")
@option("--pairs", is_flag=True, help="Put a pair of faults into each storm: all pairs, one after the other.")
@option("--verbose", is_flag=True, help="Show the logs of the simulated programs, and where a failure was noticed.")
@option("--long", "is_long", is_flag=True, help="Five stores and more time, where the scenario allows it.")
@option(
    "--timeline",
    type=OutputFile(),
    metavar="FILE",
    help="Write the history, or the last one, for reading: .html or text.",
)
@option("--no-shrink", is_flag=True, help="Tell a failure as it was, with all its faults.")
@option("--list", "lists", is_flag=True, help="List the scenarios and do nothing.")
@log_options("error")
@config_option
def sim(
    *,
    scenario: str,
    seed: int,
    count: int | None,
    jobs: int,
    until_failure: bool,
    trace: bool,
    without: tuple[str, ...],
    added: str | None,
    pairs: bool,
    verbose: bool,
    is_long: bool,
    timeline: Path | None,
    no_shrink: bool,
    lists: bool,
) -> None:
    """Run simulated clusters and look for bugs in them.

    Scheduler, stores and clients are the real ones; clock, network, disk and randomness are not. One seed is one history:
    whatever it shows, the same scenario and seed show it again.

    Exit status: 0 all histories were right; 1 one was not; 2 bad usage; 130 interrupted.
    """
    if importlib.util.find_spec("detangle") is None:
        print("tinykv sim: the checkers need a library more: pip install 'pytinykv[sim]'", file=sys.stderr)
        sys.exit(1)
    from pytinykv.lifecycle import run_process
    from pytinykv.simulation import SCENARIOS
    from pytinykv.simulation.scenarios.storm import KINDS

    if lists:
        print_table(
            (Column("SCENARIO"), Column("WHAT HAPPENS")), [[name, one.summary] for name, one in SCENARIOS.items()]
        )
        return
    if scenario not in {"all", *SCENARIOS}:
        near = difflib.get_close_matches(scenario, SCENARIOS, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; --list tells all"
        raise click.BadParameter(f"there is no scenario {scenario!r}{hint}", param_hint="--scenario")
    seeds = count or (ENDLESS if until_failure else 1)
    histories = seeds * (len(SCENARIOS) if scenario == "all" else 1)
    extra = ["--trace"] * trace + ["--shrink"] * (not no_shrink) + [f"--without={kind}" for kind in without]
    for kind in (*without, *(added or "").split(",")):
        if kind and kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=3, cutoff=0.5) or sorted(KINDS)
            raise click.BadParameter(
                f"there is no kind of fault {kind!r}; there are {', '.join(near)}",
                param_hint="--without" if kind in without else "--with",
            )
    extra += [f"--with={added}"] * bool(added) + ["--pairs"] * pairs + ["--verbose"] * verbose
    extra += ["--long"] * is_long
    extra += [f"--timeline={timeline}"] * (timeline is not None)
    run = _Run(scenario, seed, seeds, min(jobs, histories), histories, until_failure=until_failure, extra=extra)
    ended = run_process(run.main, name="sim")
    sys.exit(run.status or ended)


class _Progress:
    """What was seen so far, and since when."""

    def __init__(self) -> None:
        from pytinykv.simulation.tally import Tally

        self.tally = Tally()
        self.started_at = time.monotonic()

    def line(self) -> str:
        """Return the state of things in a line."""
        total = self.tally.total()
        elapsed_s = max(time.monotonic() - self.started_at, 1e-9)
        return f"{total.virtual_s / elapsed_s:,.0f} virtual s per s · {total.failed} failed"

    def print(self) -> None:
        from pytinykv.simulation import SCENARIOS

        tally = self.tally
        columns = [Column("SCENARIO")] + [
            Column(title, is_number=True)
            for title in ("HISTORIES", "FAILED", "OPERATIONS", "UNKNOWN", "VIRTUAL_S", "PER_CORE_S")
        ]
        rows = [_row(name, tally.by_scenario[name]) for name in SCENARIOS if name in tally.by_scenario]
        if len(rows) > 1:
            rows.append(_row("all", tally.total()))
        print_table(tuple(columns), rows)
        if tally.faults:
            print(f"seen: {', '.join(f'{count:,} {word}' for word, count in tally.faults.items())}")
        stops = tally.stops
        print(
            f"stops: {stops.count:,}, the longest took {stops.longest_s:.2f} virtual s, {stops.late or 'none'} too long"
        )
        if tally.coverage:
            self._print_coverage()
        print(f"{tally.total().virtual_s:,.0f} virtual s in {time.monotonic() - self.started_at:,.1f} s: {self.line()}")

    def _print_coverage(self) -> None:
        """Print which kinds of faults were on, in how many histories, during which operations, and which met."""
        from pytinykv.simulation.nemeses import NEMESES
        from pytinykv.simulation.tally import DURING

        columns = [
            Column("FAULT"),
            *(Column(title, is_number=True) for title in ("HISTORIES", *map(str.upper, DURING))),
        ]
        rows = [
            [kind, f"{self.tally.drawn[kind]:,}", *(f"{counts[what]:,}" for what in DURING)]
            for kind, counts in sorted(self.tally.coverage.items())
        ]
        print_table(tuple(columns), rows)
        pairs, met, rarest = self.tally.pairs_of(NEMESES)
        rare = ", ".join(rarest[:PAIRS_NAMED])
        print(f"of {pairs} pairs of nemeses {met} have met; least often {rare}{' …' * (len(rarest) > PAIRS_NAMED)}")


def _row(name: str, one: Sum) -> list[str]:
    return [
        name,
        f"{one.histories:,}",
        f"{one.failed:,}" if one.failed else "-",
        f"{one.operations:,}",
        f"{one.unknown:,}",
        f"{one.virtual_s:,.0f}",
        f"{one.speed:,.0f}" if one.cpu_s else "-",
    ]


class _Run:
    """One run of the command."""

    def __init__(
        self,
        scenario: str,
        seed: int,
        seeds: int,
        jobs: int,
        histories: int,
        *,
        until_failure: bool,
        extra: list[str],
    ) -> None:
        self._arguments = ["--scenario", scenario, "--seed", str(seed), "--count", str(seeds), "--json"]
        self._arguments += ["--until-failure"] * until_failure + extra
        self._jobs = jobs
        self._histories: int | None = histories if seeds < ENDLESS else None
        self._until_failure = until_failure
        self._progress = _Progress()
        self._is_verbose = "--verbose" in extra
        self._failures = 0
        """Histories that failed. Only grows."""
        self._failed = asyncio.Event()
        """Set with the first failure, for `--until-failure`."""
        self.status = INTERRUPTED
        """The exit status; INTERRUPTED until the run has come to its end."""

    async def main(self, scope: Scope) -> int:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[line]}"),
        )
        progress = Progress(
            *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
        )
        try:
            with progress:
                bar = progress.add_task("histories", total=self._histories, line="")

                seen = self._progress

                def show() -> None:
                    progress.update(bar, completed=seen.tally.total().histories, line=seen.line(), refresh=True)

                await self._work(scope, console, show)
            self.status = 1 if self._failures else 0
        finally:
            if self._failures:
                self.status = 1
            if self._progress.tally.by_scenario:
                self._progress.print()
            if self.status == INTERRUPTED:
                print("tinykv sim: interrupted", file=sys.stderr, flush=True)
        return self.status

    async def _work(self, scope: Scope, console: Console, show: Callable[[], None]) -> None:
        """Wait until every worker is done, or with `--until-failure` until one has found something."""
        workers = scope.child("workers")
        tasks = [
            workers.start(f"worker-{number}", self._drive, workers, console, number) for number in range(self._jobs)
        ]
        try:
            while not (all(task.done for task in tasks) or (self._until_failure and self._failed.is_set())):
                show()
                await asyncio.sleep(REFRESH_S)
        finally:
            await workers.stop()

    async def _drive(self, scope: Scope, console: Console, number: int) -> None:
        """Run one worker and take in what it tells."""
        from pytinykv.lifecycle import start_child

        command = [sys.executable, "-m", "pytinykv.simulation", *self._arguments, "--share", f"{number}/{self._jobs}"]
        child = await start_child(scope, f"simulation-{number}", *command, stdout=PIPE, stderr=PIPE)
        scope.start(f"errors-{number}", _collect, child, errors := bytearray(), self._is_verbose)
        at = ""
        try:
            at = await self._listen(child, console)
        except TimeoutError as error:
            at = str(error)
        status = await child.stop()
        if scope.stopping:  # interrupted: what a worker was at has not failed
            return
        if at or status not in {0, 1}:
            text = errors.decode(errors="replace")
            self._fail(console, f"FAILED {at or 'before the first history'}: worker ended with {status}\n{text}")

    async def _listen(self, child: OwnedChild, console: Console) -> str:
        """Read to the end; return the history that was begun and not ended, if any. Raises TimeoutError, naming it."""
        import msgspec

        from pytinykv.simulation import Result

        assert child.stdout is not None
        rest, at = b"", ""
        while True:
            try:
                chunk = await asyncio.wait_for(child.stdout.read(1 << 16), SILENCE_MAX_S)
            except TimeoutError:
                raise TimeoutError(f"{at}: nothing happens for {SILENCE_MAX_S:.0f} s") from None
            if not chunk:
                return at
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if b'"digest"' not in line:
                    begun = msgspec.json.decode(line)
                    at = f"{begun['scenario']} seed {begun['seed']}"
                    continue
                at = ""
                self._take(console, msgspec.json.decode(line, type=Result))

    def _take(self, console: Console, result: Result) -> None:
        self._progress.tally.add(result)
        if not result.ok:
            trace = "".join(f"{line}\n" for line in result.lines[-TRACE_LINES:])
            title = f"FAILED {result.scenario} seed {result.seed} ({result.checker}), digest {result.digest}"
            noticed = f"\n{result.traceback.rstrip()}" if self._is_verbose else ""
            self._fail(console, f"{trace}{title}\n{result.failure.rstrip()}\nagain: {result.command}{noticed}")
        elif self._histories == 1:
            notes = f" [{', '.join(result.notes)}]" if result.notes else ""
            console.print(f"ok {result.scenario} seed {result.seed}{notes}, digest {result.digest}")

    def _fail(self, console: Console, text: str) -> None:
        if self._until_failure and self._failed.is_set():
            return
        self._failures += 1
        self._failed.set()
        console.print(text)


async def _collect(child: OwnedChild, into: bytearray, echoes: bool) -> None:  # noqa: FBT001 - started with positions
    """Keep the end of what a worker complains of; pass on the logs that it was asked for."""
    assert child.stderr is not None
    while chunk := await child.stderr.read(1 << 14):
        into += chunk
        if echoes:
            sys.stderr.write(chunk.decode(errors="replace"))
        del into[: -(1 << 14)]
