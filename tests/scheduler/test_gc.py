from __future__ import annotations

from pytinykv.scheduler.gc import NONE_TS, REPORT_AGE_MAX_S, GcDriver, GcReport
from pytinykv.scheduler.state import Meta, ServiceSafePoint
from pytinykv.wire.timestamp import compose

LIFE_S = 600.0
WALL_MS = 10_000_000
OLD = compose(WALL_MS - 600_000, 0)
"""Where the life time alone lets the safe point be."""
STORES = (1, 2)


class Stores:
    """A driver, and stores that report to it at one time."""

    def __init__(self, meta: Meta | None = None, life_time_s: float = LIFE_S) -> None:
        self.driver = GcDriver(life_time_s=life_time_s)
        self.meta = meta or Meta()

    def report(self, store_id: int, acknowledged_ts: int = 0, oldest_lock_ts: int = NONE_TS, now: float = 0.0) -> None:
        self.driver.on_report(GcReport(store_id, acknowledged_ts, oldest_lock_ts), now)

    def announce(self, now: float = 0.0, wall_ms: int = WALL_MS) -> int:
        return self.driver.announce(self.meta, STORES, now=now, wall_ms=wall_ms)

    def collectable(self, now: float = 0.0) -> int:
        return self.driver.collectable(self.meta, STORES, now)


def test_nothing_is_announced_before_every_store_has_reported() -> None:
    stores = Stores()
    stores.report(1)
    assert stores.announce() == 0
    stores.report(2)
    assert stores.announce() == OLD


def test_nothing_is_collected_before_every_store_refuses_what_is_below() -> None:
    stores = Stores()
    stores.report(1)
    stores.report(2)
    stores.announce()
    stores.report(1, OLD)
    assert stores.collectable() == 0
    stores.report(2, OLD)
    assert stores.collectable() == OLD


def test_a_running_transaction_holds_it_back() -> None:
    stores = Stores()
    begun = OLD - 5
    stores.report(1)
    stores.report(2, oldest_lock_ts=begun)
    assert stores.announce() == begun
    stores.report(1, begun)
    stores.report(2, begun, oldest_lock_ts=begun)
    assert stores.collectable() == begun


def test_a_lock_from_below_that_came_late_holds_collection_back() -> None:
    stores = Stores()
    stores.report(1)
    stores.report(2)
    stores.announce()
    stores.report(1, OLD)
    stores.report(2, OLD, oldest_lock_ts=OLD - 7)
    assert stores.collectable() == OLD - 7


def test_services_hold_it_back_until_they_expire() -> None:
    service = ServiceSafePoint("backup", OLD - 9, WALL_MS // 1000 + 60)
    stores = Stores(Meta(services=(service,)))
    stores.report(1)
    stores.report(2)
    assert stores.announce() == OLD - 9
    assert stores.announce(wall_ms=WALL_MS + 120_000) == compose(WALL_MS + 120_000 - 600_000, 0)


def test_a_store_that_fell_silent_holds_it_back() -> None:
    stores = Stores()
    stores.report(1)
    stores.report(2)
    stores.announce()
    late = REPORT_AGE_MAX_S + 1
    stores.report(1, OLD, now=late)
    assert stores.announce(now=late, wall_ms=WALL_MS + 60_000) == OLD
    assert stores.collectable(now=late) == 0
    assert stores.driver.permitted(Meta(gc_safe_point=OLD), STORES, late) == 0


def test_without_a_life_time_only_clients_move_it_and_stores_refuse_what_they_said() -> None:
    stores = Stores(Meta(gc_safe_point=77), life_time_s=0.0)
    stores.report(1)
    stores.report(2)
    assert stores.announce() == 77
    assert stores.collectable() == 77


def test_what_is_announced_never_goes_back() -> None:
    stores = Stores()
    stores.report(1)
    stores.report(2)
    assert stores.announce() == OLD
    stores.report(2, oldest_lock_ts=OLD - 5)
    assert stores.announce() == OLD


def test_locks_are_to_be_resolved_up_to_where_the_safe_point_would_be_without_them() -> None:
    service = ServiceSafePoint("backup", OLD - 9, WALL_MS // 1000 + 60)
    stores = Stores()
    stores.report(1, oldest_lock_ts=OLD - 500)
    assert stores.driver.wanted(stores.meta, WALL_MS) == OLD
    assert stores.driver.wanted(Meta(services=(service,)), WALL_MS) == OLD - 9
    assert stores.driver.wanted(Meta(gc_safe_point=OLD + 3), WALL_MS) == OLD + 3, "moved by a client"
    assert GcDriver(life_time_s=0.0).wanted(Meta(gc_safe_point=77), WALL_MS) == 77


def test_nothing_is_deleted_past_a_lock_although_a_client_has_moved_the_safe_point() -> None:
    """Its commit record at the primary may be what the lock stands for: deleted, the lock would be rolled back."""
    stores = Stores(Meta(gc_safe_point=OLD + 50))
    stores.report(1, OLD + 50)
    stores.report(2, OLD + 50, oldest_lock_ts=OLD + 20)
    assert stores.driver.permitted(stores.meta, STORES, 0.0) == OLD + 20
    stores.report(2, OLD + 40)
    assert stores.driver.permitted(stores.meta, STORES, 0.0) == OLD + 40
    stores.report(2, OLD + 60)
    assert stores.driver.permitted(stores.meta, STORES, 0.0) == OLD + 50
