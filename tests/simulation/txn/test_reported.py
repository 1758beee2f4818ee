"""What users of such systems have reported, each as a story of clients on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.simulation.txn.txn_world import (
    ASYNC_COMMIT,
    TWO_PHASES,
    client_of,
    get_all,
    lead_one_each,
    locks_of,
    prewrite_and_roll_back,
    prewrite_only,
    put_all,
    tell,
)

from pytinykv.client import (
    AsyncClient,
    AsyncTransaction,
    ClientConfig,
    DeadlockError,
    LockTimeoutError,
    TransactionAbortedError,
    TransactionError,
    WriteConflictError,
)
from pytinykv.client.txn.records import Phase
from pytinykv.simulation.cluster import Cluster

BOTH = pytest.mark.parametrize("config", [TWO_PHASES, ASYNC_COMMIT], ids=["two phases", "async commit"])


@BOTH
def test_a_reader_blocked_by_a_secondary_passes_a_primary_that_is_still_pessimistic(config: ClientConfig) -> None:
    """It pushes the commit above itself and reads the old value at once; the owner goes on undisturbed."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        other = client_of(cluster, 1)
        txn = await other.transaction(pessimistic=True)
        await txn.put(b"a", b"2")
        await txn.put(b"z", b"2")
        await prewrite_only(other, txn, {b"z"})
        loop = asyncio.get_running_loop()
        began = loop.time()
        snapshot = await client.snapshot()
        assert await snapshot.get(b"z") == b"1"
        assert [pair async for pair in snapshot.scan()] == [(b"a", b"1"), (b"z", b"1")]
        assert loop.time() - began < 0.5, "nobody waits for the owner"
        txn._progress.phase = Phase.ACTIVE
        commit_ts = await txn.commit()
        assert commit_ts is not None
        assert commit_ts > snapshot.ts
        assert await snapshot.get_many([b"a", b"z"]) == {b"a": b"1", b"z": b"1"}
        assert await get_all(client) == {"a": 2, "z": 2}

    tell(story, config=config)


