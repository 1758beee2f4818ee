"""Transactions of our client against real stores: what they promise, and how they end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.simulation.txn.txn_world import (
    TWO_PHASES,
    client_of,
    get_all,
    lead_one_each,
    locks_of,
    put_all,
    split,
    tell,
)

from pytinykv.client import (
    AsyncClient,
    AsyncTransaction,
    ClientClosedError,
    ClientConfig,
    ConcurrentUseError,
    DeadlockError,
    InvalidArgumentError,
    KeyExistsError,
    LockTimeoutError,
    SchedulerUnavailableError,
    SnapshotTooOldError,
    TransactionClosedError,
    TransactionError,
    TransactionTooLargeError,
    WriteConflictError,
)
from pytinykv.client.deadlines import EXPIRY_GRAIN_S
from pytinykv.client.txn.records import Phase
from pytinykv.simulation.cluster import Cluster

CONFIGS = {
    "two phases": TWO_PHASES,
    "async commit": ClientConfig(one_phase_commit=False),
    "as it comes": ClientConfig(),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("pessimistic", [False, True], ids=["optimistic", "pessimistic"])
def test_what_is_committed_is_seen_and_nothing_else(config: ClientConfig, *, pessimistic: bool) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        before = await client.timestamp()
        first = await put_all(client, a=1, b=2, z=3)
        async with client.transaction(pessimistic=pessimistic) as txn:
            await txn.put(b"a", b"10")
            await txn.delete(b"b")
            await txn.insert(b"y", b"25")
            assert await txn.get_many([b"a", b"b", b"y", b"z"]) == {b"a": b"10", b"y": b"25", b"z": b"3"}
            assert [pair async for pair in txn.scan()] == [(b"a", b"10"), (b"y", b"25"), (b"z", b"3")]
            assert [key async for key, _ in txn.scan(reverse=True, limit=2)] == [b"z", b"y"]
            assert await get_all(client_of(cluster, 1)) == {"a": 1, "b": 2, "z": 3}
        assert txn.commit_ts is not None
        assert await get_all(client_of(cluster, 1)) == {"a": 10, "y": 25, "z": 3}
        assert await get_all(client, before) == {}
        assert await get_all(client, first) == await get_all(client, txn.commit_ts - 1) == {"a": 1, "b": 2, "z": 3}
        assert await get_all(client, txn.commit_ts) == {"a": 10, "y": 25, "z": 3}

    tell(story, config=config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_no_lock_is_left_when_the_background_has_done_its_work(config: ClientConfig) -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, b=2, x=3, z=4)
        with contextlib.suppress(ZeroDivisionError):
            async with client.transaction(pessimistic=True) as txn:
                await txn.lock(b"a", b"z")
                raise ZeroDivisionError
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story, config=config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_of_two_that_write_one_key_the_first_wins(config: ClientConfig) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        slow = await client.transaction()
        await slow.put(b"z", b"2")
        await slow.put(b"a", b"2")
        fast_ts = await put_all(client_of(cluster, 1), z=3)
        with pytest.raises(WriteConflictError, match=r"has committed b'z'") as caught:
            await slow.commit()
        assert (caught.value.key, caught.value.conflict_commit_ts) == (b"z", fast_ts)
        assert slow.phase is Phase.FAILED
        assert await get_all(client) == {"a": 1, "z": 3}
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story, config=config)


def test_insert_fails_if_the_key_exists() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1)
        for is_deleted in (False, True):
            txn = await client.transaction()
            await txn.insert(b"a", b"2")
            if is_deleted:
                await txn.delete(b"a")
            with pytest.raises(KeyExistsError, match="b'a' exists"):
                await txn.commit()
        async with client.transaction(pessimistic=True) as txn:
            with pytest.raises(KeyExistsError, match="b'a' exists"):
                await txn.insert(b"a", b"2")
            assert await txn.get_for_update(b"a") == b"1"
            with pytest.raises(KeyExistsError, match="b'a' exists"):
                await txn.insert(b"a", b"2")
            await txn.delete(b"a")
            await txn.insert(b"a", b"2")
            assert await txn.get_for_update(b"new") is None
            await txn.insert(b"new", b"3")
        assert await get_all(client) == {"a": 2, "new": 3}

    tell(story)


def test_a_transaction_is_over_after_its_end() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        txn = client.transaction()
        with pytest.raises(TransactionClosedError, match="has not begun"):
            await txn.get(b"a")
        await txn
        await txn.put(b"a", b"1")
        await txn.commit()
        uses = [
            lambda: txn.get(b"a"),
            lambda: txn.get_many([b"a"]),
            lambda: txn.put(b"a", b"1"),
            lambda: txn.insert(b"b", b"1"),
            lambda: txn.delete(b"a"),
            lambda: txn.lock(b"a"),
            lambda: txn.get_for_update(b"a"),
            txn.commit,
            txn.rollback,
        ]
        for use in uses:
            with pytest.raises(TransactionClosedError, match=r"is committed; begin a new one"):
                await use()
        with pytest.raises(TransactionClosedError):
            txn.scan()
        undone = await client.transaction()
        await undone.put(b"a", b"2")
        pages = undone.scan()
        await undone.rollback()
        await undone.rollback()
        with pytest.raises(TransactionClosedError, match="is rolled back"):
            await undone.commit()
        with pytest.raises(TransactionClosedError, match="is rolled back"):
            await anext(pages)
        assert await get_all(client) == {"a": 1}

    tell(story, clients=1)


def test_a_commit_does_not_overtake_another_call() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        txn = await client.transaction()
        await txn.put(b"a", b"1")
        read = asyncio.ensure_future(txn.get(b"z"))
        await asyncio.sleep(1e-6)  # it is on its way, and no answer is so quick
        with pytest.raises(ConcurrentUseError, match="1 of its calls are under way"):
            await txn.commit()
        assert txn.is_active
        assert await read is None
        await txn.commit()
        assert await get_all(client) == {"a": 1}

    tell(story, clients=1)


def test_tasks_may_share_a_transaction() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, b=2, y=3, z=4)
        async with client.transaction(pessimistic=True) as txn:
            keys = [b"a", b"b", b"y", b"z"]
            values = await asyncio.gather(*(txn.get_for_update(key) for key in keys))
            await asyncio.gather(*(txn.put(key, b"9") for key in keys))
        assert values == [b"1", b"2", b"3", b"4"]
        assert set((await get_all(client)).values()) == {9}

    tell(story, clients=1)


def test_a_transaction_that_is_too_large_says_so_where_it_becomes_so() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        async with client.transaction() as txn:
            await txn.put(b"a", b"x" * 900)
            with pytest.raises(TransactionTooLargeError, match="at most 1000 are allowed"):
                await txn.put(b"b", b"x" * 200)
            await txn.put(b"b", b"x")
        snapshot = await client.snapshot()
        assert await snapshot.get(b"b") == b"x"

    tell(story, clients=1, config=ClientConfig(transaction_bytes_max=1000))


def test_a_snapshot_in_the_future_is_refused() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        now = await client.timestamp()
        assert (await client.snapshot(now)).ts == now
        with pytest.raises(InvalidArgumentError, match="in the future of the cluster"):
            await client.snapshot(now + (60_000 << 18))
        with pytest.raises(InvalidArgumentError, match="ts must be 1 to"):
            await client.snapshot(0)

    tell(story, clients=1)


def test_run_repeats_the_function_and_not_its_writes() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=0)
        attempts = 0

        async def add(txn: AsyncTransaction) -> int:
            nonlocal attempts
            attempts += 1
            value = int(await txn.get(b"a") or b"0") + 1
            await txn.put(b"a", b"%d" % value)
            return value

        several = [client_of(cluster, number).run(add) for number in (0, 1) for _ in range(10)]
        assert sorted(await asyncio.gather(*several)) == list(range(1, 21))
        assert attempts > 20
        assert await get_all(client) == {"a": 20}

    tell(story, splits=())


def test_run_ends_with_the_conflict_when_its_time_is_up() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        async def too_slow(txn: AsyncTransaction) -> None:
            await txn.put(b"a", b"1")
            await put_all(client_of(cluster, 1), a=2)

        with pytest.raises(WriteConflictError):
            await client.run(too_slow, timeout=0.5)

        async def broken(txn: AsyncTransaction) -> None:
            await txn.put(b"b", b"1")
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await client.run(broken)
        assert await get_all(client) == {"a": 2}

    tell(story)


def test_a_pessimistic_transaction_waits_and_sees_the_newest_value() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=0)

        async def add(txn: AsyncTransaction) -> None:
            value = int(await txn.get_for_update(b"a") or b"0")
            await txn.put(b"a", b"%d" % (value + 1))

        await asyncio.gather(*(client_of(cluster, n).run(add, pessimistic=True) for n in (0, 1) for _ in range(10)))
        assert await get_all(client) == {"a": 20}

    tell(story, splits=())


def test_a_pessimistic_transaction_does_not_overwrite_what_it_has_not_seen() -> None:
    """It reads its snapshot, another commits, it writes: the other's write must not be lost."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, b=1)
        txn = await client.transaction(pessimistic=True)
        assert await txn.get(b"a") == b"1"
        assert [key async for key, _ in txn.scan(b"b", b"c")] == [b"b"]
        await put_all(client_of(cluster, 1), a=2, b=2, c=2)
        for key in (b"a", b"b"):
            with pytest.raises(WriteConflictError):
                await txn.put(key, b"3")
        await txn.put(b"c", b"3")  # which it has not read
        await txn.commit()
        assert await get_all(client) == {"a": 2, "b": 2, "c": 3}

    tell(story)


