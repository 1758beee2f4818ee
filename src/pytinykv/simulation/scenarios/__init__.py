"""The stories. Importing this package registers them all in `scenario.SCENARIOS`.

boot       a new cluster's programs start in any order
early_votes  votes in a new region before the split is applied
growth     from one store to three
generic    clients put, scan and delete through rounds of trouble, as TinyKV's tests do
hibernation  regions that sleep, and what wakes them
members    TinyKV's stories of membership changes
moves      balance, scatter, draining, rolling restarts of many regions
old_readers  garbage is collected under old snapshots
repeated_calls  what calls notice of splits and of leaders that move
single     fixed courses: one partition, one snapshot
slow_commits  pauses between the steps of a commit, steps that come twice
splits     regions that split
transactions  lists and a bank, under what the seed draws
storm      each seed draws faults and settings
stops      a stop at every moment
"""

from __future__ import annotations

from pytinykv.simulation.scenarios import (
    boot,
    early_votes,
    generic,
    growth,
    hibernation,
    members,
    moves,
    old_readers,
    repeated_calls,
    single,
    slow_commits,
    splits,
    stops,
    storm,
    transactions,
)

__all__ = [
    "boot",
    "early_votes",
    "generic",
    "growth",
    "hibernation",
    "members",
    "moves",
    "old_readers",
    "repeated_calls",
    "single",
    "slow_commits",
    "splits",
    "stops",
    "storm",
    "transactions",
]
