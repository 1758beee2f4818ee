"""Where regions may be split, so that raw and transactional clients can share a cluster.

    raw data alone      a bound is any key            a b |  c d |
    transactions        a bound is the memcomparable form of a user's key, which transactional clients decode

Both kinds of client can live with the latter, only transactional ones can't with the former. So the first transactional write
switches the cluster over, for good, if no region has a plain bound by then; otherwise it is refused.

A split that is under way could still make a plain bound after the switch. Its ids came from here: so the switch waits until
those that were given for plain keys are either used, or too old to be (a store gives up asking after seconds). One that
comes still later, as its leader was held or its entry waited for a quorum, is refused where it is applied if its region holds
transactional data (`RegionPeer`); elsewhere it makes a bound that keeps transactions out of the two regions beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytinykv.model import Region
from pytinykv.wire.keys import describe_key, is_plain


def plain_bound(regions: Iterable[Region]) -> str:
    """Return why there can be no transactions, "" if there can."""
    for region in regions:
        if is_plain(region.start_key):
            return (
                f"region {region.id} begins at {describe_key(region.start_key)}: this cluster was split at raw keys before "
                "it saw a transaction, and transactional clients can't read such bounds; use raw operations here, and a new "
                "cluster for transactions"
            )
    return ""


class PlainSplits:
    """Until when splits at plain keys may come that were begun."""

    def __init__(self, usable_s: float) -> None:
        """`usable_s`: how long ids for a plain split are taken for usable."""
        self._usable_s = usable_s
        self._until = 0.0
        """Monotonic."""

    def begin(self, keys: Sequence[bytes], now: float) -> None:
        """Take note of ids that are given for a split at these keys; without keys, it may be anywhere."""
        if not keys or any(map(is_plain, keys)):
            self._until = now + self._usable_s

    def left_s(self, now: float) -> float:
        """Return how long one may still come."""
        return max(0.0, self._until - now)
