"""What a store finds in its engine when it starts, and the repair of what a crash cut off."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytinykv.raftstore import keys
from pytinykv.raftstore.installing import Installation
from pytinykv.raftstore.peer_storage import RAFT_CF
from pytinykv.raftstore.records import PeerState, RegionLocalState, decode_region_state

if TYPE_CHECKING:
    from pathlib import Path

    from pytinykv.raftstore.snapshot_files import SnapshotDirectory
    from pytinykv.storage import Engine

_log = logging.getLogger(__name__)


@dataclass
class LoadedRegions:
    """The regions of a store, and what is left of peers that must not come back, by region id."""

    regions: list[RegionLocalState] = field(default_factory=list)
    tombstones: dict[int, RegionLocalState] = field(default_factory=dict)


def load_regions(engine: Engine, directory: SnapshotDirectory) -> LoadedRegions:
    """Return what the engine holds, every region usable; finishes snapshots whose installation was cut off.

    Raises FormatError, EngineError, OSError.
    """
    loaded = LoadedRegions()
    states = [
        decode_region_state(value)
        for _key, value in engine.scan(RAFT_CF, keys.REGION_STATE_START, keys.REGION_STATE_END)
    ]
    applying = [state for state in states if state.state is PeerState.APPLYING]
    directory.prepare(keep=frozenset(state.snapshot for state in applying))
    for state in states:
        if state.state is PeerState.TOMBSTONE:
            loaded.tombstones[state.region.id] = state
            continue
        if state.state is PeerState.APPLYING:
            _log.warning("region %d: finishes the installation of snapshot %s", state.region.id, state.snapshot)
            finish_restore(engine, state, directory.receive / state.snapshot)
        loaded.regions.append(state)
    return loaded


def finish_restore(engine: Engine, applying: RegionLocalState, directory: Path) -> None:
    """Install the data of a region in state APPLYING from the beginning; durable on return. Blocks for a few syncs."""
    installation = Installation(applying, directory)
    batch = engine.write_batch()
    installation.begin(batch)
    engine.write(batch)
    while installation.ingest_next(engine):
        pass
    batch = engine.write_batch()
    installation.finish(batch)
    engine.write(batch)
    engine.sync()
