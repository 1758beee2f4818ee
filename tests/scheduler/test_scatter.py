from __future__ import annotations

from collections import Counter

import pytest
from tests.scheduler.helpers import Decisions, apply_order, region, steps

from pytinykv.scheduler.operators import Operator, OperatorKind
from pytinykv.scheduler.records import ReportedRegion, StoreState
from pytinykv.scheduler.scatter import Scatter

KEYS = [b"", *(b"%02d" % n for n in range(1, 12)), b""]


def table(stores: tuple[int, ...] = (1, 2, 3), count: int = 12) -> list[ReportedRegion]:
    """Regions side by side, all on the same stores and led by the first one."""
    return [region(n + 1, KEYS[n], KEYS[n + 1] if n + 1 < count else b"", stores=stores) for n in range(count)]


def cluster(infos: list[ReportedRegion], stores: int) -> Decisions:
    decisions = Decisions(stores=range(1, stores + 1))
    decisions._next_id = 500_000  # above all peers of the test
    decisions.heartbeat(*decisions.metas)
    for info in infos:
        decisions.cluster.regions.put(info)
    return decisions


def scattered(decisions: Decisions, infos: list[ReportedRegion]) -> list[ReportedRegion]:
    """Let the leaders obey until all is done."""
    scatter = Scatter(decisions.cluster, decisions.operators, decisions._allocate)
    for info in infos:
        assert scatter.why_not(info, decisions.now) == ""
        operator = scatter.plan(info, decisions.now)
        assert operator is None or decisions.operators.add(operator, decisions.now)
    after = list(infos)
    for _ in range(30):
        for index, info in enumerate(after):
            decisions.cluster.on_region(info)
            order = decisions.operators.on_region(info, decisions.now)
            if order is not None:
                after[index] = apply_order(info, order)
                assert len(after[index].meta.voters) >= 3
    assert decisions.operators.running() == []
    return after


def spread(infos: list[ReportedRegion]) -> tuple[list[int], list[int]]:
    """Peers and leaders, by store."""
    peers = Counter(store_id for info in infos for store_id in info.meta.store_ids)
    leaders = Counter(info.leader.store_id for info in infos if info.leader is not None)
    return [peers[store] for store in sorted(peers)], [leaders[store] for store in sorted(leaders)]


def test_peers_and_leaders_of_a_table_spread_over_all_stores() -> None:
    infos = table()
    assert spread(scattered(cluster(infos, stores=6), infos)) == ([6] * 6, [2] * 6)


def test_where_there_are_no_other_stores_only_leaders_move() -> None:
    infos = table()
    decisions = cluster(infos, stores=3)
    assert spread(scattered(decisions, infos)) == ([12] * 3, [4] * 3)
    assert {one.changed_stores for one in decisions.operators.ended()} == {()}


def test_what_is_spread_already_stays() -> None:
    infos = table()
    after = scattered(cluster(infos, stores=6), infos)
    again = cluster(after, stores=6)
    scatter = Scatter(again.cluster, again.operators, again._allocate)
    assert [scatter.plan(info, again.now) for info in after] == [None] * len(after)


def test_a_leader_that_moves_hands_over_before_its_peer_goes() -> None:
    infos = table(count=2)
    decisions = cluster(infos, stores=6)
    scatter = Scatter(decisions.cluster, decisions.operators, decisions._allocate)
    assert scatter.plan(infos[0], decisions.now) is None
    assert steps(scatter.plan(infos[1], decisions.now))[-4:] == [
        "add learner on store 4",
        "promote learner on store 4",
        "transfer leader from store 1 to store 4",
        "remove peer on store 1",
    ]


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (region(1, leader=0), "no leader"),
        (region(1, pending=(2,)), "not all its peers work"),
        (region(1, down=(2,)), "not all its peers work"),
        (region(1, learners=(3,)), "members are being changed"),
    ],
)
def test_region_that_is_not_whole_is_not_scattered(info: ReportedRegion, why: str) -> None:
    decisions = cluster([info], stores=4)
    assert why in Scatter(decisions.cluster, decisions.operators, decisions._allocate).why_not(info, decisions.now)


def test_stores_that_go_get_nothing_and_another_request_is_not_cut_off() -> None:
    infos = table(count=4)
    decisions = cluster(infos, stores=5)
    decisions.set_state(4, StoreState.OFFLINE)
    scatter = Scatter(decisions.cluster, decisions.operators, decisions._allocate)
    made: list[Operator] = [one for info in infos if (one := scatter.plan(info, decisions.now)) is not None]
    assert {store_id for one in made for store_id in one.changed_stores} <= {1, 2, 3, 5}
    assert {one.kind for one in made} == {OperatorKind.ADMIN}
    assert decisions.operators.add(made[0], decisions.now)
    changed = decisions.cluster.regions.get(made[0].region_id)
    assert changed is not None
    assert "another request" in scatter.why_not(changed, decisions.now)
