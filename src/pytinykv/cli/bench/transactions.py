"""Transactional operations of our client under measurement: gets at a snapshot, counters, transfers, a large scan."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from pytinykv.cli.bench.workload import OperationKind, key_of
from pytinykv.lifecycle import LifecycleError
from pytinykv.wire.keys import encode_bytes

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient, AsyncTransaction
    from pytinykv.cli.bench.workload import Call
    from pytinykv.lifecycle import Scope

SNAPSHOT_GETS: Final = 1000
"""Gets of one snapshot, before the next one is taken."""
LEFT, RIGHT = b"bench-left-", b"bench-right-"
"""How the accounts of the two regions begin."""
BALANCE: Final = 1000
BATCH: Final = 2000
SPLIT_S: Final = 15.0
HOT_LOCK_TIMEOUT_S: Final = 30.0


async def prepare_transactions(client: AsyncClient, operation: OperationKind, keys: int) -> Call:
    """Put what an operation needs, and return what does it once."""
    match operation:
        case OperationKind.SNAPSHOT_GET:
            await _fill(client, [key_of(number) for number in range(keys)])
            return _SnapshotGets(client).get
        case OperationKind.MODIFY:
            await _fill(client, [key_of(number) for number in range(keys)])

            async def modify(key: bytes) -> None:
                async def add(txn: AsyncTransaction) -> None:
                    await txn.put(key, b"%d" % (int(await txn.get(key) or b"0") + 1))

                await client.run(add)

            return modify
        case OperationKind.TRANSFER:
            await _split(client, RIGHT)
            await _fill(client, [side + key_of(number) for side in (LEFT, RIGHT) for number in range(keys)])
            return _Transfers(client, keys).transfer
    raise AssertionError(operation)


async def total(client: AsyncClient) -> int:
    """Return the sum of all accounts, of one moment."""
    snapshot = await client.snapshot()
    found = 0
    for side in (LEFT, RIGHT):
        async for _, value in snapshot.scan(prefix=side):
            found += int(value)
    return found


async def scan_rate(client: AsyncClient, rows: int, value_bytes: int) -> float:
    """Return how many rows a second a scan at a snapshot reads, of so many that were put before."""
    keys = [b"bench-scan-%010d" % number for number in range(rows)]
    await _fill(client, keys, b"v" * value_bytes)
    snapshot = await client.snapshot()
    begun = time.perf_counter()
    seen = 0
    async for _ in snapshot.scan(prefix=b"bench-scan-"):
        seen += 1
    seconds = time.perf_counter() - begun
    if seen != rows:
        raise LifecycleError(f"a scan of {rows} rows has returned {seen}")
    return rows / seconds


class HotLock(NamedTuple):
    """What many do who all count up under the same pessimistic lock."""

    clients: int
    alone_per_s: float
    """Turns per second of one client alone."""
    together_per_s: float
    """Of all clients together."""
    turns: list[int]
    """By client."""
    longest_s: float
    """The longest that a client waited for a turn and had it."""

    def problems(self) -> list[str]:
        """Return what is not as promised: every client has its turn."""
        left_out = self.turns.count(0)
        if not left_out:
            return []
        return [f"{left_out} of {self.clients} clients never had their turn with the lock that all wanted"]

    def as_facts(self) -> dict[str, float]:
        """Return the figures, with their units in the names."""
        return {
            "hot_lock_alone_per_s": round(self.alone_per_s),
            f"hot_lock_{self.clients}_clients_per_s": round(self.together_per_s),
            "hot_lock_longest_turn_s": round(self.longest_s, 3),
            "hot_lock_fewest_turns": min(self.turns),
            "hot_lock_most_turns": max(self.turns),
        }


async def hot_lock(client: AsyncClient, scope: Scope, *, clients: int = 64, seconds: float = 4.0) -> HotLock:
    """Count up under one lock: one client alone, then many. Raises LifecycleError if a turn is lost."""
    key = b"bench-hot"
    longest_s = 0.0

    async def add(txn: AsyncTransaction) -> None:
        await txn.put(key, b"%d" % (int(await txn.get_for_update(key) or b"0") + 1))

    async def work(turns: list[int], number: int, until: float) -> None:
        nonlocal longest_s
        while (begun := time.monotonic()) < until:
            await client.run(add, pessimistic=True, timeout=HOT_LOCK_TIMEOUT_S)
            turns[number] += 1
            longest_s = max(longest_s, time.monotonic() - begun)

    async def measure(many: int) -> tuple[list[int], float]:
        turns = [0] * many
        begun = time.monotonic()
        workers = [scope.start(f"hot-lock-{number}", work, turns, number, begun + seconds) for number in range(many)]
        for worker in workers:
            await worker.wait()
        return turns, sum(turns) / (time.monotonic() - begun)

    before = int(await (await client.snapshot()).get(key) or b"0")
    alone, alone_per_s = await measure(1)
    longest_s = 0.0
    turns, together_per_s = await measure(clients)
    counted = int(await (await client.snapshot()).get(key) or b"0") - before
    if counted != sum(alone) + sum(turns):
        raise LifecycleError(f"{sum(alone) + sum(turns)} turns under a lock have counted to {counted}")
    return HotLock(clients, alone_per_s, together_per_s, turns, longest_s)


class _SnapshotGets:
    """Gets at snapshots that are not older than so many gets."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._snapshot = client.snapshot()
        """What gets read now; replaced when `_left` is used up. The first one begins with its first get."""
        self._left = 0
        """Gets before the next snapshot is taken."""

    async def get(self, key: bytes) -> bytes | None:
        if self._left == 0:
            self._left = SNAPSHOT_GETS
            self._snapshot = await self._client.snapshot()
        self._left -= 1
        return await (await self._snapshot).get(key)


class _Transfers:
    """Transfers between an account of the left region and one of the right."""

    def __init__(self, client: AsyncClient, keys: int) -> None:
        self._client = client
        self._keys = keys
        self._rng = Random()

    async def transfer(self, key: bytes) -> None:
        source, target = LEFT + key, RIGHT + key_of(self._rng.randrange(self._keys))
        amount = self._rng.randint(-5, 5)

        async def move(txn: AsyncTransaction) -> None:
            balances = await txn.get_many([source, target])
            await txn.put(source, b"%d" % (int(balances[source]) - amount))
            await txn.put(target, b"%d" % (int(balances[target]) + amount))

        await self._client.run(move)


async def _fill(client: AsyncClient, keys: list[bytes], value: bytes = b"%d" % BALANCE) -> None:
    """Put a value at those keys that have none."""
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        async with client.transaction() as txn:
            there = await txn.get_many(part)
            for key in part:
                if key not in there:
                    await txn.put(key, value)


async def _split(client: AsyncClient, key: bytes) -> None:
    """Make a region begin at a key."""
    async with asyncio.timeout(SPLIT_S):
        while (await client.scheduler.split_regions([encode_bytes(key)])).finished_percentage < 100:  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.1)