@pytest.mark.parametrize(
    "config", [ASYNC_COMMIT, ClientConfig(), TWO_PHASES], ids=["async commit", "one phase", "two phases"]
)
def test_what_is_committed_later_is_never_seen_without_what_was_committed_before(config: ClientConfig) -> None:
    """The second one began first, and its store has seen nothing of the time since: the store alone would choose too low."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        await lead_one_each(cluster, client)
        second = await client_of(cluster, 1).transaction()
        await second.put(b"z", b"2")
        between = [await client.timestamp() for _ in range(5)]
        first_ts = await put_all(client, a=2)
        second_ts = await second.commit()
        assert second_ts is not None
        assert second_ts > first_ts
        for ts in (*between, first_ts - 1):
            assert await get_all(client, ts) == {"a": 1, "z": 1}
        assert await get_all(client, first_ts) == {"a": 2, "z": 1}
        assert await get_all(client) == {"a": 2, "z": 2}

    tell(story, config=config, splits=(b"g", b"m"))


# --- lock requests for several keys -------------------------------------------------------------------------------


async def time_is_up(txn: AsyncTransaction, _holder: AsyncTransaction) -> None:
    with pytest.raises(LockTimeoutError):
        await txn.lock(b"a", b"b", b"z", timeout=1)


async def is_cancelled(txn: AsyncTransaction, _holder: AsyncTransaction) -> None:
    locking = asyncio.ensure_future(txn.lock(b"a", b"b", b"z"))
    await asyncio.sleep(1)
    locking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await locking


async def closes_a_circle(txn: AsyncTransaction, holder: AsyncTransaction) -> None:
    await txn.lock(b"own")
    waiting = asyncio.ensure_future(holder.lock(b"own", timeout=1))
    await asyncio.sleep(0.2)
    with pytest.raises(DeadlockError):
        await txn.lock(b"a", b"b", b"z")
    with pytest.raises(LockTimeoutError):
        await waiting


async def writes_what_it_has_not_seen(txn: AsyncTransaction, holder: AsyncTransaction) -> None:
    assert await txn.get(b"z") is None
    await holder.put(b"z", b"0")
    await holder.commit()
    with pytest.raises(WriteConflictError):
        await txn.lock(b"a", b"b", b"z")


@pytest.mark.parametrize("fails", [time_is_up, is_cancelled, closes_a_circle, writes_what_it_has_not_seen])
def test_a_lock_request_for_several_keys_that_fails_leaves_none_of_its_locks(
    fails: Callable[[AsyncTransaction, AsyncTransaction], Awaitable[None]],
) -> None:
    """The keys lie in two regions; those of the first one are locked when the second one refuses."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        holder = await client_of(cluster, 1).transaction(pessimistic=True)
        await holder.lock(b"z")
        txn = await client.transaction(pessimistic=True)
        before = asyncio.ensure_future(fails(txn, holder))
        locks_meanwhile: set[bytes] = set()
        while not before.done():
            locks_meanwhile.update(await locks_of(client_of(cluster, 2)))
            await asyncio.sleep(0.02)
        await before
        await asyncio.sleep(0.5)
        kept = {b"own"} if fails is closes_a_circle else set[bytes]()
        held = set[bytes]() if fails is writes_what_it_has_not_seen else {b"z"}
        assert set(await locks_of(client)) == kept | held
        if fails in (time_is_up, is_cancelled):  # the others end too quickly to look in between
            assert {b"a", b"b"} <= locks_meanwhile, "or there was no middle to fail in"
        if holder.is_active:
            await holder.rollback()
        # What failed is not its primary: others find the transaction at a key that it has locked since.
        await txn.put(b"c", b"1")
        other = client_of(cluster, 2)
        async with other.transaction(pessimistic=True) as free:
            with pytest.raises(LockTimeoutError):
                await free.lock(b"c", timeout=1)
            await free.put(b"a", b"2", timeout=1)
            await free.put(b"b", b"2", timeout=1)
        await txn.commit()
        found = await get_all(client)
        found.pop("z", None)
        assert found == {"a": 2, "b": 2, "c": 1}
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story, clients=3)


# --- rollbacks ----------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("pessimistic", [False, True], ids=["optimistic", "pessimistic"])
def test_a_transaction_that_a_reader_has_rolled_back_can_not_commit_when_it_is_late(
    config: ClientConfig, *, pessimistic: bool
) -> None:
    """Its lock on the primary is lost, its secondary was cleaned up, the record of that went into another's."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        slow, other = client_of(cluster, 1), client_of(cluster, 2)
        txn = await slow.transaction(pessimistic=pessimistic)
        await txn.put(b"a", b"2")
        await txn.put(b"z", b"2")
        await prewrite_only(slow, txn, {b"z"})
        if (heartbeat := txn._begun().heartbeat) is not None:
            heartbeat.stop()
        await asyncio.sleep(5)  # its locks run out
        assert await get_all(client) == {"a": 1, "z": 1}
        await asyncio.sleep(0.5)  # the reader leaves the lock to its background
        assert await locks_of(client) == []
        for _ in range(3):  # rollbacks of others, at both keys, take the place of records that no one has to keep
            await prewrite_and_roll_back(other, a=3, z=3)
        txn._progress.phase = Phase.ACTIVE
        with pytest.raises(TransactionError) as refused:
            await txn.commit()
        assert isinstance(refused.value, TransactionAbortedError | WriteConflictError)
        assert refused.value.retryable
        await asyncio.sleep(1)
        assert await get_all(client) == {"a": 1, "z": 1}
        assert await locks_of(client) == []

    tell(story, config=msgspec.structs.replace(config, pessimistic_lock_ttl_s=1.5), clients=3)