def test_a_lock_that_is_held_too_long() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        holder = await client_of(cluster, 1).transaction(pessimistic=True)
        await holder.lock(b"z")
        txn = await client.transaction(pessimistic=True)
        with pytest.raises(LockTimeoutError, match=r"on b'z' stood in the way until the deadline") as caught:
            await txn.lock(b"a", b"z", timeout=2)
        assert (caught.value.key, caught.value.holder_ts) == (b"z", holder.start_ts)
        await asyncio.sleep(0.5)
        assert await locks_of(client) == [b"z"], "of the keys of a failed call none stays locked"
        await holder.rollback()
        await txn.lock(b"z")  # and `a` did not become its primary
        await txn.put(b"z", b"1")
        await txn.commit()
        assert await get_all(client) == {"z": 1}

    tell(story)


def test_time_that_runs_out_while_the_scheduler_is_asked_about_a_lock_is_laid_to_the_lock() -> None:
    class Scheduler:
        async def timestamp(self, timeout_s: float) -> int:
            await asyncio.sleep(timeout_s - EXPIRY_GRAIN_S)  # one timer serves many deadlines
            raise SchedulerUnavailableError("no timestamp in time")

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, z=0)
        holder = await client_of(cluster, 1).transaction(pessimistic=True)
        await holder.lock(b"z")
        locker = await client.transaction(pessimistic=True)
        client.transactions.backend.resolver._scheduler = Scheduler()  # type: ignore[attr-defined]
        with pytest.raises(LockTimeoutError, match="on b'z' stood in the way"):
            await locker.lock(b"z", timeout=2)
        with pytest.raises(SchedulerUnavailableError, match="no timestamp in time"):
            await locker.lock(b"z")
        await locker.rollback()
        await holder.rollback()

    tell(story)


