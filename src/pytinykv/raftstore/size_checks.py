"""Regions that have grown too large are split by the store that leads them.

A look at a region costs a few estimates, so only those are looked at that took many bytes since the last time, a few at each
tick. The keys are found in the worker, one region at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from pytinykv.raftstore.region_events import Destroyed
from pytinykv.raftstore.split_keys import find_split_keys, size_bytes

if TYPE_CHECKING:
    from pytinykv.lifecycle import Worker
    from pytinykv.model import Region
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.raftstore.split_requests import SplitRequests
    from pytinykv.storage import Engine

_log = logging.getLogger(__name__)

LOOKS_PER_TICK: Final = 4
"""Regions whose size is estimated at one tick."""
SHARE: Final = 8
"""A region is looked at once it took `region_split_bytes` divided by this."""
RETRY_S: Final = 5.0
"""Pause after a split that failed: without a scheduler there are no ids."""


class SizeChecks:
    """Belongs to the store loop. `peers` is shared with the store."""

    def __init__(
        self,
        peers: Mapping[int, RegionPeer],
        engine: Engine,
        worker: Worker,
        splits: SplitRequests,
        config: RaftStoreConfig,
    ) -> None:
        self._peers = peers
        self._engine = engine
        self._worker = worker
        self._splits = splits
        self._config = config
        self._looked_at: dict[int, int] = {}
        """By region, `PeerStorage.appended_bytes` when it was looked at; only regions led here."""
        self._not_before: dict[int, float] = {}
        """By region whose split failed, the monotonic time of the next look."""
        self._is_finding = False
        """Whether the worker looks for keys."""

    def on_tick(self, now: float) -> None:
        """Look at some of the regions that have taken much; begin to split one that is too large."""
        if self._is_finding:
            return
        looks, step = 0, self._config.region_split_bytes // SHARE
        for region_id, peer in self._peers.items():
            if not peer.is_leader:
                self._looked_at.pop(region_id, None)
                continue
            appended = peer.storage.appended_bytes
            before = self._looked_at.get(region_id)
            if before is not None and appended - before < step:
                continue
            if now < self._not_before.get(region_id, now) or self._splits.is_splitting(region_id):
                continue
            self._looked_at[region_id] = appended
            looks += 1
            if size_bytes(self._engine, peer.region) > self._config.region_max_bytes:
                self._find(peer.region, now)
                return
            if looks == LOOKS_PER_TICK:
                return

    def on_event(self, event: RegionEvent) -> None:
        """Forget what is not here any more; a `RegionListener`."""
        if isinstance(event, Destroyed):
            self._looked_at.pop(event.tombstone.region.id, None)
            self._not_before.pop(event.tombstone.region.id, None)

    def _find(self, region: Region, now: float) -> None:
        self._is_finding = True
        work = partial(
            find_split_keys,
            self._engine,
            region,
            self._config.region_split_bytes,
            is_transactional=self._splits.is_transactional,
        )
        self._worker.submit(work, lambda result: self._on_found(region, now, result))

    def _on_found(self, region: Region, now: float, result: Sequence[bytes] | BaseException) -> None:
        self._is_finding = False
        if isinstance(result, BaseException):
            _log.warning("region %d: no split keys: %s", region.id, result)
            return
        if not result:
            return

        def on_done(error: Exception | None, regions: Sequence[Region]) -> None:
            if error is None:
                _log.info("region %d: grew too large, now %d regions", region.id, len(regions))
                self._not_before.pop(region.id, None)
                return
            _log.info("region %d: too large, but not split: %s", region.id, error)
            self._looked_at.pop(region.id, None)
            self._not_before[region.id] = now + RETRY_S

        self._splits.split(region.id, result, on_done, epoch=region.epoch)
