"""The two kinds of clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.testing.backend import Backend, ClusterConfig


def make_backend(config: ClusterConfig, scope: Scope, *, processes: bool) -> Backend:
    """Return the servers of a cluster, not started. Each kind loads its code when it is first used."""
    if processes:
        from pytinykv.testing.processes import Processes

        return Processes(config, scope)
    from pytinykv.testing.in_process import InProcess

    return InProcess(config, scope)
