"""A store's side of the talk with the scheduler."""

from __future__ import annotations

import asyncio

from pytinykv.lifecycle import Scope, SystemClock
from pytinykv.model import Peer, Region, RegionEpoch, RegionId, StoreId
from pytinykv.raft import PeerId
from pytinykv.raftstore import RegionReport
from pytinykv.server.host.scheduler_link import SchedulerReporter, report_to_pb
from pytinykv.server.pd.convert import region_info_from_pb


async def test_a_stopping_store_asks_no_more_questions() -> None:
    scope = Scope("store")
    reporter = SchedulerReporter(
        None,  # type: ignore[arg-type]  # nothing is asked
        scope=scope,
        clock=SystemClock(),
        disk_usage=lambda: (0, 0),
        started_s=0,
        register=lambda: asyncio.sleep(0),
    )
    await scope.stop()
    answers: list[object] = []
    reporter.ask_membership(RegionId(2), answers.append)
    assert answers == []


def test_the_scheduler_hears_what_the_leader_said() -> None:
    leader, follower, learner = (Peer(PeerId(n), StoreId(n)) for n in (1, 2, 3))
    region = Region(RegionId(7), b"a", b"z", RegionEpoch(3, 2), (leader, follower, learner))
    info = region_info_from_pb(report_to_pb(RegionReport(region, leader, 5, ((follower, 4.5),), (learner,), 700_000)))
    assert (info.id, info.leader, info.term) == (7, info.meta.peers[0], 5)
    assert [(down.peer.id, down.down_seconds) for down in info.down_peers] == [(2, 4)]
    assert [peer.id for peer in info.pending_peers] == [3]
    assert info.approximate_size == 700_000  # bytes on both sides: also less than a mebibyte counts
