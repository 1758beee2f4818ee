"""Which region holds a key, and which store leads it: what the client remembers of the scheduler's answers.

    starts   b""      b"g"      b"p"            sorted; one entry per region
    routes  [  7  )  [  9  )  (gap)  [  12  )   half-open ranges that never overlap; nothing is known of the keys in a gap

Bounds and keys are in the form that the scheduler uses (see `key_space`).

Invariants:

1. Regions in the cache never overlap.
2. A region gives way only to one that is not older. Splits and merges raise `version` above that of every region they
   touch, so of two overlapping regions the one with the greater version is newer, whatever their ids.
3. A `Route` never changes. A new leader makes a new object, so a failed attempt removes exactly what it had used and not
   what another call has learnt since.

The cache may be wrong at any time. Stores check epoch and leadership with every command, so that costs a round trip only.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from pytinykv.client.route import Destination, Route
from pytinykv.model import Region


class RegionCache:
    """Routes by the ranges of their regions. See the module."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        """Start keys of the regions, ascending."""
        self._routes: list[Route] = []
        """The route to the region that begins at the same index of `_starts`."""

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def find(self, destination: Destination) -> Route | None:
        """Return the route to a destination's region, if known."""
        locate = self.locate_below if destination.below else self.locate
        return locate(destination.bound)

    def knows(self, region: Region) -> bool:
        """Tell whether there is a route to just this state of a region."""
        known = self.locate(region.start_key)
        return known is not None and (known.region.id, known.region.epoch) == (region.id, region.epoch)

    def locate(self, key: bytes) -> Route | None:
        """Return the route to the region that holds `key`, if known."""
        index = bisect_right(self._starts, key) - 1
        if index < 0:
            return None
        route = self._routes[index]
        return route if not route.end or key < route.end else None

    def locate_below(self, upper: bytes) -> Route | None:
        """Return the route to the region that holds the greatest possible key below `upper`, if known."""
        index = bisect_left(self._starts, upper) - 1
        if index < 0:
            return None
        route = self._routes[index]
        return route if route.contains_below(upper) else None

    def insert(self, route: Route) -> bool:
        """Remember a route in place of older ones to the same keys; False (and no change) if one of them is newer."""
        low, high = self._overlap(route)
        if any(known.is_newer_than(route) for known in self._routes[low:high]):
            return False
        self._starts[low:high] = [route.start]
        self._routes[low:high] = [route]
        return True

    def insert_all(self, routes: Iterable[Route]) -> None:
        """Remember several routes."""
        for route in routes:
            self.insert(route)

    def remove(self, route: Route) -> bool:
        """Forget this very object; False if it is no longer (or never was) in the cache."""
        index = self._index_of(route)
        if index is None:
            return False
        del self._starts[index], self._routes[index]
        return True

    def replace(self, route: Route, by: Route) -> bool:
        """Put `by` (same range) in the place of this very object; False if it is no longer in the cache."""
        index = self._index_of(route)
        if index is None:
            return False
        self._routes[index] = by
        return True

    def _index_of(self, route: Route) -> int | None:
        index = bisect_left(self._starts, route.start)
        return index if index < len(self._routes) and self._routes[index] is route else None

    def _overlap(self, route: Route) -> tuple[int, int]:
        """Return the slice of known regions that share keys with that of `route`."""
        low = bisect_right(self._starts, route.start) - 1
        if low < 0 or (self._routes[low].end and self._routes[low].end <= route.start):
            low += 1
        high = bisect_left(self._starts, route.end) if route.end else len(self._starts)
        return low, max(low, high)
