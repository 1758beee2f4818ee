from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduler.helpers import region, store_meta

from pytinykv.model import Peer, PeerId, Region, RegionId, StoreId, encode
from pytinykv.scheduler.commands import (
    Bootstrap,
    InitCluster,
    PutClusterConfig,
    PutStore,
    ReleaseTimestamps,
    ReserveIds,
    ReserveTimestamps,
    SetStoreState,
    StateCommand,
    UpdateGcSafePoint,
    UpdateServiceSafePoint,
)
from pytinykv.scheduler.errors import (
    AlreadyBootstrapped,
    DuplicateAddress,
    InvalidInput,
    NotBootstrapped,
    Refusal,
    StateCorrupted,
    StoreNotFound,
    StoreTombstone,
)
from pytinykv.scheduler.records import StoreMeta, StoreState
from pytinykv.scheduler.state import (
    FOREVER_S,
    META_KEY,
    Meta,
    ServiceSafePoint,
    State,
    load_regions,
    load_state,
    region_key,
    store_key,
    transition,
)
from pytinykv.storage import ColumnFamily, MemoryEngine

FIRST = Bootstrap(store_meta(1), region(10, stores=(1,)).meta)


def run(*commands: StateCommand, state: State | None = None) -> State:
    state = state or State()
    for command in commands:
        state = transition(state, command).state
    return state


def test_cluster_id_is_set_once() -> None:
    state = run(InitCluster(7))
    assert transition(state, InitCluster(8)).outcome == 7
    assert transition(state, InitCluster(8)).state.meta.cluster_id == 7
    with pytest.raises(InvalidInput):
        transition(State(), InitCluster(0))


@pytest.mark.tinykv("TestBootstrap")
def test_bootstrap_happens_once_and_may_be_repeated_by_the_same_store() -> None:
    state = run(FIRST)
    assert state.meta.bootstrapped
    assert list(state.stores) == [1]
    assert transition(state, FIRST).state == state
    for other in (
        Bootstrap(store_meta(2), region(20, stores=(2,)).meta),
        Bootstrap(store_meta(1), region(11, stores=(1,)).meta),
    ):
        with pytest.raises(AlreadyBootstrapped):
            transition(state, other)


@pytest.mark.parametrize(
    ("store", "first"),
    [
        (store_meta(0), region(10, stores=(0,)).meta),
        (StoreMeta(StoreId(1), ""), region(10, stores=(1,)).meta),
        (store_meta(1), region(0, stores=(1,)).meta),
        (store_meta(1), region(10, b"a", stores=(1,)).meta),
        (store_meta(1), region(10, b"", b"z", stores=(1,)).meta),
        (store_meta(1), region(10, stores=(1, 2)).meta),
        (store_meta(1), region(10, stores=(2,)).meta),
        (store_meta(1), Region(RegionId(10), peers=(Peer(PeerId(0), StoreId(1)),))),
        (store_meta(1), Region(RegionId(10))),
    ],
)
def test_bootstrap_with_nonsense_is_refused(store: StoreMeta, first: Region) -> None:
    with pytest.raises(InvalidInput):
        transition(State(), Bootstrap(store, first))


def test_store_can_register_only_in_a_bootstrapped_cluster() -> None:
    with pytest.raises(NotBootstrapped):
        transition(State(), PutStore(store_meta(2)))


def test_address_belongs_to_one_living_store() -> None:
    state = run(FIRST, PutStore(store_meta(2)))
    with pytest.raises(DuplicateAddress, match="which store 2 has"):
        transition(state, PutStore(store_meta(3, store_meta(2).address)))
    with pytest.raises(DuplicateAddress):
        transition(state, PutStore(store_meta(1, store_meta(2).address)))
    state = run(SetStoreState(StoreId(2), StoreState.OFFLINE), state=state)
    with pytest.raises(DuplicateAddress):
        transition(state, PutStore(store_meta(3, store_meta(2).address)))
    state = run(SetStoreState(StoreId(2), StoreState.TOMBSTONE), state=state)
    state = run(PutStore(store_meta(3, store_meta(2).address)), state=state)
    assert state.store(3).address == store_meta(2).address


def test_address_goes_to_another_store_only_from_the_one_that_is_named() -> None:
    state = run(FIRST, PutStore(store_meta(2, "b:1")))
    with pytest.raises(DuplicateAddress):
        transition(state, PutStore(store_meta(3, "b:1"), takes_from=StoreId(1)))
    step = transition(state, PutStore(store_meta(3, "b:1"), takes_from=StoreId(2)))
    assert (step.state.stores[StoreId(2)].address, step.state.stores[StoreId(3)].address) == ("", "b:1")
    assert [key for key, _ in step.writes] == [store_key(2), store_key(3)]
    other = run(PutStore(store_meta(3, "c:1"), takes_from=StoreId(2)), state=state)
    assert other.store(2).address == "b:1", "another address was asked for"


