"""Transactions as clients of the protocol see them: one store's service, without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.txn_harness import TxnDesk

from pytinykv.client.errors import DeadlineExceededError
from pytinykv.client.txn.records import ForeignLock
from pytinykv.lifecycle import Scope
from pytinykv.server.kv.commands import COMMANDS, MEMBERS
from pytinykv.server.kv.garbage import Allowed, GarbageCollector
from pytinykv.server.kv.txn_reads import RECORD_COST
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.timestamp import MAX_TIMESTAMP, Timestamp, compose

LONG = b"x" * 300


@pytest.fixture
def desk(tmp_path: Path, scope: Scope) -> TxnDesk:
    return TxnDesk(tmp_path, scope)


async def test_what_is_committed_is_read_at_its_timestamp_and_after(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1", b"b": LONG})
    assert (await desk.get(b"a", 20)).value == b"1"
    assert (await desk.get(b"b", 25)).value == LONG
    assert (await desk.get(b"a", 19)).not_found
    assert (await desk.get(b"a", 20, need_commit_ts=True)).commit_ts == 20


async def test_a_lock_stops_readers_above_it_and_names_its_owner(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1"})
    await desk.prewrite(30, {b"p": b"2", b"a": b"2"}, lock_ttl=5000, txn_size=2)
    locked = (await desk.get(b"a", 40)).error.locked
    assert (locked.key, locked.primary_lock, locked.lock_version) == (b"a", b"p", 30)
    assert (locked.lock_ttl, locked.txn_size, locked.lock_type) == (5000, 2, pb.Op.Put)
    assert (await desk.get(b"a", 29)).value == b"1"
    assert (await desk.get(b"a", 40, context=desk.context(resolved_locks=[30]))).value == b"1"
    assert (await desk.get(b"a", 40, context=desk.context(committed_locks=[30]))).value == b"2"


async def test_scans_and_batches_tell_of_locks_key_by_key(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1", b"b": b"2", b"c": b"3"})
    await desk.prewrite(30, {b"b": b"4"})
    rows = (await desk.call("KvScan", start_key=b"a", end_key=b"z", limit=10, version=40)).pairs
    assert [row.key for row in rows] == [b"a", b"b", b"c"]
    assert [row.error.HasField("locked") for row in rows] == [False, True, False]
    backwards = await desk.call("KvScan", start_key=b"c", end_key=b"", limit=2, version=25, reverse=True)
    assert [(row.key, row.value) for row in backwards.pairs] == [(b"b", b"2"), (b"a", b"1")]
    keys_only = await desk.call("KvScan", start_key=b"a", limit=1, version=25, key_only=True)
    assert [(row.key, row.value) for row in keys_only.pairs] == [(b"a", b"")]
    found = (await desk.call("KvBatchGet", keys=[b"c", b"nothing", b"b"], version=40)).pairs
    assert [row.key for row in found] == [b"c", b"b"]
    assert found[1].error.locked.lock_version == 30
    assert (await desk.call("KvScan", start_key=b"a", limit=0, version=40)) == pb.ScanResponse()


async def test_of_two_writers_the_later_one_to_prewrite_is_told_of_the_conflict(desk: TxnDesk) -> None:
    await desk.put(10, 30, {b"a": b"1"})
    (error,) = (await desk.prewrite(20, {b"a": b"2"})).errors
    assert (error.conflict.start_ts, error.conflict.conflict_commit_ts, error.conflict.key) == (20, 30, b"a")
    await desk.prewrite(40, {b"a": b"3"})
    (error,) = (await desk.prewrite(50, {b"a": b"4"})).errors
    assert error.locked.lock_version == 40


async def test_a_commit_may_be_repeated_and_one_that_was_rolled_back_is_refused(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1"})
    assert (await desk.commit(10, 20, b"a")).commit_version == 20
    await desk.prewrite(30, {b"a": b"2"})
    assert await desk.call("KvBatchRollback", start_version=30, keys=[b"a"]) == pb.BatchRollbackResponse()
    refused = (await desk.commit(30, 40, b"a")).error
    assert refused.HasField("txn_lock_not_found")
    assert "TxnLockNotFound" in refused.retryable
    assert "not above" in (await desk.commit(30, 30, b"a")).error.abort


async def test_the_status_of_a_transaction_and_the_resolution_of_its_locks(desk: TxnDesk) -> None:
    await desk.prewrite(10, {b"p": b"1", b"s1": b"1", b"s2": b"1"})
    status = await desk.call("KvCheckTxnStatus", primary_key=b"p", lock_ts=10, current_ts=11)
    assert (status.lock_ttl, status.lock_info.key) == (3000, b"p")
    await desk.commit(10, 20, b"p")
    status = await desk.call("KvCheckTxnStatus", primary_key=b"p", lock_ts=10, current_ts=11)
    assert (status.commit_version, status.lock_ttl, status.HasField("lock_info")) == (20, 0, False)
    assert await desk.call("KvResolveLock", start_version=10, commit_version=20) == pb.ResolveLockResponse()
    assert [(await desk.get(key, 30)).value for key in (b"s1", b"s2")] == [b"1", b"1"]
    gone = await desk.call("KvCheckTxnStatus", primary_key=b"p", lock_ts=99, current_ts=100)
    assert gone.error.txn_not_found.start_ts == 99


async def test_a_cleanup_rolls_back_whatever_the_time_to_live_and_tells_a_commit(desk: TxnDesk) -> None:
    await desk.prewrite(10, {b"a": b"1"})
    assert await desk.call("KvCleanup", key=b"a", start_version=10) == pb.CleanupResponse()
    await desk.put(20, 30, {b"a": b"2"})
    assert await desk.call("KvCleanup", key=b"a", start_version=20) == pb.CleanupResponse(commit_version=30)


async def test_heartbeats_and_the_list_of_locks(desk: TxnDesk) -> None:
    await desk.prewrite(10, {b"p": b"1", b"q": b"1"})
    assert (
        await desk.call("KvTxnHeartBeat", primary_lock=b"p", start_version=10, advise_lock_ttl=9000)
    ).lock_ttl == 9000
    locks = (await desk.call("KvScanLock", max_version=10, limit=10)).locks
    assert [(lock.key, lock.lock_ttl) for lock in locks] == [(b"p", 9000), (b"q", 3000)]
    assert not (await desk.call("KvScanLock", max_version=9)).locks
    lost = await desk.call("KvTxnHeartBeat", primary_lock=b"x", start_version=10, advise_lock_ttl=9000)
    assert lost.error.HasField("txn_not_found")


async def test_all_commands_share_a_frame(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1"})
    mutation = pb.Mutation(op=pb.Op.Put, key=b"b", value=b"2")
    responses = await desk.batch(
        ("Get", desk.request("KvGet", key=b"a", version=30)),
        (
            "Prewrite",
            desk.request("KvPrewrite", mutations=[mutation], primary_lock=b"b", start_version=40, lock_ttl=3000),
        ),
        ("BatchGet", desk.request("KvBatchGet", keys=[b"a"], version=30)),
        ("CheckTxnStatus", desk.request("KvCheckTxnStatus", primary_key=b"a", lock_ts=10, current_ts=50)),
    )
    assert responses[0].value == b"1"
    assert responses[1] == pb.PrewriteResponse()
    assert responses[2].pairs[0].value == b"1"
    assert responses[3].commit_version == 20


async def test_what_is_no_key_and_what_is_no_mutation_is_refused_by_name(desk: TxnDesk) -> None:
    assert "key is empty" in (await desk.get(b"", 10)).error.abort
    mutation = pb.Mutation(op=pb.Op.PessimisticLock, key=b"a")
    refused = await desk.call("KvPrewrite", mutations=[mutation], primary_lock=b"a", start_version=10)
    assert "PessimisticLock is no mutation" in refused.errors[0].abort
    assert "primary_lock is empty" in (await desk.prewrite(10, {b"a": b""}, primary_lock=b"")).errors[0].abort


async def test_a_key_of_another_region_is_refused(desk: TxnDesk) -> None:
    await desk.call("SplitRegion", split_keys=[b"m"])
    refused = await desk.get(b"a", 10)
    assert kinds(refused.region_error) == ["key_not_in_region"]


async def test_people_see_every_version_of_a_key(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1"})
    await desk.put(30, 40, {b"a": LONG})
    await desk.prewrite(50, {b"a": b"3"})
    info = (await desk.call("MvccGetByKey", key=b"a")).info
    assert [(write.commit_ts, write.start_ts) for write in info.writes] == [(40, 30), (20, 10)]
    assert info.lock.start_ts == 50
    assert info.values[0].value == LONG
    found = await desk.call("MvccGetByStartTs", start_ts=30)
    assert (found.key, len(found.info.writes)) == (b"a", 2)


# --- pessimistic locks --------------------------------------------------------------------------------------------


async def test_a_pessimistic_lock_returns_values_and_is_no_obstacle_to_readers(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1"})
    locked = await desk.lock(30, b"a", b"b", return_values=True)
    assert (list(locked.values), list(locked.not_founds)) == ([b"1", b""], [False, True])
    assert (await desk.get(b"a", 40)).value == b"1"
    assert await desk.lock(30, b"c") == pb.PessimisticLockResponse()
    exists = await desk.lock(30, b"a", check_existence=True)
    assert (list(exists.values), list(exists.not_founds)) == ([], [False])
    (error,) = (await desk.lock(40, b"a")).errors
    assert (error.locked.lock_type, error.locked.lock_for_update_ts) == (pb.Op.PessimisticLock, 30)


async def test_locks_are_taken_back_and_nothing_stays_of_a_request_that_failed(desk: TxnDesk) -> None:
    await desk.lock(10, b"b")
    assert (await desk.lock(20, b"a", b"b", b"c")).errors[0].locked.key == b"b"
    assert [lock.key for lock in (await desk.call("KvScanLock", max_version=99)).locks] == [b"b"]
    await desk.call("KVPessimisticRollback", start_version=10, for_update_ts=10, keys=[b"b"])
    assert not (await desk.call("KvScanLock", max_version=99)).locks


async def test_a_waiter_has_the_lock_once_it_is_released_and_its_full_time_to_live(desk: TxnDesk) -> None:
    await desk.lock(10, b"a")
    request = desk.lock_request(20, b"a", wait_timeout=5000, lock_ttl=1000)
    waiting = desk.scope.start("waiting", lambda: desk.send("KvPessimisticLock", request))
    await settle(desk)
    assert len(desk.service.transactions.executor.waits) == 1
    assert [entry.wait_for_txn for entry in desk.service.deadlocks.entries()] == [10]
    desk.cluster.clock.advance(2.0)
    await desk.call("KVPessimisticRollback", start_version=10, for_update_ts=10, keys=[b"a"])
    assert await desk.finish(waiting.wait()) == pb.PessimisticLockResponse()
    (lock,) = (await desk.call("KvScanLock", max_version=99)).locks
    assert (lock.lock_version, lock.lock_ttl) == (20, 3000)
    assert len(desk.service.transactions.executor.latches) == 0


async def test_a_lock_that_lives_for_ever_stays_readable_also_after_a_wait(desk: TxnDesk) -> None:
    await desk.lock(10, b"a")
    request = desk.lock_request(20, b"a", wait_timeout=5000, lock_ttl=(1 << 64) - 1)
    waiting = desk.scope.start("waiting", lambda: desk.send("KvPessimisticLock", request))
    await settle(desk)
    desk.cluster.clock.advance(2.0)
    await desk.call("KVPessimisticRollback", start_version=10, for_update_ts=10, keys=[b"a"])
    assert await desk.finish(waiting.wait()) == pb.PessimisticLockResponse()
    (lock,) = (await desk.call("KvScanLock", max_version=99)).locks
    assert (lock.lock_version, lock.lock_ttl) == (20, (1 << 64) - 1)


async def test_a_waiter_is_told_of_what_was_committed_meanwhile(desk: TxnDesk) -> None:
    await desk.prewrite(10, {b"a": b"1"})
    waiting = desk.scope.start(
        "waiting", lambda: desk.send("KvPessimisticLock", desk.lock_request(20, b"a", wait_timeout=5000))
    )
    await settle(desk)
    await desk.commit(10, 30, b"a")
    (error,) = (await desk.finish(waiting.wait())).errors
    assert (error.conflict.conflict_commit_ts, error.conflict.reason) == (30, pb.WriteConflict.Reason.PessimisticRetry)


async def test_a_lock_by_force_is_given_with_what_was_committed(desk: TxnDesk) -> None:
    await desk.put(10, 30, {b"a": b"1"})
    locked = await desk.lock(20, b"a", wake_up_mode=pb.PessimisticLockWakeUpMode.WakeUpModeForceLock)
    (result,) = locked.results
    assert result.type == pb.PessimisticLockKeyResultType.LockResultLockedWithConflict
    assert (result.locked_with_conflict_ts, result.value) == (30, b"1")


async def test_a_deadlock_is_told_with_its_cycle_to_the_one_who_closes_it(desk: TxnDesk) -> None:
    await desk.lock(10, b"a")
    await desk.lock(20, b"b")
    first = desk.scope.start(
        "first", lambda: desk.send("KvPessimisticLock", desk.lock_request(10, b"b", wait_timeout=5000))
    )
    await settle(desk)
    refused = await desk.finish(
        desk.send("KvPessimisticLock", desk.lock_request(20, b"a", wait_timeout=5000)),
    )
    deadlock = refused.errors[0].deadlock
    assert (deadlock.lock_ts, deadlock.lock_key, deadlock.deadlock_key) == (10, b"a", b"b")
    assert [(edge.txn, edge.wait_for_txn, edge.key) for edge in deadlock.wait_chain] == [
        (10, 20, b"b"),
        (20, 10, b"a"),
    ]
    await desk.call("KVPessimisticRollback", start_version=20, for_update_ts=20, keys=[b"b"])
    assert await desk.finish(first.wait()) == pb.PessimisticLockResponse()


async def test_a_waiter_is_answered_when_its_region_is_split(desk: TxnDesk) -> None:
    await desk.lock(10, b"a")
    waiting = desk.scope.start(
        "waiting", lambda: desk.send("KvPessimisticLock", desk.lock_request(20, b"a", wait_timeout=5000))
    )
    await settle(desk)
    await desk.call("SplitRegion", split_keys=[b"m"])
    answer = await desk.finish(waiting.wait())
    assert kinds(answer.region_error) == ["epoch_not_match"]


async def test_a_waiter_is_answered_when_the_store_stops(desk: TxnDesk) -> None:
    await desk.lock(10, b"a")
    waiting = desk.scope.start(
        "waiting", lambda: desk.send("KvPessimisticLock", desk.lock_request(20, b"a", wait_timeout=5000))
    )
    await settle(desk)
    desk.node.running.refuse_commands()
    desk.service.transactions.executor.stop()
    answer = await desk.finish(waiting.wait())
    assert kinds(answer.region_error) == ["not_leader"]
    assert kinds((await desk.lock(20, b"a")).region_error) == ["not_leader"]


async def test_a_waiter_gives_up_at_its_deadline(desk: TxnDesk) -> None:
    await desk.lock(10, b"a")
    waiting = desk.scope.start(
        "waiting", lambda: desk.send("KvPessimisticLock", desk.lock_request(20, b"a", wait_timeout=500))
    )
    await settle(desk)
    desk.cluster.clock.advance(0.6)
    desk.service.transactions.executor.on_time(desk.cluster.clock.monotonic())
    (error,) = (await desk.finish(waiting.wait())).errors
    assert error.locked.lock_version == 10


# --- reads and memory ---------------------------------------------------------------------------------------------


async def test_a_read_keeps_async_commits_above_it(tmp_path: Path, scope: Scope) -> None:
    desk = TxnDesk(tmp_path, scope)
    knows_max_ts(desk)
    await desk.get(b"a", 80)
    prewritten = await desk.prewrite(50, {b"a": b"1"}, use_async_commit=True)
    assert prewritten.min_commit_ts == 81
    one_phase = await desk.prewrite(60, {b"b": b"1"}, try_one_pc=True)
    assert one_phase.one_pc_commit_ts == 81
    assert (await desk.get(b"b", 81)).value == b"1"
    assert len(desk.service.transactions.concurrency) == 0


async def test_without_the_largest_read_timestamp_commits_take_two_phases(desk: TxnDesk) -> None:
    assert await desk.prewrite(50, {b"a": b"1"}, use_async_commit=True, try_one_pc=True) == pb.PrewriteResponse()
    assert (await desk.get(b"a", 60)).error.HasField("locked")


async def test_a_read_meets_a_lock_that_is_not_applied_yet(desk: TxnDesk) -> None:
    knows_max_ts(desk)
    mutation = pb.Mutation(op=pb.Op.Put, key=b"a", value=b"1")
    request = desk.request(
        "KvPrewrite",
        mutations=[mutation],
        primary_lock=b"a",
        start_version=50,
        lock_ttl=3000,
        use_async_commit=True,
    )
    prewriting = desk.scope.start("prewrite", lambda: desk.send("KvPrewrite", request))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    read = await desk.send("KvGet", desk.request("KvGet", key=b"a", version=60))
    assert read.error.locked.use_async_commit
    newest = await desk.send("KvGet", desk.request("KvGet", key=b"a", version=MAX_TIMESTAMP))
    assert newest.error.HasField("locked")
    scanned = await desk.send("KvScan", desk.request("KvScan", start_key=b"", limit=5, version=60))
    assert scanned.error.HasField("locked")
    assert (await desk.finish(prewriting.wait())).min_commit_ts == 51


async def test_a_new_leader_fetches_a_timestamp_before_it_commits_in_one_phase(tmp_path: Path, scope: Scope) -> None:
    desk = TxnDesk(tmp_path, scope)
    asked: list[float] = []

    async def fetch(timeout_s: float) -> Any:
        asked.append(timeout_s)
        return 100

    desk.serve_with(fetch_timestamp=fetch)
    await settle(desk)
    assert len(asked) == 1
    assert (await desk.prewrite(50, {b"a": b"1"}, try_one_pc=True)).one_pc_commit_ts == 101


def kinds(error: Any) -> list[str]:
    return [field.name for field, _value in error.ListFields() if field.name != "message"]


async def settle(desk: TxnDesk) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
        desk.cluster.settle()


def knows_max_ts(desk: TxnDesk) -> None:
    """Let the region's largest read timestamp count as known."""
    peer = desk.node.peer
    desk.service.transactions._terms[peer.region.id] = peer.term


