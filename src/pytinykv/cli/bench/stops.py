"""Stops of stores under full load: how each one ends, how long it takes, and whether an acknowledged write is gone then.

```
writers, a reader  ───────────────────────────── all the time ─────────────────────────────►
leader, follower, leader, …   SIGTERM ── exit ── restart ── caught up ── look at every key ──►  the next
```

Each writer goes round and round its own keys and writes the number of its put into the value. What a key holds has to be at
least as new as the last put to it that was acknowledged before the read began. A put whose fate is unknown may still
happen, so its key is not used any more.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pytinykv.cli.bench.workload import percentile
from pytinykv.cli.playground.cluster import last_lines
from pytinykv.cli.playground.observe import STORE_PAGE, StoreFacts, read_page
from pytinykv.client import ClientError
from pytinykv.client.errors import UndeterminedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytinykv.aio import AsyncClient
    from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
    from pytinykv.lifecycle import Scope

WRITERS: Final = 64
KEYS_PER_WRITER: Final = 1000
P99_S_MAX: Final = 2.0
WORST_S_MAX: Final = 5.0
LEFT_NOTHING: Final = "stopped, nothing left behind"
_PREFIX: Final = b"stop-"
_AFTER: Final = b"stop."
_RAMP_S: Final = 0.5
"""How long the load runs on a whole cluster before the next stop."""
_EXIT_S: Final = 10.0
"""A store that takes longer to stop is killed, and has failed."""
_CATCH_UP_S: Final = 30.0
_PAGE_S: Final = 1.0
_POLL_S: Final = 0.05
_PAUSE_S: Final = 0.02


@dataclass(frozen=True)
class Stop:
    """How one store stopped."""

    store: str
    was_leader: bool
    seconds: float
    """From the signal to the exit."""
    status: int | None
    """The exit status, negative for a signal; None if it had to be killed."""
    left_nothing: bool
    """Whether its report says so."""
    log: str = field(repr=False)
    """The last lines of its log, if it did not stop as it should."""

    @property
    def ok(self) -> bool:
        return self.status == 0 and self.left_nothing and self.seconds <= WORST_S_MAX


class Ledger:
    """Which put was the last to be acknowledged, key by key. Numbers of puts begin with 1 and only grow."""

    def __init__(self, writers: int = WRITERS, keys: int = KEYS_PER_WRITER) -> None:
        self._acknowledged: Final = [[0] * keys for _ in range(writers)]
        self._keys: Final = keys
        self._doubtful: Final[set[tuple[int, int]]] = set()
        """Writer and slot of puts that may still happen; their keys get no further put. Only grows."""
        self.acknowledged = 0
        """How many puts were acknowledged, over all keys."""
        self.refused = 0
        """Puts that failed and surely were not executed."""
        self.stale_reads = 0
        """Reads that found less than what was acknowledged before they began."""
        self.lost: Final[set[bytes]] = set()
        """Keys that do not hold what was acknowledged."""

    @property
    def undetermined(self) -> int:
        """Puts that ended without an answer that tells."""
        return len(self._doubtful)

    def slots(self, writer: int) -> Iterator[int]:
        """Yield a writer's places for ever, round and round, without those whose key is in doubt."""
        while True:
            for slot in range(self._keys):
                if (writer, slot) not in self._doubtful:
                    yield slot

    def acknowledge(self, writer: int, slot: int, number: int) -> None:
        self._acknowledged[writer][slot] = number
        self.acknowledged += 1

    def doubt(self, writer: int, slot: int) -> None:
        """Note that a put may have happened, or may still happen."""
        self._doubtful.add((writer, slot))

    def pick(self, rng: random.Random) -> tuple[bytes, int]:
        """Return some key, and the put that it has to hold at least."""
        writer, slot = rng.randrange(len(self._acknowledged)), rng.randrange(self._keys)
        return key_of(writer, slot), self._acknowledged[writer][slot]

    def expected(self) -> dict[bytes, int]:
        """Return what was acknowledged so far: the number of the put that each key has to hold at least."""
        return {
            key_of(writer, slot): number
            for writer, numbers in enumerate(self._acknowledged)
            for slot, number in enumerate(numbers)
            if number
        }

    async def check(self, client: AsyncClient) -> None:
        """Read all keys and note those that hold less than what was acknowledged before. Raises ClientError."""
        missing = self.expected()
        async for key, value in client.raw.scan(_PREFIX, _AFTER):
            if number_in(value) >= missing.get(key, 0):
                missing.pop(key, None)
        self.lost.update(missing)


