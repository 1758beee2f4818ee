"""A new region's candidate asks for votes where its split is not applied yet, and is then not heard of.

A leads the parent and has applied the split; B and C have the entry, and do not know that it is committed.

A's child: vote requests of term t ──► B, C     what A's parent sends is lost until they are there
A's parent: "committed" ─────────────► B, C     they apply the split
A's child leads in term t                       what it sends is lost
B or C: candidate in term t                     must not be elected: A was
"""

from __future__ import annotations

import asyncio

from pytinykv.model import Region, RegionId, SplitIds
from pytinykv.raft import AppendEntries, Heartbeat
from pytinykv.raftstore.peer import RegionPeer
from pytinykv.raftstore.records import RaftEnvelope
from pytinykv.raftstore.splits import encode_split
from pytinykv.raftstore.turn import Turn
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.observers import newest_regions
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import check_split
from pytinykv.simulation.scenarios.single import must_get, must_put
from pytinykv.simulation.scenarios.splits import split_ids
from pytinykv.simulation.store_node import StoreNode
from pytinykv.simulation.workloads import Session

ALONE_S = 4.0
"""How long nothing is heard of the child's leader: some election timeouts."""


@scenario("early-votes", ClusterOptions(stores=3), fixed=True)
async def early_votes(cluster: Cluster) -> None:
    """Followers are asked to vote in a new region before they apply the split, then hear nothing of the one that asked."""
    client = cluster.clients[0]
    await client.spawn("story", _early_votes(cluster, cluster.session(client)))


async def _early_votes(cluster: Cluster, session: Session) -> None:
    keys = [b"a", b"z"]
    for key in keys:
        await must_put(session, key, key)
    leader = await cluster.wait_for_leader()
    followers = [store for store in cluster.stores if store is not leader]
    (parent,) = newest_regions(cluster.engines())
    ids = await split_ids(cluster, len(parent.peers))
    child = ids.region_id

    def votes_come_first(envelope: RaftEnvelope) -> bool:
        if envelope.region_id == parent.id:
            return _peer(leader, child) is not None and not all(_has_voted(store, child) for store in followers)
        return envelope.sender.store_id == leader.store_id and isinstance(envelope.message, AppendEntries | Heartbeat)

    cluster.loses = votes_come_first
    _propose_split(leader, parent, ids)
    await asyncio.sleep(ALONE_S)
    cluster.loses = None
    for key in keys:
        await must_get(session, key, key)
    await check_split(cluster)


def _propose_split(leader: StoreNode, parent: Region, ids: SplitIds) -> None:
    assert leader.serving is not None
    process, store = leader.serving

    def propose(turn: Turn) -> None:
        data = encode_split(parent.epoch, [b"m"], [ids])
        store.peers[parent.id].calls.propose_admin(turn, data, lambda _error, _regions: None)

    process.post(store.in_turn, propose)


def _has_voted(store: StoreNode, child: RegionId) -> bool:
    """Whether a store has voted in the new region, or can't any more, as it has applied the split."""
    peer = _peer(store, child)
    return peer is not None and (peer.storage.hard_state.vote != 0 or peer.is_initialized)


def _peer(store: StoreNode, child: RegionId) -> RegionPeer | None:
    return None if store.serving is None else store.serving[1].peers.get(child)
