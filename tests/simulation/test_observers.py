"""What the checkers of disks see: data of regions compared whole, and data that belongs to no region."""

from __future__ import annotations

import pytest

from pytinykv.model import Peer, Region, RegionEpoch, RegionId, StoreId, encode
from pytinykv.raft import LogIndex, PeerId, Term
from pytinykv.raftstore import keys
from pytinykv.raftstore.records import ApplyState, PeerState, RegionLocalState
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.observers import check_replicas_equal
from pytinykv.storage import ColumnFamily, MemoryEngine

RAFT, RAW, WRITE = ColumnFamily.RAFT, ColumnFamily.RAW, ColumnFamily.WRITE
PEER = Peer(PeerId(101), StoreId(1))
ALL = Region(RegionId(1), b"", b"", RegionEpoch(1, 1), (PEER,))
LEFT = Region(RegionId(1), b"", b"m", RegionEpoch(1, 1), (PEER,))


def disk(region: Region, *pairs: tuple[ColumnFamily, bytes], state: PeerState = PeerState.NORMAL) -> MemoryEngine:
    engine = MemoryEngine()
    batch = engine.write_batch()
    batch.put(RAFT, keys.region_state_key(region.id), encode(RegionLocalState(state, region, PEER.id)))
    applied = ApplyState(LogIndex(9), Term(6), LogIndex(5), Term(5))
    batch.put(RAFT, keys.apply_state_key(region.id), encode(applied))
    for cf, key in pairs:
        batch.put(cf, key, b"v")
    engine.write(batch)
    return engine


def test_equal_disks_are_compared() -> None:
    assert check_replicas_equal([("s1", disk(ALL, (RAW, b"dk"))), ("s2", disk(ALL, (RAW, b"dk")))]) == 1


@pytest.mark.parametrize("key", [b"k", b"\xff" * 15 + b"\xff" * 9, b"\xff" * 9000])
@pytest.mark.parametrize("cf", [WRITE, RAW])
def test_a_difference_in_any_key_of_an_unbounded_region_is_seen(cf: ColumnFamily, key: bytes) -> None:
    stored = b"d" + key if cf is RAW else key
    with pytest.raises(Violation, match="differs in 1 keys"):
        check_replicas_equal([("s1", disk(ALL, (cf, stored))), ("s2", disk(ALL))])


@pytest.mark.parametrize("stored", [(RAW, b"dm"), (WRITE, b"\xff" * 9000)])
def test_data_of_no_region_is_seen(stored: tuple[ColumnFamily, bytes]) -> None:
    with pytest.raises(Violation, match="belongs to no region"):
        check_replicas_equal([("s1", disk(LEFT, stored))])


def test_data_of_a_region_on_its_way_in_is_not_compared() -> None:
    installing = disk(LEFT, (RAW, b"da"), state=PeerState.APPLYING)
    assert check_replicas_equal([("s1", disk(LEFT)), ("s2", installing)]) == 0
