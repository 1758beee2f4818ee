"""Reads that take more than one slice: what they see, what they hold up, and when they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.kv.kv_harness import Desk, collect, config, feed

from pytinykv.lifecycle import Scope, TaskCancelledError
from pytinykv.model import Region, RegionEpoch
from pytinykv.model.raw_values import encode_raw_value
from pytinykv.raftstore.operations import RAW_CODE
from pytinykv.server.kv import answers, reads
from pytinykv.server.kv.answers import AnswerBatch, AnswerBudget, Answers
from pytinykv.server.kv.commands import MEMBERS
from pytinykv.server.kv.kinds import ROW_COST
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import DELETE, PUT
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode
from pytinykv.wire.frames import encode_commands
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import tikvpb_pb2

ROWS = 60
KEYS = [b"k%03d" % number for number in range(ROWS)]
RANGE = pb.KeyRange(start_key=b"k", end_key=b"l")
MANY: dict[str, dict[str, Any]] = {
    "RawBatchGet": {"keys": KEYS},
    "RawScan": {"start_key": b"k", "end_key": b"l", "limit": 1000},
    "RawBatchScan": {
        "ranges": [pb.KeyRange(start_key=b"k", end_key=b"k030"), pb.KeyRange(start_key=b"k030")],
        "each_limit": 100,
    },
    "RawChecksum": {"ranges": [RANGE]},
}
"""Reads of all rows."""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A store with `ROWS` rows, of which a slice looks at three."""
    async with Scope("test") as scope:
        desk = Desk(tmp_path, scope, config=config(read_slice_bytes=3 * ROW_COST))
        batch = desk.node.engine.write_batch()
        for key in KEYS:
            batch.put(ColumnFamily.RAW, b"d" + key, encode_raw_value(b"v" + key))
        batch.put(ColumnFamily.RAW, b"dbystander", encode_raw_value(b"small"))
        desk.node.engine.write(batch)
        yield desk
        assert desk.service.budget.used_bytes == 0, "all that was counted has been taken or thrown away"


def rows_in(response: Any) -> int:
    assert not response.HasField("region_error"), response.region_error
    return (
        getattr(response, "total_kvs", None) or len(getattr(response, "pairs", ())) or len(getattr(response, "kvs", ()))
    )


async def take(stream: AsyncIterator[bytes], found: list[Any]) -> None:
    """Add the frames of a stream to `found`, also when it ends with an error."""
    async for frame in stream:
        found.append(tikvpb_pb2.BatchCommandsResponse.FromString(frame))  # noqa: PERF401 - a comprehension would lose them


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def begin(desk: Desk, name: str, **fields: Any) -> Any:
    """Start a unary call that is served in slices, and let it be served for some of them."""
    return desk.scope.start("long-call", lambda: desk.unary(name, **(fields or MANY[name])))


def without_lease(desk: Desk) -> None:
    desk.cluster.clock.now += desk.cluster.config.lease_s + 0.01


# --- what is seen


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("name", MANY)
async def test_slices_add_up_to_the_whole_answer(desk: Desk, name: str, lease: bool) -> None:
    if not lease:
        without_lease(desk)
    asked = desk.node.running.counters.quorum_reads
    response = await desk.call(name, **MANY[name])
    assert desk.node.running.counters.quorum_reads - asked == (not lease)
    assert rows_in(response) == ROWS
    assert desk.service.long_reads.slices >= ROWS // 3 - 1
    reads_under_way = len(desk.service.long_reads)
    assert reads_under_way == 0
    if MEMBERS.get(name) is not None:
        (framed,) = await desk.batch((name, desk.request(name, **MANY[name])))
        assert framed == response


NOWHERE = [pb.KeyRange(start_key=b"x%03d" % number, end_key=b"x%03d" % (number + 1)) for number in range(ROWS)]
"""Ranges without a row."""


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RawBatchScan", {"ranges": NOWHERE, "each_limit": 1}),
        ("RawBatchScan", {"ranges": NOWHERE, "each_limit": 0}),
        ("RawChecksum", {"ranges": NOWHERE}),
        ("RawChecksum", {"ranges": [pb.KeyRange(start_key=b"b", end_key=b"a")] * ROWS}),
    ],
)
async def test_ranges_without_rows_are_served_in_slices_as_well(desk: Desk, name: str, fields: dict[str, Any]) -> None:
    response = await desk.call(name, **fields)
    assert rows_in(response) == 0
    assert desk.service.long_reads.slices >= ROWS // 3 - 1


