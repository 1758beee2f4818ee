"""The first region of a cluster: prepared on one store, then announced to the scheduler.

A store that finds the cluster not bootstrapped writes the region it would like to start with (`prepare_bootstrap`),
asks the scheduler, and keeps the region only if its own proposal was taken. A crash in between is repaired at the next
start: the prepared region is still marked, and the scheduler knows which store won.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytinykv.model import Peer, Region, RegionEpoch, encode
from pytinykv.raft import HardState
from pytinykv.raftstore import keys
from pytinykv.raftstore.peer_storage import INITIAL_LOG_INDEX, INITIAL_LOG_TERM, RAFT_CF
from pytinykv.raftstore.records import (
    ApplyState,
    PeerState,
    RaftLocalState,
    RegionLocalState,
    StoreIdent,
    decode_region,
    decode_store_ident,
)

if TYPE_CHECKING:
    from pytinykv.model import RegionId, StoreId
    from pytinykv.raft import PeerId
    from pytinykv.storage import Engine, WriteBatch


def store_ident(engine: Engine) -> StoreIdent | None:
    """Return whose engine this is, or None for a new one. Raises FormatError."""
    data = engine.get(RAFT_CF, keys.STORE_IDENT_KEY)
    return None if data is None else decode_store_ident(data)


def write_store_ident(engine: Engine, ident: StoreIdent) -> None:
    """Make a new engine that of a store; durable on return."""
    batch = engine.write_batch()
    batch.put(RAFT_CF, keys.STORE_IDENT_KEY, encode(ident))
    engine.write(batch)
    engine.sync()


def prepare_bootstrap(engine: Engine, *, store_id: StoreId, region_id: RegionId, peer_id: PeerId) -> Region:
    """Write the region over all keys with one peer, marked as not yet agreed; durable on return."""
    region = Region(region_id, b"", b"", RegionEpoch(conf_ver=1, version=1), (Peer(peer_id, store_id),))
    batch = engine.write_batch()
    batch.put(RAFT_CF, keys.PREPARED_REGION_KEY, encode(region))
    write_initial_region(batch, region, peer_id)
    engine.write(batch)
    engine.sync()
    return region


def write_initial_region(
    batch: WriteBatch, region: Region, peer_id: PeerId, *, promised: HardState | None = None
) -> None:
    """Write a region whose log is empty behind the initial index.

    `promised`: the hard state of the same peer, if a message created it before it had a region. A vote that it gave then
    stands, or its term could have two leaders.
    """
    hard_state = HardState(INITIAL_LOG_TERM, commit=INITIAL_LOG_INDEX)
    if promised is not None and promised.term >= INITIAL_LOG_TERM:
        hard_state = HardState(promised.term, promised.vote, INITIAL_LOG_INDEX)
    raft_state = RaftLocalState(hard_state, INITIAL_LOG_INDEX)
    apply_state = ApplyState(INITIAL_LOG_INDEX, INITIAL_LOG_TERM, INITIAL_LOG_INDEX, INITIAL_LOG_TERM)
    batch.put(RAFT_CF, keys.raft_state_key(region.id), encode(raft_state))
    batch.put(RAFT_CF, keys.apply_state_key(region.id), encode(apply_state))
    local = RegionLocalState(PeerState.NORMAL, region, peer_id)
    batch.put(RAFT_CF, keys.region_state_key(region.id), encode(local))


def has_regions(engine: Engine) -> bool:
    """Say whether an engine holds the state of any region, be it of one that was removed from it."""
    return next(iter(engine.scan(RAFT_CF, keys.REGION_STATE_START, keys.REGION_STATE_END)), None) is not None


def prepared_region(engine: Engine) -> Region | None:
    """Return the region that a bootstrap under way, or cut off, has written."""
    data = engine.get(RAFT_CF, keys.PREPARED_REGION_KEY)
    return None if data is None else decode_region(data)


def finish_bootstrap(engine: Engine, *, keep: bool) -> None:
    """Drop the mark, and unless `keep`, the prepared region with it; durable on return."""
    region = prepared_region(engine)
    if region is None:
        return
    batch = engine.write_batch()
    batch.delete(RAFT_CF, keys.PREPARED_REGION_KEY)
    if not keep:
        for key in (keys.raft_state_key, keys.apply_state_key, keys.region_state_key):
            batch.delete(RAFT_CF, key(region.id))
    engine.write(batch)
    engine.sync()
