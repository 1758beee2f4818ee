from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scheduler import helpers
from tests.scheduler.helpers import Decisions, apply_order, growth, peer, steps

from pytinykv.model import PeerRole
from pytinykv.scheduler.operators import ChangeKind, ChangePeer, MoveLeader, Order
from pytinykv.scheduler.quorum import is_working
from pytinykv.scheduler.records import DownPeer, ReportedRegion, StoreLabel, StoreState


def region(region_id: int, start: bytes = b"", end: bytes = b"\xf0", **fields: object) -> ReportedRegion:
    """A region that leaves room for those with which `decisions_with` fills the stores."""
    return helpers.region(region_id, start, end, **fields)


def decisions_with(*fill: int, **config: object) -> Decisions:
    """Stores 1, 2, … that hold so many regions each."""
    decisions = Decisions(**config)
    for store_id, regions in enumerate(fill, start=1):
        decisions.add_store(store_id, regions=regions)
    decisions.heartbeat(*decisions.metas)
    return decisions


@pytest.mark.tinykv("scheduler/server/schedulers:TestBasic")
def test_missing_peer_goes_to_the_emptiest_store_that_is_up() -> None:
    decisions = decisions_with(4, 3, 2, 1)
    info = region(1, stores=(1, 2))
    assert steps(decisions.check(info)) == growth(4)
    decisions.silence(4, seconds=25)
    assert steps(decisions.check(info)) == growth(3)
    decisions.heartbeat(4)
    assert steps(decisions.check(info)) == growth(4)
    assert decisions.check(region(1, stores=(1, 2, 4))) is None
    # Four peers: the one on the fullest store goes, though its peer leads.
    assert steps(decisions.check(region(1, stores=(1, 2, 4, 3), leader=2))) == ["remove peer on store 1"]
    decisions.set_state(3, StoreState.OFFLINE)
    assert steps(decisions.check(region(1, stores=(2, 4, 3)))) == [*growth(1), "remove peer on store 3"]


def test_leader_is_the_last_to_go_of_too_many_and_hands_over_first() -> None:
    decisions = decisions_with(9, 1, 1, 1)
    assert steps(decisions.check(region(1, stores=(1, 2, 3, 4)))) == ["remove peer on store 4"]
    decisions.set_state(1, StoreState.OFFLINE)
    assert steps(decisions.check(region(1, stores=(1, 2, 3, 4)))) == [
        "transfer leader from store 1 to store 2",
        "remove peer on store 1",
    ]


@pytest.mark.tinykv("TestLostStore")
def test_peer_on_a_store_that_never_registered_stops_all_decisions() -> None:
    decisions = decisions_with(1, 1)
    assert decisions.check(region(1, stores=(1, 2, 3))) is None


def test_region_without_known_leader_is_left_alone() -> None:
    decisions = decisions_with(1, 1, 1)
    assert decisions.check(region(1, stores=(1,), leader=0)) is None


@pytest.mark.tinykv("TestOffline")
def test_offline_store_is_drained() -> None:
    decisions = decisions_with(1, 2, 3, 4)
    assert steps(decisions.check(region(1, stores=(1,)))) == ["add learner on store 2"]
    assert steps(decisions.check(region(1, stores=(1, 2)))) == growth(3)
    four = region(1, stores=(1, 2, 3, 4))
    assert steps(decisions.check(four)) == ["remove peer on store 4"]
    decisions.heartbeat(4, busy=True)
    assert steps(decisions.check(four)) == ["remove peer on store 3"], "a busy store is not bothered"
    decisions.heartbeat(4)
    decisions.set_state(3, StoreState.OFFLINE)
    assert steps(decisions.check(four)) == ["remove peer on store 3"]
    three = region(1, stores=(1, 2, 3))
    assert steps(decisions.check(three)) == [*growth(4), "remove peer on store 3"]
    decisions.add_store(5, regions=3)
    assert steps(decisions.check(three)) == [*growth(5), "remove peer on store 3"]


