"""A real cluster in a test, with faults on demand (docs/testing.md).

    from pytinykv import testing

    with testing.cluster(stores=3) as c:
        db = c.client()                                     # or any client, in any language, at c.address
        db.raw.put(b"k", b"v")
        c.stores[0].kill()
        assert db.raw.get(b"k") == b"v"
        c.answer("RawPut", testing.ServerIsBusy(), times=3)
        db.raw.put(b"k", b"w")

Two kinds behind one interface: servers in threads of this process, which start in a fraction of a second, and processes.

    cluster, aio     the faces                     answers      answers on demand
    core             what is done to a cluster     network      cuts between stores
    backend, kinds   what a kind has to do         plugin       fixtures for pytest
    in_process       … threads: servers, server_log, ports
    processes        … processes
"""

from __future__ import annotations

from typing import Any

from pytinykv.testing import aio
from pytinykv.testing.answers import Answer, Delay, EpochNotMatch, Lost, NotLeader, Order, ServerIsBusy
from pytinykv.testing.backend import ClusterConfig, ClusterError
from pytinykv.testing.cluster import Cluster, Store
from pytinykv.testing.core import RegionFacts

__all__ = [
    "Answer",
    "Cluster",
    "ClusterError",
    "Delay",
    "EpochNotMatch",
    "Lost",
    "NotLeader",
    "Order",
    "RegionFacts",
    "ServerIsBusy",
    "Store",
    "aio",
    "cluster",
]


def cluster(
    stores: int = 3,
    *,
    processes: bool = False,
    port: int = 0,
    replicas: int = 0,
    settings: dict[str, dict[str, Any]] | None = None,
) -> Cluster:
    """Return a cluster, to be started with `with`: a scheduler and `stores` stores on loopback ports.

    Args:
        stores: how many, 1 to 9.
        processes: run each server as a process of its own, with its data on disk; otherwise all run in threads of this
            process, with their data in memory.
        port: that of the scheduler; 0: a free one.
        replicas: how many peers each region has; 0: one on each store, at most three.
        settings: of the components, by the names of the configuration file: `{"scheduler": {…}, "raftstore": {…}}`.

    Raises:
        ValueError: what can't be; before anything is started.
    """
    config = ClusterConfig(stores=stores, port=port, replicas=replicas, settings=settings or {})
    return Cluster(config, processes=processes)
