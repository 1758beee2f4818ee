from __future__ import annotations

import msgspec
import pytest
from tests.scheduler.helpers import Decisions, apply_order, region, steps

from pytinykv.model import Peer, PeerId, PeerRole, StoreId
from pytinykv.scheduler.leader_balancer import LeaderBalancer
from pytinykv.scheduler.operators import MoveLeader
from pytinykv.scheduler.records import ReportedRegion, StoreState


class Balanced(Decisions):
    """Stores 1, 2, … that lead so many regions each, beside the regions of the test."""

    def __init__(self, *leaders: int, **config: object) -> None:
        super().__init__(stores=range(1, len(leaders) + 1), **{"leader_balance_tolerance": 10, **config})
        self.heartbeat(*self.metas)
        self.balancer = LeaderBalancer(self.cluster, self.operators)
        self.fill(*leaders)

    def fill(self, *leaders: int, size: int = 10) -> None:
        for store_id, count in enumerate(leaders, start=1):
            for index in range(64):
                key = b"\xff%05d-%05d" % (store_id, index)
                region_id = 100_000 + store_id * 1000 + index
                if index < count:
                    self.cluster.regions.put(region(region_id, key, key + b"\x00", stores=(store_id,), size=size))
                else:
                    self.cluster.regions.remove(region_id)

    def balance(self, info: ReportedRegion) -> list[str] | None:
        """Take the region in, and ask what should be done about it."""
        self.cluster.regions.put(info)
        operator = self.balancer.check(info, self.now)
        return None if operator is None else steps(operator)


def led_by(leader: int, *followers: int, region_id: int = 1) -> ReportedRegion:
    return region(region_id, b"", b"\xf0", stores=(leader, *followers))


def transfer(source: int, target: int) -> list[str]:
    return [f"transfer leader from store {source} to store {target}"]


@pytest.mark.tinykv("TestBalanceLimit")
def test_small_differences_are_left_alone() -> None:
    stores = Balanced(0, 0, 0, 0)
    assert stores.balance(led_by(1, 2, 3, 4)) is None
    stores.fill(15, 0, 0, 0)
    assert stores.balance(led_by(1, 2, 3, 4)) == transfer(1, 2)
    stores.fill(7, 8, 9, 9)
    assert stores.balance(led_by(4, 1, 2, 3)) is None
    stores.fill(7, 8, 9, 17)
    assert stores.balance(led_by(4, 1, 2, 3)) == transfer(4, 1)


@pytest.mark.tinykv("TestBalanceLeaderTolerantRatio")
@pytest.mark.parametrize(("leaders", "moves"), [(14, False), (18, False), (19, True), (21, True)])
def test_difference_must_reach_the_tolerance(leaders: int, moves: bool) -> None:
    stores = Balanced(leaders, 10, 10, 10)
    assert (stores.balance(led_by(1, 2, 3, 4)) is not None) is moves


@pytest.mark.tinykv("TestBalanceLeaderScheduleStrategy")
def test_leaders_are_counted_not_weighed() -> None:
    stores = Balanced(0, 10, 10, 10)
    stores.fill(9, size=1000)
    stores.fill(9, 10, 10, 10)
    assert stores.balance(led_by(1, 2, 3, 4)) is None


@pytest.mark.tinykv("TestBalanceFilter")
def test_unfit_stores_get_no_leadership() -> None:
    stores = Balanced(1, 2, 3, 15)
    info = led_by(4, 1, 2, 3)
    assert stores.balance(info) == transfer(4, 1)
    stores.set_state(4, StoreState.OFFLINE)
    assert stores.balance(info) == transfer(4, 1), "a draining store still serves, and may give"
    stores.silence(1, seconds=2000)
    assert stores.balance(info) == transfer(4, 2)
    stores.heartbeat(2, busy=True)
    assert stores.balance(info) == transfer(4, 3)
    stores.silence(1, 2, 3, seconds=25)
    assert stores.balance(info) is None


def test_a_store_that_has_just_restarted_gets_leadership_a_little_later() -> None:
    stores = Balanced(0, 2, 30, leader_rest_s=2.0)
    restarted = stores.cluster.store(1)
    assert restarted is not None
    restarted.restarted_at = stores.now
    assert stores.balance(led_by(3, 1, 2)) == transfer(3, 2), "its peers keep away from elections now"
    restarted.restarted_at = stores.now - 2.0
    assert stores.balance(led_by(3, 1, 2)) == transfer(3, 1)


@pytest.mark.tinykv("TestIsRegionUnhealthy")
def test_region_with_a_learner_or_a_follower_that_is_behind_keeps_its_leader_where_it_is() -> None:
    stores = Balanced(30, 0)
    info = led_by(1, 2)
    assert stores.balance(info) == transfer(1, 2)
    assert stores.balance(msgspec.structs.replace(info, pending_peers=info.followers)) is None
    learner = Peer(PeerId(9), StoreId(2), PeerRole.LEARNER)
    meta = msgspec.structs.replace(info.meta, peers=(info.meta.peers[0], learner))
    assert stores.balance(msgspec.structs.replace(info, meta=meta)) is None