@pytest.mark.tinykv("TestReplica")
def test_heartbeats_bring_a_region_to_three_peers_from_either_side() -> None:
    decisions = decisions_with(1, 2, 3, 4)
    info = region(1, b"", b"a", stores=(2, 3))
    order = decisions.report(info)
    assert order is not None
    assert isinstance(order.instruction, ChangePeer)
    assert (order.instruction.kind, order.instruction.peer.store_id) == (ChangeKind.ADD_LEARNER, 1)
    info = apply_order(info, order)
    order = decisions.report(info)
    assert order is not None
    assert order.instruction == ChangePeer(
        ChangeKind.ADD, msgspec.structs.replace(info.meta.peers[-1], role=PeerRole.VOTER)
    )
    assert decisions.report(apply_order(info, order)) is None

    info = region(2, b"a", b"b", stores=(1, 2, 3, 4))
    order = decisions.report(info)
    assert order is not None
    assert order.instruction == ChangePeer(ChangeKind.REMOVE, peer(2, 4))
    assert decisions.report(apply_order(info, order)) is None

    # Theirs removes an offline peer that is behind at once; ours adds the new one first.
    decisions.set_state(3, StoreState.OFFLINE)
    info = region(3, b"b", b"c", stores=(1, 2, 3), pending=(3,))
    kinds = []
    while (order := decisions.report(info)) is not None:
        assert isinstance(order.instruction, ChangePeer)
        kinds.append((order.instruction.kind, order.instruction.peer.store_id))
        info = apply_order(info, order)
    assert kinds == [(ChangeKind.ADD_LEARNER, 4), (ChangeKind.ADD, 4), (ChangeKind.REMOVE, 3)]


def test_a_drained_peer_that_is_behind_stays_until_its_replacement_has_caught_up() -> None:
    """It may catch up, and is what the region goes on with when another voter is lost: two voters bear no loss at all."""
    decisions = decisions_with(1, 1, 1)
    decisions.set_state(3, StoreState.OFFLINE)
    info = region(1, stores=(1, 2, 3), pending=(3,))
    assert decisions.check(info) is None, "no store can take its place"
    decisions.add_store(4)
    decisions.heartbeat(*decisions.metas)
    order = decisions.report(info)
    assert order is not None
    with_learner = obey(decisions, info, order)
    assert {one.store_id for one in with_learner.pending_peers} == {3, 4}
    assert decisions.report(with_learner) is None, "neither a vote for the one that is behind, nor a removal"
    caught_up = msgspec.structs.replace(with_learner, pending_peers=with_learner.pending_peers[:1])
    order = decisions.report(caught_up)
    assert order is not None
    four = obey(decisions, caught_up, order)
    assert len(four.meta.voters) == 4
    order = decisions.report(four)
    assert order is not None
    assert order.instruction == ChangePeer(ChangeKind.REMOVE, peer(1, 3))


def test_lost_store_is_replaced_once_there_is_a_spare_and_not_before() -> None:
    decisions = decisions_with(0, 0, 0)
    info = region(1)
    decisions.silence(2, seconds=1799)
    assert decisions.report(info) is None
    decisions.silence(2, seconds=2)
    assert decisions.report(info) is None, "there is nowhere to go"
    decisions.add_store(4)
    order = decisions.report(info)
    assert order is not None
    assert isinstance(order.instruction, ChangePeer)
    assert (order.instruction.kind, order.instruction.peer.store_id) == (ChangeKind.ADD_LEARNER, 4)
    info = apply_order(info, order)
    order = decisions.report(info)
    assert order is not None
    assert isinstance(order.instruction, ChangePeer)
    assert (order.instruction.kind, order.instruction.peer.store_id) == (ChangeKind.ADD, 4)
    info = apply_order(info, order)
    order = decisions.report(info)
    assert order is not None
    assert order.instruction == ChangePeer(ChangeKind.REMOVE, peer(1, 2))
    assert decisions.report(apply_order(info, order)) is None