REVERSE: list[tuple[str, dict[str, Any]]] = [
    ("RawScan", {"start_key": b"l", "end_key": b"k", "limit": 1000, "reverse": True}),
    ("RawBatchScan", {"ranges": [pb.KeyRange(start_key=b"l", end_key=b"k")], "each_limit": 100, "reverse": True}),
]


@pytest.mark.parametrize(("name", "fields"), [*MANY.items(), *REVERSE])
async def test_all_slices_see_the_moment_of_the_first(desk: Desk, name: str, fields: dict[str, Any]) -> None:
    call = begin(desk, name, **fields)
    await turns(5)
    assert not call.done
    deletions = [(DELETE, RAW_CODE, b"d" + key) for key in KEYS]
    desk.cluster.propose(desk.node.store_id, *deletions, (PUT, RAW_CODE, b"dk9", encode_raw_value(b"late")))
    desk.cluster.settle()
    assert desk.node.value(KEYS[-1]) is None
    await turns(100)
    response = await call.wait()
    assert rows_in(response) == ROWS
    assert b"late" not in response.SerializeToString()


async def test_a_lease_that_ends_while_the_first_slice_is_read_does_not_count(desk: Desk) -> None:
    clock, engine = desk.cluster.clock, desk.node.engine
    get = engine.get

    def slow_get(cf: ColumnFamily, key: bytes) -> bytes | None:
        if cf is ColumnFamily.RAW and engine.get is slow_get:
            engine.get = get  # type: ignore[method-assign]
            clock.now += desk.cluster.config.lease_s + 0.01
        return get(cf, key)

    engine.get = slow_get  # type: ignore[method-assign]
    asked = desk.node.running.counters.quorum_reads
    assert rows_in(await desk.call("RawBatchGet", **MANY["RawBatchGet"])) == ROWS
    assert desk.node.running.counters.quorum_reads == asked + 1


async def test_a_lease_that_ends_between_slices_does_not_matter(desk: Desk) -> None:
    """The snapshot was taken while it held, and is what the answer shows, however long that takes."""
    asked = desk.node.running.counters.quorum_reads
    call = begin(desk, "RawBatchGet")
    await turns(5)
    without_lease(desk)
    await turns(100)
    assert rows_in(await call.wait()) == ROWS
    assert desk.node.running.counters.quorum_reads == asked


async def test_a_region_that_is_split_or_goes_between_slices_is_shown_as_it_was(desk: Desk) -> None:
    call, other = begin(desk, "RawScan"), begin(desk, "RawBatchGet")
    await turns(5)
    peer = desk.node.peer
    region = peer.storage.region
    peer.storage.region = Region(region.id, b"", b"k010", RegionEpoch(1, 2), region.peers)
    elsewhere = tuple(one for one in region.peers if one.id != peer.peer.id)
    desk.node.running.on_membership_answer(Region(region.id, b"", b"k010", RegionEpoch(9, 2), elsewhere))
    desk.cluster.settle()
    assert peer.is_destroyed
    await turns(100)
    assert rows_in(await call.wait()) == ROWS
    assert rows_in(await other.wait()) == ROWS


# --- what is held up


@pytest.mark.parametrize("name", MANY)
async def test_others_are_served_between_slices(desk: Desk, name: str) -> None:
    call = begin(desk, name)
    await turns(3)
    for _ in range(3):
        assert (await desk.unary("RawGet", key=b"bystander")).value == b"small"
        assert not call.done
        await turns(1)
    await turns(100)
    assert rows_in(await call.wait()) == ROWS


