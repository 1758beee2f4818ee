"""The syncs of a store's engine: what is written, what of it is durable, and when and where the next sync is done.

    turn n      written ──start──▶ a sync of everything written so far ──▶ durable: turn n, which is told at once
    turn n+1    written ──start──▶ one is under way                          │
    turn n+2    written ──start──▶ one is under way                          ▼
    turn n+3                                                           one for n+1 and n+2 together

Group commit: the longer a sync takes, the more the next one covers. A small sync on a quick disk the loop does itself,
since waking the disk thread and being woken costs more.

Invariants:
1. At most one sync is under way. What it covers is noted when it starts, never when it ends.
2. A sync that failed makes nothing durable, and the owner is told and must not go on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pytinykv.lifecycle.histogram import Histogram
from pytinykv.storage import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.lifecycle import Clock, Worker
    from pytinykv.raftstore.turn import Turn
    from pytinykv.storage import Engine

INLINE_SYNC_BYTES_MAX = 64 * 1024
"""Where more than this was written there is company: while the disk thread syncs it, the next turn fills.

(256 puts of 100 bytes that travel together are less: nothing comes before they are answered.)"""
SLOWEST_SYNC_DECAY = 0.95
"""How much of the slowest sync is remembered with each further one: a spike of 10 ms for a dozen syncs."""


class Syncs:
    """Belongs to the store loop, which tells of each turn by `note_written` and then calls `start`."""

    def __init__(
        self,
        engine: Engine,
        disk: Worker,
        clock: Clock,
        *,
        inline_sync_s: float,
        on_done: Callable[[BaseException | None], None],
    ) -> None:
        """Make it for an engine all of whose content is durable.

        `inline_sync_s`: see `RaftStoreConfig`. `on_done` is called on the event loop when a sync has ended: there may be
        something durable to take, or the error is that of the disk.
        """
        self._engine = engine
        self._disk = disk
        self._clock = clock
        self._inline_sync_s = inline_sync_s
        self._on_done = on_done
        self.started = 0
        """Syncs so far; only grows."""
        self.started_inline = 0
        """Those of them that the loop did itself; only grows."""
        self.durations: Final = Histogram()
        """Of all syncs that have ended."""
        self._is_running = False
        """Whether a sync is under way. From `start` to `_finish`."""
        self._started_at = 0.0
        """When the last sync was started, monotonic; read from other threads."""
        self._slowest_s = inline_sync_s
        """The slowest of the recent syncs; older ones count less and less."""
        self._written = 0
        """The newest turn that has written its batch."""
        self._wanted = 0
        """The newest of these for which messages or answers wait until it is durable."""
        self._durable = 0
        """Every turn up to this one is durable."""
        self._taken = 0
        """What of that the owner has been told of; at most `_durable`, which is at most `_written`."""
        self._unsynced_bytes = 0
        """Bytes written since the last sync was started."""

    @property
    def is_pending(self) -> bool:
        """Return whether a sync is under way or wanted."""
        return self._is_running or self._wanted > self._durable

    @property
    def silent_s(self) -> float:
        """Return for how long the sync under way has been, 0.0 when there is none. Callable from any thread."""
        return self._clock.monotonic() - self._started_at if self._is_running else 0.0

    def note_written(self, turn: Turn) -> None:
        """Take note of a turn whose batch is written."""
        self._written = turn.number
        self._unsynced_bytes += turn.written_bytes
        if turn.must_sync:
            self._wanted = turn.number

    def take_durable(self) -> int | None:
        """Return up to which turn everything is durable; None if that is no news."""
        if self._durable == self._taken:
            return None
        self._taken = self._durable
        return self._durable

    def start(self) -> bool:
        """Start a sync if one is wanted and none is under way; return whether it has ended already, without an error.

        `on_done` is called for a sync in the disk thread, and for one that failed.
        """
        if self._is_running or self._wanted <= self._durable:
            return False
        self._started_at = self._clock.monotonic()
        self._is_running = True
        self.started += 1
        is_small, self._unsynced_bytes = self._unsynced_bytes <= INLINE_SYNC_BYTES_MAX, 0
        if not is_small or self._slowest_s >= self._inline_sync_s:
            self._disk.submit(self._engine.sync, partial(self._on_done_in_thread, self._written))
            return False
        self.started_inline += 1
        try:
            self._engine.sync()
        except EngineError as error:
            self._finish(self._written, error)
            self._on_done(error)
            return False
        self._finish(self._written, None)
        return True

    def _on_done_in_thread(self, covered_turn: int, result: BaseException | None) -> None:
        self._finish(covered_turn, result)
        self._on_done(result)

    def _finish(self, covered_turn: int, result: BaseException | None) -> None:
        self._is_running = False
        took_s = self._clock.monotonic() - self._started_at
        self.durations.observe(took_s)
        self._slowest_s = max(took_s, self._slowest_s * SLOWEST_SYNC_DECAY)
        if result is None:
            self._durable = covered_turn