def test_lost_peer_of_four_goes_without_a_replacement() -> None:
    decisions = decisions_with(0, 0, 0, 0)
    decisions.silence(1, seconds=1801)
    assert steps(decisions.check(region(1, stores=(1, 2, 3, 4), leader=2))) == ["remove peer on store 1"]


def test_nothing_is_removed_that_the_majority_needs() -> None:
    decisions = decisions_with(0, 0, 0, 0)
    decisions.silence(3, 4, seconds=25)
    assert decisions.check(region(1, stores=(1, 2))) is None, "there is no store that is up"
    info = region(1, stores=(1, 2, 3, 4), pending=(2,))
    surplus = decisions.check(info)
    assert steps(surplus) == ["remove peer on store 4"], "a silent one may go"
    decisions.heartbeat(3, 4)
    info = region(1, stores=(1, 2, 3, 4), pending=(2, 3))
    assert steps(decisions.check(info)) == ["remove peer on store 3"]


@pytest.mark.parametrize("unfit", ["busy", "disconnected", "offline", "full", "tiflash"])
def test_unfit_store_gets_no_peer(unfit: str) -> None:
    decisions = decisions_with(0, 0, 0)
    match unfit:
        case "busy":
            decisions.heartbeat(3, busy=True)
        case "disconnected":
            decisions.silence(3, seconds=21)
        case "offline":
            decisions.set_state(3, StoreState.OFFLINE)
        case "full":
            store = decisions.cluster.store(3)
            assert store is not None
            assert store.stats is not None
            store.stats = msgspec.structs.replace(store.stats, capacity=1000, available=199)
        case "tiflash":
            labels = (StoreLabel("engine", "tiflash"),)
            decisions.metas[msgspec.convert(3, int)] = msgspec.structs.replace(decisions.metas[3], labels=labels)
            decisions.set_state(3, StoreState.UP)
    assert decisions.check(region(1, stores=(1, 2))) is None


def test_peers_on_their_way_count_when_stores_are_compared() -> None:
    decisions = decisions_with(0, 0, 0, 0)
    targets = []
    for region_id in range(1, 5):
        info = region(region_id, b"%d" % region_id, b"%d" % (region_id + 1), stores=(1, 2))
        order = decisions.report(info)
        assert order is not None
        assert isinstance(order.instruction, ChangePeer)
        targets.append(order.instruction.peer.store_id)
    assert targets == [3, 4, 3, 4]


# --- growing, and what is left over


def obey_all(decisions: Decisions, info: ReportedRegion) -> tuple[ReportedRegion, list[str]]:
    """Report and obey until there is nothing to do; return the orders in words."""
    orders = []
    while (order := decisions.report(info)) is not None:
        assert isinstance(order.instruction, ChangePeer)
        orders.append(f"{order.instruction.kind.name} {order.instruction.peer.store_id}")
        info = apply_order(info, order)
    return info, orders


def test_region_grows_from_one_to_three_by_two_learners_that_get_their_votes_together() -> None:
    decisions = decisions_with(0, 0, 0)
    info, orders = obey_all(decisions, region(1, stores=(1,)))
    assert orders == ["ADD_LEARNER 2", "ADD_LEARNER 3", "ADD 2", "ADD 3"]
    assert all(one.role is PeerRole.VOTER for one in info.meta.peers)


def test_region_grows_to_two_where_there_are_two_stores_and_to_three_later() -> None:
    decisions = decisions_with(0, 0)
    info, orders = obey_all(decisions, region(1, stores=(1,)))
    assert orders == ["ADD_LEARNER 2", "ADD 2"]
    decisions.add_store(3)
    assert obey_all(decisions, info)[1] == ["ADD_LEARNER 3", "ADD 3"]


def test_two_replicas_are_wanted_and_made() -> None:
    decisions = decisions_with(0, 0, 0)
    decisions.max_replicas = 2
    assert obey_all(decisions, region(1, stores=(1,)))[1] == ["ADD_LEARNER 2", "ADD 2"]


