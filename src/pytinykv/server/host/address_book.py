"""Where the other stores are, also while no scheduler answers.

Followers don't talk to each other, so they have not asked where the other is when their leader dies; if the scheduler is
away just then, they must find each other all the same, or no leader is elected. So each store keeps the addresses of all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from pytinykv.client.errors import ClientError, SchedulerUnavailableError, StoreNotFoundError

if TYPE_CHECKING:
    from pytinykv.client.pd.scheduler_client import SchedulerClient
    from pytinykv.lifecycle import Scope
    from pytinykv.wire.pb import metapb_pb2

_log = logging.getLogger(__name__)

REFRESH_S: Final = 1.0
KNOWN_ADDRESS_TIMEOUT_S: Final = 0.3
"""How long an address that is known already waits for a newer one."""


class StoreFinder(Protocol):
    """Tells where stores are: the scheduler's client, or a book of what it told."""

    @property
    def cluster_id(self) -> int: ...

    async def get_store(self, store_id: int, timeout_s: float | None = None) -> metapb_pb2.Store:
        """Return a store. Raises ClientError."""
        ...


class AddressBook:
    """All stores as the scheduler told last, asked again every second; a `StoreFinder`."""

    def __init__(self, scheduler: SchedulerClient, scope: Scope) -> None:
        self._scheduler = scheduler
        self._stores: dict[int, metapb_pb2.Store] = {}
        """By id, each store as the scheduler told last."""
        self._logged = ""
        """The ids that the log has named last."""
        scope.start("address-book", self._refresh)

    @property
    def cluster_id(self) -> int:
        return self._scheduler.cluster_id

    async def get_store(self, store_id: int, timeout_s: float | None = None) -> metapb_pb2.Store:
        """Return a store as the scheduler has it now, else as it had it last. Raises ClientError."""
        known = self._stores.get(store_id)
        try:
            found = await self._scheduler.get_store(store_id, timeout_s if known is None else KNOWN_ADDRESS_TIMEOUT_S)
        except SchedulerUnavailableError:
            if known is None:
                raise
            return known
        self._stores[store_id] = found
        if not found.address:
            raise StoreNotFoundError(f"store {store_id} has lost its address to another store")
        return found

    async def _refresh(self) -> None:
        while True:
            try:
                stores = await self._scheduler.get_all_stores(exclude_tombstone=True, timeout_s=REFRESH_S)
            except ClientError as error:
                _log.debug("the addresses of the stores stay as they are: %s", error)
            else:
                self._take(stores)
            await asyncio.sleep(REFRESH_S)

    def _take(self, stores: list[metapb_pb2.Store]) -> None:
        self._stores = {store.id: store for store in stores}
        names = ", ".join(map(str, sorted(self._stores)))
        if names != self._logged:
            self._logged = names
            _log.info("knows the addresses of stores %s", names)
