"""How large the regions are, for reports: estimated anew only where something may have changed.

An estimate looks at the files and memtables of each column family (`split_keys.size_bytes`): some 100 µs, which a thousand
regions that are reported every few seconds would add up to a tenth of a core. The size of a region changes by its log and by
splits; that compaction drops what was overwritten, or that a snapshot brought data, is noticed after `SIZE_VALID_S`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pytinykv.raftstore.region_events import Destroyed
from pytinykv.raftstore.split_keys import size_bytes

if TYPE_CHECKING:
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.storage import Engine

SIZE_VALID_S: Final = 55.0
"""How long an estimate counts for a region that took nothing; a hibernating region's next report makes a new one."""


class _Estimate(NamedTuple):
    version: int
    """That of the region's epoch when it was made."""
    appended_bytes: int
    """`PeerStorage.appended_bytes` then."""
    valid_until: float
    size_bytes: int


class RegionSizes:
    """Belongs to the store loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._estimates: dict[int, _Estimate] = {}
        """By region, the newest."""

    def of(self, peer: RegionPeer, now: float) -> int:
        """Return about how many bytes a region has in the engine."""
        region, appended = peer.region, peer.storage.appended_bytes
        known = self._estimates.get(region.id)
        if (
            known is not None
            and (known.version, known.appended_bytes) == (region.epoch.version, appended)
            and now < known.valid_until
        ):
            return known.size_bytes
        size = size_bytes(self._engine, region)
        self._estimates[region.id] = _Estimate(region.epoch.version, appended, now + SIZE_VALID_S, size)
        return size

    def on_event(self, event: RegionEvent) -> None:
        """Forget what is not here any more; a `RegionListener`."""
        if isinstance(event, Destroyed):
            self._estimates.pop(event.tombstone.region.id, None)
