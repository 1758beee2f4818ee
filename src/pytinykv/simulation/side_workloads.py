"""Clients with special tasks, beside those of `workloads`.

* `ImpatientWorkload` cancels each of its operations at the n-th await, for n = 1, 2, 3 … until one gets through.
* `SchedulerWorkload` takes timestamps and ids: the first only ever grow, the second come once, alone or in blocks.
* `ExpiryWorkload` puts values that expire, and others over them just when the sweep deletes what has expired.
* `TtlWorkload` lets clients quarrel over values that end: it reads them about that time, renews them, swaps over them.
* `BatchWorkload` does to several keys at once what `RegisterWorkload` does to one.
* `RecurringWorkload` swaps among a few values, which come back: an entry that is applied twice shows.
* `watch_scheduler` looks at what the scheduler believes of each region: it never goes back to an older epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from pytinykv.client.errors import ClientClosedError, ClientError
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause
from pytinykv.simulation.workloads import RivalWorkload, Session, until_done
from pytinykv.wire.pb import pdpb_pb2

if TYPE_CHECKING:
    from pytinykv.client.async_client import AsyncClient
    from pytinykv.simulation.cluster import Cluster

T = TypeVar("T")
AWAITS_MAX = 40


class _CancelledAt:
    """Runs a coroutine and cancels the task it runs in when it waits for the n-th time (from 1)."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], number: int) -> None:
        self._coroutine = coroutine
        self._left = number
        """Waits before the cancellation; 0 or less once it was ordered."""

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        waits_for = next(steps)
        try:
            while True:
                self._left -= 1
                if self._left == 0:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                try:
                    value = yield waits_for
                except BaseException as error:  # noqa: BLE001 - handed to where it belongs
                    waits_for = steps.throw(error)
                else:
                    waits_for = steps.send(value)
        except StopIteration as end:
            return end.value


async def cancel_at(coroutine: Coroutine[Any, Any, T], number: int) -> bool:
    """Run a coroutine that is cancelled at its n-th wait. Returns whether it got there; else it came to its end before."""
    task = asyncio.current_task()
    assert task is not None
    wrapped = _CancelledAt(coroutine, number)
    try:
        await wrapped
    except asyncio.CancelledError:
        if wrapped._left > 0:  # noqa: SLF001 - one module; another task has cancelled
            raise
        task.uncancel()
        return True
    return wrapped._left <= 0  # noqa: SLF001 - one module


class ImpatientWorkload:
    """Cancels its operations at every await, one after the other. Whatever it leaves must not disturb other clients."""

    def __init__(self, session: Session, rng: Random, *, keys: int, think_s: float) -> None:
        self._session = session
        self._rng = rng
        self._keys = [b"register %d" % number for number in range(keys)]
        self._think_s = think_s
        self._written = 0
        """Numbers the values, so that each is unique."""
        self._next = dict.fromkeys(("get", "put", "cas", "scan"), 1)
        """Operation -> the await at which the next one is cancelled."""
        self.cancelled = 0
        """How many were cancelled."""

    async def run(self, stop: asyncio.Event) -> None:
        """Operate until `stop`."""
        while not stop.is_set():
            kind = self._rng.choice(sorted(self._next))
            number = self._next[kind]
            reached = True
            try:
                reached = await cancel_at(self._operation(kind), number)
            except ClientClosedError:
                return
            except ClientError:
                pass
            self.cancelled += reached
            self._next[kind] = number + 1 if reached and number < AWAITS_MAX else 1
            await pause(stop, self._rng.expovariate(1.0) * self._think_s)

    async def _operation(self, kind: str) -> None:
        key = self._rng.choice(self._keys)
        self._written += 1
        value = b"%s impatient %d" % (self._session.name.encode(), self._written)
        if kind == "get":
            await self._session.get(key)
        elif kind == "put":
            await self._session.put(key, value)
        elif kind == "cas":
            await self._session.compare_and_swap(key, None, value)
        else:
            await self._session.scan(self._keys[0], b"register~", self._keys)


class SchedulerWorkload:
    """Timestamps and ids, of all clients of a history together."""

    def __init__(self) -> None:
        self._newest = 0
        """The greatest timestamp that any client got."""
        self._ids: set[int] = set()
        """All ids that any client got."""

    async def run(self, client: AsyncClient, rng: Random, stop: asyncio.Event, *, think_s: float) -> None:
        """Ask until `stop`. Raises `Violation`."""
        while not stop.is_set():
            try:
                if rng.random() < 0.7:
                    await self._take_timestamps(client, rng.choice([1, 1, 3, 1000]))
                else:
                    await self._take_ids(client, rng.choice([1, 1, 2, 50]))
            except ClientClosedError:
                return
            except ClientError as error:
                if "back in time" in str(error):  # the client looks, too
                    raise Violation("timestamps", str(error)) from error
                await pause(stop, 0.05)
            await pause(stop, rng.expovariate(1.0) * think_s)

    async def _take_timestamps(self, client: AsyncClient, count: int) -> None:
        floor = self._newest
        taken = [int(each) for each in await client.scheduler.timestamps(count, 1.0)]
        if taken != sorted(set(taken)) or taken[0] <= floor:
            raise Violation("timestamps", f"got {taken[0]} … {taken[-1]} although {floor} had been given out before")
        self._newest = max(self._newest, taken[-1])

    async def _take_ids(self, client: AsyncClient, count: int) -> None:
        request = pdpb_pb2.AllocIDRequest(count=count)
        last = (await client.scheduler.call("AllocID", request, pdpb_pb2.AllocIDResponse, 1.0)).id
        block = range(last - count + 1, last + 1)
        if again := self._ids.intersection(block):
            raise Violation("ids", f"id {min(again)} was given out twice")
        self._ids.update(block)

    async def check_alive(self, client: AsyncClient, limit_s: float) -> None:
        """Take a timestamp and an id, which must succeed within `limit_s` virtual seconds. Raises `Violation`."""
        await until_done(lambda: self._take_timestamps(client, 1), limit_s=limit_s, what="a timestamp")
        await until_done(lambda: self._take_ids(client, 1), limit_s=limit_s, what="an id")


