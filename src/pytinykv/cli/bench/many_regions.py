"""Many regions: what they cost at rest and under load, and what clients notice of splits, restarts and deaths of stores.

```
start ─ split into N ─ spread ─► puts ─► split ─► rolling ─► kill ─► idle ─► restart            (three stores)
fresh clusters of four stores:  load without splits, load with splits ─ wait until it is even    (`split_load`)
```

Region n holds the keys that begin with `many-n`; what lies before them is the "1 region" of the comparison. Puts take turns
between the two within one run, as a machine's speed changes from minute to minute.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytinykv import aio
from pytinykv.cli.bench.facts import resident_mib
from pytinykv.cli.bench.figures import Bound, Figure, Figures, regions_title
from pytinykv.cli.bench.processors import cpu_seconds
from pytinykv.cli.bench.put_load import PutLoad, Window
from pytinykv.cli.bench.split_load import measure_load
from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
from pytinykv.cli.playground.command import wait_serving
from pytinykv.cli.playground.home import Home
from pytinykv.cli.playground.observe import STORE_PAGE, StoreFacts, read_page
from pytinykv.client import ClientError

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient
    from pytinykv.lifecycle import Scope

IN_FLIGHT: Final = 256
ROLLING_IN_FLIGHT: Final = 64
ROUNDS: Final = 3
SPLITS: Final = 5
_VALUE: Final = bytes(range(100))
_LONE: Final = b"bench-%010d"
_LONE_KEYS: Final = 100_000
_SPLIT_KEYS_AT_ONCE: Final = 256
_SPLIT_S: Final = 120.0
_SPREAD_S: Final = 60.0
_CATCH_UP_S: Final = 60.0
_WRITABLE_S: Final = 60.0
_EXIT_S: Final = 10.0
_PAGE_S: Final = 2.0
_POLL_S: Final = 0.1


@dataclass(frozen=True)
class RegionPlan:
    """How much to do."""

    regions: int
    steps: frozenset[str]
    """Of `STEPS`."""
    step_s: float
    """How long puts go on in each round and between events."""
    idle_after_s: float
    """From the last write to the measurement at rest."""
    load_bytes: int
    region_bytes: int
    """At which size regions split while `load_bytes` are put."""


def boundary(number: int) -> bytes:
    return b"many-%06d" % number


class ManyRegions:
    """The steps on one cluster of three stores."""

    def __init__(self, cluster: LocalCluster, client: AsyncClient, scope: Scope, plan: RegionPlan) -> None:
        self._cluster: Final = cluster
        self._client: Final = client
        self._scope: Final = scope
        self._plan: Final = plan
        self.figures: Final = Figures(regions_title(plan.regions))

    # --- before the steps ---------------------------------------------------------------------------------------------

    async def split(self) -> None:
        """Split into the regions and spread them over the stores."""
        began = time.monotonic()
        keys = [boundary(number) for number in range(self._plan.regions)]
        for first in range(0, len(keys), _SPLIT_KEYS_AT_ONCE):
            await self._split_at(keys[first : first + _SPLIT_KEYS_AT_ONCE])
        seconds = time.monotonic() - began
        began = time.monotonic()
        found = [info.region.id for info in await self._client.scheduler.scan_regions()]
        await self._client.scheduler.scatter_regions(found)
        leaders = await self._wait_spread()
        spread = f"then spread in {time.monotonic() - began:.1f} s; leaders by store: {_counts(leaders)}"
        self.figures.add(Figure("prepare", f"split into {len(found):,} regions", seconds, "s", detail=spread))

    async def _split_at(self, keys: Sequence[bytes]) -> None:
        async with asyncio.timeout(_SPLIT_S):
            while (  # noqa: ASYNC110 - it is the scheduler that knows
                await self._client.scheduler.split_regions(keys)
            ).finished_percentage < 100:
                await asyncio.sleep(_POLL_S)

    async def _wait_spread(self) -> Counter[str]:
        """Wait until every store leads about as many regions; returns how many, also when they are not even in time."""
        deadline = time.monotonic() + _SPREAD_S
        while True:
            leaders = Counter({store.name: 0 for store in self._cluster.stores})
            pages = await self._pages()
            for store, page in zip(self._cluster.stores, pages, strict=True):
                leaders[store.name] = sum(peer.is_leader for peer in page.regions)
            uneven = max(leaders.values()) - min(leaders.values())
            if uneven <= max(2, 0.1 * self._plan.regions / 3) or time.monotonic() > deadline:
                return leaders
            await asyncio.sleep(_POLL_S * 5)

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def puts(self) -> None:
        """Put over all regions and into one, in turns."""
        rates: dict[str, list[float]] = {"many": [], "one": []}
        costs: dict[str, list[float]] = {"many": [], "one": []}
        keys = {"many": self._key, "one": _lone_key}
        for number in range(ROUNDS + 1):
            for name, key in keys.items():
                before = self._cpu_seconds()
                load = self._load(IN_FLIGHT, key)
                await asyncio.sleep(self._plan.step_s)
                window = await self._end(load, "puts")
                if number and window.puts:  # the first one warms up
                    rates[name].append(window.rate)
                    costs[name].append((self._cpu_seconds() - before) / window.puts * 1e6)
        pairs = [many / one for many, one in zip(rates["many"], rates["one"], strict=False)]
        ratio = statistics.median(pairs) if pairs else 0.0
        detail = (
            f"{_median(rates['many']):,.0f} and {_median(rates['one']):,.0f} puts/s; "
            f"{_median(costs['many']):.0f} and {_median(costs['one']):.0f} µs of processor time a put, all processes"
        )
        name = f"{IN_FLIGHT} puts in flight over all regions against one"
        self.figures.add(Figure("puts", name, 100 * ratio, "%", Bound.AT_LEAST, 70, detail))

    async def split_under_load(self) -> None:
        """Split the region that takes all the puts, again and again."""
        load = self._load(IN_FLIGHT, _lone_key)
        await asyncio.sleep(self._plan.step_s)
        with load.window() as quiet:
            await asyncio.sleep(self._plan.step_s * 2)
        pauses = []
        for number in range(1, SPLITS + 1):
            with load.window() as window:
                await self._split_at([_LONE % (_LONE_KEYS * number // (SPLITS + 1))])
                await asyncio.sleep(self._plan.step_s / 4)
            pauses.append(window.longest_s * 1000)
        await self._end(load, "split")
        each = ", ".join(f"{pause:.0f}" for pause in pauses)
        detail = f"each of {SPLITS}: {each}; without a split: {quiet.longest_s * 1000:.0f} ms"
        name = f"longest put while its region splits, {IN_FLIGHT} in flight"
        self.figures.add(Figure("split", name, max(pauses), "ms", Bound.AT_MOST, 200, detail))

    async def rolling_restart(self) -> None:
        """Restart one store after the other."""
        load = self._load(ROLLING_IN_FLIGHT, self._key)
        await asyncio.sleep(self._plan.step_s)
        with load.window() as quiet:
            await asyncio.sleep(self._plan.step_s)
        seen: dict[str, list[float]] = {"stop": [], "down": [], "back": []}
        with load.window() as rolling:
            for index in range(len(self._cluster.stores)):
                store = self._cluster.stores[index]
                store.child.terminate()
                with load.window() as window:
                    await store.child.wait(_EXIT_S)
                seen["stop"].append(window.longest_s * 1000)
                with load.window() as window:
                    await self._restart(store)
                seen["down"].append(window.longest_s * 1000)
                with load.window() as window:
                    await self._wait_caught_up(index)
                    await asyncio.sleep(self._plan.step_s)
                seen["back"].append(window.longest_s * 1000)
        await self._end(load, "rolling")
        failed = rolling.failures.total()
        detail = f"of {rolling.puts:,}"
        self.figures.add(Figure("rolling", "failed operations", failed, "", Bound.AT_MOST, 0, detail))
        each = "; ".join(f"{name} {', '.join(f'{pause:.0f}' for pause in pauses)}" for name, pauses in seen.items())
        detail = f"by store: {each} ms; before: {quiet.longest_s * 1000:.0f} ms"
        name = f"longest put, {ROLLING_IN_FLIGHT} in flight"
        self.figures.add(Figure("rolling", name, rolling.longest_s * 1000, "ms", Bound.AT_MOST, 500, detail))

    async def kill(self) -> None:
        """Kill the store that leads most regions, while every other region sleeps."""
        load = self._load(ROLLING_IN_FLIGHT, lambda number: self._key(number * 2))
        await asyncio.sleep(max(3 * self._plan.step_s, 0.1))
        pages = await self._pages()
        led = [sum(peer.is_leader for peer in page.regions) for page in pages]
        victim = led.index(max(led))
        asleep = sum(peer.is_leader and peer.is_asleep for peer in pages[victim].regions)
        await load.end()
        store = self._cluster.stores[victim]
        os.kill(store.child.pid, signal.SIGKILL)
        began = time.monotonic()
        probes = [
            self._scope.start(f"probe-{number}", self._put_until_acknowledged, number, began)
            for number in range(self._plan.regions)
        ]
        seconds = sorted([await probe.wait() for probe in probes])
        detail = f"{store.name} led {led[victim]:,}, {asleep:,} of them asleep; half were writable after"
        detail += f" {seconds[len(seconds) // 2]:.2f} s, 90 % after {seconds[len(seconds) * 9 // 10]:.2f} s"
        name = "SIGKILL of a store → all regions writable"
        self.figures.add(Figure("kill", name, seconds[-1], "s", Bound.AT_MOST, 4, detail))
        ready_s = await self._restart(store)
        self.figures.add(Figure("kill", "then ready again", ready_s, "s", Bound.AT_MOST, 5))
        await self._wait_caught_up(victim)

    async def _put_until_acknowledged(self, number: int, began: float) -> float:
        while True:
            try:
                await self._client.raw.put(boundary(number) + b"-probe", _VALUE)
            except ClientError:
                if time.monotonic() - began > _WRITABLE_S:
                    raise
            else:
                return time.monotonic() - began

    async def idle(self) -> None:
        """Write to every region once more, wait, and see what the stores use then."""
        load = self._load(ROLLING_IN_FLIGHT, self._key, count=self._plan.regions)
        window = await load.wait()
        self._note(window, "idle")
        await asyncio.sleep(self._plan.idle_after_s)
        seconds = max(self._plan.step_s * 5, 0.5)
        pids = [store.child.pid for store in self._cluster.stores]
        before = [cpu_seconds(pid) for pid in pids]
        await asyncio.sleep(seconds)
        used = [100 * (cpu_seconds(pid) - then) / seconds for pid, then in zip(pids, before, strict=True)]
        pages = await self._pages()
        asleep = ", ".join(f"{sum(peer.is_asleep for peer in page.regions):,}" for page in pages)
        after = f"{self._plan.idle_after_s:g} s after the last write"
        detail = f"{after}; asleep {asleep}; by store: {', '.join(f'{one:.1f}' for one in used)}"
        self.figures.add(Figure("idle", "busiest store, of a core", max(used), "%", Bound.AT_MOST, 5, detail))
        memory = max(resident_mib(pid) for pid in pids) * 1.048576
        self.figures.add(Figure("idle", "largest store, resident", memory, "MB", Bound.AT_MOST, 250))

    async def restart(self) -> None:
        """Stop a store in good order and start it again."""
        store = self._cluster.stores[0]
        regions = len((await self._page(store)).regions)
        store.child.terminate()
        await store.child.wait(_EXIT_S)
        seconds = await self._restart(store)
        used = cpu_seconds(self._cluster.stores[0].child.pid)
        detail = f"{regions:,} regions; {used:.2f} s of processor time until then"
        self.figures.add(Figure("restart", "from start to ready", seconds, "s", Bound.AT_MOST, 5, detail))

    # --- what they share ----------------------------------------------------------------------------------------------

    def _key(self, number: int) -> bytes:
        region, within = number % self._plan.regions, number // self._plan.regions
        return b"many-%06d-%06d" % (region, within % 1000)

    def _load(self, in_flight: int, key: Callable[[int], bytes], count: int | None = None) -> PutLoad:
        load = PutLoad(self._client, self._scope, in_flight, key, lambda _number: _VALUE, count)
        load.start()
        return load

    async def _end(self, load: PutLoad, step: str) -> Window:
        window = await load.end()
        self._note(window, step)
        return window

    def _note(self, window: Window, step: str) -> None:
        self.figures.errors.extend(f"{step}: {count} × {error}" for error, count in window.failures.items())

    async def _restart(self, store: ServerProcess) -> float:
        """Start a store that has ended; return the seconds until it is ready."""
        await store.child.wait(_EXIT_S)
        began = time.monotonic()
        await self._cluster.restart(store)
        return time.monotonic() - began

    async def _wait_caught_up(self, index: int) -> None:
        """Wait until a restarted store has applied, region by region, what their leaders had when it came back."""
        wanted: dict[int, int] = {}
        for page in await self._pages():
            wanted.update({peer.region: peer.applied for peer in page.regions if peer.is_leader})
        async with asyncio.timeout(_CATCH_UP_S):
            while True:
                applied = {peer.region: peer.applied for peer in (await self._pages())[index].regions}
                if all(applied.get(region, 0) >= least for region, least in wanted.items()):
                    return
                await asyncio.sleep(_POLL_S)

    async def _pages(self) -> list[StoreFacts]:
        return [await self._page(store) for store in self._cluster.stores]

    async def _page(self, store: ServerProcess) -> StoreFacts:
        """Return what a store tells; nothing of one that does not answer."""
        try:
            async with asyncio.timeout(_PAGE_S):
                return await read_page(store.facts.get("status", ""), STORE_PAGE, StoreFacts)
        except (OSError, TimeoutError, ValueError):
            return StoreFacts()

    def _cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, [os.getpid(), *(store.child.pid for store in self._cluster.stores)]))


STEPS: Final[dict[str, Callable[[ManyRegions], Awaitable[None]]]] = {
    "puts": ManyRegions.puts,
    "split": ManyRegions.split_under_load,
    "rolling": ManyRegions.rolling_restart,
    "kill": ManyRegions.kill,
    "idle": ManyRegions.idle,
    "restart": ManyRegions.restart,
}
"""In their order, by name."""
LOAD: Final = "load"
"""The step that has clusters of its own."""


async def measure_regions(scope: Scope, plan: RegionPlan, on_progress: Callable[[str, int], None]) -> Figures:
    """Go through the steps of the plan. Raises ClientError, PlaygroundError, TimeoutError: the cluster does not serve."""
    steps = {name: step for name, step in STEPS.items() if name in plan.steps}
    figures = Figures(regions_title(plan.regions))
    if steps:
        home = Home.open(None)
        clusters = scope.child("regions")
        cluster = LocalCluster(clusters, home, config=None)
        clusters.on_stop("delete the data", home.close, 5.0)
        await cluster.start(3, "127.0.0.1:0")
        await wait_serving(cluster)
        async with aio.connect(cluster.scheduler.addr) as client:
            many = ManyRegions(cluster, client, clusters.child("load"), plan)
            figures = many.figures
            on_progress("prepare", 0)
            await many.split()
            for number, (name, step) in enumerate(steps.items(), 1):
                on_progress(name, number)
                await step(many)
        await clusters.stop(60.0)
    if LOAD in plan.steps:
        on_progress(LOAD, len(steps) + 1)
        await measure_load(scope, figures, plan.load_bytes, plan.region_bytes)
    return figures


def _lone_key(number: int) -> bytes:
    return _LONE % (number * 7919 % _LONE_KEYS)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,}" for count in counts.values())