def test_store_that_registers_again_keeps_what_was_decided_about_it() -> None:
    state = run(FIRST, PutStore(store_meta(2)), SetStoreState(StoreId(2), StoreState.OFFLINE))
    moved = msgspec.structs.replace(store_meta(2, "127.0.0.1:9"), version="2.0.0")
    state = run(PutStore(moved), state=state)
    assert state.store(2).state is StoreState.OFFLINE
    assert state.store(2).address == "127.0.0.1:9"
    assert state.store(2).version == "2.0.0"


def test_store_goes_from_up_over_offline_to_tombstone_and_not_back() -> None:
    state = run(FIRST)
    with pytest.raises(InvalidInput, match="take it offline first"):
        transition(state, SetStoreState(StoreId(1), StoreState.TOMBSTONE))
    with pytest.raises(StoreNotFound, match="invalid store ID 9, not found"):
        transition(state, SetStoreState(StoreId(9), StoreState.OFFLINE))
    state = run(SetStoreState(StoreId(1), StoreState.OFFLINE), state=state)
    state = run(SetStoreState(StoreId(1), StoreState.UP), state=state)
    state = run(
        SetStoreState(StoreId(1), StoreState.OFFLINE), SetStoreState(StoreId(1), StoreState.TOMBSTONE), state=state
    )
    for decision in (StoreState.UP, StoreState.OFFLINE):
        with pytest.raises(StoreTombstone):
            transition(state, SetStoreState(StoreId(1), decision))
    with pytest.raises(StoreTombstone):
        transition(state, PutStore(store_meta(1)))


@pytest.mark.tinykv("TestUpdateGCSafePoint")
def test_gc_safe_point_only_moves_up() -> None:
    state = State()
    for asked, expected in [(0, 0), (1, 1), (233, 233), (2, 233), (1 << 63, 1 << 63), (5, 1 << 63)]:
        step = transition(state, UpdateGcSafePoint(asked))
        assert step.outcome == expected
        state = step.state


def test_services_hold_collection_back_until_they_expire_or_let_go() -> None:
    def ask(state: State, service: str, safe_point: int, expires: int, now: int) -> tuple[State, ServiceSafePoint]:
        step = transition(state, UpdateServiceSafePoint(service, safe_point, expires, now))
        return step.state, step.outcome

    state, first = ask(State(), "backup", 100, 50, 10)
    assert first == ServiceSafePoint("gc_worker", 0, FOREVER_S)
    state, first = ask(state, "gc_worker", 200, 60, 10)
    assert first == ServiceSafePoint("backup", 100, 50)
    state, first = ask(state, "late", 99, 60, 20)
    assert first.service_id == "backup", "behind the minimum: not taken"
    assert [one.service_id for one in state.meta.services] == ["backup", "gc_worker"]
    state, first = ask(state, "late", 150, 90, 51)
    assert first == ServiceSafePoint("gc_worker", 200, FOREVER_S), "backup has expired, and 150 is behind 200"
    state, first = ask(state, "late", 300, 90, 51)
    assert [one.service_id for one in state.meta.services] == ["gc_worker", "late"]
    state, first = ask(state, "late", 0, 0, 52)
    assert [one.service_id for one in state.meta.services] == ["gc_worker"]
    assert first == ServiceSafePoint("gc_worker", 200, FOREVER_S)
    with pytest.raises(InvalidInput):
        transition(state, UpdateServiceSafePoint("gc_worker", 0, 0, 52))
    with pytest.raises(InvalidInput):
        transition(state, UpdateServiceSafePoint("", 5, 99, 52))


def test_ids_are_never_reserved_backwards_and_lie_above_those_that_stores_brought() -> None:
    state = run(ReserveIds(100), ReserveIds(50))
    assert state.meta.id_end == 100
    state = run(Bootstrap(store_meta(300), region(310, stores=(300,)).meta), state=state)
    assert state.meta.id_end == 310 * 1000 + 300 + 1
    state = run(PutStore(store_meta(10**9)), state=state)
    assert state.meta.id_end == 10**9 + 1


def test_only_the_last_reservation_of_timestamps_can_be_released() -> None:
    state = transition(State(), ReserveTimestamps(50)).state
    state = transition(state, ReserveTimestamps(40)).state
    assert state.meta.tso_end_ms == 50
    later = transition(state, ReserveTimestamps(80)).state
    assert transition(later, ReleaseTimestamps(30, 50)).state.meta.tso_end_ms == 80
    assert transition(state, ReleaseTimestamps(30, 50)).state.meta.tso_end_ms == 30


