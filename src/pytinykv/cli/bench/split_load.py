"""A load of data while regions split and move, against the same load without splits; and how even the stores are afterwards.

Keys come in no order and values can't be compressed, so that every region grows and has to split by its size. What a store
holds is counted from the keys that were put and the regions' bounds: files on disk hold old versions and logs as well.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytinykv import aio
from pytinykv.cli.bench.figures import Bound, Figure, Figures
from pytinykv.cli.bench.put_load import PutLoad, Window
from pytinykv.cli.playground.cluster import LocalCluster
from pytinykv.cli.playground.command import wait_serving
from pytinykv.cli.playground.home import Home
from pytinykv.wire.pb import pdpb_pb2

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient
    from pytinykv.client.pd.scheduler_client import RegionInfo
    from pytinykv.lifecycle import Scope

STORES: Final = 4
"""One more than replicas: with three, every store holds everything, however bad the balance is."""
IN_FLIGHT: Final = 256
VALUE_BYTES: Final = 4096
BYTES_DIFFERENCE_MAX: Final = 15.0
LEADERS_DIFFERENCE_MAX: Final = 10.0
_PREFIX: Final = b"load-"
_KEY_BYTES: Final = len(_PREFIX) + 8
_NEVER: Final = 1 << 40
_EVEN_S: Final = 90.0
"""How long the stores may take to become even."""
_POLL_S: Final = 1.0
_POOL: Final = os.urandom(1 << 20)


def load_key(number: int) -> bytes:
    """Return the key of a put; neighbours in number lie far apart."""
    return _PREFIX + (number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big")


def load_value(number: int) -> bytes:
    begin = number * 7919 % (len(_POOL) - VALUE_BYTES)
    return _POOL[begin : begin + VALUE_BYTES]


@dataclass(frozen=True)
class Balance:
    """How even stores are."""

    regions: int
    bytes_by_store: dict[int, int]
    leaders_by_store: dict[int, int]
    operators: int = 0
    """That were under way."""

    @property
    def bytes_difference(self) -> float:
        """By how much the fullest and the emptiest store differ, as a percentage of the mean."""
        return difference(list(self.bytes_by_store.values()))

    @property
    def leaders_difference(self) -> float:
        return difference(list(self.leaders_by_store.values()))

    @property
    def is_even(self) -> bool:
        """Whether the targets are met; a difference of a single leader is as even as it gets."""
        leaders = self.leaders_by_store.values()
        return self.bytes_difference <= BYTES_DIFFERENCE_MAX and (
            self.leaders_difference <= LEADERS_DIFFERENCE_MAX or max(leaders) - min(leaders) <= 1
        )


def difference(values: Sequence[int]) -> float:
    """Return by how much the largest and the smallest value differ, as a percentage of their mean; 0 if all are 0."""
    mean = sum(values) / len(values)
    return 100 * (max(values) - min(values)) / mean if mean else 0.0


def balance_of(regions: Sequence[RegionInfo], stores: Sequence[int], keys: Sequence[bytes]) -> Balance:
    """Return what each store holds of the `keys`, which are in order, and how many regions it leads."""
    held, led = Counter(dict.fromkeys(stores, 0)), Counter(dict.fromkeys(stores, 0))
    for info in regions:
        begin = bisect_left(keys, info.region.start_key)
        end = bisect_left(keys, info.region.end_key) if info.region.end_key else len(keys)
        for peer in info.region.peers:
            held[peer.store_id] += (end - begin) * (_KEY_BYTES + VALUE_BYTES)
        if info.leader is not None:
            led[info.leader.store_id] += 1
    return Balance(len(regions), dict(held), dict(led))


async def measure_load(scope: Scope, figures: Figures, load_bytes: int, region_bytes: int) -> None:
    """Load two clusters, one after the other, and add what was seen. Raises ClientError, PlaygroundError, TimeoutError."""
    puts = max(IN_FLIGHT, load_bytes // VALUE_BYTES)
    whole, _ = await _load(scope, puts, _NEVER)
    split, (at_end, later, seconds) = await _load(scope, puts, region_bytes)
    for name, window in (("without splits", whole), ("with splits", split)):
        figures.errors.extend(f"load {name}: {count} × {error}" for error, count in window.failures.items())
    loaded = puts * (_KEY_BYTES + VALUE_BYTES)
    failed = split.failures.total()
    detail = (
        f"of {puts:,} puts of {VALUE_BYTES:,} bytes, {loaded / 1e6:,.0f} MB; split into {region_bytes / 1e6:,.1f} MB"
    )
    figures.add(Figure("load", "failed operations", failed, "", Bound.AT_MOST, 0, detail))
    ratio = 100 * split.rate / whole.rate if whole.rate else 0.0
    detail = (
        f"{split.rate:,.0f} and {whole.rate:,.0f} puts/s; {at_end.regions} regions at its end, {later.regions} later"
    )
    figures.add(Figure("load", "with splits against without", ratio, "%", Bound.AT_LEAST, 60, detail))
    longest = f"without splits {whole.longest_s * 1000:,.0f} ms"
    figures.add(Figure("load", f"longest put, {IN_FLIGHT} in flight", split.longest_s * 1000, "ms", detail=longest))
    waited = f"after {seconds:.0f} s; at the end of the load {at_end.bytes_difference:.0f} %"
    value = later.bytes_difference
    figures.add(Figure("load", "bytes of stores differ by", value, "%", Bound.AT_MOST, BYTES_DIFFERENCE_MAX, waited))
    counts = ", ".join(map(str, later.leaders_by_store.values()))
    waited = f"by store: {counts}; at the end of the load {at_end.leaders_difference:.0f} %"
    value = later.leaders_difference
    target = max(LEADERS_DIFFERENCE_MAX, 100 * len(later.leaders_by_store) / max(1, later.regions))  # a single leader
    figures.add(Figure("load", "leaders of stores differ by", value, "%", Bound.AT_MOST, target, waited))


async def _load(scope: Scope, puts: int, region_bytes: int) -> tuple[Window, tuple[Balance, Balance, float]]:
    """Load a fresh cluster. Returns the load, the balance at its end and when it had settled, and the seconds that took."""
    home = Home.open(None)
    own = scope.child(f"load-{region_bytes}")
    sizes: dict[str, Any] = {"region_max_size": region_bytes * 3 // 2, "region_split_size": region_bytes}
    cluster = LocalCluster(own, home, config=None, thresholds=sizes)
    own.on_stop("delete the data", home.close, 5.0)
    await cluster.start(STORES, "127.0.0.1:0")
    await wait_serving(cluster)
    async with aio.connect(cluster.scheduler.addr) as client:
        load = PutLoad(client, own.child("puts"), IN_FLIGHT, load_key, load_value, puts)
        load.start()
        window = await load.wait()
        at_end = await _balance(client, puts)
        began = time.monotonic()
        later = at_end
        if region_bytes != _NEVER:
            while time.monotonic() - began < _EVEN_S and not (
                later.is_even and later.regions > 1 and not later.operators
            ):
                await asyncio.sleep(_POLL_S)
                later = await _balance(client, puts)
        seconds = time.monotonic() - began
    await own.stop(60.0)
    return window, (at_end, later, seconds)


async def _balance(client: AsyncClient, puts: int) -> Balance:
    keys = sorted(map(load_key, range(puts)))
    regions = await client.scheduler.scan_regions()
    stores = [store.id for store in await client.scheduler.get_all_stores(exclude_tombstone=True)]
    found = balance_of(regions, stores, keys)
    operators = [
        one for one in await client.scheduler.list_operators() if one.status == pdpb_pb2.OperatorStatus.RUNNING
    ]
    return Balance(found.regions, found.bytes_by_store, found.leaders_by_store, len(operators))