async def test_expired_rows_and_rows_of_which_only_the_key_is_wanted_count_as_well(desk: Desk) -> None:
    desk.cluster.clock.wall += 10_000
    batch = desk.node.engine.write_batch()
    for number in range(ROWS):
        batch.put(ColumnFamily.RAW, b"dm%03d" % number, encode_raw_value(b"old", 1))
    desk.node.engine.write(batch)
    before = desk.service.long_reads.slices
    assert (await desk.call("RawScan", start_key=b"m", end_key=b"n", limit=1)) == pb.RawScanResponse()
    assert desk.service.long_reads.slices - before >= ROWS // 3 - 1
    before = desk.service.long_reads.slices
    assert rows_in(await desk.call("RawScan", key_only=True, **MANY["RawScan"])) == ROWS
    assert desk.service.long_reads.slices - before >= ROWS // 3 - 1


async def test_a_slice_of_one_large_row_is_known_as_too_large(desk: Desk) -> None:
    """It is followed by a pause: what waits takes several turns of the event loop, and would meet a large row in each."""
    batch = desk.node.engine.write_batch()
    for number in range(3):
        batch.put(ColumnFamily.RAW, b"dn%d" % number, encode_raw_value(bytes(100_000)))
    desk.node.engine.write(batch)
    call = begin(desk, "RawScan", start_key=b"n", end_key=b"o", limit=3)
    small = begin(desk, "RawBatchGet")
    await turns(1)
    assert [one.is_overdrawn for one in desk.service.long_reads._reads] == [True, False]
    assert (rows_in(await call.wait()), rows_in(await small.wait())) == (3, ROWS)


async def test_long_reads_take_turns(desk: Desk) -> None:
    first, second = begin(desk, "RawBatchGet"), begin(desk, "RawBatchGet", keys=KEYS[:9])
    await turns(20)
    assert second.done, "the short one does not wait for the long one"
    assert not first.done
    await turns(100)
    assert rows_in(await first.wait()) == ROWS


async def test_many_gets_of_one_frame_leave_as_they_are_ready(desk: Desk) -> None:
    gets = tikvpb_pb2.BatchCommandsRequest()
    for number, key in enumerate(KEYS):
        gets.request_ids.append(number)
        gets.requests.add().RawGet.CopyFrom(desk.request("RawGet", key=key))
    frames = await desk.finish(collect(desk.service.stream(BATCH_COMMANDS, feed(gets))))
    assert len(frames) > 5
    assert sorted(number for frame in frames for number in frame.request_ids) == list(range(ROWS))
    assert all(response.RawGet.value for frame in frames for response in frame.responses)


# --- when they end


async def test_a_call_that_was_given_up_is_not_served_any_more(desk: Desk) -> None:
    call = begin(desk, "RawBatchGet")
    await turns(5)
    assert len(desk.service.long_reads) == 1
    call.cancel()
    with pytest.raises(TaskCancelledError):
        await call.wait()
    slices = desk.service.long_reads.slices
    await turns(5)
    assert desk.service.long_reads.slices <= slices + 1
    assert len(desk.service.long_reads) == 0
    assert not desk.node.engine._pins, "its snapshot is closed"


async def test_a_stream_whose_client_has_gone_is_not_served_any_more(desk: Desk) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield frame_of(desk, 1, "RawScan", **MANY["RawScan"])
        await asyncio.Event().wait()

    stream = desk.service.stream(BATCH_COMMANDS, requests())
    client = desk.scope.start("client", stream.__anext__)  # type: ignore[arg-type]
    await turns(6)
    assert len(desk.service.long_reads) == 1
    client.cancel()
    with pytest.raises(TaskCancelledError):
        await client.wait()
    await stream.aclose()  # type: ignore[attr-defined]
    await turns(3)
    assert len(desk.service.long_reads) == 0


def frame_of(desk: Desk, request_id: int, name: str, **fields: Any) -> Any:
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[request_id])
    getattr(frame.requests.add(), name).CopyFrom(desk.request(name, **fields))
    return encode_commands(frame)


async def test_a_read_ends_when_its_own_time_is_over(desk: Desk) -> None:
    context = desk.context(max_execution_duration_ms=50)
    call = begin(desk, "RawBatchGet", context=context, keys=KEYS)
    await turns(5)
    desk.cluster.clock.now += 0.06
    await turns(5)
    assert "deadline is exceeded" in (await call.wait()).region_error.server_is_busy.reason


