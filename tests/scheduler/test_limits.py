from __future__ import annotations

import pytest
from tests.scheduler.helpers import Decisions, region

from pytinykv.model import PeerId, StoreId
from pytinykv.scheduler import SchedulerConfig
from pytinykv.scheduler.limits import StoreLimits, Way
from pytinykv.scheduler.operators import AddLearner, Operator, OperatorKind, RemovePeer
from pytinykv.scheduler.records import ReportedRegion

MIB = 1 << 20
LARGE, SMALL = region(1, size=96 * MIB), region(2, size=MIB - 1)


def taken(limits: StoreLimits, info: ReportedRegion, now: float, *, store_id: int = 1, way: Way = Way.ADD) -> int:
    """Move as many peers as are allowed."""
    count = 0
    while limits.allows(StoreId(store_id), way, info, now):
        limits.take(StoreId(store_id), way, info, now)
        count += 1
    return count


def test_a_few_move_at_once_and_others_at_the_rate() -> None:
    limits = StoreLimits(SchedulerConfig(store_add_peers_per_minute=30, store_operators_max=8))
    assert taken(limits, LARGE, 100.0) == 8
    assert [taken(limits, LARGE, 100.0 + seconds) for seconds in (1, 2, 10, 1000)] == [0, 1, 4, 8]


def test_each_store_and_way_has_a_limit_of_its_own() -> None:
    limits = StoreLimits(SchedulerConfig(store_add_peers_per_minute=30, store_remove_peers_per_minute=60))
    assert taken(limits, LARGE, 0.0) == 8
    assert taken(limits, LARGE, 0.0, store_id=2) == 8
    assert taken(limits, LARGE, 0.0, way=Way.REMOVE) == 8
    assert (taken(limits, LARGE, 4.0), taken(limits, LARGE, 4.0, way=Way.REMOVE)) == (2, 4)


def test_small_regions_cost_a_twentieth() -> None:
    limits = StoreLimits(SchedulerConfig(store_add_peers_per_minute=60))
    assert taken(limits, SMALL, 0.0) == pytest.approx(160, abs=1)
    assert not limits.allows(StoreId(1), Way.ADD, LARGE, 0.5)


def test_no_limit() -> None:
    limits = StoreLimits(SchedulerConfig(store_add_peers_per_minute=0))
    for _ in range(1000):
        assert limits.allows(StoreId(1), Way.ADD, LARGE, 0.0)
        limits.take(StoreId(1), Way.ADD, LARGE, 0.0)


def test_operators_keep_to_the_limits_but_for_an_administrators() -> None:
    decisions = Decisions(stores=(1, 2, 3, 4), store_operators_max=2, store_add_peers_per_minute=6)
    decisions.heartbeat(1, 2, 3, 4)
    infos = [region(n, b"%d" % n, b"%d" % (n + 1), size=96 * MIB) for n in range(1, 6)]

    def add(info: ReportedRegion, kind: OperatorKind = OperatorKind.REPLICA) -> bool:
        decisions.cluster.regions.put(info)
        steps = (AddLearner(StoreId(4), PeerId(9000 + info.id)),)
        operator = Operator("test", info.id, info.meta.epoch, kind, steps)
        started = decisions.operators.add(operator, decisions.now)
        decisions.operators.cancel(operator, "")
        return started

    assert [add(info) for info in infos[:3]] == [True, True, False]
    assert add(infos[3], OperatorKind.ADMIN)
    decisions.silence(seconds=15)
    assert not add(infos[4]), "the administrator's counts, too"
    decisions.silence(seconds=10)
    assert add(infos[4])


def test_peers_of_a_lost_store_go_without_a_limit() -> None:
    decisions = Decisions(stores=(1, 2, 3, 4), store_remove_peers_per_minute=1, store_operators_max=1)
    decisions.silence(3, seconds=2000)
    for n in range(1, 6):
        info = region(n, b"%d" % n, b"%d" % (n + 1), size=96 * MIB)
        decisions.cluster.regions.put(info)
        operator = Operator("t", info.id, info.meta.epoch, OperatorKind.REPLICA, (RemovePeer(StoreId(3)),))
        assert decisions.operators.add(operator, decisions.now)
        decisions.operators.cancel(operator, "")