def test_a_client_that_is_closed_while_it_waits_for_a_lock_says_so() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        holder = await client.transaction(pessimistic=True)
        await holder.lock(b"z")
        other = client_of(cluster, 1)
        waiter = await other.transaction(pessimistic=True)
        waiting = asyncio.ensure_future(waiter.lock(b"z"))
        await asyncio.sleep(0.5)
        await other.close()
        with pytest.raises(ClientClosedError) as closed:
            await waiting
        assert not closed.value.retryable
        assert not closed.value.undetermined
        await holder.rollback()

    tell(story)


def test_a_commit_that_is_cancelled_before_anything_was_sent_releases_the_locks() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        txn = await client.transaction(pessimistic=True)
        await txn.put(b"a", b"1")
        await txn.put(b"z", b"1")

        async def never(_deadline: float) -> int:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        client.transactions.backend._parts.scheduler.timestamp_by = never  # type: ignore[attr-defined]
        committing = asyncio.ensure_future(txn.commit())
        await asyncio.sleep(0.1)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        await asyncio.sleep(1)
        assert await locks_of(client_of(cluster, 1)) == []

    tell(story)


def test_a_rollback_that_is_cancelled_releases_the_locks_all_the_same() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        txn = await client.transaction(pessimistic=True)
        await txn.lock(b"a", b"z")
        rolling_back = asyncio.ensure_future(txn.rollback())
        while txn.is_active:
            await asyncio.sleep(0)
        rolling_back.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rolling_back
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story)


