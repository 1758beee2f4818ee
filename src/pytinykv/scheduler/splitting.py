"""Splits on request: from keys to orders for the leaders of the regions that hold them.

    keys ──► regions that hold them ──► one operator each (SplitAt) ──► orders in portions ──► heartbeats show boundaries
     ▲                                                                                             │
     └───────────────────── until every key is the start of a region ◄─────────────────────────────┘

What counts is the map: a key is done when a region starts there, however that came about. So a request may be repeated, and
one whose regions were split meanwhile by others begins anew with what is left.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytinykv.model import RegionId
from pytinykv.scheduler.cluster_view import ClusterView
from pytinykv.scheduler.errors import InvalidInput
from pytinykv.scheduler.operator_controller import OperatorController
from pytinykv.scheduler.operators import Operator, OperatorKind, SplitAt
from pytinykv.scheduler.records import ReportedRegion
from pytinykv.wire.limits import KEY_BYTES_MAX

SPLIT_KEYS_MAX = 4096
"""At how many keys one request may split."""
BOUNDARY_BYTES_MAX = 2 * KEY_BYTES_MAX
"""Longest key to split at: that of a pair in its memcomparable form is longer than the key by an eighth."""


def checked_keys(keys: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the keys in ascending order, each once. Raises InvalidInput."""
    wanted = tuple(sorted(set(keys)))
    if not wanted:
        raise InvalidInput("no key to split at")
    if not wanted[0]:
        raise InvalidInput("can't split at the empty key: the first region begins there anyway")
    if len(wanted) > SPLIT_KEYS_MAX:
        raise InvalidInput(f"can't split at {len(wanted)} keys in one request: at most {SPLIT_KEYS_MAX}")
    longest = max(wanted, key=len)
    if len(longest) > BOUNDARY_BYTES_MAX:
        raise InvalidInput(f"can't split at a key of {len(longest)} bytes: at most {BOUNDARY_BYTES_MAX}")
    return wanted


def keys_left(cluster: ClusterView, keys: Iterable[bytes]) -> list[bytes]:
    """Return the keys at which no region starts, as far as is known."""
    found = ((key, cluster.regions.find(key)) for key in keys)
    return [key for key, region in found if region is None or region.meta.start_key != key]


def begin_splits(
    cluster: ClusterView, operators: OperatorController, keys: Iterable[bytes], now: float
) -> list[ReportedRegion]:
    """Start an operator for each region that holds some of the keys inside and has none yet; return those regions."""
    by_region: dict[RegionId, list[bytes]] = {}
    for key in keys:
        region = cluster.regions.find(key)
        if region is not None and region.leader is not None:
            by_region.setdefault(region.id, []).append(key)
    begun: list[ReportedRegion] = []
    for region_id, inside in by_region.items():
        region = cluster.regions.get(region_id)
        running = operators.get(region_id)
        if region is None or (running is not None and running.kind is OperatorKind.ADMIN):
            continue
        steps = (SplitAt(tuple(inside)),)
        if operators.add(Operator("split", region_id, region.meta.epoch, OperatorKind.ADMIN, steps), now):
            begun.append(region)
    return begun


def regions_at(cluster: ClusterView, keys: Iterable[bytes]) -> list[RegionId]:
    """Return the ids of the regions that start at these keys."""
    found = ((key, cluster.regions.find(key)) for key in keys)
    return [region.id for key, region in found if region is not None and region.meta.start_key == key]
