from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from tests.scheduler.helpers import Decisions, apply_order, region, steps

from pytinykv.model import StoreId
from pytinykv.scheduler.operators import ChangePeer, MoveLeader, Operator
from pytinykv.scheduler.records import ReportedRegion, StoreState
from pytinykv.scheduler.region_balancer import GAP_MIN_RATIO, RegionBalancer

MIB = 1 << 20


class Carrying(Decisions):
    """Stores that carry so many regions of 10 MiB each, which can't move, beside the regions of the test."""

    def __init__(self, counts: Mapping[int, int], *, max_replicas: int = 3, **config: object) -> None:
        super().__init__(stores=counts, **config)
        self.heartbeat(*self.metas)
        self.max_replicas = max_replicas
        self._next_id = 500_000  # above all peers of the test
        self.balancer = RegionBalancer(
            self.cluster,
            self.operators,
            max_replicas=lambda: self.max_replicas,
            allocate_peer_id=self._allocate,
            rng=random.Random(1),
        )
        for store_id, count in counts.items():
            self.fill(store_id, count)

    def fill(self, store_id: int, count: int, *, size: int = 10 * MIB) -> None:
        """Their peers are down, so these regions are not for the balancer."""
        if StoreId(store_id) not in self.metas:
            self.add_store(store_id)
            self.heartbeat(store_id)
        for index in range(64):
            region_id = 100_000 + store_id * 1000 + index
            key = b"\xff%05d-%05d" % (store_id, index)
            self.cluster.regions.remove(region_id)
            if index < count:
                alone = region(region_id, key, key + b"\x00", stores=(store_id,), down=(store_id,), size=size)
                self.cluster.regions.put(alone)

    def put(self, *infos: ReportedRegion) -> None:
        for info in infos:
            self.cluster.regions.put(info)

    def propose(self) -> list[str] | None:
        operator = self.balancer.propose(self.now)
        return None if operator is None else steps(operator)


def on(
    leader: int, *followers: int, region_id: int = 1, size: int = 10 * MIB, pending: tuple[int, ...] = ()
) -> ReportedRegion:
    """A region of the test, with its peers on these stores."""
    start, end = b"%03d" % (region_id - 1) if region_id > 1 else b"", b"%03d" % region_id
    return region(region_id, start, end, stores=(leader, *followers), size=size, pending=pending)


def move(source: int, target: int, *, successor: int | None = None) -> list[str]:
    transfer = [] if successor is None else [f"transfer leader from store {source} to store {successor}"]
    return [
        f"add learner on store {target}",
        f"promote learner on store {target}",
        *transfer,
        f"remove peer on store {source}",
    ]


@pytest.mark.tinykv("TestReplicas13C")
def test_the_only_peer_of_a_region_moves_from_the_fullest_store_to_the_emptiest() -> None:
    stores = Carrying({1: 6, 2: 8, 3: 8, 4: 16}, max_replicas=1)
    stores.put(on(4))
    assert stores.propose() == move(4, 1, successor=1)
    stores.set_state(1, StoreState.OFFLINE)
    stores.fill(2, 6)
    assert stores.propose() == move(4, 2, successor=2)
    stores.max_replicas = 3
    assert stores.propose() is None, "it has too few replicas: the replica checker comes first"


@pytest.mark.tinykv("TestReplicas33C")
def test_target_is_the_emptiest_store_that_is_up_and_has_no_peer_of_the_region() -> None:
    stores = Carrying({1: 16, 2: 15, 3: 14})
    stores.put(on(1, 2, 3))
    assert stores.propose() is None, "no other store"
    for store_id, count in ((4, 3), (5, 1), (6, 0)):
        stores.fill(store_id, count)
        assert stores.propose() == move(1, store_id, successor=3)
    stores.silence(6, seconds=2000)
    assert stores.propose() == move(1, 5, successor=3)
    stores.silence(4, 5, 6, seconds=2000)
    stores.fill(7, 20)
    assert stores.propose() is None, "the only other store carries more"


@pytest.mark.tinykv("TestReplicas53C")
def test_of_five_peers_that_on_the_fullest_store_moves() -> None:
    stores = Carrying({1: 4, 2: 5, 3: 6, 4: 7, 5: 28, 6: 1}, max_replicas=5)
    stores.put(on(1, 2, 3, 4, 5))
    assert stores.propose() == move(5, 6)
    stores.fill(7, 5)
    assert stores.propose() == move(5, 6)
    stores.put(on(2, 3, 4, 5, 6))
    assert stores.propose() == move(5, 1)
    for store_id, count in ((11, 29), (12, 8), (13, 7)):
        stores.fill(store_id, count)
    stores.put(on(2, 3, 11, 12, 13))
    assert stores.propose() == move(11, 6)


