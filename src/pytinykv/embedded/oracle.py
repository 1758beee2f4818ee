"""The timestamps of one database: snapshots, transactions and commits in one order, which never goes back.

    time ──▶   …  98  99 │ 100 = visible_ts │ 101  102 (begun)        8292  8293 (being committed)
                         └ all commits up to here are there for readers      └ written, not durable yet: no reader sees them

A commit becomes visible when it is durable, and not before: what a reader has seen, a power cut does not take back. So while
a group of commits is being synced, transactions that begin get timestamps below those of the group, out of a gap that was
left for them (`GAP`). When the group is durable the clock goes on above it.

A timestamp is milliseconds since 1970 and a counter (`wire.timestamp`), as on a cluster; when the wall clock stands or goes
back, the counter goes on. No timestamp is given above a bound that is durable; the next run begins above it.

Invariants
----------
1. `visible_ts` never goes down; every commit at or below it is in the engine, and durable (unless durability is relaxed).
2. Every timestamp is given once: to a transaction, a commit or a caller. Those that are given begin above `visible_ts`.
3. No timestamp above `durable_bound` is given for a beginning.
4. What is read at a view that is open is not collected: `oldest_open` names the oldest one.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from pytinykv.client.txn.records import SnapshotView, Txn
from pytinykv.embedded.quiet_event import QuietEvent
from pytinykv.storage import Cursor
from pytinykv.wire.timestamp import LOGICAL_BITS, Timestamp

GAP: Final = 1 << 13
"""Timestamps for what begins while one group of commits is on its way to the disk."""
WINDOW_MS: Final = 10_000
"""How far ahead the durable bound is moved."""
_HALF_WINDOW: Final = (WINDOW_MS // 2) << LOGICAL_BITS


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class OpenView(SnapshotView):
    """A snapshot as a reader holds it. As long as it is there, what it shows is not collected."""

    __slots__ = ("__weakref__", "_open", "_reference", "cursors")

    def __init__(self, ts: int, open_: set[weakref.ref[OpenView]]) -> None:
        super().__init__(ts)
        self.cursors: list[Cursor] = []
        """Cursors of the engine on a state that holds all that the view shows; taken out for a read, and put back."""
        self._open = open_
        self._reference = weakref.ref(self, open_.discard)
        """Stands in `_open` until the view is released, or gone."""
        open_.add(self._reference)

    def release(self) -> None:
        """Take note that nothing is read at it any more. Any number of times."""
        self._open.discard(self._reference)
        self.cursors.clear()


class LocalTxn(Txn):
    """A transaction of an embedded database."""

    __slots__ = ()

    view: OpenView

    def __init__(self, view: OpenView, *, is_pessimistic: bool) -> None:
        super().__init__(view, begun_at=0.0, is_pessimistic=is_pessimistic)


class Oracle:
    """Gives timestamps. Thread-safe."""

    def __init__(self, bound: int, wall_ms: Callable[[], int] = _wall_ms) -> None:
        """`bound` is the durable bound that the last run has left, 0 for a new database."""
        self._wall_ms = wall_ms
        self._mutex = threading.Lock()
        """Guards the fields below."""
        self._last = max(bound, wall_ms() << LOGICAL_BITS)
        """The greatest that was given for a beginning, or that is visible."""
        self.visible_ts = self._last
        """Up to here all commits are visible. Moved by `publish`."""
        self.durable_bound = bound
        """Invariant 3. Moved by `on_bound_durable`."""
        self._commit_ts = 0
        """The greatest that was given to a commit of the group under way; 0 without one."""
        self._ceiling = 0
        """The smallest of them: what begins now stays below. 0 without a group."""
        self._published = QuietEvent()
        """Set while no group is under way."""
        self._open: set[weakref.ref[OpenView]] = set()
        """All views that are held."""

    def wall_ts(self) -> int:
        """Return what the wall clock shows, as a timestamp."""
        return self._wall_ms() << LOGICAL_BITS

    # --- beginnings ---------------------------------------------------------------------------------------------

    def begin(self) -> OpenView | None:
        """Return the view of a transaction that begins now, with a timestamp of its own; None if there is none just now.

        Then extend the bound (`wants_bound`), or wait for the group under way (`wait_published`).
        """
        with self._mutex:
            ts = self._next()
            return None if ts is None else OpenView(ts, self._open)

    def timestamp(self) -> int | None:
        """Return a timestamp greater than all before; None as `begin`."""
        with self._mutex:
            return self._next()

    def view_of_now(self) -> OpenView:
        """Return the view of a snapshot of now. Others may have the same timestamp."""
        with self._mutex:
            return OpenView(self.visible_ts, self._open)

    def view_of(self, ts: int) -> OpenView:
        """Return a view for one read, of what can't be collected meanwhile."""
        return OpenView(ts, self._open)

    def view_at(self, ts: int) -> OpenView | None:
        """Return a view as of a timestamp; None if that was not given yet."""
        with self._mutex:
            return None if ts > self._last else OpenView(ts, self._open)

    def _next(self) -> int | None:
        last = self._last
        ts = max(last + 1, self._wall_ms() << LOGICAL_BITS)
        if ts > self.durable_bound:
            ts = last + 1
        if self._ceiling and ts >= self._ceiling:
            ts = last + 1
            if ts >= self._ceiling:
                return None
        if ts > self.durable_bound:
            return None
        self._last = ts
        return ts

    # --- the bound ----------------------------------------------------------------------------------------------

    def wants_bound(self) -> int:
        """Return the bound that is to be written next; 0 while the present one will do for a while."""
        now = max(self._last, self._commit_ts, self._wall_ms() << LOGICAL_BITS)
        if now + _HALF_WINDOW < self.durable_bound:
            return 0
        return now + (WINDOW_MS << LOGICAL_BITS)

    @property
    def is_near_bound(self) -> bool:
        """Whether the commits of the group under way come near the bound: `wants_bound` would say so, but takes longer."""
        return self._commit_ts + _HALF_WINDOW >= self.durable_bound

    def on_bound_durable(self, bound: int) -> None:
        """Take note that a bound is on the disk."""
        with self._mutex:
            self.durable_bound = max(self.durable_bound, bound)

    @property
    def bound_at_close(self) -> int:
        """What the next run has to begin above, once nothing is given any more."""
        return max(self._last, self._commit_ts)

    # --- commits: by one group at a time, under the writer's lock -------------------------------------------------

    def next_commit(self) -> Timestamp:
        """Return the timestamp of the next commit of the group under way; the first one begins a group."""
        if not self._ceiling:
            with self._mutex:
                base = max(self._last + GAP, self._wall_ms() << LOGICAL_BITS)
                self._published.clear()
                self._commit_ts = self._ceiling = max(base, self._commit_ts + 1)
        else:
            self._commit_ts += 1
        return Timestamp(self._commit_ts)

    def publish(self) -> None:
        """Make the group under way visible: it is written, and durable if it has to be."""
        with self._mutex:
            if self._ceiling:
                self.visible_ts = self._last = self._commit_ts
                self._ceiling = 0
                self._published.set()

    def withhold(self) -> None:
        """End the group under way without showing it: whether it is durable is not known. The next one shows it, too."""
        self._published.set()

    @property
    def is_withheld(self) -> bool:
        """Whether commits were written that are not visible, and no group is under way."""
        return bool(self._ceiling) and self._published.is_set()

    def wait_published(self, timeout_s: float) -> bool:
        """Wait until the group under way is visible; return whether it is."""
        return self._published.wait(timeout_s)

    # --- open views ---------------------------------------------------------------------------------------------

    def views(self) -> list[OpenView]:
        """Return all views that are held."""
        return [view for reference in list(self._open) if (view := reference()) is not None]

    def oldest_open(self) -> int:
        """Return the greatest timestamp that nothing is below that is open now, or begins from now on."""
        with self._mutex:
            return min([self.visible_ts, *(view.ts for view in self.views())])