async def test_a_store_that_stops_tells_what_it_has_not_served(tmp_path: Path) -> None:
    async with Scope("client") as client:
        scope = Scope("store")
        desk = Desk(tmp_path, scope, config=config(read_slice_bytes=1))

        async def requests() -> AsyncIterator[Any]:
            yield frame_of(desk, 1, "RawBatchGet", keys=KEYS)
            await asyncio.Event().wait()

        found: list[Any] = []

        async def read() -> None:
            await take(desk.service.stream(BATCH_COMMANDS, requests()), found)

        reader = client.start("client", read)
        await turns(6)
        await scope.stop()
        with pytest.raises(RpcError) as caught:
            await reader.wait()
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert "stopping" in found[0].responses[0].RawBatchGet.region_error.message
        late = begin_on(client, desk)
        assert "stopping" in (await late.wait()).region_error.message


def begin_on(scope: Scope, desk: Desk) -> Any:
    return scope.start("late", lambda: desk.unary("RawBatchGet", keys=KEYS))


async def test_a_stream_whose_requests_a_stop_has_ended_is_unavailable_after_its_answers(tmp_path: Path) -> None:
    """OK would say that the client got all it wanted."""
    async with Scope("client") as client:
        scope = Scope("store")
        desk = Desk(tmp_path, scope)
        ended = asyncio.Event()

        async def requests() -> AsyncIterator[Any]:
            yield frame_of(desk, 1, "RawGet", key=b"k")
            await ended.wait()

        found: list[Any] = []

        async def read() -> None:
            await take(desk.service.stream(BATCH_COMMANDS, requests()), found)

        async def end_requests() -> None:
            ended.set()
            await turns(3)

        scope.on_stop("as the server does", end_requests, 1.0)
        reader = client.start("client", read)
        await turns(6)
        await scope.stop()
        with pytest.raises(RpcError) as caught:
            await reader.wait()
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert len(found) == 1


async def test_a_defect_in_a_slice_breaks_its_stream_and_not_the_store(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    call, other = begin(desk, "RawBatchGet"), begin(desk, "RawScan")
    await turns(3)
    (broken, _other) = desk.service.long_reads._reads
    broken._steps = (1 / 0 for _ in "x")  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR):
        await turns(100)
    with pytest.raises(RpcError, match="division by zero"):
        await call.wait()
    assert rows_in(await other.wait()) == ROWS
    logged = [record.exc_info[0] for record in caplog.records if record.exc_info and record.name == reads.__name__]
    assert logged == [ZeroDivisionError]


# --- bounds


def kinds(response: Any) -> list[str]:
    return [field.name for field, _value in response.region_error.ListFields() if field.name != "message"]


@pytest.mark.parametrize("name", ["RawBatchGet", "RawBatchScan", "RawGet"])
async def test_a_store_that_holds_too_many_answers_refuses_reads(desk: Desk, name: str) -> None:
    fields = MANY.get(name, {"key": b"k001"})
    desk.service.budget.used_bytes += answers.STORE_BYTES_MAX
    response = await desk.each_way(name, **fields)
    assert kinds(response) == ["server_is_busy"]
    assert response.region_error.server_is_busy.backoff_ms > 0
    assert desk.service.budget.refused > 0
    assert await desk.call("RawPut", key=b"a", value=b"1") == pb.RawPutResponse(), "writes hold no answers"
    desk.service.budget.used_bytes -= answers.STORE_BYTES_MAX
    assert kinds(await desk.each_way(name, **fields)) == []


async def test_a_read_is_refused_when_the_store_comes_to_hold_too_much_meanwhile(desk: Desk) -> None:
    call = begin(desk, "RawBatchGet")
    await turns(5)
    assert 0 < desk.service.budget.used_bytes < 1000, "what is made so far counts"
    desk.service.budget.used_bytes += answers.STORE_BYTES_MAX
    await turns(5)
    assert kinds(await call.wait()) == ["server_is_busy"]
    desk.service.budget.used_bytes -= answers.STORE_BYTES_MAX


async def test_a_scan_is_not_told_by_a_page_that_looks_like_an_empty_one(desk: Desk) -> None:
    """One client takes the answer to a unary scan that has a region error, or an error of a pair, for an empty page."""
    desk.service.budget.used_bytes += answers.STORE_BYTES_MAX
    with pytest.raises(RpcError, match="holds too much") as caught:
        await desk.call("RawScan", **MANY["RawScan"])
    assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
    (framed,) = await desk.batch(("RawScan", desk.request("RawScan", **MANY["RawScan"])))
    assert kinds(framed) == ["server_is_busy"]
    desk.service.budget.used_bytes -= answers.STORE_BYTES_MAX


