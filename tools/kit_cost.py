#!/usr/bin/env python3
"""What the lifecycle kit costs: the same puts to a cluster with it and to one without it, in turns, in one run.

The stores of the one are started as they are. Those of the other run the same code with the kit taken out at run time,
down to what a program would have that creates tasks and threads and forgets about them (`strip_kit` has the list). Both
clusters stand all the time, a round goes to one and then to the other, and the order changes with every round.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from pytinykv import aio, lifecycle
from pytinykv.cli import main as tinykv
from pytinykv.cli import serving
from pytinykv.cli.bench.facts import cpu_seconds
from pytinykv.cli.bench.targets import PytinykvTarget
from pytinykv.cli.bench.workload import Operation, Workload, run_round
from pytinykv.cli.playground.cluster import Cluster
from pytinykv.cli.playground.command import wait_serving
from pytinykv.cli.playground.home import Home
from pytinykv.lifecycle import Scope, run_process
from pytinykv.lifecycle import scope as scope_module
from pytinykv.lifecycle.census import Census
from pytinykv.lifecycle.children import die_with_parent
from pytinykv.lifecycle.frames import FrameListener
from pytinykv.lifecycle.owned import OwnedTask
from pytinykv.lifecycle.rpc.server import RpcServer
from pytinykv.lifecycle.stacks import UNKNOWN_SITE

BARE: Final = "--bare"
TOOL: Final = str(Path(__file__).resolve())
WARM_UP_S: Final = 2.0
_ENDLESS: Final = 1_000_000_000


# --- without the kit --------------------------------------------------------------------------------------------------

_tasks: Final[set[asyncio.Task[Any]]] = set()
"""asyncio holds tasks weakly, so this much every program has to do."""


def strip_kit() -> None:
    """Take out of this process, before it serves, what the kit does while it runs:

    * `run_process`: watch thread, loop-stall watchdog, growth counts, watchdog of the stop, signal handling;
    * `Scope.start`, `start_thread`, `adopt`, `on_stop`: the books, names, places of birth, failures passed on;
    * `RpcServer`: the book of calls, request streams that can be ended, errors turned into statuses;
    * `FrameListener`: the book of connections;
    * places of birth (`call_site`) and censuses; every log line.

    What stays: `Scope` objects as something to hand around; an attribute or two that nobody reads; the channel to the
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
        (RpcServer, "_unary_behaviour"): _bare_unary,
        (RpcServer, "_stream_behaviour"): _bare_stream,
        (FrameListener, "_remember"): _nothing,
        (FrameListener, "_forget"): lambda self, connection: self._told_closed and self._told_closed(connection),
    }
    for name, module in sys.modules.items():
        if name.startswith(lifecycle.__name__) and hasattr(module, "call_site"):
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

    def __init__(self, name: str, cluster: Cluster, client: aio.AsyncClient, scope: Scope) -> None:
        self.name = name
        self._cluster = cluster
        self._target = PytinykvTarget(client)
        self._scope = scope

    async def run(self, in_flight: int, seconds: float) -> Sample:
        before = self._cpu_seconds()
        workload = Workload(Operation.PUT, in_flight, _ENDLESS, seconds_max=seconds)
        measured = await run_round(self._target, workload, self._scope)
        return Sample(measured.rate, (self._cpu_seconds() - before) / measured.operations * 1e6)

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(store.child.pid) for store in self._cluster.stores)


@dataclass(frozen=True)
class Comparison:
    """All rounds at one number of puts in flight."""

    in_flight: int
    kit: list[Sample]
    bare: list[Sample]

    def throughput_costs(self) -> list[float]:
        """Return, round by round, how much of the throughput the kit took, as a fraction."""
        return [1 - kit.puts_per_s / bare.puts_per_s for kit, bare in zip(self.kit, self.bare, strict=True)]

    def cpu_costs(self) -> list[float]:
        """Return, round by round, how much more processor time a put took with the kit, as a fraction."""
        return [kit.cpu_us_per_put / bare.cpu_us_per_put - 1 for kit, bare in zip(self.kit, self.bare, strict=True)]

    def lines(self) -> list[str]:
        puts, puts_bare = (statistics.median(one.puts_per_s for one in side) for side in (self.kit, self.bare))
        cpu, cpu_bare = (statistics.median(one.cpu_us_per_put for one in side) for side in (self.kit, self.bare))
        throughput, processor = _spread(self.throughput_costs()), _spread(self.cpu_costs())
        return [
            f"{self.in_flight} puts in flight, {len(self.kit)} rounds each, medians",
            f"  puts per second: {puts:,.0f} with the kit, {puts_bare:,.0f} without; it costs {throughput}",
            f"  processor time per put: {cpu:.1f} µs with the kit, {cpu_bare:.1f} µs without; it costs {processor}",
        ]


def _spread(fractions: list[float]) -> str:
    """Return the median of paired rounds with the quartiles, in percent."""
    low, middle, high = statistics.quantiles(fractions, n=4, method="inclusive")
    return f"{middle:+.1%} (half of the rounds within {low:+.1%} and {high:+.1%})"


async def _side(name: str, scope: Scope, *, bare: bool) -> Side:
    own = scope.child(name)
    home = Home.open(None)
    program = (TOOL, BARE) if bare else ("-m", "pytinykv")
    cluster = Cluster(own, home, config=None, program=program)
    own.on_stop("delete the data", home.close, 5.0)
    await cluster.start(3, "127.0.0.1:0")
    await wait_serving(cluster)
    client = aio.connect(cluster.scheduler.addr)
    own.on_stop("close the client", client.close, 2.0)
    await client
    return Side(name, cluster, client, own.child("workers"))


async def _compare(scope: Scope, options: argparse.Namespace, comparisons: list[Comparison]) -> None:
    second = "without" if not options.control else "with-too"
    sides = [await _side("with", scope, bare=False), await _side(second, scope, bare=not options.control)]
    for in_flight in options.in_flight:
        comparison = Comparison(in_flight, [], [])
        for side in sides:
            await side.run(in_flight, WARM_UP_S)
        for number in range(options.rounds):
            order = sides if number % 2 == 0 else sides[::-1]
            for side in order:
                samples = comparison.kit if side is sides[0] else comparison.bare
                samples.append(await side.run(in_flight, options.seconds))
        comparisons.append(comparison)
        print(*comparison.lines(), sep="\n", flush=True)


def main(arguments: list[str]) -> int:
    """Compare; or, with `--bare` in front, be one of the servers without the kit."""
    if arguments[:1] == [BARE]:
        strip_kit()
        tinykv(arguments[1:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each cluster, at least 2")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[256, 64], help="puts in flight")
    parser.add_argument("--control", action="store_true", help="both clusters with the kit: shows the noise")
    parser.add_argument("--save", type=Path, help="write all rounds to this file, as JSON")
    options = parser.parse_args(arguments)
    comparisons: list[Comparison] = []

    async def compare(scope: Scope) -> None:
        await _compare(scope, options, comparisons)

    status = run_process(compare, name="kit-cost", stop_deadline_s=20.0)
    if options.save is not None:
        options.save.write_text(json.dumps([asdict(each) for each in comparisons], indent=2) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