def test_a_deadlock_over_three_stores_names_its_cycle() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=0, h=0, z=0)
        await lead_one_each(cluster, client)
        txns = [await client_of(cluster, number).transaction(pessimistic=True) for number in range(3)]
        keys = [b"a", b"h", b"z"]
        for txn, key in zip(txns, keys, strict=True):
            await txn.lock(key)

        async def lock_next(number: int) -> TransactionError | None:
            try:
                await txns[number].lock(keys[(number + 1) % 3], timeout=8)
                await txns[number].rollback()
            except TransactionError as error:
                await txns[number].rollback()
                return error
            return None

        ends = await asyncio.gather(*map(lock_next, range(3)))
        (error,) = [error for error in ends if error is not None]
        assert isinstance(error, DeadlockError)
        assert {step[2] for step in error.cycle} == set(keys)
        assert {step[0] for step in error.cycle} == {step[1] for step in error.cycle} == {t.start_ts for t in txns}

    tell(story, clients=3, splits=(b"g", b"m"))


def test_a_snapshot_from_before_the_safe_point_is_too_old() -> None:
    """Put, delete, collect, read in between: never "no such key"."""

    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        before = await put_all(client, a=1, z=1)
        old = await client.snapshot(before)
        async with client.transaction() as txn:
            await txn.delete(b"a")
        safe_point = await client.timestamp()
        assert await client.inspector.collect(safe_point) == safe_point
        await asyncio.sleep(25)
        for read in (lambda: old.get(b"a"), lambda: old.get_many([b"a", b"z"]), lambda: anext(old.scan())):
            with pytest.raises(SnapshotTooOldError, match="snapshot too old"):
                await read()
        assert await get_all(client) == {"z": 1}

    tell(story, clients=1)


def test_a_scan_over_many_regions_and_pages() -> None:
    async def story(_cluster: Cluster, client: AsyncClient) -> None:
        rows = {b"%04d" % number: b"v%d" % number for number in range(1500)}
        async with client.transaction() as txn:
            for key, value in rows.items():
                await txn.put(key, value)
        await split(client, [b"0300", b"0900", b"1400"])
        snapshot = await client.snapshot()
        expected = sorted(rows.items())
        assert [pair async for pair in snapshot.scan()] == expected
        assert [pair async for pair in snapshot.scan(reverse=True)] == expected[::-1]
        assert [pair async for pair in snapshot.scan(b"0299", b"0902")] == expected[299:902]
        assert [pair async for pair in snapshot.scan(prefix=b"09", limit=5, reverse=True)] == expected[995:1000][::-1]
        assert [pair async for pair in snapshot.scan(key_only=True)] == [(key, b"") for key, _ in expected]
        assert await snapshot.get_many(rows) == rows

    tell(story, clients=1, splits=())