# --- the cluster's say --------------------------------------------------------------------------------------------


async def test_the_first_write_waits_for_the_cluster_and_is_refused_with_its_reason(
    tmp_path: Path, scope: Scope
) -> None:
    desk = TxnDesk(tmp_path, scope)
    answers = ["region 2 begins at b'm': a plain bound", ""]
    asked: list[float] = []

    async def allow(timeout_s: float) -> str:
        asked.append(timeout_s)
        return answers.pop(0)

    desk.serve_with(allow_transactions=allow)
    refused = await desk.prewrite(10, {b"a": b"1"})
    assert "a plain bound" in refused.errors[0].abort
    assert not desk.node.running.splits.is_transactional
    await desk.put(20, 30, {b"a": b"1"})
    await desk.put(40, 50, {b"a": b"2"})
    assert len(asked) == 2, "once it is allowed, nobody is asked again"
    assert desk.node.running.splits.is_transactional


async def test_without_the_scheduler_the_first_write_is_to_be_repeated(tmp_path: Path, scope: Scope) -> None:
    desk = TxnDesk(tmp_path, scope)

    async def allow(timeout_s: float) -> str:
        raise TimeoutError("nobody answers")

    desk.serve_with(allow_transactions=allow)
    answer = await desk.prewrite(10, {b"a": b"1"})
    assert kinds(answer.region_error) == ["server_is_busy"]


