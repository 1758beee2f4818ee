#!/usr/bin/env python3
"""What the lifecycle kit costs: the same puts to clusters with it and without it, in turns, in one run.

The stores of the one are started as they are. Those of the other run the same code with the kit taken out at run time,
down to what a program would have that creates tasks and threads and forgets about them (`strip_kit` has the list). Two
clusters stand side by side, short rounds go to one and then to the other, and the order changes with every round. Two
equal clusters already differ by some percent for as long as they live, so several pairs are started, one after the other.

Two figures are compared: puts per second, and processor time of the three stores per put, which does not depend on what
else the machine does, as long as turns are equally full. `--control` starts the second cluster with the kit as well: what
it shows is the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import uvloop

from pytinykv import aio
from pytinykv.cli import main as tinykv
from pytinykv.cli import serving
from pytinykv.cli.bench.targets import PytinykvTarget
from pytinykv.cli.bench.workload import OperationKind, Workload, run_round
from pytinykv.cli.playground.cluster import LocalCluster
from pytinykv.cli.playground.command import wait_serving
from pytinykv.cli.playground.home import Home
from pytinykv.lifecycle import Scope, run_process
from pytinykv.lifecycle import scope as scope_module
from pytinykv.lifecycle.census import Census
from pytinykv.lifecycle.children import die_with_parent
from pytinykv.lifecycle.owned import OwnedTask
from pytinykv.transport.frames import FrameListener
from pytinykv.transport.rpc.server import RpcServer
from pytinykv.waitgraph.stacks import UNKNOWN_SITE

BARE: Final = "--bare"
KIT: Final = ("pytinykv.lifecycle", "pytinykv.transport", "pytinykv.waitgraph")
TOOL: Final = str(Path(__file__).resolve())
_ENDLESS: Final = 1_000_000_000


# --- without the kit --------------------------------------------------------------------------------------------------

_tasks: Final[set[asyncio.Task[Any]]] = set()
"""asyncio holds tasks weakly, so this much every program has to do."""


def strip_kit() -> None:
    """Take out of this process, before it serves, what the kit does while it runs:

    * `run_process`: watch thread, loop-stall watchdog, growth counts, watchdog of the stop, signal handling;
    * `Scope.start`, `start_thread`, `adopt`, `on_stop`: the books, names, call sites, failures passed on;
    * `RpcServer`: the book of calls, request streams that can be ended, errors turned into gRPC's;
    * `FrameListener`: the book of connections;
    * call sites and censuses; every log line.

    What stays: `Scope` objects as something to hand around; an attribute or two that nothing reads; the channel to the
    scheduler, which carries a heartbeat every few seconds; and shapes of the code that the kit brought about but that are
    no work of its own, such as one task per stream that reads frames.
    """
    patches: dict[tuple[object, str], Callable[..., Any]] = {
        (serving, "run_process"): _run_bare,
        (scope_module, "take_census"): lambda **_named: Census(0, 0, 0, 0),
        (Scope, "start"): _start_task,
        (Scope, "start_thread"): _start_thread,
        (Scope, "adopt"): _nothing,
        (Scope, "disown"): _nothing,
        (Scope, "on_stop"): _nothing,
        (Scope, "on_stopped"): _nothing,
        (RpcServer, "_unary_behaviour"): _bare_unary,
        (RpcServer, "_stream_behaviour"): _bare_stream,
        (FrameListener, "_remember"): _nothing,
        (FrameListener, "_forget"): lambda self, connection: self._on_closed and self._on_closed(connection),
    }
    for name, module in sys.modules.items():
        if name.startswith(KIT) and hasattr(module, "call_site"):
            patches[module, "call_site"] = lambda *_args, **_named: UNKNOWN_SITE
    for (owner, name), function in patches.items():
        assert hasattr(owner, name), f"{owner} has no {name} any more: what is to be taken out instead?"
        setattr(owner, name, function)
    logging.disable(logging.CRITICAL)


def _run_bare(main: Callable[[Scope], Coroutine[Any, Any, int | None]], *, name: str, **_named: Any) -> int:
    die_with_parent()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main(Scope(name))) or 0


def _nothing(*_args: Any, **_named: Any) -> None:
    """Do nothing."""


def _start_task(
    _self: Scope, name: str, coro_fn: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **named: Any
) -> OwnedTask[Any]:
    task = asyncio.get_running_loop().create_task(coro_fn(*args, **named))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return OwnedTask(name, task, UNKNOWN_SITE, 0.0)  # its callers know how to cancel that


def _start_thread(_self: Scope, _name: str, target: Callable[..., object], *args: Any, **_named: Any) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()  # noqa: TID251 - without an owner, on purpose


def _bare_unary(_self: RpcServer, _path: str, handler: Callable[..., Any], **_named: Any) -> Callable[..., Any]:
    return handler


def _bare_stream(_self: RpcServer, _path: str, handler: Callable[..., Any], **_named: Any) -> Callable[..., Any]:
    async def answer(request: Any, context: Any) -> None:
        responses: AsyncIterator[Any] = handler(request, context)
        async for response in responses:
            await context.write(response)

    return answer


# --- the comparison ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """One round of one cluster."""

    puts_per_s: float
    cpu_us_per_put: float
    """Of all three stores."""


class Side:
    """A cluster and a client of it."""

    def __init__(self, name: str, cluster: LocalCluster, client: aio.AsyncClient, scope: Scope) -> None:
        self.name = name
        self._cluster = cluster
        self._target = PytinykvTarget(client, cluster)
        self._scope = scope

    async def run(self, in_flight: int, seconds: float) -> Sample:
        """Run a round; again, if the machine was so busy that it did nothing."""
        workload = Workload(OperationKind.PUT, in_flight, _ENDLESS, seconds_max=seconds)
        while True:
            before = self._cpu_seconds()
            measured = await run_round(self._target, workload, self._scope)
            if measured.operations:
                return Sample(measured.rate, (self._cpu_seconds() - before) / measured.operations * 1e6)

    def _cpu_seconds(self) -> float:
        """Return the processor time of all threads of the stores, to the nanosecond; clock ticks are too coarse."""
        return sum(
            int(figures.read_text().split()[0]) / 1e9
            for store in self._cluster.stores
            for figures in Path(f"/proc/{store.child.pid}/task").glob("*/schedstat")
        )


@dataclass(frozen=True)
class Comparison:
    """All rounds at one number of puts in flight: of each pair of clusters, a list for either."""

    in_flight: int
    kit: list[list[Sample]] = field(default_factory=list)
    bare: list[list[Sample]] = field(default_factory=list)

    def begin_run(self) -> None:
        """Take note that both clusters are new."""
        self.kit.append([])
        self.bare.append([])

    def add(self, side: str, sample: Sample) -> None:
        (self.kit if side == "kit" else self.bare)[-1].append(sample)

    def costs(self, figure: Callable[[Sample], float]) -> list[float]:
        """Return how much larger a figure is with the kit, as a fraction, for each pair of clusters."""
        return [
            statistics.median(figure(kit) / figure(bare) - 1 for kit, bare in zip(*pair, strict=True))
            for pair in zip(self.kit, self.bare, strict=True)
        ]

    def lines(self) -> list[str]:
        def line(what: str, unit: str, figure: Callable[[Sample], float]) -> str:
            kit, bare = (
                statistics.median(figure(one) for run in side for one in run) for side in (self.kit, self.bare)
            )
            costs = sorted(self.costs(figure))
            each = ", ".join(f"{cost:+.1%}" for cost in costs)
            return (
                f"  {what}: {kit:,.1f}{unit} with, {bare:,.1f}{unit} without: {statistics.median(costs):+.1%} ({each})"
            )

        return [
            f"{self.in_flight} puts in flight, {len(self.kit)} pairs of clusters, with the kit and without; medians",
            line("puts per second", "", lambda sample: sample.puts_per_s),
            line("processor time per put", " µs", lambda sample: sample.cpu_us_per_put),
        ]


async def _side(name: str, scope: Scope, *, bare: bool) -> Side:
    own = scope.child(name)
    home = Home.open(None)
    program = (TOOL, BARE) if bare else ("-m", "pytinykv")
    cluster = LocalCluster(own, home, config=None, program=program)
    own.on_stop("delete the data", home.close, 5.0)
    await cluster.start(3, "127.0.0.1:0")
    await wait_serving(cluster)
    client = aio.connect(cluster.scheduler.addr)
    own.on_stop("close the client", client.close, 2.0)
    await client
    return Side(name, cluster, client, own.child("workers"))


async def _compare(scope: Scope, options: argparse.Namespace, comparisons: list[Comparison]) -> None:
    """Start both clusters anew again and again: how well two clusters fill their turns differs more than the kit costs."""
    for number in range(options.clusters):
        run = scope.child(f"run-{number}")
        order = ["kit", "bare"] if number % 2 == 0 else ["bare", "kit"]
        sides = {side: await _side(side, run, bare=side == "bare" and not options.control) for side in order}
        for comparison in comparisons:
            comparison.begin_run()
            for side in order:
                await sides[side].run(comparison.in_flight, options.warm_up)
            for _ in range(options.rounds):
                for side in order:
                    comparison.add(side, await sides[side].run(comparison.in_flight, options.seconds))
                order.reverse()
        await run.stop()
    for comparison in comparisons:
        print(*comparison.lines(), sep="\n", flush=True)


def main(arguments: list[str]) -> int:
    """Compare; or, with `--bare` in front, be one of the servers without the kit."""
    if arguments[:1] == [BARE]:
        strip_kit()
        tinykv(arguments[1:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clusters", type=int, default=8, help="how many pairs of clusters are started")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each cluster")
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="length of a round; short ones see the same neighbours"
    )
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds of puts to each cluster before its rounds")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[256, 64], help="puts in flight")
    parser.add_argument("--control", action="store_true", help="both clusters with the kit: shows the noise")
    parser.add_argument("--save", type=Path, help="write all rounds to this file, as JSON")
    options = parser.parse_args(arguments)
    comparisons = [Comparison(number) for number in options.in_flight]

    async def compare(scope: Scope) -> None:
        await _compare(scope, options, comparisons)

    status = run_process(compare, name="kit-cost", stop_deadline_s=20.0)
    if options.save is not None:
        options.save.write_text(json.dumps([asdict(each) for each in comparisons], indent=2) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
