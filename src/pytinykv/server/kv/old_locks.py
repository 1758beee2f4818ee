"""Old locks, which hold garbage collection back: what became of their transactions is found out, and carried out.

    a region led here ──▶ locks from before `resolve_ts` ──▶ the primary, on whichever store ──▶ ended: its locks here go
                                                                                      └───────▶ alive: they stay

The store that leads a region looks after the locks in it. It asks as any client that meets a lock (`own_client`):
through the primary's region leader, for an asynchronous commit through those of all secondaries. So a transaction that is
alive, as its heartbeats at the primary say, keeps its locks, and holds collection back for as long as it runs.

Any number of stores may look after one transaction at the same time, and any of them may stop in between: what the primary
has said never changes, and resolving may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from pytinykv.client.txn.records import ForeignLock
from pytinykv.server.kv.txn_answers import lock_info
from pytinykv.server.kv.txn_requests import PlainBoundsError, bounds_of_data
from pytinykv.storage import ColumnFamily
from pytinykv.transaction.records import decode_lock
from pytinykv.transaction.stored_keys import encoded_range, user_key

if TYPE_CHECKING:
    from pytinykv.raftstore import Store

PASS_TIMEOUT_S: Final = 20.0
"""For all locks of one pass; those that are left have their turn in the next one."""
LOCKS_PER_STEP: Final = 1000
"""Locks that are looked at before others have their turn."""
LOCKS_PER_PAGE: Final = 4096
"""Old locks that are gathered before they are resolved."""


async def old_locks(store: Store, before_ts: int) -> AsyncIterator[list[ForeignLock]]:
    """Yield the locks of transactions from before a timestamp in the regions that are led here, in pages that are not empty.

    A lock that is gone meanwhile does no harm: what it asks for is that its transaction's fate be carried out.
    """
    page: list[ForeignLock] = []
    looked_at = 0
    for region_id in sorted(store.peers):
        peer = store.peers.get(region_id)
        if peer is None or not peer.is_leader:
            continue
        try:
            start, end = encoded_range(*bounds_of_data(peer.region))
        except PlainBoundsError:
            continue  # it holds no locks
        with store.engine.cursor(ColumnFamily.LOCK, start, end) as cursor:
            for key, stored in cursor.pairs():
                lock = decode_lock(stored)
                if lock.start_ts < before_ts:
                    page.append(ForeignLock.from_pb(lock_info(user_key(key), lock)))
                looked_at += 1
                if looked_at % LOCKS_PER_STEP == 0:
                    await asyncio.sleep(0)
                if len(page) >= LOCKS_PER_PAGE:
                    yield page
                    page = []
    if page:
        yield page