class TtlWorkload(RivalWorkload):
    """Values that live for a second or two."""

    def __init__(self, session: Session, rng: Random, *, keys: int, think_s: float) -> None:
        super().__init__(session, rng, keys=[b"ends %d" % number for number in range(keys)], think_s=think_s)

    def _pause_s(self) -> float:
        """Most pauses end shortly before or after a second is full, when values end."""
        now = asyncio.get_running_loop().time()
        next_end_s = 1.0 - now % 1.0 + self._rng.uniform(-0.02, 0.02)
        return self._rng.choice([max(0.0, next_end_s), super()._pause_s()])

    async def _operate(self) -> None:
        rng, session = self._rng, self._session
        key, value = rng.choice(self._keys), self._value(b"ends")
        draw = rng.random()
        if draw < 0.35:
            await session.get(key)
        elif draw < 0.45:
            await session.ttl(key)
        elif draw < 0.7:
            await session.put(key, value, ttl=rng.choice([0, 1, 1, 2]))
        elif draw < 0.75:
            await session.delete(key)
        else:
            expected = rng.choice([None, await session.get(key)])
            await session.compare_and_swap(key, expected, value, ttl=rng.choice([0, 1]))


class BatchWorkload(RivalWorkload):
    """Batches and ranges."""

    def __init__(self, session: Session, rng: Random, *, keys: int, think_s: float) -> None:
        super().__init__(session, rng, keys=[b"batch %d" % number for number in range(keys)], think_s=think_s)

    async def _operate(self) -> None:
        rng, session = self._rng, self._session
        some = sorted(rng.sample(self._keys, rng.randint(1, len(self._keys))))
        draw = rng.random()
        if draw < 0.4:
            await session.batch_get(some)
        elif draw < 0.8:
            await session.batch_put(dict.fromkeys(some, self._value()))
        elif draw < 0.9:
            await session.batch_delete(some)
        else:
            covered = [key for key in self._keys if some[0] <= key <= some[-1]]
            await session.delete_range(some[0], some[-1] + b"\0", covered)


class RecurringWorkload(RivalWorkload):
    """Compare-and-swaps among three values, on one key; each is likely to find what it expects."""

    KEY = b"recurring"
    VALUES = (b"a", b"b", b"c")

    def __init__(self, session: Session, rng: Random, *, think_s: float) -> None:
        super().__init__(session, rng, keys=[self.KEY], think_s=think_s)

    async def _operate(self) -> None:
        rng, session = self._rng, self._session
        if rng.random() < 0.2:
            await session.get(self.KEY)
        else:
            await session.compare_and_swap(self.KEY, rng.choice([None, *self.VALUES]), rng.choice(self.VALUES))


class ExpiryWorkload:
    """One client's keys: each lives for a second, is put again without an end about when it is swept away, and is there."""

    TTL_S = 1

    def __init__(
        self,
        session: Session,
        put: Callable[[bytes, bytes, int], Awaitable[None]],
        rng: Random,
        *,
        keys: int,
        sweep_s: float,
        success_within_s: float,
    ) -> None:
        self._session = session
        self._put = put
        self._rng = rng
        self._keys = [b"%s expires %d" % (session.name.encode(), number) for number in range(keys)]
        self._sweep_s = sweep_s
        self._success_within_s = success_within_s
        self._round = 0
        """Numbers the values that last."""

    async def run(self, stop: asyncio.Event) -> None:
        """Put, let expire, put again, look. Raises `Violation` (expiry)."""
        while not stop.is_set():
            self._round += 1
            for key in self._keys:
                await self._repeat(lambda key=key: self._put(key, b"short", self.TTL_S), "put of a short life")  # type: ignore[misc] # bound
            await asyncio.sleep(1.5 * self.TTL_S * self._rng.random())
            lasting = b"lasting %d" % self._round
            for key in self._keys:
                await self._repeat(lambda key=key, value=lasting: self._put(key, value, 0), "put")  # type: ignore[misc] # bound
                await asyncio.sleep(self._rng.expovariate(1.0) * self._sweep_s / len(self._keys))
            for key in self._keys:
                found = await self._repeat(lambda key=key: self._session.port.get(key, timeout_s=1.0), "get")  # type: ignore[misc] # bound
                if found != lasting:
                    raise Violation("expiry", f"{key!r} is {found!r} although it was put without an end")

    async def _repeat(self, operation: Callable[[], Awaitable[T]], what: str) -> T:
        return await until_done(operation, limit_s=self._success_within_s, what=f"{what} of {self._session.name}")


async def watch_scheduler(cluster: Cluster, stop: asyncio.Event) -> None:
    """Look at the scheduler's regions until `stop`. Raises `Violation` when one goes back in time."""
    incarnation = 0
    epochs: dict[int, tuple[int, int]] = {}
    while not stop.is_set():
        node = cluster.scheduler
        if node.is_up and node.scheduler is not None and node.process is not None:
            if node.process.incarnation != incarnation:
                incarnation, epochs = node.process.incarnation, {}
            for region in node.scheduler.cluster.regions:
                epoch = (region.meta.epoch.version, region.meta.epoch.conf_ver)
                if epoch < epochs.get(region.id, epoch):
                    raise Violation("scheduler", f"region {region.id} went from epoch {epochs[region.id]} to {epoch}")
                epochs[region.id] = epoch
        await pause(stop, 0.05)
