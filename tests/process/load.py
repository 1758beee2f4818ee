"""Clients that write while servers are killed, and know afterwards what must be there.

A `Load` runs in a thread with a loop of its own, so that a test can do its harm in plain, blocking code. Each writer puts
keys that no other client touches, one after the other, each once; and it overwrites one key of its own with a growing number.
What was acknowledged must be there afterwards; what failed with an unknown outcome may be there.

gRPC's engine is started by the test's own thread: which descriptors are the engine's can be told only while no other thread
opens any.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import tikv
from tests.process.cluster import wait_until

import pytinykv
from pytinykv import aio
from pytinykv.client.errors import ClientError
from pytinykv.transport.rpc.engine import keep_engine

PROGRESS_S: Final = 60.0
OPERATION_S: Final = 20.0
END_S: Final = 60.0


async def start_engine() -> None:
    keep_engine()


class Writer:
    """What one client wrote and was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.acknowledged: dict[bytes, bytes] = {}
        self.counter = 0
        """The last acknowledged number of the key that is overwritten."""
        self.attempted = 0
        self.failures: list[str] = []
        self.longest_pause_s = 0.0
        """Longest time between two acknowledgements."""
        self._last = time.monotonic()

    @property
    def counter_key(self) -> bytes:
        return b"counter/" + self.name.encode()

    def next(self) -> tuple[bytes, bytes]:
        """Return the next pair to put: a new key, or, every fourth time, the key that counts."""
        self.attempted += 1
        number = b"%08d" % self.attempted
        if self.attempted % 4 == 0:
            return self.counter_key, number
        return b"load/" + self.name.encode() + b"/" + number, b"value " + number

    def on_acknowledged(self, key: bytes, value: bytes) -> None:
        now = time.monotonic()
        self.longest_pause_s, self._last = max(self.longest_pause_s, now - self._last), now
        if key == self.counter_key:
            self.counter = int(value)
        self.acknowledged[key] = value

    def on_failed(self, error: Exception) -> None:
        self.failures.append(repr(error))

    def check(self, found: dict[bytes, bytes]) -> None:
        """Compare with what a client sees after the load has ended."""
        found = dict(found)
        counted = int(found.pop(self.counter_key, b"0"))
        assert self.counter <= counted <= self.attempted, f"{self.name}: overwrites were lost"
        expected = {key: value for key, value in self.acknowledged.items() if key != self.counter_key}
        lost = [key for key, value in expected.items() if found.get(key) != value]
        assert lost == [], f"{self.name}: {len(lost)} of {len(expected)} acknowledged writes are lost"


class Load:
    """Writers of our client and of tikv-python on one cluster, from `with` to the end of its block."""

    _runs = itertools.count()

    def __init__(self, address: str, *, ours: int = 4, theirs: int = 1, timeout_s: float = OPERATION_S) -> None:
        """Make it for the cluster at `address`. Where a network is cut, a short `timeout_s` lets writers go on sooner."""
        self._address = address
        self._timeout_s = timeout_s
        run = next(Load._runs)
        self._ours = [Writer(f"{run}/ours-{number}") for number in range(ours)]
        self._theirs = [Writer(f"{run}/tikv-python-{number}") for number in range(theirs)]
        asyncio.run(start_engine())
        self._over = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._guard, args=(self._run_ours,), name="load-ours")]
        self._threads += [
            threading.Thread(
                target=self._guard, args=(lambda writer=writer: self._run_theirs(writer),), name=writer.name
            )
            for writer in self._theirs
        ]

    @property
    def writers(self) -> list[Writer]:
        return self._ours + self._theirs

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(END_S)
        assert not any(thread.is_alive() for thread in self._threads), "a client does not end"
        if error is None and self._errors:
            raise self._errors[0]

    def wait_progress(self, count: int = 50) -> None:
        """Wait until every writer has had `count` more acknowledgements."""
        before = [len(writer.acknowledged) for writer in self.writers]

        def progressed() -> bool:
            assert not self._errors, self._errors[0]
            return all(
                len(writer.acknowledged) >= start + count for writer, start in zip(self.writers, before, strict=True)
            )

        wait_until(progressed, within_s=PROGRESS_S, what=lambda: f"every writer goes on\n{self.describe()}")

    def describe(self) -> str:
        return "\n".join(
            f"{writer.name}: {len(writer.acknowledged)} acknowledged, {len(writer.failures)} failed: {writer.failures[-3:]}"
            for writer in self.writers
        )

    def check(self) -> None:
        """Check that nothing acknowledged is lost, as seen by our client."""
        with pytinykv.connect(self._address) as db:
            for writer in self.writers:
                assert writer.acknowledged, self.describe()
                own = b"load/" + writer.name.encode() + b"/"
                found = dict(db.raw.scan(prefix=own, timeout=OPERATION_S))
                counted = db.raw.get(writer.counter_key, timeout=OPERATION_S)
                writer.check(found if counted is None else {**found, writer.counter_key: counted})

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised in the test's thread
            self._errors.append(error)

    def _run_ours(self) -> None:
        asyncio.run(self._write_ours())

    async def _write_ours(self) -> None:
        async with aio.connect(self._address, timeout=OPERATION_S) as db, asyncio.TaskGroup() as group:
            for writer in self._ours:
                group.create_task(self._write(writer, db))

    async def _write(self, writer: Writer, db: aio.AsyncClient) -> None:
        while not self._over.is_set():
            key, value = writer.next()
            try:
                await db.raw.put(key, value, timeout=self._timeout_s)
            except ClientError as error:
                writer.on_failed(error)
            else:
                writer.on_acknowledged(key, value)

    def _run_theirs(self, writer: Writer) -> None:
        with tikv.RawClient([self._address], timeout=self._timeout_s) as client:
            while not self._over.is_set():
                key, value = writer.next()
                try:
                    client.put(key, value)
                except tikv.TiKVError as error:
                    writer.on_failed(error)
                else:
                    writer.on_acknowledged(key, value)
