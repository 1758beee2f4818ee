"""What one turn of the store loop gathers from all regions before anything of it becomes visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.raftstore.records import RaftEnvelope, StoreId
    from pytinykv.storage import Engine


class Turn:
    """One turn: a batch for the engine, and what may be said only once the batch is written.

    Everything a region wants written goes into `batch`, so that its log, its state and its data change together.
    """

    __slots__ = ("answers", "batch", "engine", "must_sync", "now", "number", "outgoing")

    def __init__(self, engine: Engine, now: float, number: int) -> None:
        self.engine = engine
        self.batch = engine.write_batch()
        self.now = now
        self.number = number
        self.must_sync = False
        """Whether something in the batch must become durable before somebody is told of it."""
        self.outgoing: dict[StoreId, list[RaftEnvelope]] = {}
        self.answers: list[Callable[[], None]] = []

    def send(self, envelope: RaftEnvelope) -> None:
        store_id = envelope.receiver.store_id
        waiting = self.outgoing.get(store_id)
        if waiting is None:
            self.outgoing[store_id] = [envelope]
        else:
            waiting.append(envelope)

    def write(self) -> None:
        """Make visible what the batch holds so far. Only between two entries: never half of what belongs together."""
        if len(self.batch):
            self.engine.write(self.batch)
            self.batch = self.engine.write_batch()
