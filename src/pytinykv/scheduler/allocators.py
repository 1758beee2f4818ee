"""Ids and timestamps for who asks: given out from windows that are durable before anything of them is given.

    allocate_ids         ──► ids.IdAllocator   ──window low──► ReserveIds   ──┐
    allocate_timestamps  ──► tso.TimestampOracle ────────────► SetTsoWindow ──┴──► commit.Committer ──► on_installed

The window that is needed next is reserved before it is; who comes too late for that waits for the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pytinykv.lifecycle import Clock
from pytinykv.model import PeerId
from pytinykv.scheduler.commands import ReserveIds, SetTsoWindow
from pytinykv.scheduler.commit import Committer
from pytinykv.scheduler.config import SchedulerConfig
from pytinykv.scheduler.errors import InvalidInput, TimestampUnavailable
from pytinykv.scheduler.ids import IdAllocator
from pytinykv.scheduler.state import State
from pytinykv.scheduler.tso import LOGICAL_COUNT, Issued, TimestampOracle, WaitForTime, WaitForWindow

ID_COUNT_MAX = 1 << 20
"""How many ids one request may ask for."""


class Windows:
    """Both windows of one scheduler."""

    def __init__(
        self, committer: Committer, clock: Clock, config: SchedulerConfig, check_running: Callable[[], None]
    ) -> None:
        """`check_running` raises SchedulerStopped once the rest of the windows is, or is about to be, given back."""
        meta = committer.state.meta
        self._committer = committer
        self._clock = clock
        self._config = config
        self._check_running = check_running
        self._ids = IdAllocator(meta.id_end, config.id_window)
        self._oracle = TimestampOracle(
            meta.tso_end_ms, window_ms=config.tso_window_ms, ahead_max_ms=config.tso_ahead_max_ms
        )
        self._reservations: dict[type[ReserveIds | SetTsoWindow], asyncio.Future[Any]] = {}
        """Growth of a window that is under way, one of each kind at most."""

    def on_installed(self, state: State) -> None:
        """Take note of what has become durable."""
        meta = state.meta
        self._ids.on_reserved(meta.id_end)
        self._ids.skip_past(max(meta.first_store, meta.first_region, meta.first_peer, *state.stores, 0))
        self._oracle.on_reserved(meta.tso_end_ms)

    def give_back(self) -> asyncio.Future[Any]:
        """Shrink the timestamps' window to what was issued, at a stop in good order."""
        return self._submit(SetTsoWindow(self._oracle.unused_end_ms))

    async def allocate_ids(self, count: int = 1) -> int:
        """Return the first of `count` consecutive ids that nobody ever had. Raises InvalidInput, SchedulerStopped."""
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
        """Return the id for a new peer, or None when none is at hand."""
        first = self._ids.allocate_nowait()
        return None if first is None else PeerId(first)

    def keep_ids_ready(self) -> None:
        """Reserve ids ahead of need: decisions can't wait for the disk, and go without a new peer's id until later."""
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
                    self._reserve(SetTsoWindow(ahead))
                return attempt
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise TimestampUnavailable(
                    f"no timestamp within {self._config.tso_wait_max_s} s: clock or disk stands still"
                )
            await self._wait_for_timestamps(attempt, left_s)

    async def _wait_for_timestamps(self, attempt: WaitForTime | WaitForWindow, left_s: float) -> None:
        match attempt:
            case WaitForTime(seconds):
                await asyncio.sleep(min(seconds, left_s))
            case WaitForWindow(end_ms):
                await asyncio.wait((self._reserve(SetTsoWindow(end_ms)),), timeout=left_s)

    def _reserve(self, command: ReserveIds | SetTsoWindow) -> asyncio.Future[Any]:
        """Grow a window unless its growth is under way already."""
        kind = type(command)
        under_way = self._reservations.get(kind)
        if under_way is None or under_way.done():
            under_way = self._reservations[kind] = self._submit(command)
        return under_way

    def _submit(self, command: ReserveIds | SetTsoWindow) -> asyncio.Future[Any]:
        future = self._committer.submit(command)
        future.add_done_callback(_retrieve)
        return future


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at a background reservation's failure: it is in the log already, and whoever needs the window tries again."""
    if not future.cancelled():
        future.exception()
