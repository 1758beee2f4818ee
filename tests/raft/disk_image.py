"""The disks of `world`: what is on them, and the batches on their way."""

from __future__ import annotations

from dataclasses import dataclass

from tests.raft.harness import ids, stored

from pytinykv.raft import ConfState, Entry, HardState, LogIndex, MemoryStorage, Message, SnapshotMeta

PEERS = ids(1, 2, 3, 4, 5)
FOUNDERS = ids(1, 2, 3)
BASE = (1, 1)
"""Founders begin with a snapshot of one entry, so that newcomers need one."""


class DiskImage(MemoryStorage):
    """A disk's content: log, hard state, applied index and the members at that index."""

    def write(self, batch: Batch) -> None:
        """Write what one Ready asked for."""
        if batch.snapshot is not None:
            self.apply_snapshot(batch.snapshot)
        self.append(batch.entries)
        if batch.hard_state is not None:
            self.set_hard_state(batch.hard_state)
        self.set_applied(batch.applied, batch.conf_state)
        if batch.compact_to:
            self.compact(batch.compact_to)


@dataclass
class Batch:
    """One atomic write, and what may happen once it is durable."""

    number: int
    entries: tuple[Entry, ...]
    hard_state: HardState | None
    snapshot: SnapshotMeta | None
    applied: LogIndex
    conf_state: ConfState
    messages_after_sync: tuple[Message, ...] = ()
    must_sync: bool = False
    compact_to: LogIndex = LogIndex(0)


def new_disk(peer_id: int) -> DiskImage:
    """Make the disk of a founder, or of a peer that waits to be added."""
    founder = peer_id in FOUNDERS
    plain = stored(FOUNDERS, base=BASE, term=1, commit=1) if founder else stored(())
    disk = DiskImage()
    disk.__dict__.update(plain.__dict__)
    return disk
