from __future__ import annotations

import msgspec
import pytest
from tests.scheduler.helpers import Decisions, apply_order, peer, region

from pytinykv.model import Peer, PeerId, PeerRole, RegionEpoch, StoreId
from pytinykv.scheduler.operators import (
    AddLearner,
    ChangeKind,
    ChangePeer,
    MoveLeader,
    Operator,
    OperatorKind,
    OperatorStatus,
    PromoteLearner,
    RemovePeer,
    SplitAt,
    SplitRegion,
    Step,
    TransferLeader,
)
from pytinykv.scheduler.records import ReportedRegion, StoreState


def add(store: int, peer_id: int) -> AddLearner:
    return AddLearner(StoreId(store), PeerId(peer_id))


def promote(store: int, peer_id: int) -> PromoteLearner:
    return PromoteLearner(StoreId(store), PeerId(peer_id))


def learner(store: int, peer_id: int) -> Peer:
    return Peer(PeerId(peer_id), StoreId(store), PeerRole.LEARNER)


def remove(store: int) -> RemovePeer:
    return RemovePeer(StoreId(store))


def transfer(source: int, target: int) -> TransferLeader:
    return TransferLeader(StoreId(source), StoreId(target))


def operator(info: ReportedRegion, *steps: Step, kind: OperatorKind = OperatorKind.REGION) -> Operator:
    return Operator("test", info.id, info.meta.epoch, kind, steps)


@pytest.fixture
def decisions() -> Decisions:
    return Decisions(stores=(1, 2, 3, 4))


def start(
    decisions: Decisions, info: ReportedRegion, *steps: Step, kind: OperatorKind = OperatorKind.REGION
) -> Operator:
    decisions.cluster.on_region(info)
    made = operator(info, *steps, kind=kind)
    assert decisions.operators.add(made, decisions.now)
    return made


@pytest.mark.tinykv("TestOperatorStep")
def test_step_is_read_off_the_region() -> None:
    info = region(1, stores=(1, 2))
    assert not transfer(1, 2).is_finished(info)
    assert transfer(2, 1).is_finished(info)
    assert not add(3, 1003).is_finished(info)
    assert add(2, 1002).is_finished(info)
    assert not add(2, 77).is_finished(info), "another peer is there"
    assert not promote(2, 77).is_finished(info), "another peer is there"
    assert promote(2, 1002).is_finished(info)
    learning = region(1, stores=(1, 2), learners=(2,))
    assert add(2, 1002).is_finished(learning)
    assert not promote(2, 1002).is_finished(learning)
    assert (add(2, 1002).conf_changes(learning), promote(2, 1002).conf_changes(learning)) == (1, 0)
    assert not remove(1).is_finished(info)
    assert remove(3).is_finished(info)
    assert not transfer(2, 1).is_finished(region(1, leader=0)), "the leader is unknown"


@pytest.mark.tinykv("TestPeerState")
@pytest.mark.parametrize("trouble", [{"pending": (2,)}, {"down": (2,)}])
def test_added_learner_is_done_only_once_it_has_caught_up(trouble: dict[str, tuple[int, ...]]) -> None:
    assert not add(2, 1002).is_finished(region(1, stores=(1, 2), learners=(2,), **trouble))
    assert add(2, 1002).conf_changes(region(1, stores=(1, 2), learners=(2,), **trouble)) == 1


@pytest.mark.tinykv("TestPeerState")
@pytest.mark.parametrize("trouble", [{"pending": (3,)}, {"down": (3,)}])
def test_learner_gets_its_vote_only_while_it_has_caught_up(
    decisions: Decisions, trouble: dict[str, tuple[int, ...]]
) -> None:
    info = region(1, stores=(1, 2, 3), learners=(3,))
    made = start(decisions, info, promote(3, 1003))
    assert decisions.operators.on_region(region(1, stores=(1, 2, 3), learners=(3,), **trouble), decisions.now) is None
    if made.status is OperatorStatus.RUNNING:
        order = decisions.operators.on_region(info, decisions.now)
        assert order is not None
        assert order.instruction == ChangePeer(ChangeKind.ADD, peer(1, 3))
    else:
        assert "does not answer" in made.reason


