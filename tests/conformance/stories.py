"""What every client promises, as stories on one database. Each is told on all kinds of them (`test_conformance`).

A story gets a client and a prefix for its keys; others may use the same database at the same time, under other prefixes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from pytinykv.client import (
    ClientError,
    ConcurrentUseError,
    DeadlineExceededError,
    DeadlockError,
    InvalidArgumentError,
    InvalidTypeError,
    KeyExistsError,
    LockTimeoutError,
    TransactionClosedError,
    UndeterminedError,
    WriteConflictError,
)
from pytinykv.client.txn.records import Phase

Story = Callable[[Any, bytes], Awaitable[None]]
STORIES: list[Story] = []


def story(function: Story) -> Story:
    STORIES.append(function)
    return function


async def rows(scan: AsyncIterator[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair async for pair in scan]


async def commit(db: Any, pairs: dict[bytes, bytes]) -> int:
    async with db.transaction() as txn:
        for key, value in pairs.items():
            await txn.put(key, value)
    commit_ts: int = txn.commit_ts
    return commit_ts


async def together(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    return await asyncio.gather(*works, return_exceptions=True)


# --- transactions -------------------------------------------------------------------------------------------------


@story
async def a_commit_shows_to_those_who_begin_later(db: Any, p: bytes) -> None:
    before = await db.snapshot()
    commit_ts = await commit(db, {p + b"a": b"1", p + b"b": b"2" * 3000})
    after = await db.snapshot()
    assert (await before.get(p + b"a"), await rows(before.scan(prefix=p))) == (None, [])
    assert await after.get_many([p + b"b", p + b"x", p + b"a"]) == {p + b"a": b"1", p + b"b": b"2" * 3000}
    assert before.ts < commit_ts <= after.ts
    assert await (await db.snapshot(commit_ts)).get(p + b"a") == b"1"
    assert await (await db.snapshot(commit_ts - 1)).get(p + b"a") is None


@story
async def a_transaction_sees_its_own_writes_over_its_snapshot(db: Any, p: bytes) -> None:
    await commit(db, {p + b"a": b"1", p + b"b": b"2", p + b"c": b"3"})
    async with db.transaction() as txn:
        await txn.put(p + b"b", b"own")
        await txn.delete(p + b"c")
        await txn.insert(p + b"d", b"new")
        await commit(db, {p + b"a": b"of another"})
        assert await txn.get(p + b"a") == b"1"
        assert await txn.get(p + b"c") is None
        assert await rows(txn.scan(prefix=p)) == [(p + b"a", b"1"), (p + b"b", b"own"), (p + b"d", b"new")]
        assert await rows(txn.scan(prefix=p, reverse=True, limit=2)) == [(p + b"d", b"new"), (p + b"b", b"own")]
        assert await txn.get_many([p + b"c", p + b"d"]) == {p + b"d": b"new"}
    assert await rows((await db.snapshot()).scan(prefix=p)) == [
        (p + b"a", b"of another"),
        (p + b"b", b"own"),
        (p + b"d", b"new"),
    ]


@story
async def an_exception_in_the_block_rolls_back(db: Any, p: bytes) -> None:
    txn = await db.transaction()

    async def fail() -> None:
        async with txn:
            await txn.put(p + b"k", b"v")
            _ = 1 // 0

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert txn.phase is Phase.ROLLED_BACK
    assert await (await db.snapshot()).get(p + b"k") is None


@story
async def the_first_committer_wins(db: Any, p: bytes) -> None:
    first, second = await db.transaction(), await db.transaction()
    await first.put(p + b"k", b"1")
    await second.put(p + b"k", b"2")
    commit_ts = await first.commit()
    with pytest.raises(WriteConflictError) as refused:
        await second.commit()
    assert refused.value.key == p + b"k"
    assert refused.value.conflict_commit_ts == commit_ts
    assert refused.value.retryable
    assert second.phase is Phase.FAILED
    await second.rollback()
    assert await (await db.snapshot()).get(p + b"k") == b"1"


@story
async def write_skew_is_allowed_unless_what_was_read_is_locked(db: Any, p: bytes) -> None:
    await commit(db, {p + b"a": b"on", p + b"b": b"on"})
    for is_locking in (False, True):
        one, two = await db.transaction(), await db.transaction()
        for txn, mine, other in ((one, p + b"a", p + b"b"), (two, p + b"b", p + b"a")):
            assert await txn.get(other) is not None
            if is_locking:
                await txn.lock(other)
            await txn.put(mine, b"off")
        await one.commit()
        if is_locking:
            with pytest.raises(WriteConflictError):
                await two.commit()
        else:
            await two.commit()


@story
async def insert_needs_a_key_that_is_not_there(db: Any, p: bytes) -> None:
    await commit(db, {p + b"k": b"1"})
    txn = await db.transaction()
    await txn.insert(p + b"new", b"2")
    await txn.insert(p + b"k", b"2")
    with pytest.raises(KeyExistsError) as exists:
        await txn.commit()
    assert exists.value.key == p + b"k"
    async with db.transaction() as txn:
        await txn.delete(p + b"k")
    async with db.transaction() as txn:
        await txn.insert(p + b"k", b"3")
        await txn.insert(p + b"gone", b"x")
        await txn.delete(p + b"gone")
    assert await rows((await db.snapshot()).scan(prefix=p)) == [(p + b"k", b"3")]


@story
async def run_repeats_a_function_that_came_second(db: Any, p: bytes) -> None:
    async def count(txn: Any) -> int:
        number = int(await txn.get(p + b"n") or b"0") + 1
        await txn.put(p + b"n", b"%d" % number)
        return number

    results = await together(*(db.run(count) for _ in range(6)))
    assert sorted(results) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ZeroDivisionError):
        await db.run(_divide)


async def _divide(_txn: Any) -> None:
    _ = 1 // 0


@story
async def an_ended_transaction_refuses_everything(db: Any, p: bytes) -> None:
    txn = await db.transaction()
    await txn.put(p + b"k", b"v")
    commit_ts = await txn.commit()
    assert (txn.phase, txn.commit_ts, txn.is_active) == (Phase.COMMITTED, commit_ts, False)
    assert txn.start_ts < commit_ts
    for call in (txn.get(p + b"k"), txn.put(p + b"k", b"x"), txn.commit(), txn.rollback(), txn.get_many([p + b"k"])):
        with pytest.raises(TransactionClosedError):
            await call
    empty = await db.transaction()
    assert await empty.commit() is None
    gone = await db.transaction()
    await gone.rollback()
    await gone.rollback()
    with pytest.raises(TransactionClosedError):
        await gone.put(p + b"k", b"x")


@story
async def locks_alone_keep_others_from_writing(db: Any, p: bytes) -> None:
    await commit(db, {p + b"k": b"1"})
    reader = await db.transaction()
    assert await reader.get_for_update(p + b"k") == b"1"
    await reader.put(p + b"other", b"x")
    await commit(db, {p + b"k": b"2"})
    with pytest.raises(WriteConflictError):
        await reader.commit()


# --- snapshots and scans ------------------------------------------------------------------------------------------


@story
async def scans_go_both_ways_over_many_pages(db: Any, p: bytes) -> None:
    pairs = {p + b"%04d" % number: b"v%d" % number for number in range(300)}
    await commit(db, pairs)
    expected = sorted(pairs.items())
    snapshot = await db.snapshot()
    await commit(db, {p + b"0100": b"later", p + b"later": b"x"})
    assert await rows(snapshot.scan(prefix=p)) == expected
    assert await rows(snapshot.scan(prefix=p, reverse=True)) == expected[::-1]
    assert await rows(snapshot.scan(p + b"0010", p + b"0020")) == expected[10:20]
    assert await rows(snapshot.scan(p + b"0010", p + b"0020", reverse=True, limit=3)) == expected[17:20][::-1]
    assert await rows(snapshot.scan(prefix=p, limit=150, key_only=True)) == [(key, b"") for key, _ in expected[:150]]
    assert await rows(snapshot.scan(p + b"0020", p + b"0010")) == []
    assert await rows(snapshot.scan(prefix=p, limit=0)) == []


@story
async def versions_and_deletions_show_at_their_time(db: Any, p: bytes) -> None:
    stamps = []
    for number in range(20):
        async with db.transaction() as txn:
            if number % 3 == 2:
                await txn.delete(p + b"k")
            else:
                await txn.put(p + b"k", b"%d" % number)
        stamps.append(txn.commit_ts)
    for number, ts in enumerate(stamps):
        value = None if number % 3 == 2 else b"%d" % number
        snapshot = await db.snapshot(ts)
        assert await snapshot.get(p + b"k") == value
        assert await rows(snapshot.scan(prefix=p)) == ([] if value is None else [(p + b"k", value)])
        assert await rows(snapshot.scan(prefix=p, reverse=True)) == ([] if value is None else [(p + b"k", value)])


@story
async def a_snapshot_of_the_future_is_refused(db: Any, p: bytes) -> None:
    now = await db.timestamp()
    with pytest.raises(InvalidArgumentError, match="future"):
        await db.snapshot(now + (3_600_000 << 18))
    assert await db.timestamp() > now


# --- pessimistic --------------------------------------------------------------------------------------------------


@story
async def a_pessimistic_lock_is_waited_for(db: Any, p: bytes) -> None:
    await commit(db, {p + b"n": b"0"})

    async def count() -> None:
        async with db.transaction(pessimistic=True) as txn:
            number = int(await txn.get_for_update(p + b"n"))
            await asyncio.sleep(0.002)
            await txn.put(p + b"n", b"%d" % (number + 1))

    assert await together(*(count() for _ in range(5))) == [None] * 5
    assert await (await db.snapshot()).get(p + b"n") == b"5"


@story
async def a_lock_that_is_not_released_ends_the_wait_at_its_deadline(db: Any, p: bytes) -> None:
    holder = await db.transaction(pessimistic=True)
    await holder.put(p + b"k", b"1")
    waiter = await db.transaction(pessimistic=True)
    with pytest.raises((LockTimeoutError, DeadlineExceededError)) as late:
        await waiter.put(p + b"k", b"2", timeout=0.3)
    if isinstance(late.value, LockTimeoutError):
        assert (late.value.key, late.value.holder_ts) == (p + b"k", holder.start_ts)
    else:
        assert db.cluster_id, "only a store may be too slow to say what was in the way"
    await holder.rollback()
    await waiter.put(p + b"k", b"2")
    await waiter.commit()
    assert await (await db.snapshot()).get(p + b"k") == b"2"


@story
async def a_deadlock_is_refused_and_names_its_cycle(db: Any, p: bytes) -> None:
    await commit(db, {p + b"a": b"0", p + b"b": b"0"})
    one, two = await db.transaction(pessimistic=True), await db.transaction(pessimistic=True)
    await one.put(p + b"a", b"1")
    await two.put(p + b"b", b"2")

    async def cross(txn: Any, key: bytes) -> None:
        try:
            await txn.put(key, b"x")
        except DeadlockError:
            await txn.rollback()
            raise

    outcomes = await together(cross(one, p + b"b"), cross(two, p + b"a"))
    refused = [outcome for outcome in outcomes if isinstance(outcome, DeadlockError)]
    assert len(refused) == 1, outcomes
    cycle = refused[0].cycle
    assert {step[:2] for step in cycle} == {(one.start_ts, two.start_ts), (two.start_ts, one.start_ts)}
    assert {step[2] for step in cycle} == {p + b"a", p + b"b"}
    await (one if one.is_active else two).commit()


@story
async def a_pessimistic_transaction_writes_only_what_is_still_as_it_was_read(db: Any, p: bytes) -> None:
    await commit(db, {p + b"k": b"1"})
    txn = await db.transaction(pessimistic=True)
    assert await txn.get(p + b"k") == b"1"
    await commit(db, {p + b"k": b"2"})
    with pytest.raises(WriteConflictError):
        await txn.put(p + b"k", b"3")
    with pytest.raises(WriteConflictError):
        await txn.lock(p + b"other", p + b"k")  # or the next put would overwrite what was not seen
    async with db.transaction(pessimistic=True) as free:
        await free.put(p + b"other", b"none of them is locked")
    await txn.rollback()
    async with db.transaction(pessimistic=True) as txn:
        assert await txn.get_for_update(p + b"k") == b"2"
        with pytest.raises(KeyExistsError):
            await txn.insert(p + b"k", b"x")
        await txn.insert(p + b"new", b"x")
        await txn.lock(p + b"only locked", p + b"k")
    assert await (await db.snapshot()).get_many([p + b"k", p + b"new"]) == {p + b"k": b"2", p + b"new": b"x"}


@story
async def an_optimistic_commit_meets_a_pessimistic_lock(db: Any, p: bytes) -> None:
    holder = await db.transaction(pessimistic=True)
    await holder.put(p + b"k", b"held")
    other = await db.transaction()
    await other.put(p + b"k", b"other")
    with pytest.raises(ClientError) as late:
        await other.commit(timeout=0.3)
    # A store may be too slow to say in time what was in the way, or that it was not committed.
    slow = (UndeterminedError, DeadlineExceededError) if db.cluster_id else ()
    assert isinstance(late.value, (LockTimeoutError, *slow))
    await holder.commit()
    assert await (await db.snapshot()).get(p + b"k") == b"held"


@story
async def a_commit_does_not_overtake_a_call_under_way(db: Any, p: bytes) -> None:
    holder, txn = await db.transaction(pessimistic=True), await db.transaction(pessimistic=True)
    await holder.put(p + b"k", b"1")
    await txn.put(p + b"mine", b"1")
    waiting = asyncio.ensure_future(txn.put(p + b"k", b"2"))
    await asyncio.sleep(0.05)
    with pytest.raises(ConcurrentUseError):
        await txn.commit()
    await holder.rollback()
    await waiting
    await txn.commit()
    assert await (await db.snapshot()).get_many([p + b"k", p + b"mine"]) == {p + b"k": b"2", p + b"mine": b"1"}


@story
async def a_rollback_during_a_wait_for_a_lock_leaves_no_lock(db: Any, p: bytes) -> None:
    for call in ("put", "insert", "get_for_update"):
        key = p + call.encode()
        arguments = [key] if call == "get_for_update" else [key, b"2"]
        holder, txn = await db.transaction(pessimistic=True), await db.transaction(pessimistic=True)
        await holder.lock(key)
        waiting = asyncio.ensure_future(getattr(txn, call)(*arguments))
        await asyncio.sleep(0.05)
        await txn.rollback()
        await holder.rollback()
        with pytest.raises(TransactionClosedError):
            await waiting
        async with db.transaction(pessimistic=True) as other:
            await other.put(key, b"3", timeout=5)


# --- raw ----------------------------------------------------------------------------------------------------------


@story
async def raw_keys_are_put_read_and_deleted(db: Any, p: bytes) -> None:
    raw = db.raw
    assert await raw.get(p + b"a") is None
    await raw.put(p + b"a", b"1")
    await raw.put(p + b"a", b"in lock", cf="lock")
    await raw.batch_put({p + b"c": b"3", p + b"b": b""})
    assert (await raw.get(p + b"a"), await raw.get(p + b"a", cf="lock")) == (b"1", b"in lock")
    assert await raw.batch_get([p + b"b", p + b"x", p + b"a"]) == {p + b"a": b"1", p + b"b": b""}
    assert await rows(raw.scan(prefix=p)) == [(p + b"a", b"1"), (p + b"b", b""), (p + b"c", b"3")]
    assert await rows(raw.scan(prefix=p, reverse=True, limit=2, key_only=True)) == [(p + b"c", b""), (p + b"b", b"")]
    await raw.delete(p + b"a")
    await raw.batch_delete([p + b"a", p + b"b"])
    assert await rows(raw.scan(prefix=p)) == [(p + b"c", b"3")]
    await raw.delete_range(prefix=p)
    assert await rows(raw.scan(prefix=p)) == []
    assert await raw.get(p + b"a", cf="lock") == b"in lock"


@story
async def raw_values_live_as_long_as_they_are_told_to(db: Any, p: bytes) -> None:
    await db.raw.put(p + b"k", b"v", ttl=100)
    await db.raw.put(p + b"stays", b"v")
    assert 90 <= await db.raw.ttl(p + b"k") <= 100
    assert await db.raw.ttl(p + b"stays") == math.inf
    assert await db.raw.ttl(p + b"absent") is None
    await db.raw.put(p + b"soon", b"v", ttl=1)
    await asyncio.sleep(2.1)
    assert await db.raw.get(p + b"soon") is None
    assert await rows(db.raw.scan(prefix=p, key_only=True)) == [(p + b"k", b""), (p + b"stays", b"")]


@story
async def compare_and_swap_is_atomic(db: Any, p: bytes) -> None:
    assert await db.raw.compare_and_swap(p + b"n", None, b"0") == (True, None)
    assert await db.raw.compare_and_swap(p + b"n", None, b"x") == (False, b"0")

    async def count() -> None:
        while True:
            before = await db.raw.get(p + b"n")
            if (await db.raw.compare_and_swap(p + b"n", before, b"%d" % (int(before) + 1))).swapped:
                return

    assert await together(*(count() for _ in range(5))) == [None] * 5
    assert await db.raw.get(p + b"n") == b"5"


@story
async def the_checksum_of_a_range_is_that_of_its_pairs(db: Any, p: bytes) -> None:
    await db.raw.batch_put({p + b"a": b"1", p + b"b": b"22"})
    whole = await db.raw.checksum(prefix=p)
    one, two = await db.raw.checksum(p + b"a", p + b"b"), await db.raw.checksum(p + b"b", p + b"c")
    assert (whole.total_kvs, whole.total_bytes) == (2, 2 * len(p) + 5)
    assert whole.checksum == one.checksum ^ two.checksum != 0


@story
async def raw_and_transactional_data_share_no_key(db: Any, p: bytes) -> None:
    await commit(db, {p + b"k": b"transactional"})
    assert await db.raw.get(p + b"k") is None
    await db.raw.put(p + b"k", b"raw")
    assert await (await db.snapshot()).get(p + b"k") == b"transactional"


# --- arguments ----------------------------------------------------------------------------------------------------


@story
async def arguments_that_can_not_be_right_are_refused(db: Any, p: bytes) -> None:
    snapshot = await db.snapshot()
    async with db.transaction() as txn:
        for call, error in (
            (lambda: txn.put("text", b"v"), InvalidTypeError),
            (lambda: txn.put(p + b"k", "text"), InvalidTypeError),
            (lambda: txn.put(b"", b"v"), InvalidArgumentError),
            (lambda: txn.put(b"k" * 9000, b"v"), InvalidArgumentError),
            (lambda: txn.get(b""), InvalidArgumentError),
            (lambda: snapshot.get(b""), InvalidArgumentError),
            (lambda: snapshot.get("text"), InvalidTypeError),
            (lambda: snapshot.get_many(b"one key"), InvalidTypeError),
            (lambda: db.raw.put(p + b"k", b"v", ttl=0), InvalidArgumentError),
            (lambda: db.raw.put(p + b"k", b"v", cf="other"), InvalidArgumentError),
            (db.raw.delete_range, InvalidArgumentError),
            (lambda: db.raw.get(p + b"k", timeout=-1), InvalidArgumentError),
        ):
            with pytest.raises(error):
                await call()
        with pytest.raises(InvalidArgumentError):
            await rows(snapshot.scan(prefix=p, limit=-1))
        await txn.put(p + b"k" * (8192 - len(p)), b"")
    assert len(await rows((await db.snapshot()).scan(prefix=p))) == 1
