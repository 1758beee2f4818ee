"""Scenarios by name, and the run of one: `run_scenario(name, seed)`.

A scenario is a coroutine over a `Cluster`: it may break what it likes (safety phase), then heals (`Cluster.heal`), and
waits for what must then come true (liveness phase). Around it the runner starts the cluster, stops it, checks that the
stop left nothing, and judges the history. A failure carries the one command that shows it again.
"""

from __future__ import annotations

import gc
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.errors import SimulationError, Violation
from pytinykv.simulation.situation import describe_cluster
from pytinykv.simulation.world import Stops, World, WorldOptions, run_world

if TYPE_CHECKING:
    from pytinykv.simulation.history import RawHistory

LONGER: Final = 1.4
"""How much longer a long history takes: long enough for fifteen virtual seconds of each program."""
LONG_STORES: Final = 5
LATE: Final = frozenset({"liveness", "answers", "availability"})
"""Checkers that tell of something that did not happen in time."""

Prepare = Callable[[ClusterOptions, Callable[[str], Random]], ClusterOptions]
Story = Callable[[Cluster], Awaitable[None]]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A named story over a cluster of some shape."""

    name: str
    summary: str
    options: ClusterOptions | Callable[[Random], ClusterOptions]
    """The cluster's shape, or what draws it for a seed."""
    story: Story
    fixed: bool = False
    """Whether the story has its own course and cluster, which a long history doesn't change."""
    world_seed: Callable[[int], int] | None = None
    """Which world a seed is told in, for stories that are told again and again in one world."""
    prepare: Prepare | None = None
    """Makes of what was drawn, less what is left out, the shape of the cluster."""

    def options_for(
        self, world: World, without: frozenset[str], added: Iterable[str], *, is_long: bool
    ) -> ClusterOptions:
        """Return the cluster's shape in this world, with some kinds of faults left out, and others on in any case."""
        options = self.options if isinstance(self.options, ClusterOptions) else self.options(world.rng_for("options"))
        added = tuple(name for name in added if name not in without)
        drawn = tuple(name for name in dict.fromkeys((*options.drawn, *added)) if name not in without)
        options = msgspec.structs.replace(options, drawn=drawn, without=without, added=added)
        if is_long and not self.fixed:
            options = msgspec.structs.replace(options, stores=LONG_STORES, length=LONGER)
        return options if self.prepare is None else self.prepare(options, world.rng_for)


SCENARIOS: dict[str, Scenario] = {}
"""All registered scenarios, by name. Importing `pytinykv.simulation` registers those of `simulation.scenarios`."""


def scenario(
    name: str,
    options: ClusterOptions | Callable[[Random], ClusterOptions],
    *,
    prepare: Prepare | None = None,
    fixed: bool = False,
    world_seed: Callable[[int], int] | None = None,
) -> Callable[[Story], Story]:
    """Register the decorated coroutine function; the first line of its docstring is the summary."""

    def register(story: Story) -> Story:
        assert name not in SCENARIOS, name
        summary = (story.__doc__ or "").strip().partition("\n")[0]
        SCENARIOS[name] = Scenario(
            name=name,
            summary=summary,
            options=options,
            story=story,
            prepare=prepare,
            fixed=fixed,
            world_seed=world_seed,
        )
        return story

    return register


class ScenarioFailed(SimulationError):
    """A history broke a guarantee; the text has which, and the command that shows it again."""


class Result(msgspec.Struct, kw_only=True):
    """What came of one history."""

    scenario: str
    seed: int
    failure: str = ""
    """Empty, or what went wrong; with the state of the cluster if something did not happen in time."""
    traceback: str = ""
    """Where it was noticed; of use to those who work on the simulator, or if a program raised something."""
    checker: str = ""
    """Which checker failed, or the class of the exception."""
    digest: str = ""
    """Digest of all events; the same for the same seed and code, in every interpreter."""
    is_long: bool = False
    """Whether it had five stores and more time than usual, if its story allows that."""
    stores: int = 0
    virtual_s: float = 0.0
    """From the first program's start to the last one's stop."""
    real_s: float = 0.0
    cpu_s: float = 0.0
    operations: int = 0
    unknown: int = 0
    """Operations without a known outcome."""
    stops: Stops = msgspec.field(default_factory=Stops)
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    notes: list[str] = msgspec.field(default_factory=list)
    """What the story drew, for those that draw: kinds of faults."""
    kinds: list[str] = msgspec.field(default_factory=list)
    """Kinds of faults that were on, for stories that draw."""
    coverage: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """Kind of fault -> operation -> how often it was asked for while that was on."""
    without: list[str] = msgspec.field(default_factory=list)
    """Kinds of faults that were left out."""
    added: list[str] = msgspec.field(default_factory=list)
    """Kinds of faults that were on whatever was drawn."""
    lines: list[str] = msgspec.field(default_factory=list)
    """The trace, if it was asked for."""

    @property
    def ok(self) -> bool:
        return not self.failure

    @property
    def command(self) -> str:
        """The command that runs this history again."""
        without = "".join(f" --without {shlex.quote(name)}" for name in self.without)
        added = f" --with {shlex.quote(','.join(self.added))}" if self.added else ""
        return f"tinykv sim --scenario {self.scenario} --seed {self.seed}{added}{without}{' --long' * self.is_long}"

    @property
    def speed(self) -> float:
        """Virtual seconds per second of one core."""
        return self.virtual_s / self.cpu_s if self.cpu_s else 0.0

    def check(self) -> None:
        """Raise `ScenarioFailed` unless all went well."""
        if self.failure:
            raise ScenarioFailed(f"{self.scenario} with seed {self.seed}: {self.failure}\nagain: {self.command}")


