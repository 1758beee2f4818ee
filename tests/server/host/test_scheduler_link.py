"""A store's side of the talk with the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pytinykv.lifecycle import Scope, SystemClock
from pytinykv.model import Peer, Region, RegionEpoch, RegionId, StoreId
from pytinykv.raft import PeerId
from pytinykv.raftstore import RegionReport
from pytinykv.server.host.scheduler_link import ClientSchedulerLink, report_to_pb
from pytinykv.server.pd.convert import region_info_from_pb
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2


async def test_a_stopping_store_asks_no_more_questions() -> None:
    scope = Scope("store")
    link = ClientSchedulerLink(
        None,  # type: ignore[arg-type]  # nothing is asked
        scope=scope,
        clock=SystemClock(),
        disk_usage=lambda: (0, 0),
        started_s=0,
        register=lambda: asyncio.sleep(0),
        on_end=lambda _said: None,
    )
    await scope.stop()
    answers: list[object] = []
    link.ask_membership(RegionId(2), answers.append)
    assert answers == []


def test_the_scheduler_hears_what_the_leader_said() -> None:
    leader, follower, learner = (Peer(PeerId(n), StoreId(n)) for n in (1, 2, 3))
    region = Region(RegionId(7), b"a", b"z", RegionEpoch(3, 2), (leader, follower, learner))
    info = region_info_from_pb(report_to_pb(RegionReport(region, leader, 5, ((follower, 4.5),), (learner,), 700_000)))
    assert (info.id, info.leader, info.term) == (7, info.meta.peers[0], 5)
    assert [(down.peer.id, down.down_seconds) for down in info.down_peers] == [(2, 4)]
    assert [peer.id for peer in info.pending_peers] == [3]
    assert info.approximate_size == 700_000  # bytes on both sides: also less than a mebibyte counts


class FakeSplits:
    """Takes splits and remembers them."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[bytes], RegionEpoch | None]] = []
        self.under_way = False

    def is_splitting(self, _region_id: int) -> bool:
        return self.under_way

    def split(
        self, region_id: int, keys: list[bytes], on_done: Callable[..., None], *, epoch: RegionEpoch | None
    ) -> None:
        self.asked.append((region_id, keys, epoch))
        on_done(None, ())


def order_to_split(*keys: bytes) -> pdpb_pb2.RegionHeartbeatResponse:
    return pdpb_pb2.RegionHeartbeatResponse(
        region_id=7,
        region_epoch=metapb_pb2.RegionEpoch(conf_ver=3, version=2),
        split_region=pdpb_pb2.SplitRegion(policy=pdpb_pb2.CheckPolicy.USEKEY, keys=keys),
    )


def splits_of(*orders: pdpb_pb2.RegionHeartbeatResponse, under_way: bool = False) -> list[Any]:
    splits = FakeSplits()
    splits.under_way = under_way
    region = Region(RegionId(7), b"g", b"", RegionEpoch(3, 2), (Peer(PeerId(1), StoreId(1)),))
    store = SimpleNamespace(splits=splits, peers={7: SimpleNamespace(region=region)})
    for order in orders:
        ClientSchedulerLink._split(store, RegionId(order.region_id), order)  # type: ignore[arg-type]  # a stand-in
    return splits.asked


def test_a_region_is_split_where_the_scheduler_says() -> None:
    assert splits_of(order_to_split(b"h", b"p")) == [(7, [b"h", b"p"], RegionEpoch(3, 2))]


def test_an_order_that_was_carried_out_already_does_nothing() -> None:
    assert splits_of(order_to_split(b"g", b"p")) == [(7, [b"p"], RegionEpoch(3, 2))]
    assert splits_of(order_to_split(b"g")) == []


def test_an_order_is_not_begun_twice() -> None:
    assert splits_of(order_to_split(b"h"), under_way=True) == []


def test_an_order_of_a_kind_that_names_no_keys_is_left() -> None:
    order = order_to_split(b"h")
    order.split_region.policy = pdpb_pb2.CheckPolicy.APPROXIMATE
    assert splits_of(order) == []
    order = order_to_split(b"h")
    order.ClearField("region_epoch")
    assert splits_of(order) == []
