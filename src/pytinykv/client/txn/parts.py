"""What the parts of `ClusterBackend` share: the client below them, and the frame of one call of a transaction."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

from pytinykv.client.executor import Executor
from pytinykv.client.pd.scheduler_client import SchedulerClient
from pytinykv.client.txn.background import Background
from pytinykv.client.txn.heartbeat import Heartbeat
from pytinykv.client.txn.records import Txn
from pytinykv.client.txn.resolver import Resolver
from pytinykv.lifecycle import Scope


@dataclass(frozen=True, slots=True)
class ClusterParts:
    """What one client's transactions run on."""

    executor: Executor
    scheduler: SchedulerClient
    resolver: Resolver
    background: Background
    scope: Scope
    """The client's: it owns the heartbeats."""

    def now(self) -> float:
        """Return the time of the client's loop, in which its deadlines are."""
        return self.executor.origin.loop.time()

    def timestamp(self, deadline: float) -> Awaitable[int]:
        """Fetch a timestamp of the cluster."""
        return self.scheduler.timestamp_by(deadline)

    def heartbeat(self, txn: Txn, primary: bytes, ttl_s: float) -> Heartbeat:
        """Begin to keep the locks of a transaction alive."""
        return Heartbeat(self.executor, self.scope, txn, primary, ttl_s)


class TxnCall:
    """One call of one transaction, which takes several commands: it ends by one deadline, and begins only once."""

    def __init__(self, parts: ClusterParts, txn: Txn, deadline: float) -> None:
        self._parts = parts
        self._executor = parts.executor
        self._txn = txn
        self._deadline = deadline

    def _timestamp(self) -> Awaitable[int]:
        return self._parts.timestamp(self._deadline)