@pytest.mark.tinykv("TestReplacePendingRegion3C")
def test_peer_that_is_behind_moves_first() -> None:
    stores = Carrying({1: 16, 2: 7, 3: 15, 4: 2})
    stores.put(on(1, 2, 3), on(1, 2, 3, region_id=2), on(2, 1, 3, region_id=3, pending=(1,)))
    for _ in range(10):
        operator = stores.balancer.propose(stores.now)
        assert operator is not None
        assert (operator.region_id, steps(operator)) == (3, move(1, 4))


@pytest.mark.tinykv("TestRandomRegion")
def test_peer_moves_rather_from_where_it_does_not_lead_and_any_such_region_may_be_it() -> None:
    stores = Carrying({1: 16, 2: 0, 3: 0, 4: 0})
    stores.put(*(on(*((1, 2) if n % 2 else (2, 1)), 3, region_id=n) for n in range(1, 13)))
    picked = [operator for _ in range(60) if (operator := stores.balancer.propose(stores.now)) is not None]
    assert {operator.region_id for operator in picked} == {2, 4, 6, 8, 10, 12}


@pytest.mark.tinykv("TestRandomRegionDiscontinuous")
def test_region_is_found_also_where_the_map_has_gaps() -> None:
    stores = Carrying({1: 16, 2: 0, 3: 0, 4: 0})
    stores.put(on(2, 1, 3, region_id=7), on(2, 1, 3, region_id=500))
    stores.cluster.regions.remove(7)
    assert {stores.balancer.propose(stores.now).region_id for _ in range(10)} == {500}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "unhealthy",
    [
        on(2, 1, 3, pending=(3,)),
        region(1, b"", b"001", stores=(2, 1, 3), down=(1,), size=10 * MIB),
        region(1, b"", b"001", stores=(2, 1, 3), learners=(3,), size=10 * MIB),
        region(1, b"", b"001", stores=(2, 1, 3), leader=0, size=10 * MIB),
        region(1, b"", b"001", stores=(2, 1), size=10 * MIB),
        region(1, b"", b"001", stores=(2, 1, 3, 5), size=10 * MIB),
    ],
)
def test_unhealthy_region_is_left_alone(unhealthy: ReportedRegion) -> None:
    stores = Carrying({1: 16, 2: 0, 3: 0, 4: 0, 5: 0})
    stores.put(unhealthy)
    assert stores.propose() is None
    stores.put(on(2, 1, 3))
    assert stores.propose() == move(1, 4)


def test_region_whose_other_peers_were_not_heard_of_lately_is_left_alone() -> None:
    stores = Carrying({1: 16, 2: 0, 3: 0, 4: 0})
    stores.put(on(2, 1, 3))
    stores.silence(3, seconds=30)
    assert stores.propose() is None


@pytest.mark.tinykv("TestCompareStoreScore")
@pytest.mark.parametrize(("size", "moves"), [(10 * MIB, True), (50 * MIB, True), (60 * MIB, False), (100 * MIB, False)])
def test_move_must_not_turn_the_scales(size: int, moves: bool) -> None:
    """Store 1 carries 80 MiB more than store 4, or a little more; theirs asks for twice the size."""
    stores = Carrying({1: 18, 2: 5, 3: 5, 4: 10})
    stores.put(on(2, 1, 3, size=size))
    stores.fill(4, 10)
    gap = stores.operators.weight(1) - stores.operators.weight(4)
    assert gap == 80 * MIB + size
    stores.fill(1, 18 - size // (10 * MIB))
    gap = stores.operators.weight(1) - stores.operators.weight(4)
    assert (stores.propose() is not None) is moves
    assert moves is (gap >= GAP_MIN_RATIO * size)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [12, 20])
