"""What the clients of a simulated cluster do. Every operation goes through a `Session`, which writes the history down.

Two workloads:

* `AppendWorkload` is that of TinyKV's `test_raftstore`: each client puts new keys of its own, one after the other, and
  every so often scans them and wants exactly what it has put. Afterwards it checks and deletes them.
* `RegisterWorkload` lets clients quarrel over a few keys (get, put, delete, compare-and-swap), which is what makes a
  history worth searching for a violation of linearizability.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

from pytinykv.client.errors import ClientClosedError, ClientError
from pytinykv.simulation.checkers import CompareAndSwap
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause
from pytinykv.simulation.history import RawHistory

T = TypeVar("T")
LATE_S = 0.1
"""How long after its deadline a call may end: a few turns of the client's loop."""


class RawPort(Protocol):
    """The raw operations of a client, as far as workloads use them."""

    async def get(self, key: bytes, *, timeout_s: float) -> bytes | None: ...

    async def put(self, key: bytes, value: bytes, *, timeout_s: float, ttl: int = 0) -> None: ...

    async def delete(self, key: bytes, *, timeout_s: float) -> None: ...

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, *, timeout_s: float, ttl: int = 0
    ) -> CompareAndSwap: ...

    async def ttl(self, key: bytes, *, timeout_s: float) -> int | None: ...

    async def batch_get(self, keys: Sequence[bytes], *, timeout_s: float) -> dict[bytes, bytes]: ...

    async def batch_put(self, pairs: dict[bytes, bytes], *, timeout_s: float) -> None: ...

    async def batch_delete(self, keys: Sequence[bytes], *, timeout_s: float) -> None: ...

    async def delete_range(self, start: bytes, end: bytes, *, timeout_s: float) -> None: ...

    async def checksum(self, start: bytes, end: bytes, *, timeout_s: float) -> tuple[int, int, int]: ...

    async def scan(self, start: bytes, end: bytes, *, timeout_s: float) -> list[tuple[bytes, bytes]]: ...


