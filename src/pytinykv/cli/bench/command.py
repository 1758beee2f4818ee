"""The `tinykv bench` command."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pytinykv import aio
from pytinykv.cli.bench.embedded import STEPS as EMBEDDED_STEPS
from pytinykv.cli.bench.embedded import EmbeddedPlan, measure_embedded
from pytinykv.cli.bench.etcd import EtcdTarget, etcd_binary
from pytinykv.cli.bench.facts import failover_seconds, idle_cpu_percent, memory_after_puts
from pytinykv.cli.bench.figures import Figures
from pytinykv.cli.bench.large_rows import IN_ONE_REGION, READS, measure_large_rows
from pytinykv.cli.bench.many_regions import LOAD, STEPS, RegionPlan, measure_regions
from pytinykv.cli.bench.plot import PLOT_SUFFIXES, save_plot
from pytinykv.cli.bench.report import Results
from pytinykv.cli.bench.stops import measure_stops
from pytinykv.cli.bench.targets import PytinykvTarget
from pytinykv.cli.bench.transactions import BALANCE, hot_lock, scan_rate, total
from pytinykv.cli.bench.workload import COUNTERS, RAW, TRANSACTIONAL, OperationKind, Workload, run_round
from pytinykv.cli.config_file import config_option
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import Number, OutputFile, SchedulerAddresses, option
from pytinykv.cli.playground.cluster import LocalCluster
from pytinykv.cli.playground.command import wait_serving
from pytinykv.cli.playground.home import Home, PlaygroundError
from pytinykv.cli.session import INTERRUPTED
from pytinykv.cli.thresholds import Size
from pytinykv.client import ClientError
from pytinykv.lifecycle import LifecycleError
from pytinykv.lifecycle.signals import run_process

if TYPE_CHECKING:
    from pytinykv.cli.bench.workload import BenchTarget
    from pytinykv.lifecycle import Scope

BASELINE = "etcd"
IDLE_S = 10.0
SCAN_ROWS = 100_000
ROWS = 100_000
"""Of an embedded database."""
_ROUND_S = 4.0
"""About how long a round shall take; how many operations that is, a short trial tells."""
_TRIAL_OPERATIONS = 200


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers such as 1,64,256") from None
    if not all(0 < number <= 10_000 for number in numbers):
        raise click.BadParameter("each number must be from 1 to 10000")
    return numbers


def _steps(_context: click.Context, _parameter: click.Parameter, text: str) -> frozenset[str]:
    steps = frozenset(text.split(","))
    if unknown := sorted(steps - {*STEPS, LOAD}):
        raise click.BadParameter(f"{unknown[0]!r} is no step; there are {', '.join((*STEPS, LOAD))}")
    return steps


@click.command()
@option("--in-flight", default="1,64,256", show_default=True, callback=_numbers, help="Operations in flight.")
@option("--rounds", type=click.IntRange(0, 20), default=3, show_default=True, help="Rounds of puts and gets; 0: none.")
@option("--value-bytes", type=click.IntRange(0, 1 << 20), default=100, show_default=True, help="Size of each value.")
@option(
    "--scheduler",
    type=SchedulerAddresses(),
    default=(),
    envvar="TINYKV_BENCH_SCHEDULER",  # not the clients' variable: a forgotten one must not fill a cluster in use
    metavar="HOST:PORT",
    help="Measure a running cluster, not one of our own.",
)
@option("--etcd/--no-etcd", "with_etcd", default=None, help="Compare with three etcd members.  [default: if installed]")
@option("--transactions/--no-transactions", default=True, show_default=True, help="Measure transactions, too.")
@option("--failovers", type=click.IntRange(0, 100), default=0, help="Kill the leader so many times.")
@option("--stops", type=click.IntRange(0, 10_000), default=0, help="Stop a store under load so many times.")
@option("--fill", type=click.IntRange(0, 100_000_000), default=0, help="Put so many keys and report memory.")
@option(
    "--large-rows",
    type=click.IntRange(0, 1000),
    default=0,
    help="Read so many rows of 7 MiB in many ways, and write huge batches, beside another client.",
)
@option(
    "--regions", type=click.IntRange(0, 10_000), default=0, help="Split into so many regions and go through the steps."
)
@option(
    "--region-steps",
    default=",".join((*STEPS, LOAD)),
    show_default=True,
    callback=_steps,
    help="What --regions measures.",
)
@option(
    "--region-seconds",
    type=Number(0.05, 60),
    default=2.0,
    show_default=True,
    help="How long --regions puts in each round and between events.",
)
@option(
    "--region-idle",
    type=Number(0, 3600),
    default=15.0,
    show_default=True,
    help="How long after the last write --regions looks at idle stores.",
)
@option(
    "--region-load",
    type=Size(),
    default="64MiB",
    show_default=True,
    help="How much --regions loads while regions split.",
)
@option("--region-size", type=Size(), default="4MiB", show_default=True, help="At which size they split then.")
@option("--embedded", is_flag=True, help="Measure an embedded database beside SQLite, and no cluster.")
@option("--embedded-data", type=Size(), default="64MiB", show_default=True, help="How much it opens and closes with.")
@option("--save", type=OutputFile(), metavar="FILE", help="Save the figures as JSON.")
@option("--plot", type=OutputFile(*PLOT_SUFFIXES), metavar="FILE", help="Save a plot (needs pytinykv[plot]).")
@log_options("error")
@config_option
def bench(
    *,
    in_flight: tuple[int, ...],
    rounds: int,
    value_bytes: int,
    scheduler: tuple[str, ...],
    with_etcd: bool | None,
    transactions: bool,
    failovers: int,
    stops: int,
    fill: int,
    large_rows: int,
    regions: int,
    region_steps: frozenset[str],
    region_seconds: float,
    region_idle: float,
    region_load: int,
    region_size: int,
    embedded: bool,
    embedded_data: int,
    save: Path | None,
    plot: Path | None,
) -> None:
    """Measure a cluster of three stores: puts, gets and transactions, beside etcd where it is installed.

    Every put is synced on a majority, every get is linearizable. Targets take turns, so that a noisy machine treats
    them alike; the ratio is what counts. With --embedded it measures an embedded database beside SQLite instead.

    Exit status: 0 measured; 1 it could not be, or what was measured breaks a promise; 2 bad usage; 130 interrupted.
    """
    if scheduler and (failovers or stops or large_rows or regions or with_etcd):
        raise click.UsageError(
            "--failovers, --stops, --large-rows, --regions and --etcd need a cluster of our own; leave --scheduler out"
        )
    if embedded and (scheduler or failovers or stops or fill or large_rows or regions or with_etcd or plot):
        raise click.UsageError("--embedded goes with --rounds, --value-bytes, --embedded-data and --save")
    if embedded:
        sys.exit(_run_embedded(EmbeddedPlan(ROWS, value_bytes, max(1, rounds), 1.0, embedded_data), save))
    plan = RegionPlan(regions, region_steps, region_seconds, region_idle, region_load, region_size) if regions else None
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install 'pytinykv[plot]'")
    if with_etcd and etcd_binary() is None:
        raise click.UsageError("etcd is not installed (Debian: apt-get install etcd-server)")
    if with_etcd is None:
        with_etcd = rounds > 0 and not scheduler and etcd_binary() is not None
    run = _Bench(
        in_flight=in_flight,
        rounds=rounds,
        value_bytes=value_bytes,
        scheduler=",".join(scheduler),
        with_etcd=with_etcd,
        transactions=transactions,
        failovers=failovers,
        stops=stops,
        fill=fill,
        large_rows=large_rows,
        plan=plan,
    )
    status = _status_of(run.main)
    if status == 0 or run.problems:
        if save is not None:
            run.results.save(save, BASELINE)
        if plot is not None:
            save_plot(run.results, plot)
    sys.exit(status)


def _status_of(main: Callable[[Scope], Awaitable[int]]) -> int:
    """Run `main`; return its status, `INTERRUPTED` if it was told to stop before it had one."""
    status = INTERRUPTED

    async def measure(scope: Scope) -> int:
        nonlocal status
        found = await main(scope)
        if not scope.stopping:
            status = found
        return found

    ended = run_process(measure, name="bench", stop_deadline_s=15.0)
    if status == INTERRUPTED:
        print("tinykv bench: interrupted", file=sys.stderr, flush=True)
    return status or ended


def _run_embedded(plan: EmbeddedPlan, save: Path | None) -> int:
    """Measure an embedded database, print and save the figures, return the exit status."""
    console = Console()
    figures: list[Figures] = []

    async def main(scope: Scope) -> int:
        try:
            with console.status("") as status:
                found = await measure_embedded(
                    scope, plan, lambda step, number: status.update(f"{step} ({number + 1} of {len(EMBEDDED_STEPS)})")
                )
        except (LifecycleError, ClientError, OSError, sqlite3.Error) as error:
            if not scope.stopping:
                print(f"tinykv bench: {error}", file=sys.stderr, flush=True)
            return 1
        figures.append(found)
        for line in found.lines():
            console.print(line, highlight=False, soft_wrap=True)
        return 0

    status = _status_of(main)
    if figures and save is not None:
        save.write_text(json.dumps(figures[0].as_json(), indent=2) + "\n", encoding="utf-8")
    for problem in (problem for found in figures for problem in found.problems()):
        print(f"tinykv bench: {problem}", file=sys.stderr, flush=True)
        status = 1
    return status


class _Bench:
    """One run of the command."""

    def __init__(
        self,
        *,
        in_flight: Sequence[int],
        rounds: int,
        value_bytes: int,
        scheduler: str,
        with_etcd: bool,
        transactions: bool,
        failovers: int,
        stops: int,
        fill: int,
        large_rows: int,
        plan: RegionPlan | None,
    ) -> None:
        self._in_flight = in_flight
        self._rounds = rounds
        self._value_bytes = value_bytes
        self._scheduler = scheduler
        self._with_etcd = with_etcd
        self._transactions = transactions
        self._failovers = failovers
        self._stops = stops
        self._fill = fill
        self._large_rows = large_rows
        self._plan = plan
        self._console = Console()
        self.results = Results()
        self.problems: list[str] = []
        """What was measured well and is not as promised."""

    async def main(self, scope: Scope) -> int:
        try:
            await self._run(scope)
        except (PlaygroundError, LifecycleError, ClientError, TimeoutError, OSError) as error:
            if not scope.stopping:  # else that is why: what is measured is gone
                print(f"tinykv bench: {error}", file=sys.stderr, flush=True)
            return 1
        for problem in self.problems:
            print(f"tinykv bench: {problem}", file=sys.stderr, flush=True)
        return 1 if self.problems else 0

    async def _run(self, scope: Scope) -> None:
        if self._rounds or self._failovers or self._stops or self._fill or self._large_rows or self._plan is None:
            await self._run_one_region(scope)
        if self._plan is not None:
            await self._measure_regions(scope.child("many"), self._plan)

    async def _measure_regions(self, scope: Scope, plan: RegionPlan) -> None:
        async with self._progress() as progress:
            with progress.steps(len(plan.steps) + 1) as tell:
                figures = await measure_regions(scope, plan, tell)
        self.results.regions = figures
        self.problems.extend(figures.problems())
        for line in figures.lines():
            self._console.print(line, highlight=False, soft_wrap=True)

    async def _run_one_region(self, scope: Scope) -> None:
        home = Home.open(None)
        sizes = IN_ONE_REGION if self._large_rows else None
        cluster = None if self._scheduler else LocalCluster(scope, home, config=None, thresholds=sizes)
        scope.on_stop("delete the data", home.close, 5.0)
        if cluster is not None:
            started = time.monotonic()
            await cluster.start(3, "127.0.0.1:0")
            await wait_serving(cluster)
            self.results.facts["serving_after_s"] = round(time.monotonic() - started, 2)
        address = self._scheduler if cluster is None else cluster.scheduler.addr
        async with aio.connect(address) as client:
            ours = PytinykvTarget(client, cluster)
            targets: list[BenchTarget] = [ours]
            if self._with_etcd:
                etcd = EtcdTarget(scope.child("etcd"), home.path)
                await etcd.start()
                targets.append(etcd)
            await self._measure(targets, scope.child("workers"))
            if self._rounds and self._transactions:
                await self._check_transactions(client, scope.child("hot-lock"))
            if self.results.cells:
                self._console.print(self.results.table(BASELINE))
                self._console.print(self.results.processor_table())
            if cluster is not None:
                await self._measure_facts(cluster, ours, scope.child("facts"))
                if self._large_rows:
                    await self._measure_large_rows(cluster, client, scope.child("large-rows"))
                if self._stops:
                    await self._measure_stops(cluster, client, scope.child("stops"))
        for name, value in self.results.facts.items():
            self._console.print(f"{name}: {value:g}")

    async def _check_transactions(self, client: aio.AsyncClient, scope: Scope) -> None:
        """See that transfers have made and lost nothing; measure a scan, and a lock that many want."""
        found, expected = await total(client), 2 * COUNTERS * BALANCE
        if found != expected:
            self.problems.append(f"after all transfers the accounts have {found} in all, and should have {expected}")
        self.results.facts["scan_rows_per_s"] = round(await scan_rate(client, SCAN_ROWS, self._value_bytes))
        hot = await hot_lock(client, scope)
        self.results.facts.update(hot.as_facts())
        self.problems.extend(hot.problems())

    async def _measure_large_rows(self, cluster: LocalCluster, client: aio.AsyncClient, scope: Scope) -> None:
        async with self._progress() as progress:
            with progress.task("large reads", len(READS)) as tell:
                figures = await measure_large_rows(cluster, client, scope, self._large_rows, tell)
        self.results.large_rows = figures
        self.problems.extend(figures.problems())
        self._console.print(figures.table())

    async def _measure_stops(self, cluster: LocalCluster, client: aio.AsyncClient, scope: Scope) -> None:
        async with self._progress() as progress:
            with progress.task("stops", self._stops) as tell:
                figures = await measure_stops(cluster, client, scope, self._stops, self._value_bytes, tell)
        self.results.stops = figures
        self.problems.extend(figures.problems())
        for line in figures.lines():
            self._console.print(line, highlight=False)

    def _operations(self) -> Sequence[OperationKind]:
        if not self._rounds:
            return ()
        return (*RAW, *TRANSACTIONAL) if self._transactions else RAW

    async def _measure(self, candidates: Sequence[BenchTarget], scope: Scope) -> None:
        """Go through all cells, all targets that offer an operation in turn within each round."""
        async with self._progress() as progress:
            for operation in self._operations():
                targets = [target for target in candidates if await _offers(target, operation)]
                for depth in self._in_flight:
                    sizes = {target.name: await self._size(target, operation, depth, scope) for target in targets}
                    for number in range(self._rounds):
                        for target in targets:
                            workload = self._workload(operation, depth, sizes[target.name])
                            label = f"{operation.value} × {depth}, round {number + 1}, {target.name}"
                            with progress.task(label, workload.operations) as tell:
                                self.results.add(await run_round(target, workload, scope, tell))

    def _workload(self, operation: OperationKind, depth: int, operations: int) -> Workload:
        keys = {} if operation in RAW else {"keys": COUNTERS}
        return Workload(operation, depth, operations, self._value_bytes, **keys)

    async def _size(self, target: BenchTarget, operation: OperationKind, depth: int, scope: Scope) -> int:
        """Return how many operations make a round of about the wanted length; also warms up."""
        trial = await run_round(target, self._workload(operation, depth, max(_TRIAL_OPERATIONS, depth * 20)), scope)
        return max(_TRIAL_OPERATIONS, int(trial.rate * _ROUND_S))

    async def _measure_facts(self, cluster: LocalCluster, ours: PytinykvTarget, scope: Scope) -> None:
        facts = self.results.facts
        if self._rounds:
            facts["idle_store_cpu_percent"] = round(await idle_cpu_percent(cluster, IDLE_S), 2)
        async with self._progress() as progress:
            if self._fill:
                with progress.task(f"{self._fill:,} puts", self._fill) as tell:
                    memory = await memory_after_puts(cluster, ours, scope, self._fill, tell)
                facts[f"store_memory_mib_after_{self._fill}_puts"] = round(memory, 1)
            if self._failovers:
                with progress.task("failovers", self._failovers) as tell:
                    seconds = await failover_seconds(cluster, self._failovers, tell)
                facts["failover_s_median"] = round(statistics.median(seconds), 2)
                facts["failover_s_max"] = round(max(seconds), 2)

    @asynccontextmanager
    async def _progress(self) -> AsyncIterator[_Bars]:
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield _Bars(progress)


async def _offers(target: BenchTarget, operation: OperationKind) -> bool:
    return operation in RAW or await target.prepare(operation, COUNTERS) is not None


class _Bars:
    """Progress bars, one at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def task(self, label: str, total: int) -> _Bar:
        return _Bar(self._progress, label, total)

    @contextmanager
    def steps(self, total: int) -> Iterator[Callable[[str, int], None]]:
        """Show a bar whose label changes; the block tells the step that begins, and how many have ended."""
        task = self._progress.add_task("regions", total=total)
        try:
            yield lambda label, done: self._progress.update(task, description=f"regions: {label}", completed=done)
        finally:
            self._progress.remove_task(task)


class _Bar:
    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress = progress
        self._id = progress.add_task(label, total=total)

    def __enter__(self) -> Callable[[int], None]:
        return lambda done: self._progress.update(self._id, completed=done)

    def __exit__(self, *_exc: object) -> None:
        self._progress.remove_task(self._id)
