"""What one turn of the store loop gathers from all regions before anything of it becomes visible."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pytinykv.wire.errors import RegionError, UndeterminedResult

if TYPE_CHECKING:
    from pathlib import Path

    from pytinykv.model import StoreId
    from pytinykv.raftstore.pending import OnDone, OnReady, Results
    from pytinykv.raftstore.records import RaftEnvelope
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.storage import Engine, WriteBatch

_log = logging.getLogger(__name__)

OPERATION_COST: Final = 1024
"""What proposing or applying an operation costs beside its bytes, in bytes. By bytes alone a turn of tiny ones would have
hundreds of thousands of them, and take seconds."""


class Turn:
    """One turn: a batch for the engine, and what may be said only once the batch is written.

    Everything a region wants written goes into `batch`, so that its log, its state and its data change together.

    Every caller is answered: by `deliver` when the turn went well, by `break_off` when it did not.
    """

    __slots__ = (
        "_batch",
        "_bytes_left",
        "_bytes_max",
        "_done",
        "_ready",
        "_region_bytes_left",
        "_region_bytes_max",
        "engine",
        "events",
        "must_sync",
        "now",
        "number",
        "outgoing",
        "readys",
        "snapshots_to_send",
        "used_snapshots",
        "written_bytes",
    )

    def __init__(
        self, engine: Engine, now: float, number: int, bytes_max: int, region_bytes_max: int | None = None
    ) -> None:
        """`region_bytes_max`: what is done for one of several regions; as much as for all unless it is given."""
        self.engine = engine
        self._batch: WriteBatch | None = None
        """What is to be written next; None while there is nothing."""
        self.now = now
        """Monotonic time of its beginning, for everything in it."""
        self.number = number
        self.must_sync = False
        """Whether something in the batch must become durable before another process is told of it."""
        self.readys = 0
        """How many Readys of regions it has carried out."""
        self.written_bytes = 0
        """Size of the batches that `write` has written."""
        self._bytes_left = bytes_max
        """How much more of messages, commands and applied entries the turn should take; falls below 0 with large ones."""
        self._bytes_max = bytes_max
        self._region_bytes_max = bytes_max if region_bytes_max is None else region_bytes_max
        self._region_bytes_left = bytes_max
        """How much more of that for the region under way, of the share that `begin_region` gave it."""
        self.outgoing: dict[StoreId, list[RaftEnvelope]] = {}
        """Messages by the store they go to, sent once the batch is written."""
        self.events: list[RegionEvent] = []
        """What became of regions, told once the batch is written."""
        self.snapshots_to_send: list[RaftEnvelope] = []
        """Snapshot messages, whose files the store sends with them."""
        self.used_snapshots: list[Path] = []
        """Received snapshots that are needed no longer once the batch is durable."""
        self._done: list[tuple[OnDone, RegionError | None, Results]] = []
        """Answers to commands, given by `deliver`."""
        self._ready: list[tuple[OnReady, RegionError | None]] = []
        """Answers to reads, given by `deliver` after those."""

    @property
    def batch(self) -> WriteBatch:
        """The batch under way; made when first asked for, since many turns write nothing."""
        if self._batch is None:
            self._batch = self.engine.write_batch()
        return self._batch

    def answer(self, on_done: OnDone, error: RegionError | None, results: Results = None) -> None:
        """Answer a command once the batch is written."""
        self._done.append((on_done, error, results))

    def answer_read(self, on_ready: OnReady, error: RegionError | None) -> None:
        """Let a read look once the batch is written, or refuse it."""
        self._ready.append((on_ready, error))

    def deliver(self) -> None:
        """Give all answers."""
        done, self._done = self._done, []
        ready, self._ready = self._ready, []
        for on_done, error, results in done:
            try:
                on_done(error, results)
            except Exception:  # noqa: BLE001 - one caller's trouble must not keep the others from their answers
                _log.exception("an answer could not be delivered")
        for on_ready, error in ready:
            try:
                on_ready(error)
            except Exception:  # noqa: BLE001 - one caller's trouble must not keep the others from their answers
                _log.exception("an answer could not be delivered")

    def break_off(self, refusal: RegionError) -> None:
        """Answer every caller although the batch may not have been written: nothing succeeded for sure."""
        unsure = UndeterminedResult(message=f"the command's fate is unknown: {refusal}")
        self._done = [(on_done, error or unsure, None) for on_done, error, _results in self._done]
        self._ready = [(on_ready, error or refusal) for on_ready, error in self._ready]
        self.deliver()

    def take(self, size_bytes: int, operations: int = 0) -> None:
        """Note that the turn does work on so many bytes, and on so many operations."""
        cost = size_bytes + operations * OPERATION_COST
        self._bytes_left -= cost
        self._region_bytes_left -= cost

    @property
    def is_full(self) -> bool:
        """Return whether what else there is should wait for the next turn, so that others get the event loop in between."""
        return self._bytes_left <= 0

    def share(self, regions: int) -> int:
        """Return how much to do for each of so many regions that have work, before the turn goes on with the next one."""
        return self._bytes_max if regions == 1 else self._region_bytes_max

    def begin_region(self, bytes_max: int) -> None:
        """Go on with another region, for which the turn should do no more than this."""
        self._region_bytes_left = bytes_max

    @property
    def is_region_done(self) -> bool:
        """Return whether what else the region under way has to do should wait for the next turn."""
        return self._bytes_left <= 0 or self._region_bytes_left <= 0

    def send(self, envelope: RaftEnvelope) -> None:
        store_id = envelope.receiver.store_id
        waiting = self.outgoing.get(store_id)
        if waiting is None:
            self.outgoing[store_id] = [envelope]
        else:
            waiting.append(envelope)

    def write(self) -> None:
        """Make visible what the batch holds so far. Only between two entries: never half of what belongs together."""
        batch, self._batch = self._batch, None
        if batch is not None and len(batch):
            self.written_bytes += batch.size_bytes
            self.engine.write(batch)
