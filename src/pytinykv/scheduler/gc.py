"""How far garbage collection may go: not past a reader, a running transaction, or a service that still needs old versions.

    wanted      now - life time, at most what services need     stores resolve older locks whose owners are gone
        │
        ▼
    announced   at most the oldest lock that is left            stores refuse reads and prewrites below it, from then on
        │            every store has acknowledged it, and has no lock of a transaction from before it
        ▼
    collected   = the GC safe point, durable                    stores delete what no reader at or above it sees

The last two are two steps, as one is not enough: a store that has not heard of a safe point would serve a reader from whom
another has already taken versions, and a prewrite from below it could come after its region was collected. Locks hold it back
because what they mean is decided at the primary, whose record of the commit must not be collected before.

What holds it back: the oldest lock on any store (its transaction runs, as its heartbeats say, or can't be asked about),
services with a safe point of their own (`UpdateServiceGCSafePoint`), and stores that do not report, until they do or are
tombstones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pytinykv.scheduler.state import GC_WORKER, Meta
from pytinykv.wire.timestamp import compose

NONE_TS: Final = (1 << 64) - 1
REPORT_AGE_MAX_S: Final = 60.0
"""An older report of a store says nothing any more."""


class GcReport(NamedTuple):
    """What a store says of itself."""

    store_id: int
    acknowledged_ts: int
    """It refuses what is below, and has done so for a while before it looked for locks."""
    oldest_lock_ts: int
    """The start of the oldest transaction that has a lock there; `NONE_TS`: none has."""


class GcAnswer(NamedTuple):
    """What a store is told."""

    announced_ts: int
    """Refuse reads and prewrites below this."""
    collect_ts: int
    """Delete what no reader at or above this sees."""
    resolve_ts: int
    """Resolve the locks of transactions from before this, if these have ended."""


class GcDriver:
    """What stores have reported. Knows no clock: `now` is monotonic, `wall_ms` the time of timestamps."""

    def __init__(self, *, life_time_s: float) -> None:
        self._life_time_ms: Final = int(life_time_s * 1000)
        self._reports: dict[int, tuple[GcReport, float]] = {}
        """By store, the newest report, and when it came."""
        self.announced_ts = 0
        """Only grows, but for a restart: the safe point, which is durable, only follows once all stores have taken it up."""

    def on_report(self, report: GcReport, now: float) -> None:
        """Take note of what a store says."""
        self._reports[report.store_id] = (report, now)

    def wanted(self, meta: Meta, wall_ms: int) -> int:
        """Return where the safe point would be, were there no locks: those from before are to be resolved."""
        if not self._life_time_ms:
            return meta.gc_safe_point
        wanted = compose(max(0, wall_ms - self._life_time_ms), 0)
        held = [one.safe_point for one in meta.services if one.expires_at_s > wall_ms // 1000]
        return max(meta.gc_safe_point, min([wanted, *held]))

    def announce(self, meta: Meta, stores: Iterable[int], *, now: float, wall_ms: int) -> int:
        """Return what stores are to refuse; move it on if nothing holds it back."""
        reports = self._all(stores, now)
        if self._life_time_ms and reports is not None:
            held = [report.oldest_lock_ts for report in reports]
            self.announced_ts = max(self.announced_ts, min([self.wanted(meta, wall_ms), *held]))
        self.announced_ts = max(self.announced_ts, meta.gc_safe_point)
        return self.announced_ts

    def collectable(self, meta: Meta, stores: Iterable[int], now: float) -> int:
        """Return where the safe point may be moved to: what all stores refuse, and no lock is left from before."""
        reports = self._all(stores, now)
        if not reports or not self._life_time_ms:
            return meta.gc_safe_point
        reached = min(min(report.acknowledged_ts, report.oldest_lock_ts) for report in reports)
        return max(meta.gc_safe_point, min(reached, self.announced_ts))

    def permitted(self, meta: Meta, stores: Iterable[int], now: float) -> int:
        """Return up to where stores may delete, 0 if one has not been heard of.

        Up to the safe point, as far as every store refuses what is below, and no lock is left from there. The safe point
        alone does not do: a client may have moved it (`UpdateGCSafePoint`) past locks that it has not resolved, whose
        primaries' commit records would be deleted then, and so the transactions torn.
        """
        reports = self._all(stores, now)
        if not reports:
            return 0
        return min(meta.gc_safe_point, *(min(one.acknowledged_ts, one.oldest_lock_ts) for one in reports))

    def _all(self, stores: Iterable[int], now: float) -> list[GcReport] | None:
        """Return the reports of all these stores, None if one is missing or too old."""
        found = []
        for store_id in stores:
            report, came_at = self._reports.get(store_id, (None, 0.0))
            if report is None or now - came_at > REPORT_AGE_MAX_S:
                return None
            found.append(report)
        return found


__all__ = ["GC_WORKER", "NONE_TS", "GcAnswer", "GcDriver", "GcReport"]