def test_learner_whose_store_was_not_heard_of_lately_gets_no_vote(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2, 3), learners=(3,))
    made = start(decisions, info, promote(3, 1003))
    decisions.silence(3, seconds=25)
    assert decisions.operators.on_region(info, decisions.now) is None
    assert (made.status, made.reason) == (OperatorStatus.CANCEL, "store 3 went away")


def test_operator_ends_when_its_learner_is_gone(decisions: Decisions) -> None:
    made = start(decisions, region(1, stores=(1, 2, 3), learners=(3,)), promote(3, 1003))
    assert decisions.operators.on_region(region(1, stores=(1, 2)), decisions.now) is None
    assert (made.status, made.reason) == (OperatorStatus.CANCEL, "learner 1003 is gone")


def test_each_step_explains_one_change_of_the_members(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2))
    made = start(decisions, info, add(3, 77), promote(3, 77), remove(2))
    kinds = []
    for _ in range(3):
        order = decisions.operators.on_region(info, decisions.now)
        assert order is not None
        assert isinstance(order.instruction, ChangePeer)
        kinds.append(order.instruction.kind)
        info = apply_order(info, order)
        assert made.conf_changes(info) == info.meta.epoch.conf_ver - made.epoch.conf_ver
    assert kinds == [ChangeKind.ADD_LEARNER, ChangeKind.ADD, ChangeKind.REMOVE]
    assert decisions.operators.on_region(info, decisions.now) is None
    assert made.status is OperatorStatus.SUCCESS
    assert info.meta.peers == (peer(1, 1), Peer(PeerId(77), StoreId(3)))


def test_leadership_is_never_given_to_a_learner(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2, 3), learners=(2,))
    start(decisions, info, transfer(1, 2))
    order = decisions.operators.on_region(info, decisions.now)
    assert order is not None
    assert order.instruction == MoveLeader(peer(1, 3))


def test_learner_does_not_count_when_a_voter_is_removed(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2, 3), learners=(3,))
    start(decisions, info, remove(1))
    order = decisions.operators.on_region(info, decisions.now)
    assert order is not None
    assert order.instruction == MoveLeader(peer(1, 2)), "one voter is enough for one voter"
    info = region(1, stores=(1, 2, 3, 4), learners=(3, 4), pending=(2,))
    decisions.cluster.on_region(info)
    made = decisions.operators.get(1)
    assert made is not None
    assert decisions.operators.on_region(info, decisions.now) is None, "peer 2 alone could do nothing"


@pytest.mark.tinykv("TestOperator")
def test_operator_skips_what_is_done_and_ends_after_its_last_step() -> None:
    info = region(1, stores=(1, 2))
    done = operator(info, add(1, 1001), transfer(3, 1), remove(3))
    assert done.advance(info) is None
    assert done.done_steps == 3
    half = operator(info, add(1, 1001), transfer(2, 1), remove(2))
    assert half.advance(info) == remove(2)
    assert half.done_steps == 2
    assert half.changed_stores == (1, 2)
    assert operator(info, transfer(1, 2)).changed_stores == ()
    assert str(half) == (
        "test (region 1; 2/3: add learner 1001 on store 1, transfer leader from store 2 to store 1, remove peer on store 2)"
    )


@pytest.mark.tinykv("scheduler/server:TestBasic")
def test_region_has_one_operator_at_a_time(decisions: Decisions) -> None:
    info = region(1)
    first = start(decisions, info, remove(3))
    assert not decisions.operators.add(operator(info, remove(2)), decisions.now)
    assert decisions.operators.get(1) is first
    assert decisions.operators.cancel(first, "changed my mind")
    assert not decisions.operators.cancel(first, "again")
    assert decisions.operators.add(operator(info, remove(2)), decisions.now)
    last = decisions.operators.last(1)
    assert last is not None
    assert last.status is OperatorStatus.RUNNING
    assert (first.status, first.reason) == (OperatorStatus.CANCEL, "changed my mind")


