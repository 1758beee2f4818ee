"""Clients that quarrel over a few keys, ours and tikv-python's, in one history that is judged for linearizability.

As with `Load`, they run in a thread with a loop of its own, so that a test can do its harm in plain, blocking code.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from types import TracebackType
from typing import Final, Self

import tikv
from tests.process.cluster import wait_until
from tests.process.load import END_S, OPERATION_S, PROGRESS_S, start_engine
from tests.process.theirs import TheirPort

from pytinykv import aio
from pytinykv.simulation.checkers import CompareAndSwap
from pytinykv.simulation.history import RawHistory
from pytinykv.simulation.workloads import RawPort, RegisterWorkload, Session

LATE_S: Final = 10.0
"""How late a call may end, on machines that are busy with other things: this is no measurement."""
THINK_S: Final = 0.002


class OurPort:
    """Our client's raw operations, as the simulator's workloads use them."""

    def __init__(self, db: aio.AsyncClient) -> None:
        self._raw = db.raw

    async def get(self, key: bytes, *, timeout_s: float) -> bytes | None:
        return await self._raw.get(key, timeout=timeout_s)

    async def put(self, key: bytes, value: bytes, *, timeout_s: float, ttl: int = 0) -> None:
        assert ttl == 0, "values here stay"
        await self._raw.put(key, value, timeout=timeout_s)

    async def delete(self, key: bytes, *, timeout_s: float) -> None:
        await self._raw.delete(key, timeout=timeout_s)

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, *, timeout_s: float, ttl: int = 0
    ) -> CompareAndSwap:
        assert ttl == 0, "values here stay"
        answer = await self._raw.compare_and_swap(key, expected, value, timeout=timeout_s)
        return CompareAndSwap(succeeded=answer.swapped, previous=answer.previous)

    async def scan(self, start: bytes, end: bytes, *, timeout_s: float) -> list[tuple[bytes, bytes]]:
        return [pair async for pair in self._raw.scan(start, end, timeout=timeout_s)]


class Quarrel:
    """Clients that read, write and swap the same few keys, each on connections of its own; their history is judged."""

    _runs = itertools.count()

    def __init__(
        self, address: str, *, ours: int = 3, theirs: int = 2, keys: int = 4, timeout_s: float = OPERATION_S
    ) -> None:
        asyncio.run(start_engine())
        self._address = address
        self._prefix = b"quarrel %d" % next(Quarrel._runs)
        """No key was used by an earlier history: each begins with nothing."""
        self._ours = ours
        self._theirs = theirs
        self._timeout_s = timeout_s
        self._keys = keys
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="quarrel")
        self.history = RawHistory()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._over is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(END_S)
        assert not self._thread.is_alive(), "a client does not end"
        if error is None and self._error is not None:
            raise self._error

    def wait_progress(self, count: int = 200) -> None:
        """Wait until so many more operations were begun."""
        goal = self.history.invoked + count
        wait_until(
            lambda: self._error is not None or self.history.invoked >= goal,
            within_s=PROGRESS_S,
            what=lambda: f"operations go on; {self.history.invoked} were begun",
        )

    def check(self) -> int:
        """Check that the history is linearizable; return how many operations it has."""
        return self.history.check()

    def _run(self) -> None:
        try:
            asyncio.run(self._quarrel())
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._error = error

    async def _quarrel(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(self._ours):
                group.create_task(self._run_ours(number, self._over))
            for number in range(self._theirs):
                group.create_task(self._run_theirs(number, self._over))

    async def _run_ours(self, number: int, over: asyncio.Event) -> None:
        async with aio.connect(self._address, timeout=OPERATION_S) as db:
            await self._operate(f"ours-{number}", OurPort(db), over)

    async def _run_theirs(self, number: int, over: asyncio.Event) -> None:
        name = f"tikv-python-{number}"
        async with tikv.AsyncRawClient([self._address], timeout=self._timeout_s, atomic=True) as client:
            await self._operate(name, TheirPort(name, client, self.history), over)

    async def _operate(self, name: str, port: RawPort, over: asyncio.Event) -> None:
        session = Session(name, port, self.history, timeout_s=self._timeout_s, late_s=LATE_S)
        await RegisterWorkload(session, random.Random(name), keys=self._keys, think_s=THINK_S, prefix=self._prefix).run(
            over
        )