async def test_garbage_is_collected_and_older_readers_are_refused(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1", b"b": b"1"})
    await desk.put(30, 40, {b"a": b"2"})
    reported: list[tuple[int, int]] = []

    async def report(acknowledged_ts: int, oldest_lock_ts: int, timeout_s: float) -> Allowed:
        reported.append((acknowledged_ts, oldest_lock_ts))
        return Allowed(45, 45)

    await desk.finish(desk.service.collect_garbage(report, 5.0))
    assert reported == [(0, 0)]
    assert await desk.call("KvGC", safe_point=45) == pb.GCResponse()
    info = (await desk.call("MvccGetByKey", key=b"a")).info
    assert [write.commit_ts for write in info.writes] == [40]
    assert (await desk.get(b"a", 45)).value == b"2"
    assert (await desk.get(b"b", 45)).value == b"1"
    told = (await desk.get(b"a", 44)).error.abort
    assert told.startswith("snapshot too old")
    assert told.count("too old") == 1
    assert "snapshot too old" in str(await desk.call("KvScan", start_key=b"", limit=5, version=44))
    assert "snapshot too old" in str(await desk.prewrite(41, {b"c": b"1"}))
    assert "above 45" in (await desk.call("KvGC", safe_point=46)).error.abort


async def test_a_lock_is_reported_to_hold_collection_back(desk: TxnDesk) -> None:
    await desk.finish(desk.service.collect_garbage(_nothing_yet, 5.0))
    collector = desk.service.transactions.collector
    assert isinstance(collector, GarbageCollector)
    assert await collector.oldest_lock() == MAX_TIMESTAMP
    await desk.prewrite(33, {b"a": b"1"})
    await desk.lock(22, b"b")
    assert await collector.oldest_lock() == 22


async def _nothing_yet(acknowledged_ts: int, oldest_lock_ts: int, timeout_s: float) -> Allowed:
    return Allowed(0, 0)


async def test_ranges_are_deleted_with_versions_values_and_locks(desk: TxnDesk) -> None:
    await desk.put(10, 20, {b"a": b"1", b"b": LONG, b"c": b"3"})
    await desk.prewrite(30, {b"b": b"4"})
    assert await desk.call("KvDeleteRange", start_key=b"b", end_key=b"c") == pb.DeleteRangeResponse()
    assert (await desk.get(b"b", 40)).not_found
    assert (await desk.get(b"c", 40)).value == b"3"
    assert await desk.call("UnsafeDestroyRange", start_key=b"", end_key=b"") == pb.UnsafeDestroyRangeResponse()
    assert (await desk.get(b"c", 40)).not_found
    assert list((await desk.call("GetLockWaitInfo")).entries) == []


async def test_a_read_in_the_far_future_is_refused_and_raises_no_commit_timestamp(desk: TxnDesk) -> None:
    handed_out = [compose(1_000_000, 0)]

    async def fetch(_timeout_s: float) -> Timestamp:
        return handed_out[-1]

    desk.serve_with(fetch_timestamp=fetch)
    await asyncio.sleep(0)
    host = desk.service.transactions
    too_far, soon = compose(1_100_000, 0), compose(1_050_000, 0)
    assert (await desk.get(b"a", soon)).not_found
    refused = (await desk.get(b"a", too_far)).error.abort
    assert "from the future" in refused
    assert host.concurrency.max_ts == soon
    # The scheduler's clock was set forward: the refusal has made the store ask again.
    handed_out.append(too_far)
    assert "from the future" in (await desk.get(b"a", too_far + 1)).error.abort
    assert (await desk.get(b"a", too_far + 1)).not_found
    assert host.concurrency.max_ts == too_far + 1


class Cluster:
    """Stands in for the rest of the cluster: remembers what it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.locks: list[list[ForeignLock]] = []
        self.ranges: list[tuple[bytes, bytes]] = []
        self._error = error
        """What is raised at every question."""

    async def resolve_locks(self, locks: Sequence[ForeignLock], timeout_s: float) -> int:
        self.locks.append(list(locks))
        if self._error is not None:
            raise self._error
        return 1

    async def delete_range(self, start: bytes, end: bytes, timeout_s: float) -> None:
        self.ranges.append((start, end))
        if self._error is not None:
            raise self._error


async def collector_of(desk: TxnDesk) -> GarbageCollector:
    await desk.finish(desk.service.collect_garbage(_nothing_yet, 5.0))
    collector = desk.service.transactions.collector
    assert isinstance(collector, GarbageCollector)
    return collector


async def test_old_locks_are_handed_to_who_resolves_them_and_younger_ones_are_not(desk: TxnDesk) -> None:
    cluster = Cluster()
    desk.serve_with(cluster=cluster)
    collector = await collector_of(desk)
    await desk.prewrite(33, {b"a": b"1", b"c": b"2"}, use_async_commit=True, secondaries=[b"c"], min_commit_ts=34)
    await desk.lock(22, b"b")
    await desk.prewrite(44, {b"d": b"1"})
    await collector.resolve_old_locks(44)
    (locks,) = cluster.locks
    assert [(lock.key, lock.primary, lock.start_ts, lock.is_pessimistic) for lock in locks] == [
        (b"a", b"a", 33, False),
        (b"b", b"b", 22, True),
        (b"c", b"a", 33, False),
    ]
    assert collector.resolved == 2
    await collector.resolve_old_locks(22)
    assert len(cluster.locks) == 1


async def test_that_old_locks_cannot_be_resolved_does_not_end_collection(desk: TxnDesk) -> None:
    desk.serve_with(cluster=Cluster(TimeoutError("no scheduler answers")))
    collector = await collector_of(desk)
    await desk.prewrite(33, {b"a": b"1"})
    await collector.resolve_old_locks(44)
    assert collector.resolved == 0
    assert await collector.oldest_lock() == 33


async def test_a_store_sees_to_the_whole_range_that_is_to_be_destroyed(desk: TxnDesk) -> None:
    cluster = Cluster()
    desk.serve_with(cluster=cluster)
    done = await desk.call("UnsafeDestroyRange", start_key=b"a", end_key=b"z")
    assert done == pb.UnsafeDestroyRangeResponse()
    assert cluster.ranges == [(b"a", b"z")]
    desk.serve_with(cluster=Cluster(DeadlineExceededError("region 7 has no leader")))
    assert (await desk.call("UnsafeDestroyRange")).error == "region 7 has no leader"


DELETED = [b"k%06d" % number for number in range(6000)]


async def test_a_scan_over_very_many_deleted_keys_lets_others_have_their_turn(desk: TxnDesk) -> None:
    """They make no row, so that neither rows nor bytes end a slice."""
    mutations = [pb.Mutation(op=pb.Op.Del, key=key) for key in DELETED]
    await desk.put(10, 20, {b"a": b"1", b"z": b"2"})
    await desk.prewrite(30, {b"p": b""}, mutations=mutations, primary_lock=DELETED[0])
    await desk.commit(30, 40, *DELETED)
    records_per_slice = desk.node.running.config.read_slice_bytes // RECORD_COST
    slices = desk.service.long_reads.slices
    for fields in ({"start_key": b"", "end_key": b""}, {"start_key": b"zz", "end_key": b"a", "reverse": True}):
        answer = await desk.call("KvScan", limit=5, version=50, **fields)
        assert sorted(pair.key for pair in answer.pairs) == [b"a", b"z"]
        taken = desk.service.long_reads.slices - slices
        assert taken >= len(DELETED) // records_per_slice
        slices += taken
    assert (await desk.call("MvccGetByStartTs", start_ts=11)).key == b""
    assert desk.service.long_reads.slices - slices >= len(DELETED) // records_per_slice


async def test_a_search_for_locks_among_very_many_lets_others_have_their_turn(desk: TxnDesk) -> None:
    mutations = [pb.Mutation(op=pb.Op.Put, key=key, value=b"1") for key in DELETED]
    await desk.prewrite(60, {b"p": b""}, mutations=mutations, primary_lock=DELETED[0])
    records_per_slice = desk.node.running.config.read_slice_bytes // RECORD_COST
    for name, fields in (
        ("KvScanLock", {"max_version": 50, "limit": 10}),
        ("KvScan", {"start_key": b"", "limit": 10, "version": 50}),
    ):
        slices = desk.service.long_reads.slices
        answer = await desk.call(name, **fields)
        assert not getattr(answer, "locks", None), "all are younger"
        assert not getattr(answer, "pairs", None), "all are younger"
        assert desk.service.long_reads.slices - slices >= len(DELETED) // records_per_slice


def test_what_the_protocol_carries_in_frames_is_served_there() -> None:
    """All that `BatchCommands` has a member for, but for what this version does not serve at all."""
    served = {command.member for command in COMMANDS if command.member is not None}
    assert set(MEMBERS) - served == {
        "BroadcastTxnStatus",
        "BufferBatchGet",
        "Coprocessor",
        "FlashbackToVersion",
        "Flush",
        "GetHealthFeedback",
        "Import",
        "PrepareFlashbackToVersion",
        "RawCoprocessor",
    }
    assert {command.method for command in COMMANDS if command.member is None} == {
        "GetLockWaitInfo",
        "MvccGetByKey",
        "MvccGetByStartTs",
        "RawChecksum",
        "RawCompareAndSwap",
        "RawGetKeyTTL",
        "SplitRegion",
        "UnsafeDestroyRange",
    }, "of which no member is defined"
