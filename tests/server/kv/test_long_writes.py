"""Batches of so many keys that they take several entries of the log: what is executed, when, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.kv_harness import Desk, collect, config, feed

from pytinykv.lifecycle import Scope
from pytinykv.raftstore.operations import decode_operations
from pytinykv.raftstore.pending import OnDone
from pytinykv.server.kv import long_writes, service
from pytinykv.wire import BATCH_COMMANDS, RpcError
from pytinykv.wire.errors import EpochNotMatch, RegionError
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import tikvpb_pb2

SLICE = 10
KEYS = [b"k%03d" % number for number in range(5 * SLICE + 3)]
PAIRS = [pb.KvPair(key=key, value=b"v" + key) for key in KEYS]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A store that puts `SLICE` operations into an entry."""
    async with Scope("test") as scope:
        desk = Desk(tmp_path, scope, config=config(entry_operations_max=SLICE))
        yield desk
        assert len(desk.service.long_writes) == 0, "all are answered"


def sizes_of_entries(desk: Desk) -> list[int]:
    """Return how many operations each entry of the log has, empty ones left out."""
    storage = desk.node.peer.storage
    entries = storage.entries(storage.first_index(), type(storage.last_index())(storage.last_index() + 1), 1 << 30)
    return [len(decode_operations(entry.data)[1]) for entry in entries if entry.data]


def stored(desk: Desk) -> int:
    return sum(desk.node.value(key) is not None for key in KEYS)


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


