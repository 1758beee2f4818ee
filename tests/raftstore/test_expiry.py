"""Expired raw values go away, on every replica, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.raftstore.harness import RAW, REGION_ID, Call, Cluster, Node, put

from pytinykv.model import Peer, Region, RegionEpoch, StoreId
from pytinykv.model.raw_values import encode_raw_value, has_expired, live_value
from pytinykv.raft import PeerId
from pytinykv.raftstore import Operation, RaftStoreConfig
from pytinykv.raftstore.apply import apply_conditional
from pytinykv.raftstore.expiry import STEP_BYTES_MAX, ExpirySweep, find_expired
from pytinykv.raftstore.operations import COMPARE_AND_SWAP, DELETE_EXPIRED, RAW_CODE
from pytinykv.storage import MemoryEngine
from pytinykv.storage.changes import PUT

NOW_S = 1_000_000
PAUSE_S = 2.0
CONFIG = RaftStoreConfig(expiry_pairs_per_s=50, expiry_pause_s=PAUSE_S)
"""Five pairs a tick."""
KEYS = [b"k%03d" % number for number in range(40)]


def region(start: bytes = b"", end: bytes = b"") -> Region:
    return Region(REGION_ID, start, end, RegionEpoch(1, 1), (Peer(PeerId(101), StoreId(1)),))


def engine_with(pairs: dict[bytes, bytes]) -> MemoryEngine:
    engine = MemoryEngine()
    batch = engine.write_batch()
    for key, stored in pairs.items():
        batch.put(RAW, key, stored)
    engine.write(batch)
    return engine


# --- values


def test_a_value_expires_in_the_second_it_names_for_readers_and_for_the_sweep_alike() -> None:
    stored = encode_raw_value(b"v", NOW_S)
    for now_s, expired in ((NOW_S - 1, False), (NOW_S, True), (NOW_S + 1, True)):
        assert has_expired(stored, now_s) is expired
        assert (live_value(stored, now_s) is None) is expired


@pytest.mark.parametrize("stored", [None, b"", b"\x00", b"\x00" + bytes(30), b"\x01", b"\x01" + bytes(7), b"\x02" * 20])
def test_what_lives_for_ever_and_what_is_no_value_has_not_expired(stored: bytes | None) -> None:
    assert not has_expired(stored, 1 << 62)


# --- a step


def test_a_step_finds_what_has_expired_in_all_three_raw_families() -> None:
    dead, alive, forever = encode_raw_value(b"", NOW_S), encode_raw_value(b"", NOW_S + 1), encode_raw_value(b"")
    values = {b"a": dead, b"b": alive, b"c": forever, b"d": dead}
    engine = engine_with({tag + key: value for tag in (b"d", b"l", b"w") for key, value in values.items()})
    found = find_expired(engine, region(), b"", NOW_S, 1000)
    assert found.expired == [b"da", b"dd", b"la", b"ld", b"wa", b"wd"]
    assert found.pairs == 12
    assert found.next_cursor is None


@pytest.mark.parametrize("pairs_max", [1, 2, 3, 5, 7, 100])
def test_steps_of_any_size_see_every_pair_of_the_region_once(pairs_max: int) -> None:
    dead = encode_raw_value(b"", 1)
    engine = engine_with({tag + b"%c" % letter: dead for tag in (b"d", b"l", b"w") for letter in b"abcdef"})
    seen: list[bytes] = []
    cursor: bytes | None = b""
    while cursor is not None:
        found = find_expired(engine, region(b"b", b"e"), cursor, NOW_S, pairs_max)
        assert found.pairs <= pairs_max
        seen += found.expired
        cursor = found.next_cursor
    assert seen == [tag + letter for tag in (b"d", b"l", b"w") for letter in (b"b", b"c", b"d")]


def test_a_step_ends_early_where_values_are_large() -> None:
    large = encode_raw_value(bytes(STEP_BYTES_MAX // 3), 1)
    engine = engine_with({b"d%d" % number: large for number in range(10)})
    assert find_expired(engine, region(), b"", NOW_S, 1000).pairs == 3


# --- the operation


def test_a_deletion_takes_place_only_if_what_is_there_when_it_is_applied_has_expired() -> None:
    engine = engine_with(
        {
            b"ddead": encode_raw_value(b"v", NOW_S),
            b"dalive": encode_raw_value(b"v", NOW_S + 1),
            b"dforever": encode_raw_value(b"v"),
        }
    )
    batch = engine.write_batch()
    names = (b"dead", b"alive", b"forever", b"missing", b"dead")
    results = apply_conditional(engine, batch, [(DELETE_EXPIRED, RAW_CODE, b"d" + name, NOW_S) for name in names])
    engine.write(batch)
    assert results == [True, False, False, False, False]
    assert [key for key, _value in engine.scan(RAW, b"d", b"e")] == [b"dalive", b"dforever"]


def test_a_deletion_sees_what_was_swapped_in_by_the_same_entry() -> None:
    engine = engine_with({b"dk": encode_raw_value(b"old", NOW_S), b"dl": encode_raw_value(b"", NOW_S)})
    batch = engine.write_batch()
    fresh = encode_raw_value(b"new", NOW_S + 60)
    operations: list[Operation] = [
        (COMPARE_AND_SWAP, RAW_CODE, b"dk", None, fresh, NOW_S),
        (DELETE_EXPIRED, RAW_CODE, b"dk", NOW_S),
        (DELETE_EXPIRED, RAW_CODE, b"dl", NOW_S),
        (COMPARE_AND_SWAP, RAW_CODE, b"dl", None, fresh, NOW_S),
    ]
    assert apply_conditional(engine, batch, operations) == [(True, None), False, True, (True, None)]
    engine.write(batch)
    assert engine.get(RAW, b"dk") == engine.get(RAW, b"dl") == fresh


# --- whole stores


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, config=CONFIG)


def put_for(cluster: Cluster, key: bytes, ttl_s: int) -> Operation:
    return (PUT, RAW_CODE, b"d" + key, encode_raw_value(b"v", cluster.clock.wall_ms() // 1000 + ttl_s))


def fill(cluster: Cluster, leader: Node, ttl_s: int = 3) -> None:
    """Let every fourth key live for ever, the others for `ttl_s`."""
    operations = [
        put(key, b"v") if number % 4 == 0 else put_for(cluster, key, ttl_s) for number, key in enumerate(KEYS)
    ]
    call = cluster.propose(leader.store_id, *operations)
    cluster.settle()
    assert call.succeeded


def stored(node: Node) -> list[bytes]:
    """What takes space, visible or not."""
    return [key[1:] for key, _value in node.engine.scan(RAW, b"d", b"e")]


def seconds(cluster: Cluster, count: float) -> None:
    cluster.ticks(round(count / cluster.config.tick_s))


def test_expired_values_vanish_from_every_replica_and_the_others_stay(cluster: Cluster) -> None:
    leader = cluster.elect()
    fill(cluster, leader)
    seconds(cluster, 2)
    assert all(stored(node) == KEYS for node in cluster.nodes.values()), "too early"
    seconds(cluster, 6)
    for node in cluster.nodes.values():
        assert stored(node) == KEYS[::4]
    assert leader.running.expiry.deleted == 30
    assert sum(node.running.expiry.deleted for node in cluster.nodes.values()) == 30, "only leaders sweep"
    assert leader.running.counters.operations == len(KEYS), "the sweep does not count as a client's command"


def test_a_sweep_takes_its_time(cluster: Cluster) -> None:
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1)
    seconds(cluster, PAUSE_S)
    before = leader.running.expiry.pairs_seen
    seconds(cluster, 0.4)
    assert leader.running.expiry.pairs_seen - before <= 4 * 5


def test_without_anything_expired_nothing_is_proposed(cluster: Cluster) -> None:
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1000)
    seconds(cluster, 1)
    last = leader.peer.node.last_index
    seconds(cluster, 10)
    assert leader.running.expiry.pairs_seen >= 2 * len(KEYS), "at least two passes"
    assert leader.peer.node.last_index == last


def test_a_value_put_between_the_look_and_the_deletion_wins(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(expiry_pairs_per_s=50, expiry_pause_s=8.0))
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1)
    seconds(cluster, 2)
    last: list[Call] = []
    while leader.running.expiry.pairs_seen == 0:
        # Proposed by the turn in which the sweep looks, in front of what it finds, and not yet applied when it looks.
        last = [cluster.propose(leader.store_id, put_for(cluster, key, 1000)) for key in KEYS[1:4]]
        for key in KEYS[1:4]:
            batch = leader.engine.write_batch()
            batch.put(RAW, b"d" + key, encode_raw_value(b"old", 1))
            leader.engine.write(batch)
        cluster.ticks()
    assert len(last) == 3
    assert all(call.succeeded for call in last)
    seconds(cluster, 4)
    for node in cluster.nodes.values():
        assert stored(node) == [key for number, key in enumerate(KEYS) if number % 4 == 0 or number < 4]


def test_a_deletion_that_is_late_spares_the_newer_value(cluster: Cluster) -> None:
    leader = cluster.elect()
    now_s = cluster.clock.wall_ms() // 1000
    cluster.propose(leader.store_id, (PUT, RAW_CODE, b"dk", encode_raw_value(b"old", now_s)))
    cluster.settle()
    newer = cluster.propose(leader.store_id, put_for(cluster, b"k", 1000))
    late = cluster.propose(leader.store_id, (DELETE_EXPIRED, RAW_CODE, b"dk", now_s))
    cluster.settle()
    assert newer.succeeded
    assert late.results == [False]
    cluster.ticks(3)
    assert [stored(node) for node in cluster.nodes.values()] == [[b"k"]] * 3


def test_a_leader_change_in_the_middle_of_a_pass_loses_nothing(cluster: Cluster) -> None:
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1)
    while leader.running.expiry.deleted == 0:
        cluster.ticks()
    assert leader.running.expiry.deleted < 30, "in the middle"
    successor = cluster.elect(1 + leader.store_id % 3)
    seconds(cluster, 8)
    for node in cluster.nodes.values():
        assert stored(node) == KEYS[::4]
    assert successor.running.expiry.deleted > 0


def test_a_leader_that_is_cut_off_deletes_nothing_alone_and_its_sweep_goes_on_afterwards(cluster: Cluster) -> None:
    old = cluster.elect()
    fill(cluster, old, ttl_s=1)
    cluster.cut_off = {old.store_id}
    seconds(cluster, 3)
    assert stored(old) == KEYS
    new = cluster.elect()
    seconds(cluster, 6)
    assert new is not old
    assert stored(new) == KEYS[::4]
    cluster.cut_off = set()
    seconds(cluster, 15)
    cluster.elect(old.store_id)
    call = cluster.propose(old.store_id, put_for(cluster, b"later", 1))
    seconds(cluster, 6)
    assert call.succeeded
    assert [stored(node) for node in cluster.nodes.values()] == [KEYS[::4]] * 3


def test_a_crash_of_all_stores_in_the_middle_of_a_pass_leaves_all_replicas_the_same(cluster: Cluster) -> None:
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1)
    while leader.running.expiry.deleted == 0:
        cluster.ticks()
    for store_id in cluster.nodes:
        cluster.restart(store_id, lose_all=False)
    cluster.elect()
    seconds(cluster, 8)
    assert [stored(node) for node in cluster.nodes.values()] == [KEYS[::4]] * 3


def test_a_store_that_stops_does_not_begin_to_sweep(cluster: Cluster) -> None:
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1)
    leader.running.refuse_commands()
    seconds(cluster, 5)
    assert leader.running.expiry.pairs_seen == 0


def test_the_sweep_can_be_turned_off(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, config=RaftStoreConfig(expiry_pairs_per_s=0, expiry_pause_s=0))
    leader = cluster.elect()
    fill(cluster, leader, ttl_s=1)
    seconds(cluster, 5)
    assert stored(leader) == KEYS


def test_a_pass_goes_through_all_regions_led_here_and_then_rests() -> None:
    class Led:
        def __init__(self, region_id: int, *, is_leader: bool = True) -> None:
            self.region = Region(region_id, b"%d" % region_id, b"%d" % (region_id + 1), RegionEpoch(1, 1), ())  # type: ignore[arg-type]
            self.is_leader, self.term = is_leader, 6

    dead = encode_raw_value(b"", 1)
    engine = engine_with({b"d%d%c" % (number, letter): dead for number in (1, 2, 3) for letter in b"xyz"})
    sweep = ExpirySweep(RaftStoreConfig(expiry_pairs_per_s=20, expiry_pause_s=5.0), now=0.0)
    peers = {3: Led(3), 1: Led(1), 2: Led(2, is_leader=False)}
    seen: list[bytes] = []
    for now in range(5, 11):
        deletion = sweep.step(peers, engine, float(now), NOW_S)  # type: ignore[arg-type]
        if deletion is not None:
            assert sweep.step(peers, engine, float(now), NOW_S) is None, "one at a time"  # type: ignore[arg-type]
            seen += [operation[2] for operation in deletion.command.operations]
            deletion.command.on_done(None, [True] * len(deletion.command.operations))
    assert seen == [b"d1x", b"d1y", b"d1z", b"d3x", b"d3y", b"d3z"]
    assert sweep.deleted == 6
    assert sweep.step(peers, engine, 11.0, NOW_S) is None, "it rests"  # type: ignore[arg-type]
