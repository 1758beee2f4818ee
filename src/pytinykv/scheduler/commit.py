"""The committer: commands become durable first and visible afterwards.

    execute(command) -> queue -> round: transition over all queued commands -> one write -> one sync -> install, answer

One round is under way at a time; what comes in meanwhile forms the next. So however many requests wait, the disk is
synced once for all of them, and no reader sees a state that a crash could take back.

Invariants:
 1. `state` is durable: it changes only after the sync of the round that produced it.
 2. Every future handed out is resolved: by its round, by a failure of the disk, or by `stop`.
 3. After a disk failure nothing is accepted any more: what is on disk is then unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from pytinykv.lifecycle import Worker
from pytinykv.model import encode
from pytinykv.scheduler.cluster_view import RegionChange
from pytinykv.scheduler.commands import StateCommand
from pytinykv.scheduler.errors import SchedulerStopped
from pytinykv.scheduler.state import State, Transition, region_key, transition
from pytinykv.storage import ColumnFamily, Engine

_log = logging.getLogger(__name__)


class Committer:
    """Turns commands into durable state. `on_installed` is called after every change, `on_failure` once on disk failure."""

    def __init__(
        self,
        engine: Engine,
        worker: Worker,
        state: State,
        *,
        on_installed: Callable[[State], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._state = state
        """The durable state; a round replaces it once it is synced."""
        self._on_installed = on_installed
        self._on_failure = on_failure
        self._queue: list[tuple[StateCommand, asyncio.Future[Any]]] = []
        """Commands for the next round, with the futures of their callers."""
        self._round: list[asyncio.Future[Any]] = []
        """Futures of the round under way."""
        self._is_syncing = False
        """Whether a round is under way; the next one starts when it is over."""
        self._ended: SchedulerStopped | None = None
        """Why nothing is accepted any more: `stop`, or a failure of the disk. Set once."""

    @property
    def state(self) -> State:
        """The durable state."""
        return self._state

    def submit(self, command: StateCommand) -> asyncio.Future[Any]:
        """Queue a command; the future gives its outcome, or the Refusal that refused it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._ended is not None:
            future.set_exception(self._ended)
            return future
        self._queue.append((command, future))
        self._maybe_start_round()
        return future

    async def execute(self, command: StateCommand) -> Any:
        """Queue a command and wait for its outcome. Raises Refusal. The disk bounds the wait, and `stop` ends it."""
        return await self.submit(command)

    def execute_blocking(self, command: StateCommand) -> None:
        """Make a command durable on the spot, before the event loop has anything to do. Raises EngineError."""
        step = transition(self._state, command)
        self._write(step.writes)
        self._engine.sync()
        self._state = step.state

    def remember_regions(self, change: RegionChange) -> None:
        """Write region metas without a sync of their own: a crash may lose the newest, heartbeats bring them back."""
        if self._ended is not None or (change.put is None and not change.removed):
            return
        batch = self._engine.write_batch()
        for meta in change.removed:
            batch.delete(ColumnFamily.DEFAULT, region_key(meta.id))
        if change.put is not None:
            batch.put(ColumnFamily.DEFAULT, region_key(change.put.id), encode(change.put))
        try:
            self._engine.write(batch)
        except Exception as error:  # noqa: BLE001  any failure of the engine ends the scheduler
            self._fail(error)

    def stop(self) -> None:
        """Refuse new commands and fail those that wait. A round under way may or may not have become durable."""
        self._end(SchedulerStopped())

    def _maybe_start_round(self) -> None:
        if self._is_syncing or not self._queue or self._ended is not None:
            return
        commands, self._queue = self._queue, []
        state, answers, writes = self._fold(commands)
        self._round = [future for future, _ in answers]
        self._is_syncing = True
        if not writes:
            self._finish_round(state, answers)
            return
        try:
            self._write(writes)
        except Exception as error:  # noqa: BLE001  any failure of the engine ends the scheduler
            self._fail(error)
            return
        self._worker.submit(self._engine.sync, lambda result: self._on_synced(result, state, answers))

    def _write(self, writes: Iterable[tuple[bytes, bytes]]) -> None:
        batch = self._engine.write_batch()
        for key, value in writes:
            batch.put(ColumnFamily.DEFAULT, key, value)
        self._engine.write(batch)

    def _fold(
        self, commands: list[tuple[StateCommand, asyncio.Future[Any]]]
    ) -> tuple[State, list[tuple[asyncio.Future[Any], Any]], list[tuple[bytes, bytes]]]:
        state = self._state
        answers: list[tuple[asyncio.Future[Any], Any]] = []
        writes: list[tuple[bytes, bytes]] = []
        for command, future in commands:
            try:
                step: Transition = transition(state, command)
            except Exception as error:  # noqa: BLE001  a refusal, or a bug: either way this caller's alone, nothing changed
                answers.append((future, error))
                continue
            state = step.state
            writes.extend(step.writes)
            answers.append((future, step.outcome))
        return state, answers, writes

    def _on_synced(self, result: object, state: State, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
        if isinstance(result, BaseException):
            self._fail(result)
        else:
            self._finish_round(state, answers)

    def _finish_round(self, state: State, answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
        self._is_syncing = False
        self._round = []
        if self._ended is not None:
            return
        if state is not self._state:
            self._state = state
            self._on_installed(state)
        for future, answer in answers:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._maybe_start_round()

    def _fail(self, error: BaseException) -> None:
        self._is_syncing = False
        if self._ended is not None:
            return
        _log.critical("scheduler state can't be made durable, the scheduler ends: %s", error)
        self._end(SchedulerStopped(f"scheduler can't make its state durable: {error}"))
        self._on_failure(error)

    def _end(self, reason: SchedulerStopped) -> None:
        if self._ended is not None:
            return
        self._ended = reason
        waiting = [*self._round, *(future for _, future in self._queue)]
        self._round, self._queue = [], []
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
                # A caller that was cancelled never retrieves it, which asyncio would report.
                future.exception()
