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
