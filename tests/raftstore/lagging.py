"""A follower that misses more than its leader's log has, for the tests of snapshots."""

from __future__ import annotations

from tests.raftstore.harness import Cluster, Node, Transfer

from pytinykv.raftstore import RaftStoreConfig

SMALL_LOG = RaftStoreConfig(log_gc_bytes=2_000, log_gc_bytes_force=6_000, log_keep_entries=3, log_cache_bytes=1_000)


def load(cluster: Cluster, store_id: int, count: int, size: int = 200) -> None:
    for n in range(count):
        call = cluster.put(store_id, b"load-%d" % (n % 20), b"%d" % n + bytes(size))
        cluster.settle()
        assert call.succeeded
        cluster.ticks(1)


def log_entries(node: Node) -> int:
    return node.peer.storage.last_index() + 1 - node.peer.storage.first_index()


def same_data(cluster: Cluster, *nodes: Node) -> bool:
    values = [[node.value(b"load-%d" % n) for n in range(20)] for node in nodes or cluster.nodes.values()]
    return all(one == values[0] for one in values)


def lagging(cluster: Cluster) -> tuple[Node, Node]:
    """Return a leader and a follower that misses more than the log has."""
    leader = cluster.elect()
    follower = next(n for n in cluster.nodes if n != leader.store_id)
    cluster.cut_off = {follower}
    load(cluster, leader.store_id, 60)
    assert log_entries(leader) < 40, "its log does not wait for ever"
    return leader, cluster.nodes[follower]


def sent_snapshot(cluster: Cluster, leader: Node) -> Transfer:
    """Return the snapshot that the leader sends to the follower once it hears it again; it is not delivered."""
    kept: list[Transfer] = []
    cluster.deliver = lambda transfer: bool(kept.append(transfer))  # type: ignore[method-assign,func-returns-value]
    cluster.cut_off = set()
    for _ in range(30):
        cluster.ticks(1)
        if kept:
            return kept[0]
    raise AssertionError(f"store {leader.store_id} sends no snapshot")