def run_scenario(
    name: str,
    seed: int,
    *,
    without: Iterable[str] = (),
    added: Iterable[str] = (),
    is_long: bool = False,
    keep_lines: bool = False,
) -> Result:
    """Run one history of a scenario and judge it, without some kinds of faults, and with those in `added` in any case.

    A long one has five stores and takes longer, unless its story has a fixed course.

    Raises `KeyError` for an unknown name, nothing for a failed history.
    """
    chosen = SCENARIOS[name]
    result = Result(scenario=name, seed=seed, without=sorted(without), added=list(added), is_long=is_long)
    worlds: list[World] = []
    started, started_cpu = time.perf_counter(), time.process_time()

    async def history(world: World) -> RawHistory:
        worlds.append(world)
        return await play(world, chosen, result)

    try:
        world_seed = seed if chosen.world_seed is None else chosen.world_seed(seed)
        records, _, _ = run_world(world_seed, history, WorldOptions(keep_lines=keep_lines))
        records.check()
    except Exception as error:  # noqa: BLE001 - whatever ends a history is its result
        result.checker = getattr(error, "checker", type(error).__name__)
        result.failure = describe_failure(error)
        result.traceback = "".join(traceback.format_exception(error))
    result.real_s, result.cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    _take_figures(result, worlds)
    if not result.ok:
        _forget(worlds)
    return result


async def play(world: World, chosen: Scenario, result: Result) -> RawHistory:
    """Start the cluster, tell the story, stop the cluster; return what the clients saw."""
    options = chosen.options_for(world, frozenset(result.without), result.added, is_long=result.is_long)
    cluster = Cluster(world, options, number=result.seed)
    watch = world.loop.create_task(cluster.watch_tasks(), name="watch tasks")
    try:
        if cluster.options.starts:
            await cluster.start()
        await chosen.story(cluster)
        if cluster.options.starts:
            await cluster.check_converged()
        await cluster.stop()
    except BaseException as error:
        if isinstance(error, Violation) and error.checker in LATE:
            error.situation = describe_cluster(cluster)
        cluster.abandon()
        raise
    finally:
        watch.cancel()
        result.virtual_s, result.stores, result.stops = world.loop.time(), options.stores, world.stops
        result.operations = cluster.history.invoked
        result.unknown = cluster.history.unknown
        result.counters = cluster.counters()
        result.notes = cluster.notes
        result.kinds = cluster.kinds
        result.coverage = {kind: dict(cluster.coverage[kind]) for kind in sorted(cluster.coverage)}
    return cluster.history


def describe_failure(error: BaseException) -> str:
    """Say what went wrong, and what caused it; the simulator's own frames are in the traceback only."""
    lines = [str(error) if isinstance(error, SimulationError) else f"{type(error).__name__}: {error}"]
    if isinstance(error, Violation) and error.situation:
        lines.append(error.situation)
    if error.__cause__ is not None:
        lines += ["caused by:", "".join(traceback.format_exception(error.__cause__)).rstrip()]
    elif not isinstance(error, SimulationError):
        lines.append("".join(traceback.format_tb(error.__traceback__)).rstrip())
    return "\n".join(lines)


def _forget(worlds: list[World]) -> None:
    """Collect what a failed history left behind now, without warnings, instead of in what runs next."""
    worlds.clear()
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None  # what its coroutines do on the way out finds a loop that is closed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = hook


def _take_figures(result: Result, worlds: list[World]) -> None:
    for world in worlds:
        result.digest = world.trace.digest()
        result.lines = list(world.trace.lines or ())
