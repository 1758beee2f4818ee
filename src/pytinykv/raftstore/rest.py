"""What is noted of one peer's rest: whether it hibernates, and how it comes to that; see `activity`, which moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytinykv.raft import PeerId


class Rest:
    """What is noted of one peer's rest; part of the peer, moved by `Activity`."""

    __slots__ = ("agreed", "is_asleep", "is_read", "quiet_ticks", "round", "seen", "slept_at")

    def __init__(self) -> None:
        self.is_asleep = False
        """Whether the peer is not ticked."""
        self.is_read = False
        """Whether a read has come since the last tick; set by the code that serves it."""
        self.seen: tuple[object, ...] = ()
        """Where the peer stood at its last tick."""
        self.quiet_ticks = 0
        """For how many ticks it has stood there."""
        self.round = 0
        """Number of the last request to sleep that it sent as a leader; only grows."""
        self.agreed: set[PeerId] = set()
        """Who has consented to that one."""
        self.slept_at = 0
        """At which of `Activity`'s ticks it fell asleep."""