def test_second_learner_that_falls_silent_does_not_hold_up_the_first() -> None:
    decisions = decisions_with(0, 0, 0)
    info = region(1, stores=(1,))
    for _ in range(2):
        order = decisions.report(info)
        assert order is not None
        info = apply_order(info, order)
    behind = msgspec.structs.replace(info, pending_peers=info.meta.peers[2:])
    assert decisions.report(behind) is None, "it may come yet"
    silent = msgspec.structs.replace(behind, down_peers=(DownPeer(info.meta.peers[2], 4),))
    order = decisions.report(silent)
    assert order is not None
    assert isinstance(order.instruction, ChangePeer)
    assert (order.instruction.kind, order.instruction.peer.store_id) == (ChangeKind.ADD, 2)


def test_two_learners_left_over_get_their_votes_the_slower_one_first() -> None:
    """After a restart of the scheduler, say."""
    decisions = decisions_with(0, 0, 0)
    info = region(1, stores=(1, 2, 3), learners=(2, 3), pending=(3,))
    assert steps(decisions.check(info)) == ["promote learner on store 3", "promote learner on store 2"]
    assert decisions.report(info) is None
    info = region(1, stores=(1, 2, 3), learners=(2, 3))
    assert obey_all(decisions, info)[1] == ["ADD 3", "ADD 2"]


def test_learner_left_over_goes_on_instead_of_a_new_one() -> None:
    decisions = decisions_with(0, 0, 0, 0)
    info = region(1, stores=(1, 2, 3), learners=(3,))
    assert steps(decisions.check(info)) == ["promote learner on store 3"]
    behind = region(1, stores=(1, 2, 3), learners=(3,), pending=(3,))
    assert steps(decisions.check(behind)) == ["promote learner on store 3"]
    assert decisions.report(behind) is None, "not before it has caught up"


def test_learner_that_does_not_answer_is_passed_over_and_removed_in_the_end() -> None:
    decisions = decisions_with(0, 0, 0, 0)
    info = region(1, stores=(1, 2, 3), learners=(3,), down=(3,))
    assert steps(decisions.check(info)) == growth(4)
    whole = region(1, stores=(1, 2, 4, 3), learners=(3,), down=(3,))
    assert steps(decisions.check(whole)) == ["remove peer on store 3"]


def test_learner_that_does_not_answer_is_waited_for_where_there_is_no_other_store() -> None:
    decisions = decisions_with(0, 0, 0)
    assert decisions.check(region(1, stores=(1, 2, 3), learners=(3,), down=(3,))) is None


@pytest.mark.parametrize("why", ["lost", "offline"])
def test_learner_on_a_store_that_goes_is_removed(why: str) -> None:
    decisions = decisions_with(0, 0, 0)
    if why == "lost":
        decisions.silence(3, seconds=1801)
    else:
        decisions.set_state(3, StoreState.OFFLINE)
    made = decisions.check(region(1, stores=(1, 2, 3), learners=(3,)))
    assert steps(made) == ["remove peer on store 3"]
    assert made is not None
    assert made.description == f"remove learner on {'a lost' if why == 'lost' else 'an offline'} store"


def test_learner_that_does_not_catch_up_in_time_makes_room() -> None:
    decisions = decisions_with(0, 0, 0, operator_timeout_s=60)
    info = region(1, stores=(1, 2, 3), learners=(3,), pending=(3,))
    assert decisions.report(info) is None
    decisions.silence(seconds=61)
    order = decisions.report(info)
    assert order is not None
    assert order.instruction == ChangePeer(ChangeKind.REMOVE, peer(1, 3, PeerRole.LEARNER))


def test_no_more_than_a_few_learners_are_taken_in() -> None:
    decisions = decisions_with(0, 0, 0, 0, 0)
    info = region(1, stores=(1, 2, 3, 4), learners=(2, 3, 4), down=(2, 3, 4))
    assert steps(decisions.check(info)) == ["remove peer on store 2"]


