"""Which stores of a cluster can't hear each other, and the transport and the connector of a store that obey.

A cut loses what one store says to another: Raft messages, snapshots, and calls with their answers (to the detector of
deadlocks, and of the store as a client). Neither is told; connections stay. What stores say to the scheduler, and clients to
stores, is never cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytinykv.wire import RpcError, StatusCode

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.model import StoreId
    from pytinykv.raftstore import RaftEnvelope, SnapshotManifest, Transport
    from pytinykv.wire import BidiStream, Connector


class Cuts:
    """Directions between stores that are cut, by the stores' numbers. Safe in all threads: each step is one of a set's."""

    def __init__(self) -> None:
        self._ways: set[tuple[int, int]] = set()
        """(sender, receiver) of each direction that is cut."""
        self._numbers: dict[int, int] = {}
        """The number of each store by its id, once the store has one."""
        self._at: dict[str, int] = {}
        """The number of each store by the address at which clients, and stores as clients, reach it."""

    def name(self, store_id: int, number: int) -> None:
        """Note which store has which number."""
        self._numbers[store_id] = number

    def place(self, address: str, number: int) -> None:
        """Note where a store is reached."""
        self._at[address] = number

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

    def is_cut_to(self, sender: int, address: str) -> bool:
        """As `is_cut`, of what the store of number `sender` says to whatever is at an address."""
        return bool(self._ways) and (sender, self._at.get(address, 0)) in self._ways

    def is_cut_from(self, address: str, receiver: int) -> bool:
        """As `is_cut`, of what is said at an address to the store of number `receiver`."""
        return bool(self._ways) and (self._at.get(address, 0), receiver) in self._ways


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


class CutConnector:
    """A `wire.Connector` of a store that loses what is cut: requests of this store, and answers to it."""

    def __init__(self, inner: Connector, cuts: Cuts, number: int) -> None:
        self._inner = inner
        self._cuts = cuts
        self._number = number
        self._closed = asyncio.Event()
        """Set by `close`: nothing waits any more for an answer that is lost."""

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        """Make one call; one whose request or answer is lost ends by its timeout. See `wire.Connector`."""
        began = asyncio.get_running_loop().time()
        if not self._cuts.is_cut_to(self._number, address):
            try:
                answer = await self._inner.unary(address, path, request, timeout_s=timeout_s)
            except RpcError:
                if not self._cuts.is_cut_from(address, self._number):
                    raise
            else:
                if not self._cuts.is_cut_from(address, self._number):
                    return answer
        try:
            async with asyncio.timeout_at(began + timeout_s):
                await self._closed.wait()
        except TimeoutError:
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, f"no answer from {address}: the stores are cut off") from None
        raise RpcError(StatusCode.CANCELLED, "the connector was closed")

    def stream(self, address: str, path: str) -> BidiStream:
        """Open a stream; messages of either side are lost while that way is cut. See `wire.Connector`."""
        cuts, number = self._cuts, self._number
        return _CutStream(
            self._inner.stream(address, path),
            lambda: cuts.is_cut_to(number, address),
            lambda: cuts.is_cut_from(address, number),
        )

    async def close(self) -> None:
        """Close all connections; see `wire.Connector`."""
        self._closed.set()
        await self._inner.close()


class _CutStream:
    """A `wire.BidiStream` of `CutConnector`."""

    def __init__(
        self, inner: BidiStream, loses_requests: Callable[[], bool], loses_answers: Callable[[], bool]
    ) -> None:
        self._inner = inner
        self._loses_requests = loses_requests
        self._loses_answers = loses_answers

    def send_nowait(self, message: Message | bytes) -> None:
        if not self._loses_requests():
            self._inner.send_nowait(message)

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        return self._inner.is_drained(otherwise)

    async def receive(self) -> Message:
        while True:
            message = await self._inner.receive()
            if not self._loses_answers():
                return message

    def close(self) -> None:
        self._inner.close()
