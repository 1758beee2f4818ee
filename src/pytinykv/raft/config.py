"""Configuration of one Raft peer."""

from __future__ import annotations

import msgspec

from pytinykv.raft.messages import NO_PEER, LogIndex, PeerId


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `RawNode`; every field says what it changes."""

    peer_id: PeerId
    """This peer's id in its group; unique, never used again once removed."""

    election_ticks: int = 10
    """A follower that hears nothing for this many ticks up to twice as many (drawn anew each time) campaigns."""

    heartbeat_ticks: int = 2
    """A leader sends heartbeats this often."""

    pre_vote: bool = True
    """Ask for a majority's consent before disturbing the group with a new term (thesis 9.6)."""

    check_quorum: bool = True
    """A leader that hears from no majority for `election_ticks` steps down, and a peer that hears a leader ignores vote
    requests (thesis 6.2 and 4.2.3). Leases need it."""

    lease_s: float = 0.0
    """How long a leader may serve reads after the send time of a message that a majority answered; 0 means no leases. Keep
    `lease_s` × (1 + `clock_drift_max`) below `election_ticks` ticks: for so long a follower elects no other leader."""

    clock_drift_max: float = 0.1
    """By which fraction the rates of two peers' clocks may differ. A peer whose clock breaks it may break lease reads."""

    fresh: bool = False
    """The group is being created right now (bootstrap, split), so no leader that this peer has forgotten can hold a lease,
    and it may vote at once. False for a peer that restarts: for one election timeout it neither campaigns nor votes."""

    inflight_max: int = 256
    """How many append messages to one follower may be unanswered."""

    inflight_bytes_max: int = 8 << 20
    """Entries' bytes in them; one message is always sent. Bounds what a turn reads and sends for a follower that was away."""

    append_bytes_max: int = 1 << 20
    """Entries' bytes in one append message; a larger entry travels alone."""

    uncommitted_bytes_max: int = 64 << 20
    """A leader refuses proposals while more than this waits for a majority; one proposal is always taken."""

    committed_bytes_max: int = 8 << 20
    """Entries' bytes that one Ready hands out for applying; a larger entry comes alone."""

    announce_commit: bool = True
    """Send a message of its own when the commit index moves and no entries are due. Otherwise followers learn it from the
    next entries or the next heartbeat: they apply a little later, and a group that commits one entry at a time sends and
    handles a third fewer messages. The commit of an admin entry or of a term's no-op is announced always."""

    snapshot_ticks_max: int = 600
    """A leader that learns for so long neither that a snapshot arrived nor that it got lost tries again."""

    applied: LogIndex = LogIndex(0)
    """Where applying goes on after a restart; below the first index of the log means: where the log begins."""

    @property
    def stickiness_s(self) -> float:
        """How long, on its own clock, a peer that heard a leader elects no other; longer than the lease by the drift."""
        return self.lease_s * (1.0 + self.clock_drift_max)

    def validate(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: names the field and what it has to satisfy.
        """
        if self.peer_id == NO_PEER:
            raise ValueError("peer_id must not be 0")
        if self.heartbeat_ticks < 1:
            raise ValueError("heartbeat_ticks must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ValueError("election_ticks must be greater than heartbeat_ticks")
        if self.inflight_max < 1:
            raise ValueError("inflight_max must be at least 1")
        if self.lease_s < 0 or self.clock_drift_max < 0:
            raise ValueError("lease_s and clock_drift_max must not be negative")
        if self.lease_s > 0 and not self.check_quorum:
            raise ValueError("lease_s needs check_quorum: without it followers may elect another leader at any time")
        if self.inflight_bytes_max < 1:
            raise ValueError("inflight_bytes_max must be at least 1")
        for name in ("append_bytes_max", "uncommitted_bytes_max", "committed_bytes_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
