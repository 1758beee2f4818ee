"""Fault makers, by name. Each is a task of the world that runs until its `stop` event, and leaves every program running.

    links      what goes wrong between programs          programs   what becomes of them
    disks      what goes wrong below them                members    what they are ordered to do
    moments    deaths that wait for the right message    streams    what no client of ours does
    regions    splits, moves and removals without need

Swarm testing draws some for each seed. What they share is in `faults`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Final

from pytinykv.simulation.nemeses import disks, links, members, moments, programs, regions, streams

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster

__all__ = ["NEMESES", "Nemesis"]

Nemesis = Callable[["Cluster", Random, asyncio.Event], Awaitable[None]]

NEMESES: Final[dict[str, Nemesis]] = {
    "partitions": links.partitions,
    "link trouble": links.link_trouble,
    "crashes": programs.crashes,
    "restarts": programs.restarts,
    "rolling restarts": programs.rolling_restarts,
    "moved stores": programs.moved_stores,
    "stalls": programs.stalls,
    "scheduler stalls": programs.scheduler_stalls,
    "half-closed streams": streams.half_closed_streams,
    "scheduler outages": programs.scheduler_outages,
    "swizzled clogs": links.swizzled_clogs,
    "split brains": links.split_brains,
    "deaths on sending": moments.deaths_on_sending,
    "deaths of voters": moments.deaths_of_voters,
    "slow links": links.slow_links,
    "leader stalls": programs.leader_stalls,
    "leader changes": members.leader_changes,
    "member changes": members.member_changes,
    "failing writes": disks.failing_writes,
    "failing syncs": disks.failing_syncs,
    "full disks": disks.full_disks,
    "corrupted reads": disks.corrupted_reads,
    "slow disks": disks.slow_disks,
    "power cuts": programs.power_cuts,
    "cuts within turns": programs.cuts_within_turns,
    "blackouts": programs.blackouts,
    "stale scheduler": members.stale_scheduler,
    "stale reports": members.stale_reports,
    "lost receipts": links.lost_receipts,
    "full buffers": links.full_buffers,
    "lonely appends": moments.lonely_appends,
    "short reigns": moments.short_reigns,
    "splits": regions.splits,
    "ordered splits": regions.ordered_splits,
    "scatters": regions.scatters,
    "drained stores": regions.drained_stores,
}
