"""Ids and timestamps for callers: both come from windows that are durable before anything from them is given.

    allocate_ids         ──► ids.IdAllocator     ──low──► ReserveIds        ──┐
    allocate_timestamps  ──► tso.TimestampOracle ──low──► ReserveTimestamps ──┴──► commit.Committer ──► on_installed

The next window is reserved when half of the present one is used, so a caller waits for the disk only in a burst.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pytinykv.lifecycle import Clock
from pytinykv.model import PeerId
from pytinykv.scheduler.commands import ReleaseTimestamps, ReserveIds, ReserveTimestamps
from pytinykv.scheduler.commit import Committer
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.errors import InvalidInput, TimestampUnavailable
from pytinykv.scheduler.ids import IdAllocator
from pytinykv.scheduler.state import ID_MAX, State
from pytinykv.scheduler.tso import LOGICAL_COUNT, Issued, TimestampOracle, WaitForTime, WaitForWindow

_log = logging.getLogger(__name__)

IDS_SKIPPED = 1 << 20
"""How many ids are left out above one that was never given out by this scheduler's data."""
ID_COUNT_MAX = 1 << 20
"""How many ids one request may ask for."""


class Allocators:
    """The two allocators of one scheduler, each with its window."""

    def __init__(
        self, committer: Committer, clock: Clock, config: SchedulerConfig, check_running: Callable[[], None]
    ) -> None:
        """`check_running` raises SchedulerStopped once the scheduler stops: unused timestamps are released then."""
        meta = committer.state.meta
        self._committer = committer
        self._clock = clock
        self._config = config
        self._check_running = check_running
        self._ids = IdAllocator(meta.id_end, config.id_window)
        self._oracle = TimestampOracle(
            meta.tso_end_ms, window_ms=config.tso_window_ms, ahead_max_ms=config.tso_ahead_max_ms
        )
        self._reservations: dict[type[ReserveIds | ReserveTimestamps], asyncio.Future[Any]] = {}
        """The last reservation of each kind; the next one is submitted when it is done."""

    @property
    def timestamps_issued(self) -> int:
        """How many timestamps were handed out since the start."""
        return self._oracle.issued

    def on_installed(self, state: State) -> None:
        """Take note of what has become durable."""
        meta = state.meta
        self._ids.on_reserved(meta.id_end)
        self._ids.skip_past(max(meta.first_store, meta.first_region, meta.first_peer, *state.stores, 0))
        self._oracle.on_reserved(meta.tso_end_ms)

    def note_used(self, largest: int) -> None:
        """Note an id that is in use in the cluster: none up to it is handed out.

        One that was never reserved here shows that the scheduler's data is older than the cluster (a restored backup). Ids
        may have been given out meanwhile that no report has shown yet, so many more are skipped.
        """
        if largest < self._ids.end or largest > ID_MAX:
            return
        _log.warning(
            "id %d is in use, but ids from %d on were never given out: this data is older than the cluster (a restored"
            " backup?); ids go on far above",
            largest,
            self._ids.end,
        )
        self._ids.skip_past(largest + IDS_SKIPPED)
        self._reserve(ReserveIds(self._ids.reservation()))

    def release_timestamps(self) -> asyncio.Future[Any]:
        """Shrink the window of timestamps to what was issued. For a stop: none may be allocated afterwards."""
        return self._submit(ReleaseTimestamps(self._oracle.unused_end_ms, self._oracle.end_ms))

    async def allocate_ids(self, count: int = 1) -> int:
        """Return the first of `count` consecutive ids that were never given before. Raises InvalidInput, SchedulerStopped."""
        if not 1 <= count <= ID_COUNT_MAX:
            raise InvalidInput(f"can't allocate {count} ids at once: 1 to {ID_COUNT_MAX}")
        while True:
            self._check_running()
            first = self._ids.allocate_nowait(count)
            self.keep_ids_ready()
            if first is not None:
                return first
            await self._committer.execute(ReserveIds(self._ids.reservation(count)))

    def allocate_peer_id_nowait(self) -> PeerId | None:
        """Return the id for a new peer, or None while the next window is being reserved."""
        first = self._ids.allocate_nowait()
        return None if first is None else PeerId(first)

    def keep_ids_ready(self) -> None:
        """Reserve ids ahead of need: decisions are synchronous and can't wait for the disk."""
        if self._ids.is_low:
            self._reserve(ReserveIds(self._ids.reservation()))

    async def allocate_timestamps(self, count: int = 1) -> Issued:
        """Issue `count` consecutive timestamps, greater than all before.

        Raises InvalidInput, TimestampUnavailable, SchedulerStopped.
        """
        if not 1 <= count <= LOGICAL_COUNT:
            raise InvalidInput(f"tso count should be positive and at most {LOGICAL_COUNT}, not {count}")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.tso_wait_max_s
        while True:
            self._check_running()
            attempt = self._oracle.allocate(count, wall_ms=self._clock.wall_ms(), monotonic=self._clock.monotonic())
            if isinstance(attempt, Issued):
                ahead = self._oracle.wants_window()
                if ahead is not None:
                    self._reserve(ReserveTimestamps(ahead))
                return attempt
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise TimestampUnavailable(
                    f"no timestamp within {self._config.tso_wait_max_s} s: the clock or the disk does not go on"
                )
            await self._wait_for_timestamps(attempt, left_s)

    async def _wait_for_timestamps(self, attempt: WaitForTime | WaitForWindow, left_s: float) -> None:
        match attempt:
            case WaitForTime(seconds):
                await asyncio.sleep(min(seconds, left_s))
            case WaitForWindow(end_ms):
                await asyncio.wait((self._reserve(ReserveTimestamps(end_ms)),), timeout=left_s)

    def _reserve(self, command: ReserveIds | ReserveTimestamps) -> asyncio.Future[Any]:
        """Submit a reservation unless one of its kind is under way; return the one that is."""
        kind = type(command)
        under_way = self._reservations.get(kind)
        if under_way is None or under_way.done():
            under_way = self._reservations[kind] = self._submit(command)
        return under_way

    def _submit(self, command: ReserveIds | ReserveTimestamps | ReleaseTimestamps) -> asyncio.Future[Any]:
        future = self._committer.submit(command)
        future.add_done_callback(_retrieve)
        return future


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the error of a reservation that no caller awaits: it is in the log, and the next caller tries again."""
    if not future.cancelled():
        future.exception()