class Session:
    """One client: its name, its port, and the history it writes."""

    def __init__(
        self, name: str, port: RawPort, history: RawHistory, *, timeout_s: float, late_s: float = LATE_S
    ) -> None:
        self.name = name
        self.port = port
        self.history = history
        self.timeout_s = timeout_s
        self.late_s = late_s

    async def get(self, key: bytes) -> bytes | None:
        return await self._record("get", [(key,)], self.port.get(key, timeout_s=self.timeout_s), lambda got: [got])

    async def put(self, key: bytes, value: bytes, *, ttl: int = 0) -> None:
        call = self.port.put(key, value, timeout_s=self.timeout_s, ttl=ttl)
        await self._record("put", [(key, value, ttl)], call, lambda _: [None])

    async def ttl(self, key: bytes) -> int | None:
        return await self._record("ttl", [(key,)], self.port.ttl(key, timeout_s=self.timeout_s), lambda left: [left])

    async def batch_get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        call = self.port.batch_get(keys, timeout_s=self.timeout_s)
        return await self._record("get", [(key,) for key in keys], call, lambda got: [got.get(key) for key in keys])

    async def batch_put(self, pairs: dict[bytes, bytes]) -> None:
        call = self.port.batch_put(pairs, timeout_s=self.timeout_s)
        await self._record("put", list(pairs.items()), call, lambda _: [None] * len(pairs))

    async def batch_delete(self, keys: Sequence[bytes]) -> None:
        call = self.port.batch_delete(keys, timeout_s=self.timeout_s)
        await self._record("delete", [(key,) for key in keys], call, lambda _: [None] * len(keys))

    async def delete_range(self, start: bytes, end: bytes, keys: Sequence[bytes]) -> None:
        """Delete a range, and record it as a deletion of each of `keys`: all that are ever written in it."""
        call = self.port.delete_range(start, end, timeout_s=self.timeout_s)
        await self._record("delete", [(key,) for key in keys], call, lambda _: [None] * len(keys))

    async def delete(self, key: bytes) -> None:
        await self._record("delete", [(key,)], self.port.delete(key, timeout_s=self.timeout_s), lambda _: [None])

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, *, ttl: int = 0
    ) -> CompareAndSwap:
        call = self.port.compare_and_swap(key, expected, value, timeout_s=self.timeout_s, ttl=ttl)
        return await self._record("cas", [(key, expected, value, ttl)], call, lambda answer: [answer])

    async def scan(self, start: bytes, end: bytes, wanted: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Scan, and record a read of each of the `wanted` keys in the range."""

        def outputs(pairs: list[tuple[bytes, bytes]]) -> list[bytes | None]:
            found = dict(pairs)
            return [found.get(key) for key in wanted]

        call = self.port.scan(start, end, timeout_s=self.timeout_s)
        pages_max = 1 + len(wanted)  # each has the whole time
        return await self._record("get", [(key,) for key in wanted], call, outputs, timeouts=pages_max)

    async def _record(
        self,
        kind: str,
        arguments: list[tuple[Any, ...]],
        call: Awaitable[T],
        outputs: Callable[[T], Sequence[Any]],
        *,
        timeouts: int = 1,
    ) -> T:
        event = self.history.invoke(self.name, kind, arguments)
        loop = asyncio.get_running_loop()
        due_at = loop.time() + self.timeout_s * timeouts + self.late_s
        try:
            result = await call
        except ClientError as error:
            self._check_in_time(kind, due_at)
            if error.undetermined:
                self.history.lose(event)
            else:
                self.history.fail(event)
            raise
        except BaseException:
            self.history.lose(event)
            raise
        self._check_in_time(kind, due_at)
        self.history.complete(event, outputs(result))
        return result

    def _check_in_time(self, kind: str, due_at: float) -> None:
        late_s = asyncio.get_running_loop().time() - due_at
        if late_s > 0:
            raise Violation("deadline", f"{kind} of {self.name} came {late_s + self.late_s:.3f} s after its deadline")


async def until_done(operation: Callable[[], Awaitable[T]], *, limit_s: float, what: str) -> T:
    """Repeat an operation until it succeeds. Only for those that may be repeated: each key here has one writer.

    Raises `Violation` (liveness) when that takes longer than `limit_s` virtual seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        try:
            return await operation()
        except ClientError as error:
            if loop.time() > deadline:
                raise Violation("liveness", f"{what} did not succeed in {limit_s} s; last: {error!r}") from error
        await asyncio.sleep(0.02)


class Workload(Protocol):
    """What a client does until it is told to stop."""

    async def run(self, stop: asyncio.Event) -> None: ...


class AppendWorkload:
    """One client's keys `<client> <round> <number>`: puts them in order, scans them, deletes them."""

    def __init__(self, session: Session, rng: Random, *, think_s: float, success_within_s: float) -> None:
        self._session = session
        self._rng = rng
        self._think_s = think_s
        self._success_within_s = success_within_s
        self._round = 0
        """Of the round under way, from 1."""
        self._count = 0
        """Keys put in this round; all of them were acknowledged."""

    def _key(self, number: int) -> bytes:
        return b"%s %d %08d" % (self._session.name.encode(), self._round, number)

    def _value(self, number: int) -> bytes:
        return b"x %s %d %d y" % (self._session.name.encode(), self._round, number)

    async def run(self, stop: asyncio.Event) -> None:
        """Put and scan until `stop`."""
        self._round += 1
        self._count = 0
        while not stop.is_set():
            if self._rng.random() < 0.5:
                await self._put_next()
            else:
                await self.check()
            await pause(stop, self._rng.expovariate(1.0) * self._think_s)

    async def _put_next(self) -> None:
        key, value = self._key(self._count), self._value(self._count)
        await self._repeat(lambda: self._session.put(key, value), "put")
        self._count += 1

    async def check(self) -> None:
        """Scan this round's keys: every acknowledged put is there once, in order, and nothing else."""
        wanted = [self._key(number) for number in range(self._count)]
        pairs = await self._repeat(lambda: self._session.scan(self._key(0), self._key(self._count), wanted), "scan")
        expected = [(key, self._value(number)) for number, key in enumerate(wanted)]
        if pairs != expected:
            missing = [key for key in wanted if key not in dict(pairs)]
            raise Violation(
                "appends",
                f"{self._session.name} put {len(wanted)} keys and sees {len(pairs)}; missing {missing[:3]}, "
                f"too many {[key for key, _ in pairs if key not in wanted][:3]}",
            )

    async def clean_up(self) -> None:
        """Check once more, by a checksum too, then delete this round's keys."""
        await self.check()
        if self._count:
            await self._check_sum()
        for number in range(self._count):
            key = self._key(number)
            await self._repeat(lambda key=key: self._session.delete(key), "delete")  # type: ignore[misc] # key is bound

    async def _check_sum(self) -> None:
        port, timeout_s = self._session.port, self._session.timeout_s
        _, pairs, size_bytes = await self._repeat(
            lambda: port.checksum(self._key(0), self._key(self._count), timeout_s=timeout_s), "checksum"
        )
        wanted_bytes = sum(len(self._key(number)) + len(self._value(number)) for number in range(self._count))
        if (pairs, size_bytes) != (self._count, wanted_bytes):
            raise Violation(
                "appends",
                f"{self._session.name} put {self._count} keys, {wanted_bytes} bytes; "
                f"the checksum is of {pairs} keys, {size_bytes} bytes",
            )

    async def _repeat(self, operation: Callable[[], Awaitable[T]], what: str) -> T:
        return await until_done(operation, limit_s=self._success_within_s, what=f"{what} of {self._session.name}")


class RivalWorkload(ABC):
    """One of several clients on the same few keys. Failures are part of the game: nothing is repeated."""

    def __init__(self, session: Session, rng: Random, *, keys: Sequence[bytes], think_s: float) -> None:
        self._session = session
        self._rng = rng
        self._keys = keys
        """Sorted; what all rivals operate on."""
        self._think_s = think_s
        self._written = 0
        """Numbers this client's operations, so that its values can be told apart."""

    async def run(self, stop: asyncio.Event) -> None:
        """Operate until `stop`."""
        while not stop.is_set():
            self._written += 1
            try:
                await self._operate()
            except ClientClosedError:
                return
            except ClientError:
                await pause(stop, 0.02)
            await pause(stop, self._pause_s())

    def _value(self, word: bytes = b"") -> bytes:
        """Return the value of this operation; no other one puts it."""
        return b" ".join(filter(None, (self._session.name.encode(), word, b"%d" % self._written)))

    def _pause_s(self) -> float:
        return self._rng.expovariate(1.0) * self._think_s

    @abstractmethod
    async def _operate(self) -> None:
        """Draw an operation and run it."""


class RegisterWorkload(RivalWorkload):
    """Gets, puts, deletes and compare-and-swaps of single keys."""

    def __init__(
        self, session: Session, rng: Random, *, keys: int, think_s: float, prefix: bytes = b"register"
    ) -> None:
        super().__init__(session, rng, keys=[b"%s %d" % (prefix, number) for number in range(keys)], think_s=think_s)

    async def _operate(self) -> None:
        rng, session = self._rng, self._session
        key, value = rng.choice(self._keys), self._value()
        draw = rng.random()
        if draw < 0.45:
            await session.get(key)
        elif draw < 0.75:
            await session.put(key, value)
        elif draw < 0.8:
            await session.delete(key)
        else:
            await session.compare_and_swap(key, await session.get(key), value)
