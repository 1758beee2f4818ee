"""The regions of a store by their keys: which one shares keys with another, and what became of one that was split.

    b""        g          p                            sorted by start key; regions that live here never overlap
     | region 7 |          | region 12, version 9 |    peers that know no region yet have no keys and are not in it

Sorted when it is asked for and something has changed since: that happens with splits and snapshots, questions are rare.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Final, Protocol

from pytinykv.model import Region, region_to_pb
from pytinykv.wire.errors import EpochNotMatch

SIBLINGS_MAX: Final = 256
"""Regions in one EpochNotMatch; of more the caller gets those nearest to the one it asked."""
SIBLINGS_BYTES_MAX: Final = 1024 * 1024
"""Their bounds, together."""


class ListedPeer(Protocol):
    """A peer, as far as this table looks at it."""

    @property
    def region(self) -> Region: ...

    @property
    def is_initialized(self) -> bool: ...

    is_destroyed: bool


class RegionTable:
    """See the module. `peers` is shared with the store; each change of it, or of a range, is followed by `changed`."""

    def __init__(self, peers: Mapping[int, ListedPeer]) -> None:
        self._peers = peers
        self._regions: list[Region] | None = None
        """By start key; None when something has changed since they were sorted."""
        self._starts: list[bytes] = []
        """Their start keys."""

    def changed(self) -> None:
        """Note that a region has come, gone or changed."""
        self._regions = None

    def by_start(self) -> list[Region]:
        """Return the regions that live here, in the order of their keys."""
        if self._regions is None:
            living = (peer for peer in self._peers.values() if peer.is_initialized and not peer.is_destroyed)
            self._regions = sorted((peer.region for peer in living), key=_start)
            self._starts = [region.start_key for region in self._regions]
        return self._regions

    def overlapping(self, region: Region) -> Region | None:
        """Return another region on this store that shares keys with `region`."""
        regions = self.by_start()
        first = max(0, bisect_right(self._starts, region.start_key) - 1)
        last = bisect_left(self._starts, region.end_key) if region.end_key else len(regions)
        return next((one for one in regions[first:last] if one.id != region.id and one.overlaps(region)), None)

    def siblings(self, region: Region, version: int) -> list[Region]:
        """Return the region and those that have become of the keys that it had at `version`, as far as they live here.

        A split leaves the last part to the old region, so they are its neighbours to the left, one behind the other; and all
        that has become of them since has a greater version. One that was not part of it may be among them: a caller that
        knows the keys it asked about takes only what shares some with them.
        """
        found = [region]
        regions = self.by_start()
        index = bisect_left(self._starts, region.start_key) - 1
        size = len(region.start_key) + len(region.end_key)
        while index >= 0 and len(found) < SIBLINGS_MAX and size < SIBLINGS_BYTES_MAX:
            left = regions[index]
            if left.end_key != found[-1].start_key or left.epoch.version <= version:
                break
            found.append(left)
            size += len(left.start_key) + len(left.end_key)
            index -= 1
        return found

    def epoch_not_match(self, region: Region, version: int) -> EpochNotMatch:
        """Return what a caller is told that takes a region for what it was at `version`."""
        return EpochNotMatch(current_regions=[region_to_pb(one) for one in self.siblings(region, version)])


def _start(region: Region) -> bytes:
    return region.start_key