def test_lost_peer_is_replaced_by_a_learner_that_is_there() -> None:
    decisions = decisions_with(0, 0, 0, 0, 0)
    decisions.silence(3, seconds=1801)
    info = region(1, stores=(1, 2, 3, 4), learners=(4,))
    assert steps(decisions.check(info)) == ["promote learner on store 4", "remove peer on store 3"]


def test_learner_has_no_part_in_the_choice_of_the_surplus_peer() -> None:
    decisions = decisions_with(0, 0, 0, 0, 9)
    info = region(1, stores=(1, 2, 3, 4, 5), learners=(5,))
    assert steps(decisions.check(info)) == ["remove peer on store 5"]
    assert steps(decisions.check(region(1, stores=(1, 2, 3, 4)))) == ["remove peer on store 4"]


def obey(decisions: Decisions, info: ReportedRegion, order: Order) -> ReportedRegion:
    """What a region does with an order, and what must hold whenever it gets one."""
    match order.instruction:
        case ChangePeer(ChangeKind.ADD_LEARNER, added):
            assert added.store_id not in info.meta.store_ids, "two peers on one store"
            behind = (*info.pending_peers, added)  # it has nothing yet
            return msgspec.structs.replace(apply_order(info, order), pending_peers=behind)
        case ChangePeer(ChangeKind.ADD, promoted):
            known = info.meta.peer(promoted.id)
            assert known is not None, "a vote for an unknown peer"
            assert known.role is PeerRole.LEARNER
            assert is_working(decisions.cluster, info, known, decisions.now), "a vote for one that is behind"
        case ChangePeer(_, removed):
            assert info.leader is not None
            assert removed.id != info.leader.id, "a leader removes itself"
            left = [one for one in info.meta.voters if one.id != removed.id]
            working = sum(is_working(decisions.cluster, info, one, decisions.now) for one in left)
            is_voter = removed.role is PeerRole.VOTER
            if is_voter and is_working(decisions.cluster, info, removed, decisions.now):
                assert working * 2 > len(left), "the majority is gone"
        case MoveLeader(target):
            assert target.role is PeerRole.VOTER
            assert is_working(decisions.cluster, info, target, decisions.now)
    return apply_order(info, order)


@settings(max_examples=150)
@given(st.integers(0, 1 << 32), st.integers(3, 6))
def test_region_is_never_endangered_and_ends_with_three_working_peers(seed: int, store_count: int) -> None:
    """Whatever stores do, no order breaks a rule; once they calm down the region gets what it needs."""
    rng = random.Random(seed)
    decisions = Decisions(stores=range(1, store_count + 1), max_store_down_time_s=60, operator_timeout_s=30)
    info, dead = region(1, stores=(1,)), set[int]()
    for _ in range(60):
        choice = rng.random()
        if choice < 0.1 and len(dead) < (store_count - 1) // 2:
            dead.add(rng.randint(2, store_count))
        elif choice < 0.2 and dead:
            dead.remove(rng.choice(sorted(dead)))
        decisions.silence(*dead, seconds=rng.choice([1, 10, 30]))
        order = decisions.report(info)
        if order is not None and rng.random() < 0.7:
            info = obey(decisions, info, order)
        if info.leader is not None and info.leader.store_id in dead:
            alive = [one for one in info.meta.voters if one.store_id not in dead]
            if len(alive) * 2 <= len(info.meta.voters):
                return  # no majority is left: the world broke it, not the scheduler
            info = msgspec.structs.replace(info, leader=alive[0])
        down = tuple(one for one in info.meta.peers if one.store_id in dead)
        info = msgspec.structs.replace(info, pending_peers=down)
    for _ in range(20):
        decisions.silence(seconds=10)
        info = msgspec.structs.replace(info, pending_peers=())
        order = decisions.report(info)
        if order is not None:
            info = obey(decisions, info, order)
    assert len(info.meta.peers) == len(info.meta.voters) == 3
    assert decisions.report(info) is None
