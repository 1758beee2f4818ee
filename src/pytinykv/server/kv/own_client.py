"""A store as a client of its cluster: for what concerns keys in regions that other stores lead.

    old locks           their primaries, wherever they are, tell what became of their transactions (see `old_locks`)
    UnsafeDestroyRange  every region of the range, at the store that leads it by then

Whatever is asked for here may be repeated, so several stores may do the same at the same time, and any of them may stop in
between. Routing, retries after a split or a moved leader, and deadlines are those of any client of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import TransactionRefusedError
from pytinykv.client.executor import Executor
from pytinykv.client.key_space import KeyRange
from pytinykv.client.txn.background import Background
from pytinykv.client.txn.resolve_commands import DeleteRange
from pytinykv.client.txn.resolver import Resolver

if TYPE_CHECKING:
    from random import Random

    from pytinykv.client.pd.scheduler_client import SchedulerClient
    from pytinykv.client.txn.records import ForeignLock
    from pytinykv.lifecycle import Scope
    from pytinykv.wire import Connector

TXN_TIMEOUT_S: Final = 3.0
"""For the locks of one transaction: one that can't be reached must not keep the others waiting."""


class OwnClient:
    """See the module, and `ClusterPort`. Its connections belong to `scope`; nothing is sent before something is asked for."""

    def __init__(self, scheduler: SchedulerClient, *, connector: Connector, rng: Random, scope: Scope) -> None:
        """To be made within the event loop."""
        config = ClientConfig()
        self._executor = Executor(scheduler, connector=connector, rng=rng, scope=scope, config=config)
        self._resolver = Resolver(self._executor, scheduler, Background(scope, tasks_max=config.background_max))
        scope.on_stop("resolve the store's own calls", self._executor.close)

    async def resolve_locks(self, locks: Sequence[ForeignLock], timeout_s: float) -> int:
        return await self._resolver.resolve_ended(locks, timeout_s, per_transaction_s=TXN_TIMEOUT_S)

    async def delete_range(self, start: bytes, end: bytes, timeout_s: float) -> None:
        deadline = self._executor.deadline(timeout_s)
        left: KeyRange | None = KeyRange(start, end)
        while left is not None:
            command = DeleteRange(left)
            try:
                await self._executor.execute(command, deadline)
            except TransactionRefusedError:
                return  # split for raw data alone: there is nothing transactional in the cluster
            left = left.behind(command.covered)