@pytest.mark.tinykv("TestController")
def test_operator_of_a_person_replaces_another_and_stale_ones_do_not_start(decisions: Decisions) -> None:
    info = region(1)
    first = start(decisions, info, remove(3))
    admin = operator(info, transfer(1, 2), kind=OperatorKind.ADMIN)
    assert decisions.operators.add(admin, decisions.now)
    assert first.status is OperatorStatus.REPLACE
    assert not decisions.operators.add(operator(info, remove(2), kind=OperatorKind.ADMIN), decisions.now)
    decisions.operators.cancel(admin, "")
    assert not decisions.operators.add(operator(region(2), remove(2)), decisions.now), "no such region"
    assert not decisions.operators.add(operator(region(1, version=2), remove(2)), decisions.now), "another epoch"
    assert not decisions.operators.add(operator(info), decisions.now), "nothing to do"


@pytest.mark.tinykv("TestOperatorKind")
def test_kinds_are_told_as_words_and_read_from_them() -> None:
    assert [str(kind) for kind in OperatorKind] == ["replica", "leader", "region", "admin"]
    assert [OperatorKind(word) for word in ("admin", "region")] == [OperatorKind.ADMIN, OperatorKind.REGION]
    with pytest.raises(ValueError, match="foobar"):
        OperatorKind("foobar")