@dataclass
class StopFigures:
    """All stops of a run, and what became of the writes meanwhile."""

    ledger: Ledger
    stops: list[Stop] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """How long the stops took, shortest first."""
        return sorted(stop.seconds for stop in self.stops)

    def problems(self) -> Iterator[str]:
        """Yield what is not as promised, each with the log of the store that it is about."""
        for number, stop in enumerate(self.stops, 1):
            if not stop.ok:
                yield f"stop {number}: {_describe(stop)}; its log ends with\n{stop.log}"
        if (p99 := percentile(self.seconds, 0.99)) > P99_S_MAX:
            yield f"the p99 of the stops is {p99:.2f} s, more than {P99_S_MAX:g} s"
        ledger = self.ledger
        if ledger.lost:
            yield f"acknowledged writes are lost: {len(ledger.lost)} keys, {min(ledger.lost)!r} among them"
        if ledger.stale_reads:
            yield f"{ledger.stale_reads} reads found less than what was acknowledged before they began"

    def as_json(self) -> dict[str, Any]:
        seconds, ledger = self.seconds, self.ledger
        return {
            "stops": len(self.stops),
            "seconds": {name: round(percentile(seconds, at), 3) for name, at in _PERCENTILES},
            "statuses": {str(status): count for status, count in _count([stop.status for stop in self.stops]).items()},
            "left_nothing_behind": sum(stop.left_nothing for stop in self.stops),
            "acknowledged_puts": ledger.acknowledged,
            "lost_keys": len(ledger.lost),
            "stale_reads": ledger.stale_reads,
            "undetermined_puts": ledger.undetermined,
            "refused_puts": ledger.refused,
            "each": [
                {"store": stop.store, "leader": stop.was_leader, "seconds": round(stop.seconds, 3), "ok": stop.ok}
                for stop in self.stops
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield what a reader wants to know."""
        for role, was_leader in (("leaders", True), ("followers", False)):
            seconds = sorted(stop.seconds for stop in self.stops if stop.was_leader is was_leader)
            spread = ", ".join(f"{name} {percentile(seconds, at):.2f} s" for name, at in _PERCENTILES)
            yield f"stops of {role} under load: {len(seconds)}, {spread}"
        statuses = ", ".join(f"{count} × {status}" for status, count in _count([s.status for s in self.stops]).items())
        left = sum(stop.left_nothing for stop in self.stops)
        yield f"exit statuses: {statuses}; {left} of {len(self.stops)} left nothing behind"
        ledger = self.ledger
        yield (
            f"puts acknowledged meanwhile: {ledger.acknowledged:,}; keys that lost one: {len(ledger.lost)}; "
            f"stale reads: {ledger.stale_reads}; puts of unknown fate: {ledger.undetermined}, refused: {ledger.refused}"
        )


_PERCENTILES: Final = (("p50", 0.5), ("p99", 0.99), ("worst", 1.0))


def _count(values: list[int | None]) -> dict[str, int]:
    names = ["killed" if value is None else f"exit {value}" for value in values]
    return {name: names.count(name) for name in sorted(set(names))}


def _describe(stop: Stop) -> str:
    role = "leader" if stop.was_leader else "follower"
    end = "had to be killed" if stop.status is None else f"exit {stop.status}"
    left = "nothing left behind" if stop.left_nothing else "its log does not say that nothing is left behind"
    return f"{stop.store} ({role}), {stop.seconds:.2f} s, {end}, {left}"


def key_of(writer: int, slot: int) -> bytes:
    return b"%s%02d-%06d" % (_PREFIX, writer, slot)


def value_of(number: int, size_bytes: int) -> bytes:
    """Return a value that tells the number of its put."""
    return b"%012d" % number + bytes(max(0, size_bytes - 12))


def number_in(value: bytes) -> int:
    return int(value[:12])


async def measure_stops(
    cluster: LocalCluster,
    client: AsyncClient,
    scope: Scope,
    count: int,
    value_bytes: int,
    on_progress: Callable[[int], None],
) -> StopFigures:
    """Stop a leader, then a follower, and so on, `count` times, under load; return how that went.

    Raises ClientError, PlaygroundError, TimeoutError: the cluster does not serve, or a store does not come back.
    """
    ledger = Ledger()
    figures = StopFigures(ledger)
    load = scope.child("load")
    for writer in range(WRITERS):
        load.start(f"writer-{writer}", _write, client, ledger, writer, value_bytes)
    load.start("reader", _read, client, ledger)
    for number in range(count):
        await asyncio.sleep(_RAMP_S)
        victim, was_leader = await _pick(cluster, number)
        figures.stops.append(await _stop(victim, was_leader=was_leader))
        await cluster.restart(victim)
        await _wait_caught_up(cluster, victim.name)
        await ledger.check(client)
        on_progress(number + 1)
    await load.stop()
    await ledger.check(client)
    return figures


async def _write(client: AsyncClient, ledger: Ledger, writer: int, value_bytes: int) -> None:
    for number, slot in enumerate(ledger.slots(writer), 1):
        try:
            await client.raw.put(key_of(writer, slot), value_of(number, value_bytes))
        except UndeterminedError:
            ledger.doubt(writer, slot)
        except ClientError:
            ledger.refused += 1
            await asyncio.sleep(_PAUSE_S)
        else:
            ledger.acknowledge(writer, slot, number)


async def _read(client: AsyncClient, ledger: Ledger) -> None:
    rng = random.Random(0)
    while True:
        key, number = ledger.pick(rng)
        try:
            value = await client.raw.get(key)
        except ClientError:
            await asyncio.sleep(_PAUSE_S)
        else:
            ledger.stale_reads += (0 if value is None else number_in(value)) < number


async def _pick(cluster: LocalCluster, number: int) -> tuple[ServerProcess, bool]:
    """Return the leader for an even number, else a follower, in turns; and whether it leads."""
    async with asyncio.timeout(_CATCH_UP_S):
        while (leader := _leader(await _pages(cluster))) is None:  # noqa: ASYNC110 - it is other processes that decide
            await asyncio.sleep(_POLL_S)
    if number % 2 == 0:
        return cluster.stores[leader], True
    followers = [store for index, store in enumerate(cluster.stores) if index != leader]
    return followers[number // 2 % len(followers)], False


async def _stop(process: ServerProcess, *, was_leader: bool) -> Stop:
    told_before = process.log.stat().st_size
    started = time.monotonic()
    process.child.terminate()
    status: int | None
    try:
        status = await process.child.wait(_EXIT_S)
    except TimeoutError:
        status = None
    seconds = time.monotonic() - started
    if status is None:
        await process.child.stop(0.0)
    left_nothing = LEFT_NOTHING in process.log.read_bytes()[told_before:].decode(errors="replace")
    stop = Stop(process.name, was_leader, seconds, status, left_nothing, log="")
    return stop if stop.ok else Stop(process.name, was_leader, seconds, status, left_nothing, last_lines(process.log))


async def _wait_caught_up(cluster: LocalCluster, name: str) -> None:
    """Wait until a restarted store has applied what the leader had when it came back. Raises TimeoutError."""
    index = next(index for index, store in enumerate(cluster.stores) if store.name == name)
    wanted: int | None = None
    async with asyncio.timeout(_CATCH_UP_S):
        while True:
            pages = await _pages(cluster)
            leader = _leader(pages)
            if wanted is None and leader is not None:
                wanted = _applied(pages[leader])
            if wanted is not None and _applied(pages[index]) >= wanted:
                return
            await asyncio.sleep(_POLL_S)


async def _pages(cluster: LocalCluster) -> list[StoreFacts]:
    """Return what each store tells; nothing of one that does not answer."""
    pages = []
    for store in cluster.stores:
        try:
            async with asyncio.timeout(_PAGE_S):
                pages.append(await read_page(store.facts.get("status", ""), STORE_PAGE, StoreFacts))
        except (OSError, TimeoutError, ValueError):
            pages.append(StoreFacts())
    return pages


def _leader(pages: list[StoreFacts]) -> int | None:
    """Return which store leads the first region: of those that say so, the one in the highest term."""
    claims = [
        (page.regions[0].term, index) for index, page in enumerate(pages) if page.regions and page.regions[0].is_leader
    ]
    return max(claims)[1] if claims else None


def _applied(page: StoreFacts) -> int:
    return page.regions[0].applied if page.regions else 0
