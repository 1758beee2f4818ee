"""What a cluster looks like at a moment, in words: for failures over something that did not come to be in time.

Who is behind, what it waits for, and what its leader believes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytinykv.raft import ProgressState

if TYPE_CHECKING:
    from pytinykv.raft import PeerId
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.store import Store
    from pytinykv.simulation.cluster import Cluster
    from pytinykv.simulation.nodes import Node


def describe_cluster(cluster: Cluster) -> str:
    """Return a line per program and per peer, and what leaders know of their followers."""
    lines = [f"at {cluster.world.loop.time():.3f} s:", f"  scheduler: {_state_of(cluster.scheduler)}"]
    for node in cluster.stores:
        lines.append(f"  {node.host}: {_state_of(node)}")
        if node.serving is not None:
            lines += [f"    {line}" for line in _peers_of(node.serving[1])]
    if cuts := cluster.network.cuts:
        lines.append(f"  cut links: {', '.join(f'{source} to {target}' for source, target in cuts)}")
    return "\n".join(lines)


def _state_of(node: Node) -> str:
    process = node.process
    if process is None or not process.alive:
        return "down"
    held = ", held" if process.stalled else ""
    hurt = ", disk was hurt" if node.disk.hurt else ""
    tasks = len(node.world.loop.pending_tasks(process))
    return f"{'up' if node.is_up else 'starting or stopping'}{held}{hurt}, {tasks} tasks"


def _peers_of(store: Store) -> Iterator[str]:
    if store.failure is not None:
        yield f"has failed: {store.failure}"
    for peer in store.peers.values():
        status = peer.node.status()
        yield (
            f"region {peer.region.id} peer {peer.peer.id} {peer.peer.role.name.lower()}, {status.role.name.lower()} in term "
            f"{peer.node.term}, leader {peer.leader_id or 'unknown'}: applied {peer.storage.apply_state.applied_index}, "
            f"committed {peer.node.commit_index}, last {peer.node.last_index}{_waits_for(store, peer)}"
        )
        for peer_id in sorted(status.progress):
            if peer_id != peer.peer.id:
                yield f"  of peer {peer_id}: {_belief(peer, peer_id)}"


def _waits_for(store: Store, peer: RegionPeer) -> str:
    waits = []
    if not peer.is_initialized:
        waits.append("its first snapshot")
    if peer.has_unsynced:
        waits.append(f"a sync ({store.syncs.silent_s:.1f} s so far)")
    if not peer.leader_id:
        waits.append("a leader")
    return f"; waits for {', '.join(waits)}" if waits else ""


def _belief(peer: RegionPeer, peer_id: PeerId) -> str:
    progress = peer.node.status().progress[peer_id]
    state = f"{progress.state.value}, has {progress.match}, next {progress.next}"
    if progress.state is ProgressState.SNAPSHOT:
        state += ", a snapshot is on its way"
    return (
        f"{state}, {'heard lately' if progress.recent_active else 'silent'}{', probed' if progress.is_paused else ''}"
    )