@pytest.mark.tinykv("TestBalanceSelector")
def test_of_several_regions_those_are_led_elsewhere_whose_move_helps() -> None:
    """Stores 1 to 4 lead so many regions; region 1 has followers on 2 and 3, region 2 on 1 and 2."""

    def moves(*leaders: int, first: int, second: int) -> list[list[str] | None]:
        stores = Balanced(*leaders)
        infos = [
            region(1, b"", b"m", stores=(2, 3, 4), leader=first),
            region(2, b"m", b"\xf0", stores=(1, 2, 3), leader=second),
        ]
        for info in infos:
            stores.cluster.regions.put(info)
        return [stores.balance(info) for info in infos]

    assert moves(1, 2, 3, 16, first=4, second=3) == [transfer(4, 2), None]
    assert moves(1, 14, 15, 16, first=4, second=3) == [None, transfer(3, 1)]
    assert moves(1, 2, 15, 16, first=3, second=1) == [transfer(3, 2), None]
    assert moves(10, 10, 10, 10, first=4, second=1) == [None, None]
    assert moves(11, 13, 0, 16, first=4, second=1) == [transfer(4, 3), transfer(1, 3)]


def test_leadership_of_a_lone_hot_region_does_not_wander() -> None:
    stores = Balanced(0, 0, 0, leader_balance_tolerance=2)
    for leader, *followers in ((1, 2, 3), (2, 1, 3), (3, 1, 2)):
        assert stores.balance(region(1, stores=(leader, *followers), size=1 << 30)) is None
    stores.fill(1, 0, 0)
    assert stores.balance(led_by(1, 2, 3)) == transfer(1, 2), "of two regions each store may lead one"


@pytest.mark.parametrize(("leaders", "moves"), [(1030, False), (1049, False), (1060, True)])
def test_with_many_regions_a_share_of_them_may_differ(leaders: int, moves: bool) -> None:
    stores = Balanced(0, 0, 0, leader_balance_tolerance=2)
    counts = {1: leaders, 2: 1000, 3: 1000}
    for store_id, count in counts.items():
        for index in range(count):
            key = b"\xff%05d-%05d" % (store_id, index)
            stores.cluster.regions.put(region(store_id * 10_000 + index, key, key + b"\x00", stores=(store_id,)))
    assert (stores.balance(led_by(1, 2, 3)) is not None) is moves


def spread(stores: Balanced, infos: list[ReportedRegion], rounds: int) -> int:
    """Let every region report in turn and obey; return how many leaders moved."""
    moves = 0
    for _ in range(rounds):
        for index, info in enumerate(infos):
            order = stores.report(info)
            if order is not None:
                assert isinstance(order.instruction, MoveLeader)
                infos[index] = apply_order(info, order)
                moves += 1
    return moves


def test_leaders_spread_over_the_stores_and_then_stay() -> None:
    stores = Balanced(0, 0, 0, leader_balance_tolerance=2)
    stores.coordinator._checkers = (stores.checker, stores.balancer)
    keys = [b"", *(b"%02d" % n for n in range(1, 30)), b""]
    infos = [region(n + 1, keys[n], keys[n + 1], stores=(1, 2, 3)) for n in range(30)]
    for info in infos:
        stores.cluster.on_region(info)
    assert spread(stores, infos, rounds=10) == 20, "no leader moves twice"
    assert [len(stores.cluster.regions.tally(store).leaders) for store in (1, 2, 3)] == [10, 10, 10]
    assert spread(stores, infos, rounds=10) == 0


def test_number_of_transfers_at_once_is_limited() -> None:
    stores = Balanced(0, 0, leader_balance_tolerance=2, leader_operators_max=3)
    keys = [b"", *(b"%02d" % n for n in range(1, 20)), b""]
    infos = [region(n + 1, keys[n], keys[n + 1], stores=(1, 2)) for n in range(20)]
    for info in infos:
        stores.cluster.on_region(info)
    started = 0
    for info in infos:
        operator = stores.balancer.check(info, stores.now)
        started += operator is not None and stores.operators.add(operator, stores.now)
    assert started == 3
    assert [stores.operators.leader_balance(store) for store in (1, 2)] == [-3, 3]


@pytest.mark.tinykv("TestShouldRun")
@pytest.mark.tinykv("TestShouldRunWithNonLeaderRegions")
@pytest.mark.parametrize(
    ("placements", "needed"),
    [([(1, 2, 3)] * 5 + [(2, 1, 4)] * 2, 7), ([(1, 2, 3)] * 10, 8)],
)
def test_stores_are_compared_only_after_most_of_their_regions_were_reported(
    placements: list[tuple[int, ...]], needed: int
) -> None:
    cluster = Decisions(stores=(1, 2, 3, 4)).cluster
    keys = [b"", *(b"%02d" % n for n in range(1, len(placements))), b""]
    infos = [region(n + 1, keys[n], keys[n + 1], stores=stores) for n, stores in enumerate(placements)]
    cluster.load_regions([info.meta for info in infos])
    prepared = []
    for info in infos:
        cluster.on_region(info)
        prepared.append(cluster.is_prepared())
    assert prepared == [n >= needed for n in range(1, len(infos) + 1)]
