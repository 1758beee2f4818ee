"""Callers that wait for a peer to lead, where that is about to show: bounded in bytes for the whole store.

A split is applied, and clients are told of the new regions, a round trip or two before those have leaders; and a leader that
hands over names the peer that campaigns. A caller that comes in between would be refused without being told where to
go; it waits here instead, and is then served as if it came now. How long it waits, and its answer, are `PeerCalls`' part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.pending import OnReady
    from pytinykv.wire.errors import RegionError


class LeadershipWaits:
    """Belongs to the store loop."""

    def __init__(self, bytes_max: int, refusal: Callable[[], RegionError | None]) -> None:
        """`bytes_max`: what all callers together hold; `refusal` says why no caller may wait any more, or None."""
        self._bytes_max = bytes_max
        self._refusal = refusal
        self.held_bytes = 0
        """What is held for those that wait, as they have said; at most `bytes_max`."""

    def wait(self, peer: RegionPeer, size_bytes: int, on_ready: OnReady) -> None:
        """Call `on_ready(error)` once: with None when the peer leads, as it is expected to, or with a refusal, maybe now.

        `size_bytes`: what the caller holds meanwhile. Whatever it wanted was not begun.
        """
        error = self._refusal()
        if error is None and not (peer.calls.expects_leadership and self.held_bytes + size_bytes <= self._bytes_max):
            error = peer.not_leader()
        if error is not None:
            on_ready(error)
            return
        self.held_bytes += size_bytes

        def on_end(error: RegionError | None) -> None:
            self.held_bytes -= size_bytes
            on_ready(error)

        peer.calls.await_leadership(on_end)