class Answered:
    """Answers the proposals of a store by hand, without executing them; `None` lets one be executed."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch, *outcomes: RegionError | None) -> None:
        self._propose, self._outcomes = desk.node.running.propose, list(outcomes)
        monkeypatch.setattr(desk.node.running, "propose", self.propose)

    def propose(self, peer: Any, operations: Any, size: int, on_done: OnDone, **checked: Any) -> None:
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is None:
            self._propose(peer, operations, size, on_done, **checked)
        else:
            on_done(outcome, None)


async def test_a_batch_of_many_keys_takes_several_entries_and_one_answer(desk: Desk) -> None:
    response = await desk.call("RawBatchPut", pairs=PAIRS)
    assert response == pb.RawBatchPutResponse()
    assert sizes_of_entries(desk) == [SLICE] * 5 + [3]
    assert [desk.node.value(key) for key in KEYS] == [b"v" + key for key in KEYS]
    response = await desk.call("RawBatchDelete", keys=KEYS)
    assert response == pb.RawBatchDeleteResponse()
    assert sizes_of_entries(desk) == ([SLICE] * 5 + [3]) * 2
    assert stored(desk) == 0
    assert desk.service.long_writes.slices == 12


async def test_a_batch_that_fits_into_an_entry_takes_one(desk: Desk) -> None:
    await desk.call("RawBatchPut", pairs=PAIRS[:SLICE])
    assert sizes_of_entries(desk) == [SLICE]
    assert desk.service.long_writes.slices == 0


async def test_large_batches_in_a_frame_are_answered_each(desk: Desk) -> None:
    put = desk.request("RawBatchPut", pairs=PAIRS)
    small = desk.request("RawPut", key=b"small", value=b"1")
    responses = await desk.batch(("RawBatchPut", put), ("RawPut", small), ("RawBatchPut", put))
    assert responses == [pb.RawBatchPutResponse(), pb.RawPutResponse(), pb.RawBatchPutResponse()]
    assert desk.node.value(b"small") == b"1"
    assert stored(desk) == len(KEYS)


async def test_each_pair_keeps_its_own_ttl(desk: Desk) -> None:
    await desk.call("RawBatchPut", pairs=PAIRS, ttls=[1000 + number for number in range(len(PAIRS))])
    for number in (0, SLICE - 1, SLICE, len(PAIRS) - 1):
        assert (await desk.call("RawGetKeyTTL", key=KEYS[number])).ttl == 1000 + number


async def test_others_have_the_event_loop_between_slices(desk: Desk) -> None:
    task = desk.scope.start("put", lambda: desk.unary("RawBatchPut", pairs=PAIRS))
    await turns(3)
    assert not task.done, "still being checked, slice by slice"
    assert sizes_of_entries(desk) == []
    seen = set[int]()
    for _ in range(300):
        await asyncio.sleep(0)
        desk.cluster.step()
        seen.add(stored(desk))
    assert await task.wait() == pb.RawBatchPutResponse()
    assert seen >= {0, SLICE, 2 * SLICE, 3 * SLICE, 4 * SLICE, 5 * SLICE, len(KEYS)}, "no turn applies two slices"


@pytest.mark.parametrize("bad", [b"", b"x" * 9000])
async def test_a_bad_key_at_the_end_is_found_before_anything_is_executed(desk: Desk, bad: bytes) -> None:
    response = await desk.each_way("RawBatchPut", pairs=[*PAIRS, pb.KvPair(key=bad, value=b"v")])
    assert "key is" in response.error
    assert not response.HasField("region_error")
    assert sizes_of_entries(desk) == []


async def test_more_bytes_than_a_command_may_have_are_refused_before_anything_is_executed(desk: Desk) -> None:
    value = bytes(1 << 20)
    response = await desk.call("RawBatchPut", pairs=[pb.KvPair(key=key, value=value) for key in KEYS[:11]])
    assert response.region_error.HasField("raft_entry_too_large")
    assert sizes_of_entries(desk) == []


async def test_a_refusal_of_the_first_slice_is_told_as_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    Answered(desk, monkeypatch, EpochNotMatch(message="split", current_regions=[]))
    response = await desk.call("RawBatchPut", pairs=PAIRS)
    assert response.region_error.HasField("epoch_not_match"), "nothing was executed: the client repeats it elsewhere"
    assert stored(desk) == 0


async def test_a_refusal_after_a_slice_was_executed_is_undetermined(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    Answered(desk, monkeypatch, None, None, EpochNotMatch(message="split", current_regions=[]))
    response = await desk.call("RawBatchPut", pairs=PAIRS)
    assert response.region_error.HasField("undetermined_result")
    assert not response.region_error.HasField("epoch_not_match"), "a client that repeats it may undo another's write"
    assert "a part of the batch may have been executed, then: " in response.region_error.message
    assert stored(desk) == 2 * SLICE, "what comes after the refused slice is not executed"


async def test_a_leader_that_is_deposed_in_between_says_undetermined(desk: Desk) -> None:
    task = desk.scope.start("put", lambda: desk.unary("RawBatchPut", pairs=PAIRS))
    while stored(desk) < 2 * SLICE:
        await asyncio.sleep(0)
        desk.cluster.step()
    other = next(store_id for store_id in desk.cluster.nodes if store_id != desk.node.store_id)
    desk.cluster.elect(other)
    for _ in range(100):
        await asyncio.sleep(0)
        desk.cluster.step()
    response = await task.wait()
    assert response.region_error.HasField("undetermined_result")
    assert stored(desk) < len(KEYS)


async def test_a_store_that_stops_answers_what_is_under_way(desk: Desk, tmp_path: Path) -> None:
    async with Scope("client") as clients:
        executed = clients.start("executed", lambda: desk.unary("RawBatchPut", pairs=PAIRS))
        while stored(desk) < SLICE:
            await asyncio.sleep(0)
            desk.cluster.step()
        checked = clients.start("checked", lambda: desk.unary("RawBatchDelete", keys=KEYS))
        await turns(2)
        await desk.scope.stop()
        assert (await executed.wait()).region_error.HasField("undetermined_result")
        assert (await checked.wait()).region_error.HasField("not_leader"), "nothing of it was proposed"
        late = await desk.unary("RawBatchDelete", keys=KEYS)
        assert late.region_error.HasField("not_leader")


async def test_a_client_that_has_gone_ends_its_batch(desk: Desk) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[1])
    frame.requests.add().RawBatchPut.CopyFrom(desk.request("RawBatchPut", pairs=PAIRS))
    answers = desk.service
    stream = answers.stream(BATCH_COMMANDS, feed(frame))
    reading = desk.scope.start("client", lambda: collect(stream))
    while stored(desk) < SLICE:
        await asyncio.sleep(0)
        desk.cluster.step()
    reading.cancel()
    for _ in range(100):
        await asyncio.sleep(0)
        desk.cluster.step()
    assert len(desk.service.long_writes) == 0
    assert stored(desk) <= 3 * SLICE, "nobody waits for the rest"


async def test_more_of_them_than_a_store_takes_are_refused_as_busy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_writes, "LONG_WRITES_MAX", 1)
    put = desk.request("RawBatchPut", pairs=PAIRS)
    done, refused = await desk.batch(("RawBatchPut", put), ("RawBatchPut", put))
    assert done == pb.RawBatchPutResponse()
    assert refused.region_error.HasField("server_is_busy")
    assert sizes_of_entries(desk) == [SLICE] * 5 + [3]


async def test_a_defect_ends_the_stream_and_not_the_store(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_arguments: Any, **_named: Any) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(desk.node.running, "propose", break_down)
    with pytest.raises(RpcError, match="planted"):
        await desk.call("RawBatchPut", pairs=PAIRS)
    monkeypatch.undo()
    assert await desk.call("RawBatchPut", pairs=PAIRS) == pb.RawBatchPutResponse()


async def test_a_frame_of_very_many_commands_is_served_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "COMMANDS_MAX", 7)
    parts: list[int] = []
    on_frame = desk.service.on_frame

    def counted(frame: Any, answers: Any, first: int) -> None:
        parts.append(first)
        on_frame(frame, answers, first)

    monkeypatch.setattr(desk.service, "on_frame", counted)
    puts = [desk.request("RawPut", key=key, value=b"1") for key in KEYS]
    responses = await desk.batch(*(("RawPut", put) for put in puts))
    assert responses == [pb.RawPutResponse()] * len(KEYS)
    assert parts == list(range(0, len(KEYS), 7))
    assert stored(desk) == len(KEYS)