@pytest.mark.tinykv("TestOperatorCount")
def test_running_operators_are_counted_by_kind_and_store(decisions: Decisions) -> None:
    one, two = region(1, b"", b"m"), region(2, b"m")
    first = start(decisions, one, transfer(1, 2), kind=OperatorKind.LEADER)
    start(decisions, two, add(4, 2004), remove(3), kind=OperatorKind.REPLICA)
    count = decisions.operators.count
    assert (count(OperatorKind.LEADER), count(OperatorKind.REPLICA), count(OperatorKind.ADMIN)) == (1, 1, 0)
    assert [decisions.operators.store_load(store) for store in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert decisions.operators.pending_additions(4) == 1
    decisions.operators.cancel(first, "")
    assert count(OperatorKind.LEADER) == 0
    assert [one.region_id for one in decisions.operators.running()] == [2]


def test_stores_and_cluster_take_part_in_a_limited_number_of_operators() -> None:
    decisions = Decisions(stores=(1, 2, 3, 4, 5), store_operators_max=2, operators_max=3)
    infos = [region(n, b"%d" % n, b"%d" % (n + 1), stores=(1, 2)) for n in range(1, 7)]
    for info in infos:
        decisions.cluster.on_region(info)
    targets = [4, 4, 4, 5, 5, 5]
    accepted = [
        decisions.operators.add(operator(info, add(target, 9000 + target), kind=OperatorKind.REPLICA), decisions.now)
        for info, target in zip(infos, targets, strict=True)
    ]
    assert accepted == [True, True, False, True, False, False]


@pytest.mark.tinykv("TestOperatorStatus")
def test_operator_ends_in_time_or_by_its_last_step(decisions: Decisions) -> None:
    one, two = region(1, b"", b"m", stores=(1, 2)), region(2, b"m", stores=(1, 2))
    late = start(decisions, one, remove(2), add(2, 4))
    decisions.clock.advance(590)
    decisions.heartbeat(1, 2, 3, 4)
    good = start(decisions, two, remove(2), add(2, 4))
    decisions.clock.advance(11)
    decisions.heartbeat(1, 2, 3, 4)
    assert decisions.operators.on_region(one, decisions.now) is None
    assert late.status is OperatorStatus.TIMEOUT
    removal = decisions.operators.on_region(two, decisions.now)
    assert removal is not None
    assert removal.instruction == ChangePeer(ChangeKind.REMOVE, peer(2, 2))
    two = apply_order(two, removal)
    addition = decisions.operators.on_region(two, decisions.now)
    assert addition is not None
    assert addition.instruction == ChangePeer(ChangeKind.ADD_LEARNER, learner(2, 4))
    assert good.status is OperatorStatus.RUNNING
    assert decisions.operators.on_region(apply_order(two, addition), decisions.now) is None
    assert good.status is OperatorStatus.SUCCESS


def test_leader_transfer_has_a_short_time_limit_and_ends_without_heartbeats(decisions: Decisions) -> None:
    info = region(1)
    made = start(decisions, info, transfer(1, 2))
    decisions.clock.advance(10)
    decisions.operators.expire(decisions.now)
    assert made.status is OperatorStatus.RUNNING
    decisions.clock.advance(0.1)
    decisions.operators.expire(decisions.now)
    assert made.status is OperatorStatus.TIMEOUT


def test_operator_of_a_region_that_is_gone_ends(decisions: Decisions) -> None:
    made = start(decisions, region(1), remove(3))
    decisions.cluster.regions.remove(1)
    decisions.operators.expire(decisions.now)
    assert made.status is OperatorStatus.RUNNING, "a split may hide it until its next heartbeat"
    decisions.clock.advance(5)
    decisions.operators.expire(decisions.now)
    assert (made.status, made.reason) == (OperatorStatus.CANCEL, "the region is gone")


def test_operator_outlives_a_split_whose_new_half_reports_first(decisions: Decisions) -> None:
    made = start(decisions, region(1, stores=(1, 2, 3)), remove(3))
    for _ in range(3):
        decisions.cluster.on_region(region(2, b"", b"m", version=2))
        decisions.operators.expire(decisions.now)
        decisions.clock.advance(4)
        decisions.cluster.on_region(region(1, b"m", version=2))
        decisions.heartbeat(1, 2, 3, 4)
        assert decisions.operators.on_region(region(1, b"m", version=2), decisions.now) is not None
        decisions.cluster.regions.remove(1)
    assert made.status is OperatorStatus.RUNNING


@pytest.mark.tinykv("TestDispatchOutdatedRegion")
def test_operator_is_given_up_when_others_change_the_members(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2))
    made = start(decisions, info, transfer(1, 2), remove(1))
    first = decisions.operators.on_region(info, decisions.now)
    assert first is not None
    assert first.instruction == MoveLeader(peer(1, 2))
    info = apply_order(info, first)
    second = decisions.operators.on_region(info, decisions.now)
    assert second is not None
    assert second.instruction == ChangePeer(ChangeKind.REMOVE, peer(1, 1))
    info = apply_order(info, second)
    assert made.conf_changes(info) == 1
    assert decisions.operators.on_region(info, decisions.now) is None
    assert made.status is OperatorStatus.SUCCESS

    info = region(1, stores=(1, 2), conf_ver=5)
    made = start(decisions, info, transfer(1, 2), remove(1))
    foreign = region(1, stores=(1, 2), conf_ver=6)
    assert decisions.operators.on_region(foreign, decisions.now) is None
    assert made.status is OperatorStatus.CANCEL
    assert "members changed" in made.reason


def test_order_is_repeated_until_a_heartbeat_shows_it_done(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2))
    start(decisions, info, add(3, 77))
    orders = [decisions.operators.on_region(info, decisions.now) for _ in range(3)]
    assert orders[0] is not None
    assert orders == [orders[0]] * 3
    assert (orders[0].leader, orders[0].epoch) == (peer(1, 1), RegionEpoch(1, 1))
    behind = msgspec.structs.replace(apply_order(info, orders[0]), pending_peers=(learner(3, 77),))
    assert decisions.operators.on_region(behind, decisions.now) is None, "a member; there is nothing to say"
    assert decisions.operators.get(1) is not None, "but still behind"


