"""Commands for a region that was just split off wait for its leader, since clients hear of it before it has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.raftstore.harness import REGION_ID, ManualLink
from tests.server.kv.kv_harness import CLUSTER_ID, Desk, collect, config, feed

from pytinykv.lifecycle import Scope
from pytinykv.model import Region, RegionEpoch, RegionId, StoreId
from pytinykv.raftstore import RaftEnvelope, RegionPeer
from pytinykv.raftstore.turn import OPERATION_COST, Turn
from pytinykv.server.kv.service import KvService
from pytinykv.wire import BATCH_COMMANDS
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import tikvpb_pb2

CHILD_ID = RegionId(1000)


def of_child(envelope: RaftEnvelope) -> bool:
    return envelope.region_id == CHILD_ID


class SplitDesk(Desk):
    """A `Desk` whose region was split, while what the members of the first part say to each other is held back."""

    def __init__(self, path: Path, scope: Scope, **options: Any) -> None:
        super().__init__(path, scope, **options)
        ManualLink.next_id = CHILD_ID
        self.cluster.hold(of_child)
        self.node.running.splits.split(REGION_ID, [b"g"], lambda _error, _regions: None)
        self.cluster.settle()
        self.calls: list[asyncio.Task[Any]] = []
        assert not self.child.is_leader

    @property
    def child(self) -> RegionPeer:
        return self.node.running.peers[CHILD_ID]

    def child_context(self) -> pb.Context:
        child = self.child
        context = pb.Context(region_id=CHILD_ID)
        context.region_epoch.version = child.region.epoch.version
        context.peer.id, context.peer.store_id = child.peer.id, child.peer.store_id
        return context

    async def begin(self, name: str, *, context: pb.Context | None = None, **fields: Any) -> asyncio.Task[Any]:
        """Make a unary call in the new region, and let it get as far as it comes."""
        call = asyncio.ensure_future(self.unary(name, context=context or self.child_context(), **fields))
        self.calls.append(call)
        await self.go_on()
        return call

    async def go_on(self) -> None:
        """Let everything happen that can."""
        for _ in range(20):
            await asyncio.sleep(0)
            self.cluster.settle()


@pytest.fixture
def desk(tmp_path: Path, scope: Scope) -> SplitDesk:
    return SplitDesk(tmp_path, scope)


COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("RawPut", {"key": b"a", "value": b"1"}),
    ("RawGet", {"key": b"a"}),
    ("RawScan", {"limit": 5}),
    ("RawBatchPut", {"pairs": [pb.KvPair(key=b"b", value=b"2")]}),
    ("KvGet", {"key": b"a", "version": 10}),
    (
        "KvPrewrite",
        {
            "mutations": [pb.Mutation(op=pb.Op.Put, key=b"b", value=b"3")],
            "primary_lock": b"b",
            "start_version": 20,
            "lock_ttl": 3000,
        },
    ),
]


@pytest.mark.parametrize(("name", "fields"), COMMANDS)
async def test_a_call_waits_for_the_first_election_and_is_served(
    desk: SplitDesk, name: str, fields: dict[str, Any]
) -> None:
    call = await desk.begin(name, **fields)
    assert not call.done()
    desk.cluster.release()
    await desk.go_on()  # no tick has passed
    response = call.result()
    assert not {"region_error", "error", "errors"} & {field.name for field, _value in response.ListFields()}


async def test_what_waits_in_a_frame_is_served_in_its_order_and_the_rest_at_once(desk: SplitDesk) -> None:
    old, new = desk.context(), desk.child_context()
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=range(5))
    for context, (name, fields) in (
        (new, ("RawPut", {"key": b"a", "value": b"1"})),
        (old, ("RawPut", {"key": b"x", "value": b"2"})),
        (new, ("RawPut", {"key": b"a", "value": b"3"})),
        (old, ("RawGet", {"key": b"y"})),
        (new, ("RawScan", {"limit": 5})),
    ):
        getattr(frame.requests.add(), name).CopyFrom(desk.request(name, context=context, **fields))
    seen: list[tikvpb_pb2.BatchCommandsResponse] = []
    answered: dict[int, Any] = {}

    async def read() -> None:
        async for data in desk.service.stream(BATCH_COMMANDS, feed(frame)):
            seen.append(tikvpb_pb2.BatchCommandsResponse.FromString(data))
            for request_id, response in zip(seen[-1].request_ids, seen[-1].responses, strict=True):
                assert request_id not in answered, "answered twice"
                answered[request_id] = response

    reader = asyncio.ensure_future(read())
    await desk.go_on()
    assert sorted(answered) == [1, 3]
    desk.cluster.release()
    await desk.go_on()
    await reader
    assert sorted(answered) == [0, 1, 2, 3, 4]
    assert not answered[0].RawPut.HasField("region_error")
    response = await desk.finish(desk.unary("RawGet", context=desk.child_context(), key=b"a"))
    assert response.value == b"3"


async def test_a_call_of_another_version_is_told_so_at_once(desk: SplitDesk) -> None:
    context = desk.child_context()
    context.region_epoch.version += 1
    call = await desk.begin("RawGet", context=context, key=b"a")
    assert call.result().region_error.HasField("epoch_not_match")


def lose(desk: SplitDesk) -> tuple[str, bool]:
    """Let another peer of the new region win its first election."""
    other = next(node for node in desk.cluster.nodes.values() if node is not desk.node)

    def campaign(turn: Turn) -> None:
        other.running.peers[CHILD_ID].node.campaign(turn.now)
        other.running.tick_soon()

    desk.cluster.held.clear()
    desk.cluster.hold(lambda envelope: of_child(envelope) and envelope.sender.store_id == desk.node.store_id)
    other.running.in_turn(campaign)
    desk.cluster.settle()
    desk.cluster.ticks(1)
    return "not_leader", True


def wait_in_vain(desk: SplitDesk) -> tuple[str, bool]:
    desk.cluster.ticks(desk.cluster.config.election_ticks)
    return "not_leader", False


def stop(desk: SplitDesk) -> tuple[str, bool]:
    desk.node.running.refuse_commands()
    desk.node.running.in_turn(desk.node.running.fail_everything)
    return "not_leader", False


def destroy(desk: SplitDesk) -> tuple[str, bool]:
    child = desk.child.region
    others = tuple(peer for peer in child.peers if peer.store_id != desk.node.store_id)
    epoch = RegionEpoch(child.epoch.conf_ver + 1, child.epoch.version)
    desk.node.running.on_membership_answer(Region(child.id, child.start_key, child.end_key, epoch, others))
    return "region_not_found", False


@pytest.mark.parametrize("end", [lose, wait_in_vain, stop, destroy])
async def test_each_call_is_refused_as_not_executed_when_the_wait_ends(
    desk: SplitDesk, end: Callable[[SplitDesk], tuple[str, bool]]
) -> None:
    for name, fields in COMMANDS:
        await desk.begin(name, **fields)
    assert not any(call.done() for call in desk.calls)
    kind, names_leader = end(desk)
    await desk.go_on()
    for call in desk.calls:
        error = call.result().region_error
        assert [field.name for field, _value in error.ListFields() if field.name != "message"] == [kind]
        assert error.not_leader.HasField("leader") == names_leader
    late = await desk.begin("RawGet", key=b"a") if CHILD_ID in desk.node.running.peers else desk.calls[0]
    assert late.done(), "nothing waits any more"


async def test_what_waits_is_bounded_in_bytes_and_number(tmp_path: Path, scope: Scope) -> None:
    room = 3 * OPERATION_COST
    desk = SplitDesk(tmp_path, scope, config=config(queued_bytes_max=room))
    large = await desk.begin("RawPut", key=b"a", value=bytes(room))
    assert large.result().region_error.HasField("not_leader")
    calls = [await desk.begin("RawGet", key=b"a") for _ in range(3)]
    assert [call.done() for call in calls] == [False, False, True]
    assert calls[2].result().region_error.HasField("not_leader")
    desk.cluster.release()
    await desk.go_on()
    assert [call.result().not_found for call in calls[:2]] == [True, True]
    assert not (await desk.begin("RawGet", key=b"a")).result().HasField("region_error")


async def test_the_room_is_free_again_after_a_wait_in_vain(tmp_path: Path, scope: Scope) -> None:
    desk = SplitDesk(tmp_path, scope, config=config(queued_bytes_max=2 * OPERATION_COST))
    first = await desk.begin("RawGet", key=b"a")
    desk.cluster.ticks(desk.cluster.config.election_ticks)
    await desk.go_on()
    assert first.done()
    assert desk.node.running.leadership_waits.held_bytes == 0


async def test_who_has_gone_is_not_served(desk: SplitDesk) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[1])
    frame.requests.add().RawPut.CopyFrom(desk.request("RawPut", context=desk.child_context(), key=b"a", value=b"1"))
    reader = asyncio.ensure_future(collect(desk.service.stream(BATCH_COMMANDS, feed(frame))))
    await desk.go_on()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    desk.cluster.release()
    await desk.go_on()
    response = await desk.finish(desk.unary("RawGet", context=desk.child_context(), key=b"a"))
    assert response.not_found


async def test_members_of_the_new_region_that_do_not_campaign_refuse_at_once(desk: SplitDesk) -> None:
    store_id = StoreId(desk.node.store_id % 3 + 1)
    desk.node = desk.cluster.nodes[store_id]
    desk.service = KvService(desk.node.running, cluster_id=CLUSTER_ID, scope=desk.scope)
    call = await desk.begin("RawGet", key=b"a")
    assert call.result().region_error.HasField("not_leader")
