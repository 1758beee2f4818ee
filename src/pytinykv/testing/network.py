"""Which stores of a cluster in this process can't hear each other, and the transport that obeys.

A cut loses what one store says to another: Raft messages and snapshots. Neither is told; connections stay. What stores say
to the scheduler, and clients to stores, is never cut.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytinykv.model import StoreId
    from pytinykv.raftstore import RaftEnvelope, SnapshotManifest, Transport


class Cuts:
    """Directions between stores that are cut, by the stores' numbers. Safe in all threads: each step is one of a set's."""

    def __init__(self) -> None:
        self._ways: set[tuple[int, int]] = set()
        """(sender, receiver) of each direction that is cut."""
        self._numbers: dict[int, int] = {}
        """The number of each store by its id, once the store has one."""

    def name(self, store_id: int, number: int) -> None:
        """Note which store has which number."""
        self._numbers[store_id] = number

    def cut(self, sender: int, receiver: int) -> None:
        """Lose, from now on, what one store says to the other."""
        self._ways.add((sender, receiver))

    def heal(self, *numbers: int) -> None:
        """Let everything through again, or everything between two stores."""
        self._ways = {way for way in self._ways if numbers and set(way) != set(numbers)}

    def is_cut(self, sender: int, store_id: int) -> bool:
        """Whether what the store of number `sender` says to the store with that id is lost."""
        return bool(self._ways) and (sender, self._numbers.get(store_id, 0)) in self._ways

    def is_cut_between(self, sender_id: int, receiver: int) -> bool:
        """As `is_cut`, of what the store with that id says to the store of number `receiver`."""
        return bool(self._ways) and (self._numbers.get(sender_id, 0), receiver) in self._ways


class CutTransport:
    """A `raftstore.Transport` that loses what is cut, and everything once its store was killed."""

    def __init__(self, inner: Transport, cuts: Cuts, number: int) -> None:
        self._inner = inner
        self._cuts = cuts
        self._number = number
        self.is_dead = False
        """Set when the store is killed: nothing that its last turn has to say may leave."""

    def send(self, store_id: StoreId, envelopes: list[RaftEnvelope]) -> None:
        if not self._loses(store_id):
            self._inner.send(store_id, envelopes)

    def send_snapshot(
        self, envelope: RaftEnvelope, manifest: SnapshotManifest, directory: Path, on_done: Callable[[bool], None]
    ) -> None:
        if self._loses(envelope.receiver.store_id):
            on_done(False)  # noqa: FBT003 - the protocol's
        else:
            self._inner.send_snapshot(envelope, manifest, directory, on_done)

    def _loses(self, store_id: int) -> bool:
        return self.is_dead or self._cuts.is_cut(self._number, store_id)