def test_second_peer_on_a_store_is_never_ordered(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2))
    made = start(decisions, info, add(3, 77))
    foreign = region(1, stores=(1, 2, 3), conf_ver=1)
    assert decisions.operators.on_region(foreign, decisions.now) is None
    assert made.status is OperatorStatus.CANCEL


def test_operator_whose_target_goes_away_is_given_up(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2))
    made = start(decisions, info, add(3, 77))
    decisions.silence(3, seconds=25)
    assert decisions.operators.on_region(info, decisions.now) is None
    assert (made.status, made.reason) == (OperatorStatus.CANCEL, "store 3 went away")


def test_working_peer_the_majority_needs_is_not_removed(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2, 3), pending=(3,))
    made = start(decisions, info, remove(2))
    assert decisions.operators.on_region(info, decisions.now) is None
    assert made.status is OperatorStatus.RUNNING, "it waits for peer 3 to catch up"
    order = decisions.operators.on_region(region(1, stores=(1, 2, 3)), decisions.now)
    assert order is not None
    assert order.instruction == ChangePeer(ChangeKind.REMOVE, peer(1, 2))


def test_only_peer_is_never_removed(decisions: Decisions) -> None:
    info = region(1, stores=(1,))
    start(decisions, info, remove(1))
    assert decisions.operators.on_region(info, decisions.now) is None


def test_leader_that_is_to_be_removed_hands_over_first(decisions: Decisions) -> None:
    info = region(1, leader=3)
    start(decisions, info, remove(3))
    order = decisions.operators.on_region(info, decisions.now)
    assert order is not None
    assert order.instruction == MoveLeader(peer(1, 1))


def test_leadership_is_not_given_to_a_peer_that_does_not_work(decisions: Decisions) -> None:
    info = region(1, stores=(1, 2, 3), pending=(2,))
    start(decisions, info, transfer(1, 2))
    order = decisions.operators.on_region(info, decisions.now)
    assert order is not None
    assert order.instruction == MoveLeader(peer(1, 3))


def test_history_is_bounded() -> None:
    decisions = Decisions(stores=(1, 2, 3), operator_history_max=2)
    for region_id in (1, 2, 3):
        key = b"%d" % region_id
        made = start(decisions, region(region_id, key, key + b"x"), remove(3))
        decisions.operators.cancel(made, "")
    assert [decisions.operators.last(region_id) is not None for region_id in (1, 2, 3)] == [False, True, True]


def test_draining_store_may_still_be_a_source_of_orders(decisions: Decisions) -> None:
    decisions.set_state(3, StoreState.OFFLINE)
    info = region(1)
    start(decisions, info, add(4, 77), remove(3))
    order = decisions.operators.on_region(info, decisions.now)
    assert order is not None
    assert order.instruction == ChangePeer(ChangeKind.ADD_LEARNER, learner(4, 77))


def test_split_is_ordered_in_portions_from_the_left_until_no_key_is_left_inside(decisions: Decisions) -> None:
    keys = tuple(b"%04d" % n + b"x" * 4092 for n in range(300))
    info = region(1, b"", b"")
    made = start(decisions, info, SplitAt(keys), kind=OperatorKind.ADMIN)
    sizes, version = [], 1
    while (order := decisions.operators.on_region(info, decisions.now)) is not None:
        assert isinstance(order.instruction, SplitRegion)
        portion = order.instruction.keys
        assert portion == tuple(sorted(portion))
        sizes.append(sum(map(len, portion)))
        version += 1
        info = region(1, portion[-1], b"", version=version)
        decisions.cluster.on_region(info)
    assert made.status is OperatorStatus.SUCCESS
    assert sizes == [1 << 20, 300 * 4096 - (1 << 20)]


def test_split_has_a_short_time_limit(decisions: Decisions) -> None:
    made = start(decisions, region(1), SplitAt((b"k",)), kind=OperatorKind.ADMIN)
    decisions.clock.advance(10.1)
    decisions.operators.expire(decisions.now)
    assert made.status is OperatorStatus.TIMEOUT
