"""Where a request belongs, and what its client is told; frames and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.raftstore.harness import REGION_ID
from tests.server.kv.kv_harness import CLUSTER_ID, Desk, collect, config, feed

from pytinykv.lifecycle import Scope
from pytinykv.lifecycle.errors import TaskCancelledError
from pytinykv.model import Peer, Region, RegionEpoch, StoreId, encode
from pytinykv.raft import Heartbeat, LogIndex, PeerId, Term
from pytinykv.raftstore import RaftEnvelope
from pytinykv.server.kv import answers
from pytinykv.server.kv.service import KvService
from pytinykv.storage import ColumnFamily
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode
from pytinykv.wire.frames import encode_commands
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import metapb_pb2, tikvpb_pb2


@pytest.fixture
def desk(tmp_path: Path, scope: Scope) -> Desk:
    return Desk(tmp_path, scope)


def kinds(error: Any) -> list[str]:
    """Return which kinds of error are set; never more than one may be."""
    return [field.name for field, _value in error.ListFields() if field.name != "message"]


async def refusal(desk: Desk, **changes: Any) -> Any:
    """Make a read and a write, both ways, with a context that is changed; return the region error they all get."""
    context = desk.context()
    for name, value in changes.items():
        if isinstance(value, dict):
            for inner, part in value.items():
                setattr(getattr(context, name), inner, part)
        else:
            setattr(context, name, value)
    errors = []
    for command, fields in (
        ("RawGet", {"key": b"k"}),
        ("RawPut", {"key": b"k", "value": b"v"}),
        ("RawScan", {"limit": 1}),
    ):
        response = await desk.each_way(command, context=context, **fields)
        assert response.HasField("region_error")
        assert [field.name for field, _value in response.ListFields()] == ["region_error"], "nothing beside it"
        errors.append(response.region_error)
    assert errors[0] == errors[1] == errors[2]
    assert errors[0].message, "some clients show nothing else"
    return errors[0]


# --- what a client is told


async def test_another_store(desk: Desk) -> None:
    error = await refusal(desk, peer={"store_id": 99})
    assert kinds(error) == ["store_not_match"]
    assert error.store_not_match.request_store_id == 99
    assert error.store_not_match.actual_store_id == desk.node.store_id


@pytest.mark.tinykv("TestRaftstoreErrToPbError")
async def test_another_region(desk: Desk) -> None:
    error = await refusal(desk, region_id=99)
    assert kinds(error) == ["region_not_found"]
    assert error.region_not_found.region_id == 99


async def test_another_peer_of_the_region(desk: Desk) -> None:
    assert kinds(await refusal(desk, peer={"id": 555})) == ["mismatch_peer_id"]


async def test_no_peer_and_no_store_named_is_fine(desk: Desk) -> None:
    context = desk.context()
    context.ClearField("peer")
    response = await desk.each_way("RawGet", context=context, key=b"k")
    assert response.not_found


def service_of(desk: Desk, store_id: int) -> None:
    """Let the desk speak for another store from now on."""
    desk.node = desk.cluster.nodes[store_id]
    desk.service = KvService(desk.node.running, cluster_id=CLUSTER_ID, scope=desk.scope)


async def test_a_follower_names_the_leader(desk: Desk) -> None:
    leader = desk.node.peer.peer
    service_of(desk, leader.store_id % 3 + 1)
    error = await refusal(desk)
    assert kinds(error) == ["not_leader"]
    assert error.not_leader.region_id == REGION_ID
    assert (error.not_leader.leader.id, error.not_leader.leader.store_id) == (leader.id, leader.store_id)


async def test_without_a_leader_none_is_named(desk: Desk) -> None:
    old = desk.node.store_id
    desk.cluster.cut_off = {old}
    desk.cluster.ticks(30)
    error = await refusal(desk)
    assert kinds(error) == ["not_leader"]
    assert not error.not_leader.HasField("leader")


async def test_a_peer_that_waits_for_its_first_snapshot(tmp_path: Path, scope: Scope) -> None:
    desk = Desk(tmp_path, scope, stores=2, members=1)
    region = desk.node.peer.region
    desk.cluster.nodes[2].running.receive(_heartbeat_for_a_new_peer(region))
    desk.cluster.settle()
    service_of(desk, 2)
    assert kinds(await refusal(desk)) == ["region_not_initialized"]


def _heartbeat_for_a_new_peer(region: Region) -> bytes:
    message = Heartbeat(PeerId(102), PeerId(101), Term(6), LogIndex(0), 0, 0.0)
    return encode([RaftEnvelope(region.id, region.peers[0], Peer(PeerId(102), StoreId(2)), region.epoch, message)])


@pytest.mark.tinykv("TestCheckRegionEpoch")
async def test_an_old_version_gets_the_region_as_it_is(desk: Desk) -> None:
    for version in (0, 2):
        error = await refusal(desk, region_epoch={"version": version})
        assert kinds(error) == ["epoch_not_match"]
        (region,) = error.epoch_not_match.current_regions
        assert region.id == REGION_ID
        assert region.region_epoch == metapb_pb2.RegionEpoch(conf_ver=1, version=1)
        assert sorted(peer.store_id for peer in region.peers) == [1, 2, 3]


@pytest.mark.tinykv("TestCheckRegionEpoch")
async def test_membership_does_not_matter_to_data(desk: Desk) -> None:
    context = desk.context()
    for conf_ver in (0, 99):
        context.region_epoch.conf_ver = conf_ver
        assert not (await desk.each_way("RawGet", context=context, key=b"k")).HasField("region_error")


async def test_a_read_that_waited_while_the_region_was_split_is_refused(desk: Desk) -> None:
    without_lease(desk)
    task = desk.scope.start("call", lambda: desk.unary("RawGet", key=b"k"))
    await asyncio.sleep(0)
    storage = desk.node.peer.storage
    storage.region = Region(REGION_ID, b"", b"z", RegionEpoch(1, 2), storage.region.peers)
    desk.cluster.settle()
    assert kinds((await task.wait()).region_error) == ["epoch_not_match"]


async def test_a_read_that_waited_while_the_peer_was_destroyed_does_not_see_that_nothing_is_there(desk: Desk) -> None:
    await desk.call("RawPut", key=b"k", value=b"v")
    without_lease(desk)
    task = desk.scope.start("call", lambda: desk.unary("RawGet", key=b"k"))
    await asyncio.sleep(0)
    peer = desk.node.peer
    read = peer.calls._reads.take_all()[0]
    desk.node.running.on_membership_answer(
        Region(REGION_ID, b"", b"", RegionEpoch(9, 1), tuple(p for p in peer.region.peers if p.id != peer.peer.id))
    )
    desk.cluster.settle()
    read(None)
    assert kinds((await task.wait()).region_error) == ["region_not_found"]


async def test_another_cluster(desk: Desk) -> None:
    context = desk.context(cluster_id=99)
    with pytest.raises(RpcError) as caught:
        await desk.call("RawGet", context=context, key=b"k")
    assert caught.value.code is StatusCode.FAILED_PRECONDITION
    assert "mismatch cluster id" in caught.value.message
    good = desk.request("RawGet", key=b"k", context=desk.context(cluster_id=CLUSTER_ID))
    bad = desk.request("RawGet", key=b"k", context=context)
    first, second = await desk.batch(("RawGet", bad), ("RawGet", good))
    assert "mismatch cluster id" in first.region_error.message
    assert second.not_found, "the others of the frame are served"


# --- reads under a lease and without


def without_lease(desk: Desk) -> None:
    desk.cluster.clock.now += desk.cluster.config.lease_s + 0.01


@pytest.mark.parametrize("lease", [True, False])
async def test_reads_see_what_was_written(desk: Desk, lease: bool) -> None:
    await desk.call("RawPut", key=b"k", value=b"v")
    if not lease:
        without_lease(desk)
    asked = desk.node.running.counters.quorum_reads
    response = await desk.call("RawGet", key=b"k")
    assert response.value == b"v"
    assert desk.node.running.counters.quorum_reads - asked == (not lease)
    if not lease:
        without_lease(desk)
    request = desk.request("RawGet", key=b"k")
    assert [r.value for r in await desk.batch(("RawGet", request), ("RawGet", request))] == [b"v", b"v"]
    assert desk.node.running.counters.quorum_reads - asked == 2 * (not lease), "one question for the whole frame"


async def test_a_lease_that_ends_while_the_data_is_read_does_not_count(desk: Desk) -> None:
    clock, engine = desk.cluster.clock, desk.node.engine
    get = engine.get

    def slow_get(cf: ColumnFamily, key: bytes) -> bytes | None:
        found = get(cf, key)
        if cf is ColumnFamily.RAW:
            clock.now += desk.cluster.config.lease_s + 0.01
        return found

    engine.get = slow_get  # type: ignore[method-assign]
    asked = desk.node.running.counters.quorum_reads
    assert (await desk.call("RawGet", key=b"k")).not_found
    assert desk.node.running.counters.quorum_reads == asked + 1


@pytest.mark.parametrize("lease", [True, False])
@pytest.mark.parametrize("stored", [b"", b"\x09damaged"])
async def test_damaged_data_is_told_and_no_caller_waits(desk: Desk, stored: bytes, lease: bool) -> None:
    batch = desk.node.engine.write_batch()
    batch.put(ColumnFamily.RAW, b"dk", stored)
    desk.node.engine.write(batch)
    if not lease:
        without_lease(desk)
    response = await desk.call("RawGet", key=b"k")
    assert "unknown format" in response.error
    if not lease:
        without_lease(desk)
    good, bad = desk.request("RawGet", key=b"other"), desk.request("RawGet", key=b"k")
    first, second, third = await desk.batch(("RawGet", good), ("RawGet", bad), ("RawGet", good))
    assert "unknown format" in second.error
    assert first.not_found
    assert third.not_found
    assert desk.node.running.failure is None


# --- frames


async def test_a_frame_of_everything(desk: Desk) -> None:
    put = desk.request("RawPut", key=b"k", value=b"v")
    responses = await desk.batch(
        ("RawPut", put),
        ("RawGet", desk.request("RawGet", key=b"k")),
        ("Empty", tikvpb_pb2.BatchCommandsEmptyRequest(test_id=5)),
        ("RawDelete", desk.request("RawDelete", key=b"")),
        ("RawGet", desk.request("RawGet", key=b"k", context=desk.context(region_id=98))),
        ("RawBatchPut", desk.request("RawBatchPut")),
    )
    assert responses[0] == pb.RawPutResponse()
    assert responses[1].not_found or responses[1].value == b"v"
    assert responses[2].test_id == 5
    assert "key is empty" in responses[3].error
    assert kinds(responses[4].region_error) == ["region_not_found"]
    assert responses[5] == pb.RawBatchPutResponse()


async def test_every_command_that_a_frame_can_hold_is_answered(desk: Desk) -> None:
    names = [field.name for field in tikvpb_pb2.BatchCommandsRequest.Request.DESCRIPTOR.fields]
    commands = [(name, getattr(tikvpb_pb2.BatchCommandsRequest.Request(), name).__class__()) for name in names]
    responses = await desk.batch(*commands)
    assert len(responses) == len(names)
    by_name = dict(zip(names, responses, strict=True))
    assert "not supported" in str(by_name["Coprocessor"])
    assert kinds(by_name["Prewrite"].region_error) == ["region_not_found"]


async def test_the_writes_of_a_frame_are_one_proposal(desk: Desk) -> None:
    proposals = desk.node.running.counters.proposals
    commands = [("RawPut", desk.request("RawPut", key=b"k%d" % n, value=b"v")) for n in range(100)]
    assert all(response == pb.RawPutResponse() for response in await desk.batch(*commands))
    assert desk.node.running.counters.proposals == proposals + 1


async def test_a_frame_may_be_larger_than_a_log_entry(tmp_path: Path, scope: Scope) -> None:
    desk = Desk(tmp_path, scope, config=config(append_bytes_max=1000, entry_bytes_max=1500))
    values = [bytes([n]) * size for n, size in enumerate([400] * 10 + [2000] + [400] * 3)]
    commands = [("RawPut", desk.request("RawPut", key=b"k%d" % n, value=value)) for n, value in enumerate(values)]
    responses = await desk.batch(*commands)
    assert [kinds(response.region_error) for response in responses] == [
        ["raft_entry_too_large"] if len(value) == 2000 else [] for value in values
    ]
    for n, value in enumerate(values):
        found = desk.node.value(b"k%d" % n)
        assert found == (None if len(value) == 2000 else value)


@pytest.mark.parametrize(
    "frame",
    [
        tikvpb_pb2.BatchCommandsRequest(request_ids=[1]),
        tikvpb_pb2.BatchCommandsRequest(requests=[tikvpb_pb2.BatchCommandsRequest.Request()]),
        tikvpb_pb2.BatchCommandsRequest(request_ids=[1], requests=[tikvpb_pb2.BatchCommandsRequest.Request()]),
    ],
    ids=["no command", "no id", "empty command"],
)
async def test_a_frame_without_sense_breaks_its_stream(desk: Desk, frame: tikvpb_pb2.BatchCommandsRequest) -> None:
    with pytest.raises(RpcError) as caught:
        await desk.finish(collect(desk.service.stream(BATCH_COMMANDS, feed(frame))))
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


async def test_a_frame_that_meets_a_defect_breaks_its_stream_and_not_the_store(desk: Desk) -> None:
    failures: list[str] = []
    desk.scope.on_failure(lambda name, _error: failures.append(name))

    def broken(*_args: Any) -> None:
        raise ZeroDivisionError("a defect")

    desk.node.engine.get = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(RpcError) as caught:
        await desk.batch(("RawGet", desk.request("RawGet", key=b"k")))
    assert caught.value.code is StatusCode.INTERNAL
    assert failures in ([], ["test/call"]), "the reader of the frames is no casualty"


async def test_an_empty_frame_is_nothing(desk: Desk) -> None:
    empty = tikvpb_pb2.BatchCommandsRequest()
    assert await desk.finish(collect(desk.service.stream(BATCH_COMMANDS, feed(empty, empty)))) == []


async def test_a_frame_that_waits_holds_up_no_other(desk: Desk) -> None:
    frames: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        while True:
            yield await frames.get()

    stream = desk.service.stream(BATCH_COMMANDS, requests())
    frames.put_nowait(_frame(desk, 1, "RawPut", key=b"k", value=b"v"))
    frames.put_nowait(_frame(desk, 2, "RawGet", key=b"k"))
    ids: list[int] = []
    while len(ids) < 2:
        ids += tikvpb_pb2.BatchCommandsResponse.FromString(await desk.finish(anext(stream))).request_ids
    assert sorted(ids) == [1, 2]
    await desk.finish(stream.aclose())  # type: ignore[attr-defined]


def _frame(desk: Desk, request_id: int, name: str, **fields: Any) -> Any:
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[request_id])
    getattr(frame.requests.add(), name).CopyFrom(desk.request(name, **fields))
    return encode_commands(frame)


@pytest.mark.parametrize(("limit", "most"), [("STREAM_BATCHES_MAX", 10), ("STREAM_BYTES_MAX", 200)])
async def test_the_requests_of_a_client_that_does_not_read_its_answers_wait_with_it(
    desk: Desk, limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, limit, most)
    monkeypatch.setattr(answers, "MERGED_BYTES_MAX", 0)
    taken: list[int] = []

    async def requests() -> AsyncIterator[Any]:
        for number in range(1000):
            taken.append(number)
            yield _frame(desk, number, "RawGet", key=b"k")

    stream = desk.service.stream(BATCH_COMMANDS, requests())
    ids = list(tikvpb_pb2.BatchCommandsResponse.FromString(await desk.finish(anext(stream))).request_ids)
    assert len(taken) < 100, "the rest waits where flow control holds it"
    for answer in await desk.finish(collect(stream)):
        ids += answer.request_ids
    assert sorted(ids) == list(range(1000)), "and is served once the client reads"
    assert desk.service.budget.used_bytes == 0


async def test_a_stream_whose_client_breaks_ends_with_it(desk: Desk) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield _frame(desk, 1, "RawGet", key=b"k")
        raise RpcError(StatusCode.INVALID_ARGUMENT, "not a message")

    with pytest.raises(RpcError, match="not a message"):
        await desk.finish(collect(desk.service.stream(BATCH_COMMANDS, requests())))


async def test_a_client_that_goes_leaves_its_writes_and_nothing_else(desk: Desk) -> None:
    async def requests() -> AsyncIterator[Any]:
        yield _frame(desk, 1, "RawPut", key=b"k", value=b"v")
        await asyncio.Event().wait()

    stream = desk.service.stream(BATCH_COMMANDS, requests())
    task = desk.scope.start("client", stream.__anext__)  # type: ignore[arg-type]
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(TaskCancelledError):
        await task.wait()
    await stream.aclose()  # type: ignore[attr-defined]
    desk.cluster.settle()
    assert desk.node.value(b"k") == b"v"


async def test_a_caller_that_gives_up_disturbs_no_other(desk: Desk) -> None:
    task = desk.scope.start("call", lambda: desk.unary("RawPut", key=b"k", value=b"v"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(TaskCancelledError):
        await task.wait()
    desk.cluster.settle()
    assert (await desk.call("RawGet", key=b"k")).value == b"v"


async def test_an_unknown_stream_is_unimplemented(desk: Desk) -> None:
    with pytest.raises(RpcError) as caught:
        await anext(desk.service.stream("/tikvpb.Tikv/RawCoprocessor", feed()))
    assert caught.value.code is StatusCode.UNIMPLEMENTED


async def test_a_store_that_refuses_says_that_nothing_was_executed(desk: Desk) -> None:
    desk.node.running.refuse_commands()
    response = await desk.each_way("RawPut", key=b"k", value=b"v")
    assert kinds(response.region_error) == ["not_leader"]
    assert "stopping" in response.region_error.message


async def test_commands_that_follow_one_of_the_same_context_are_served_as_if_they_came_alone(desk: Desk) -> None:
    """Their context is not looked at again, and the commonest forms are read without protobuf."""
    other = desk.context()
    other.region_epoch.version += 1
    commands = [
        ("RawPut", desk.request("RawPut", key=b"a", value=b"1")),
        ("RawPut", desk.request("RawPut", key=b"b", value=b"2")),
        ("RawPut", desk.request("RawPut", key=b"empty", value=b"")),
        ("RawPut", desk.request("RawPut", key=b"long", value=bytes(200))),
        ("RawPut", desk.request("RawPut", key=b"longer", value=bytes(20_000))),
        ("RawPut", desk.request("RawPut", key=b"c", value=b"3", cf="lock")),
        ("RawPut", desk.request("RawPut", key=b"d", value=b"4", ttl=100)),
        ("RawPut", desk.request("RawPut", key=b"", value=b"no key")),
        ("RawPut", desk.request("RawPut", context=other, key=b"e", value=b"another version of the region")),
        ("RawPut", desk.request("RawPut", key=b"f", value=b"6")),
        ("RawDelete", desk.request("RawDelete", key=b"b")),
        ("RawDelete", desk.request("RawDelete", key=b"f", cf="lock")),
        ("RawBatchPut", desk.request("RawBatchPut", pairs=[pb.KvPair(key=b"g", value=b"7")])),
        ("Empty", tikvpb_pb2.BatchCommandsEmptyRequest(test_id=5)),
        ("RawCoprocessor", pb.RawCoprocessorRequest(context=desk.context())),
        ("RawPut", desk.request("RawPut", key=b"h", value=b"8")),
    ]
    answers_ = await desk.batch(*commands)
    refused = {
        number
        for number, answer in enumerate(answers_)
        if getattr(answer, "error", "") or "region_error" in str(answer)
    }
    assert refused == {7, 8, 14}
    found = await desk.call("RawScan", limit=100)
    assert {pair.key: len(pair.value) for pair in found.kvs} == {
        b"a": 1, b"d": 1, b"empty": 0, b"f": 1, b"g": 1, b"h": 1, b"long": 200, b"longer": 20_000,
    }  # fmt: skip
    assert (await desk.call("RawGet", key=b"c", cf="lock")).value == b"3"


async def test_a_command_that_is_broken_behind_its_context_breaks_the_stream(desk: Desk) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[1, 2])
    for key in (b"first", b"second"):
        frame.requests.add().RawScan.CopyFrom(desk.request("RawScan", start_key=key, limit=1))
    encoded = encode_commands(frame)
    encoded.requests[1] = encoded.requests[1].replace(b"\x06second", b"\x66second")  # the key claims to be longer

    async def requests() -> AsyncIterator[Any]:
        yield encoded

    with pytest.raises(RpcError, match="command 2 of the frame is broken"):
        await desk.finish(collect(desk.service.stream(BATCH_COMMANDS, requests())))
