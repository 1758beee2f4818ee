"""What a store is doing, region by region, as plain data: the page `/debug/store` of the status port.

Called from the status thread while the loop goes on, so it reads single fields only; each is right for some recent moment,
and two of them need not fit together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytinykv.model import PeerRole
from pytinykv.server.host.metrics import resident_bytes

if TYPE_CHECKING:
    from pytinykv.raftstore import Store
    from pytinykv.raftstore.peer import RegionPeer


def describe_store(store: Store) -> dict[str, Any]:
    """Return the store's id, how much it has written, and its regions in the order of their ids. Keys are hexadecimal."""
    peers = list(store.peers.values())  # in one step, as the loop may add one meanwhile
    return {
        "store": store.store_id,
        "writes": store.counters.operations,
        "syncs": store.syncs.started,
        "resident_bytes": resident_bytes(),
        "failure": None if store.failure is None else str(store.failure),
        "regions": [_describe_peer(peer) for peer in sorted(peers, key=lambda peer: peer.region.id)],
    }


def _describe_peer(peer: RegionPeer) -> dict[str, Any]:
    region, node = peer.region, peer.node
    leader = peer.leader
    return {
        "region": region.id,
        "start": region.start_key.hex(),
        "end": region.end_key.hex(),
        "conf_ver": region.epoch.conf_ver,
        "version": region.epoch.version,
        "peer": peer.peer.id,
        "is_leader": peer.is_leader,
        "is_asleep": peer.rest.is_asleep,
        "leader_store": 0 if leader is None else leader.store_id,
        "term": node.term,
        "committed": node.commit_index,
        "applied": node.applied_index,
        "log_bytes": peer.storage.log_bytes,
        "stores": [one.store_id for one in region.peers],
        "voters": [one.store_id for one in region.peers if one.role is PeerRole.VOTER],
    }