def test_replica_count_must_make_sense() -> None:
    with pytest.raises(NotBootstrapped):
        transition(State(), PutClusterConfig(5))
    with pytest.raises(InvalidInput):
        transition(run(FIRST), PutClusterConfig(0))
    assert run(FIRST, PutClusterConfig(5)).meta.max_peer_count == 5


Commands = st.one_of(
    st.builds(InitCluster, st.integers(0, 3)),
    st.builds(
        lambda store, first: Bootstrap(store_meta(store), region(first, stores=(store,)).meta),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    st.builds(
        lambda store, port, loser: PutStore(store_meta(store, f"h:{port}"), takes_from=StoreId(loser)),
        st.integers(0, 4),
        st.integers(1, 4),
        st.integers(0, 4),
    ),
    st.builds(SetStoreState, st.integers(0, 4).map(StoreId), st.sampled_from(StoreState)),
    st.builds(ReserveIds, st.integers(0, 100)),
    st.builds(ReserveTimestamps, st.integers(0, 100)),
    st.builds(ReleaseTimestamps, st.integers(0, 100), st.integers(0, 100)),
    st.builds(PutClusterConfig, st.integers(0, 5)),
    st.builds(UpdateGcSafePoint, st.integers(0, 100)),
    st.builds(
        UpdateServiceSafePoint,
        st.sampled_from(["", "a", "b", "gc_worker"]),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
)


@given(st.lists(Commands, max_size=30))
def test_disk_equals_memory_after_any_commands(commands: list[StateCommand]) -> None:
    """What was written is what a restart loads, and a refused command changes nothing; invariants 1 to 4 hold."""
    engine, state = MemoryEngine(), State()
    for command in commands:
        before = state
        try:
            step = transition(state, command)
        except Refusal:
            continue
        state = step.state
        batch = engine.write_batch()
        for key, value in step.writes:
            batch.put(ColumnFamily.DEFAULT, key, value)
        engine.write(batch)
        assert load_state(engine) == state
        assert before.meta.cluster_id in (0, state.meta.cluster_id)
        assert state.meta.id_end >= before.meta.id_end
        assert state.meta.gc_safe_point >= before.meta.gc_safe_point
        assert all(store.id < state.meta.id_end for store in state.stores.values())
        addresses = [store.address for store in state.stores.values() if not store.is_tombstone]
        assert len(addresses) == len(set(addresses))


def write(engine: MemoryEngine, key: bytes, value: bytes) -> None:
    batch = engine.write_batch()
    batch.put(ColumnFamily.DEFAULT, key, value)
    engine.write(batch)


@pytest.mark.tinykv("scheduler/server/core:TestBasic")
@pytest.mark.tinykv("TestKV")
def test_records_are_stored_in_their_places_in_order_of_their_ids() -> None:
    engine = MemoryEngine()
    assert load_state(engine) == State()
    order = list(range(1, 300, 7))
    random.Random(1).shuffle(order)
    for store_id in order:
        write(engine, store_key(store_id), encode(store_meta(store_id)))
        write(engine, region_key(store_id), encode(region(store_id).meta))
    write(engine, META_KEY, encode(Meta(cluster_id=9)))
    state = load_state(engine)
    assert state.meta.cluster_id == 9
    assert list(state.stores.values()) == [store_meta(store_id) for store_id in sorted(order)]
    assert all(left.id < right.id for left, right in pairwise(load_regions(engine)))


def test_stored_bytes_are_as_documented() -> None:
    assert store_key(258) == b"s/store/\x00\x00\x00\x00\x00\x00\x01\x02"
    assert region_key(1) == b"s/region/\x00\x00\x00\x00\x00\x00\x00\x01"
    assert encode(Meta(cluster_id=1)).hex() == "019b01c20000000100000090c2"
    assert encode(StoreMeta(StoreId(1), "a:1")).hex() == "019a01a3613a310090a0a0a0a000a0"
    assert encode(region(1, b"a", b"b", stores=(2,)).meta).hex() == "019501c40161c40162920101919 3cd03ea0200".replace(
        " ", ""
    )


@pytest.mark.parametrize("value", [b"", b"\x02\x90", b"\x01", b"\x01\xc1", b"\x01\x81\x01\x02", b"\x01\x93\xa1x"])
def test_garbage_on_disk_is_reported_with_its_key(value: bytes) -> None:
    for key, load in [(META_KEY, load_state), (store_key(3), load_state), (region_key(3), load_regions)]:
        engine = MemoryEngine()
        write(engine, key, value)
        with pytest.raises(StateCorrupted, match=key[:7].decode()):
            load(engine)
