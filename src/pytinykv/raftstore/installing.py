"""Installing a received snapshot: a region's data, log and state replaced by those of the snapshot's files.

    NORMAL ──begin──▶ APPLYING ──durable──▶ ──ingest_next, file by file──▶ ──finish──▶ NORMAL ──durable──▶ files deleted
             one batch: old data and                                       one batch
             log gone, new Raft state

A file is taken in about 10 ms for 100 MB, and holds the interpreter's lock meanwhile, so a thread would gain nothing: the
store ingests one file a turn, and other regions and connections have their turns in between.

Invariants:
1. From `begin` to `finish` the stored state is APPLYING and nothing of the region is applied, read or served.
2. A crash at any moment leaves either the old state whole, or APPLYING with all files, from which the next start installs
   again from the beginning (`recovery`): files are ingested through links, and deleted only when NORMAL is durable.
3. What the region had outside its new range is gone, too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from pytinykv.model import encode
from pytinykv.raftstore import keys
from pytinykv.raftstore.peer_storage import RAFT_CF
from pytinykv.raftstore.records import PeerState
from pytinykv.raftstore.snapshot_files import read_manifest
from pytinykv.storage import ColumnFamily

if TYPE_CHECKING:
    from pathlib import Path

    from pytinykv.model import Region
    from pytinykv.raftstore.records import RegionLocalState
    from pytinykv.storage import Engine, WriteBatch


class Installation:
    """One snapshot that is being installed; the steps are called in the order of the module's figure."""

    def __init__(self, applying: RegionLocalState, directory: Path) -> None:
        """`applying` is the region's state meanwhile. Raises FormatError, OSError: the directory is not whole."""
        self._applying = applying
        self.directory = directory
        self._files = list(read_manifest(directory).files)
        """What is still to be ingested, in order."""

    def begin(self, batch: WriteBatch, old: Region | None = None) -> None:
        """Delete the data of the region's new range and of its old one, and note that it is being replaced."""
        for region in (self._applying.region, old):
            if region is not None:
                delete_data(batch, region)
        batch.put(RAFT_CF, keys.region_state_key(self._applying.region.id), encode(self._applying))

    def ingest_next(self, engine: Engine) -> bool:
        """Take in the next file; return whether there was one. Raises EngineError, OSError."""
        if not self._files:
            return False
        file = self._files.pop(0)
        link = self.directory / (file.name + ".ingest")
        link.unlink(missing_ok=True)
        os.link(self.directory / file.name, link)
        engine.ingest_sst(ColumnFamily(file.cf), link)
        return True

    def finish(self, batch: WriteBatch) -> None:
        """Note that all data is there."""
        normal = msgspec.structs.replace(self._applying, state=PeerState.NORMAL, snapshot="")
        batch.put(RAFT_CF, keys.region_state_key(normal.region.id), encode(normal))


def delete_data(batch: WriteBatch, region: Region) -> None:
    """Delete everything within a region's range."""
    for cf, start, end in keys.data_ranges(region.start_key, region.end_key):
        batch.delete_range(cf, start, end)
