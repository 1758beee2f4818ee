"""What a store counts of its own work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StoreCounters:
    """What a store has done since its start; only ever grows."""

    turns: int = 0
    proposals: int = 0
    proposed_bytes: int = 0
    operations: int = 0
    """Changes of keys in the proposals."""
    quorum_reads: int = 0
    """Reads that the lease did not cover; those of one frame and region count as one."""
    snapshots_sent: int = 0
    """Those that a region on another store has taken."""
    snapshots_failed: int = 0
    """Those that did not get there, or were not taken."""
    snapshots_installed: int = 0
    """Those that a region on this store has taken."""