async def test_an_answer_that_no_message_can_hold_is_refused_with_a_reason(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "ANSWER_BYTES_MAX", 300)
    scan, batch_get = (desk.request(name, **MANY[name]) for name in ("RawScan", "RawBatchGet"))
    get = desk.request("RawGet", key=b"k001")
    first, second, third = await desk.batch(("RawScan", scan), ("RawBatchGet", batch_get), ("RawGet", get))
    assert "ask for fewer keys" in first.kvs[0].error.retryable
    assert "ask for fewer keys" in second.pairs[0].error.retryable
    assert third.value == b"vk001", "the others of the frame are served"
    assert "ask for fewer keys" in (await desk.call("RawBatchGet", **MANY["RawBatchGet"])).pairs[0].error.retryable
    with pytest.raises(RpcError, match="ask for fewer keys") as caught:
        await desk.call("RawScan", **MANY["RawScan"])
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    assert rows_in(await desk.call("RawScan", start_key=b"k", limit=3)) == 3


async def test_only_so_many_are_served_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "LONG_READS_MAX", 2)
    calls = [begin(desk, "RawBatchGet") for _ in range(3)]
    await turns(200)
    responses = [await call.wait() for call in calls]
    assert sorted(kinds(response) for response in responses) == [[], [], ["server_is_busy"]]


async def test_a_client_that_takes_nothing_is_waited_for_and_then_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "STREAM_BYTES_MAX", 100)
    monkeypatch.setattr(reads, "BLOCKED_PAUSE_S", 0)
    gets = tikvpb_pb2.BatchCommandsRequest()
    for number, key in enumerate(KEYS):
        gets.request_ids.append(number)
        gets.requests.add().RawGet.CopyFrom(desk.request("RawGet", key=key))
    client = Answers(desk.service.budget)
    desk.service.on_frame(encode_commands(gets), client)
    await turns(100)
    assert len(desk.service.long_reads) == 1
    assert desk.service.budget.used_bytes < 400, "it waits for the client, instead of making more"
    desk.cluster.clock.now += reads.UNREAD_S_MAX + 1
    await turns(3)
    assert len(desk.service.long_reads) == 0
    client.end()
    frames = await collect(client.frames())
    busy = sum(bool(kinds(response.RawGet)) for frame in frames for response in frame.responses)
    assert 0 < busy < ROWS
    assert sum(len(frame.responses) for frame in frames) == ROWS, "each is answered"


async def test_the_answer_to_a_unary_call_counts_until_its_task_has_ended(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LARGE_BYTES", 10)
    seen: list[int] = []

    async def call() -> None:
        await desk.unary("RawBatchGet", keys=KEYS[:3])
        seen.append(desk.service.budget.used_bytes)

    await desk.scope.start("call", call).wait()
    await turns(2)
    assert seen[0] > 0
    assert desk.service.budget.used_bytes == 0


async def test_a_large_answer_travels_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "LARGE_BYTES", 100)
    small, large = desk.request("RawGet", key=b"k001"), desk.request("RawBatchGet", keys=KEYS[:3])
    responses = await desk.batch(("RawGet", small), ("RawBatchGet", large), ("RawGet", small))
    assert [type(response).__name__ for response in responses] == [
        "RawGetResponse",
        "RawBatchGetResponse",
        "RawGetResponse",
    ]


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=30))
def test_what_is_counted_is_what_is_held(steps: list[tuple[int, bool]]) -> None:
    async def run() -> None:
        budget = AnswerBudget()
        client = Answers(budget)
        frames = client.frames()
        for size, takes in steps:
            batch = AnswerBatch(is_framed=True)
            batch.add(size, MEMBERS["RawGet"], b"x" * size)
            client.send(batch)
            assert budget.used_bytes >= size
            if takes:
                await anext(frames)
        await frames.aclose()  # type: ignore[attr-defined]
        client.close()
        assert budget.used_bytes == 0

    asyncio.run(run())