def test_few_large_regions_end_within_fifteen_per_cent_and_then_stay(seed: int, count: int) -> None:
    """As many as a load of 1 GB makes, on three of four or five stores at first."""
    rng = random.Random(seed)
    stores = Carrying(dict.fromkeys(range(1, rng.choice([5, 6])), 0))
    sizes = [rng.randint(40, 96) * MIB for _ in range(count)]
    regions = {n: on(1, 2, 3, region_id=n, size=size) for n, size in enumerate(sizes, 1)}
    stores.put(*regions.values())
    for _ in range(10 * count):
        operator = stores.balancer.propose(stores.now)
        if operator is None:
            break
        source, target = (step.store_id for step in (operator.steps[-1], operator.steps[0]))  # type: ignore[union-attr]
        before = regions[operator.region_id]
        kept = [one.store_id for one in before.meta.peers if one.store_id != source]
        regions[operator.region_id] = on(*kept, target, region_id=operator.region_id, size=before.weight)
        stores.put(regions[operator.region_id])
    else:
        raise AssertionError("there is no end to it")
    carried = [stores.operators.weight(store_id) for store_id in sorted(stores.metas)]
    apart = (max(carried) - min(carried)) / (sum(carried) / len(carried))
    assert apart <= 0.15


def test_small_differences_are_left_alone() -> None:
    stores = Carrying({1: 64, 2: 62, 3: 62, 4: 62})
    stores.put(on(2, 1, 3, size=MIB))
    assert stores.propose() is None, "20 of some 625 MiB are less than five per cent"
    stores.fill(4, 60)
    assert stores.propose() == move(1, 4)


def test_empty_regions_count_for_something() -> None:
    stores = Carrying({1: 0, 2: 0, 3: 0, 4: 0})
    stores.put(*(on(2, 1, 3, region_id=n, size=0) for n in range(1, 9)))
    assert stores.operators.weight(1) == 8 * MIB
    assert stores.propose() is not None


def test_nothing_moves_before_most_regions_were_reported_or_when_it_is_switched_off() -> None:
    stores = Carrying({1: 16, 2: 0, 3: 0, 4: 0})
    silent = [region(n, b"%03d" % n, b"%03d" % (n + 1), leader=0, stores=(1, 2, 3)) for n in range(10, 20)]
    stores.put(on(2, 1, 3), *silent)
    assert stores.propose() is None
    stores.put(*(region(n, b"%03d" % n, b"%03d" % (n + 1), stores=(1, 2, 3)) for n in range(10, 20)))
    assert stores.propose() is not None


@pytest.mark.tinykv("TestRemoveScheduler")
def test_balancing_can_be_switched_off() -> None:
    stores = Carrying({1: 16, 2: 0, 3: 0, 4: 0}, region_operators_max=0)
    stores.put(on(2, 1, 3))
    assert stores.propose() is None


def test_moves_under_way_are_counted_so_that_the_target_does_not_get_too_much() -> None:
    stores = Carrying({1: 0, 2: 0, 3: 0, 4: 0}, region_operators_max=100, store_operators_max=100)
    stores.put(*(on(2, 1, 3, region_id=n) for n in range(1, 13)))
    started = 0
    while (operator := stores.balancer.propose(stores.now)) is not None:
        assert stores.operators.add(operator, stores.now)
        started += 1
    assert started == 9
    assert [stores.operators.weight(store) // (10 * MIB) for store in (1, 2, 3, 4)] == [9, 9, 9, 9]


def test_at_most_so_many_move_at_once() -> None:
    stores = Carrying({1: 0, 2: 0, 3: 0, 4: 0}, region_operators_max=3)
    stores.put(*(on(2, 1, 3, region_id=n) for n in range(1, 13)))
    started: list[Operator] = []
    while (operator := stores.balancer.propose(stores.now)) is not None:
        assert stores.operators.add(operator, stores.now)
        started.append(operator)
    assert len(started) == len({one.region_id for one in started}) == 3


@pytest.mark.tinykv("TestDispatch")
def test_regions_spread_over_a_new_store_step_by_step_and_then_stay() -> None:
    """The region never has fewer than three working voters, and a leader hands over before it goes."""
    stores = Carrying({1: 0, 2: 0, 3: 0, 4: 0})
    infos = {n: on(*((1, 2, 3), (2, 3, 1), (3, 1, 2))[n % 3], region_id=n) for n in range(1, 13)}
    stores.put(*infos.values())
    moves = 0
    for _ in range(200):
        operator = stores.balancer.propose(stores.now)
        moves += operator is not None and stores.operators.add(operator, stores.now)
        for region_id, info in infos.items():
            order = stores.report(info)
            if order is not None:
                assert isinstance(order.instruction, ChangePeer | MoveLeader)
                infos[region_id] = after = apply_order(info, order)
                assert len(after.meta.voters) >= 3
        stores.clock.advance(1)
        stores.heartbeat(1, 2, 3, 4)
    assert moves == 9
    assert [len(stores.cluster.regions.tally(store).regions) for store in (1, 2, 3, 4)] == [9, 9, 9, 9]
    assert stores.operators.running() == []
