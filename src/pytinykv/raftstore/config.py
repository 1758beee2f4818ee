"""Settings of a store's raftstore."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pytinykv.raft import Config, LogIndex, PeerId
from pytinykv.wire.limits import ENTRY_BYTES_MAX

MIB = 1024 * 1024

_MAY_BE_ZERO = frozenset(
    {
        "clock_drift_max",
        "lease_reads",
        "log_keep_entries",
        "expiry_pairs_per_s",
        "expiry_pause_s",
        "inline_sync_s",
        "hibernate_after_s",
    }
)


@dataclass(frozen=True)
class RaftStoreConfig:
    """How a store drives its regions. Durations in seconds, sizes in bytes."""

    tick_s: float = 0.1
    """Length of a Raft tick; one timer drives all regions."""

    election_ticks: int = 10
    """A follower that hears nothing for this many ticks (up to twice as many, at random) starts an election."""

    heartbeat_ticks: int = 2
    """A leader speaks to its followers at least this often."""

    clock_drift_max: float = 0.05
    """By which fraction the clocks of two stores may differ in rate; shortens the lease."""

    lease_reads: bool = True
    """Serve reads under the leader's lease; otherwise each batch of reads asks a quorum first."""

    append_bytes_max: int = 1 * MIB
    """Largest sum of entries in one append message, and the size at which a turn's commands go into a new entry."""

    read_slice_bytes: int = 1 * MIB
    """What reads may look at before others are served, each row counting 2 KiB more; a single row may be larger."""

    entry_bytes_max: int = ENTRY_BYTES_MAX
    """Largest command; a larger one is refused (raft_entry_too_large)."""

    inflight_appends_max: int = 64
    """How many appends a leader sends to a follower ahead of its answers."""

    turn_bytes_max: int = 4 * MIB
    """Once a turn has taken so many bytes of messages, commands and entries to apply, the rest waits for the next one. Each
    operation counts 1 KiB more (`turn.OPERATION_COST`)."""

    entry_operations_max: int = 2048
    """How many operations go into one entry. A single command may have more; the server splits those that do."""

    region_turn_bytes_max: int = 1 * MIB
    """… and so many for one region while others have work, too, or one that is busy would hold up the others."""

    apply_bytes_max: int = 128 * 1024
    """Entries that are applied at a time, or a single larger one; a turn that is full goes no further. Small, as it is not
    known before how many operations they have: of tiny ones some 10,000."""

    uncommitted_bytes_max: int = 64 * MIB
    """Commands a region may hold that are not committed yet; further ones are refused (server_is_busy)."""

    queued_bytes_max: int = 32 * MIB
    """Commands a store may hold that are not even proposed yet; further ones are refused (server_is_busy). As much again may
    wait for new regions to have leaders; what exceeds that is refused (not_leader)."""

    log_keep_entries: int = 64
    """How many applied entries stay in the log at least, so that a follower slightly behind needs no snapshot."""

    log_gc_bytes: int = 8 * MIB
    """A leader cuts its region's log once it holds more than this and all followers have what is cut."""

    log_gc_bytes_force: int = 64 * MIB
    """From here on the log is cut even if a silent follower still needs it; that follower gets a snapshot. At four times as
    much it is cut even if followers that answer need it."""

    log_cache_bytes: int = 4 * MIB
    """Newest entries of a region kept in memory; older ones are read from the engine."""

    log_budget_bytes: int = 256 * MIB
    """When the logs of all regions here take more, the longest are cut, as far as no follower that answers needs them."""

    log_cache_budget_bytes: int = 48 * MIB
    """Entries of all regions that are kept in memory."""

    inline_sync_s: float = 0.005
    """While recent syncs took less than this, the loop itself syncs a turn that wrote little: waking the disk thread and
    being woken costs more than such a sync. 0: always the disk thread."""

    disk_silence_s: float = 2.0
    """A store that has waited this long for a sync says so (`/healthz`), and hands over the leaderships that it has."""

    snapshots_max: int = 2
    """Snapshots made or received at the same time."""

    snapshot_keep_s: float = 60.0
    """How long a finished snapshot waits for the followers that want it."""

    expiry_pairs_per_s: int = 2000
    """How many raw pairs a store looks at in search of expired ones, at most; 0: expired values stay on disk for ever."""

    expiry_pause_s: float = 30.0
    """How long the search rests after it has been through all regions led here; also before the first."""

    region_max_bytes: int = 144 * MIB
    """A region that is larger is split; as the engine estimates its size, compressed."""

    region_split_bytes: int = 96 * MIB
    """Largest part into which it is split, about; not above `region_max_bytes`."""

    region_heartbeat_s: float = 5.0
    """How often a leader reports its region to the scheduler; changes are reported at once."""

    store_heartbeat_s: float = 1.0
    """How often the store reports itself to the scheduler."""

    undetermined_after_s: float = 10.0
    """When a leader that lost its leadership answers that it can't say what became of a command."""

    peer_down_s: float = 3.0
    """A leader reports a follower that it has not heard of for this long."""

    promotion_silence_s: float = 0.5
    """A learner that its leader has not heard of for this long is not promoted; a few heartbeats."""

    hibernate_after_s: float = 3.0
    """A region in which nothing happens for so long hibernates, up to an election timeout later (`activity`); 0: never."""

    sleep_check_s: float = 30.0
    """A hibernating follower asks this often whether it is still led."""

    hibernating_heartbeat_s: float = 60.0
    """How often a leader reports a region that hibernates."""

    leader_missing_s: float = 30.0
    """A peer without a leader for this long asks the scheduler whether it is still a member."""

    @property
    def lease_s(self) -> float:
        """Return how long a quorum's answer lets a leader read alone.

        A follower that answered elects no other peer for this long and the drift on top (Raft thesis 6.4.1); kept below
        the election timeout, so that this never delays an election.
        """
        return (self.election_ticks - 1) * self.tick_s * (1 - self.clock_drift_max)

    def raft_config(self, peer_id: PeerId, *, applied: LogIndex, is_fresh: bool) -> Config:
        """Return the settings of one peer's Raft node; for `applied` and `is_fresh` see there."""
        return Config(
            peer_id=peer_id,
            election_ticks=self.election_ticks,
            heartbeat_ticks=self.heartbeat_ticks,
            lease_s=self.lease_s if self.lease_reads else 0.0,
            clock_drift_max=self.clock_drift_max,
            fresh=is_fresh,
            inflight_max=self.inflight_appends_max,
            append_bytes_max=self.append_bytes_max,
            committed_bytes_max=self.apply_bytes_max,
            uncommitted_bytes_max=self.uncommitted_bytes_max,
            announce_commit=False,  # followers serve no reads, so no client waits for them to apply
            applied=applied,
        )

    def validate(self) -> None:
        """Raise ValueError for settings that can't work, alone or together."""
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name in _MAY_BE_ZERO:
                if value < 0:
                    raise ValueError(f"{setting.name} must not be negative: {value}")
            elif not value > 0:
                raise ValueError(f"{setting.name} must be positive, not {value}")
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise ValueError(
                f"heartbeat_ticks ({self.heartbeat_ticks}) must be at least 1 and below "
                f"election_ticks ({self.election_ticks}), or healthy leaders lose elections"
            )
        if self.region_split_bytes > self.region_max_bytes:
            raise ValueError("region_split_bytes must not be above region_max_bytes")
        if self.clock_drift_max >= 1:
            raise ValueError(f"clock_drift_max must be below 1, not {self.clock_drift_max}")
        if self.log_gc_bytes_force < self.log_gc_bytes:
            raise ValueError("log_gc_bytes_force must not be below log_gc_bytes")
        if self.entry_bytes_max > self.uncommitted_bytes_max:
            raise ValueError("entry_bytes_max must not be above uncommitted_bytes_max, or no such entry is ever taken")
