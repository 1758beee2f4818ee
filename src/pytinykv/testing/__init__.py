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

    sync, aio        the faces                     answers      answers on demand
    core             what is done to a cluster     network      cuts between stores
    backend, kinds   what a kind has to do         plugin       fixtures for pytest
    in_process       … threads: servers, server_log, ports
    processes        … processes: fronts
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytinykv.testing import aio
    from pytinykv.testing.answers import Answer, Delay, EpochNotMatch, Lost, NotLeader, Order, ServerIsBusy
    from pytinykv.testing.backend import ClusterConfig, ClusterError
    from pytinykv.testing.core import RegionFacts
    from pytinykv.testing.sync import Cluster, Store, cluster

_HOMES = {
    "answers": ("Answer", "Delay", "EpochNotMatch", "Lost", "NotLeader", "Order", "ServerIsBusy"),
    "backend": ("ClusterConfig", "ClusterError"),
    "sync": ("Cluster", "Store", "cluster"),
    "core": ("RegionFacts",),
}
"""Where names come from: loaded at their first use, since pytest loads the plugin of this package in every session."""

__all__ = [
    "Answer",
    "Cluster",
    "ClusterConfig",
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


def __getattr__(name: str) -> Any:
    if name == "aio":
        return importlib.import_module("pytinykv.testing.aio")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"pytinykv.testing.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
