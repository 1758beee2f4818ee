"""What the raftstore needs from the world, each as a small protocol; the server and the simulator implement them.

`lifecycle.Worker`, which does what blocks, is another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pytinykv.model import Region, RegionId, SplitIds, StoreId
from pytinykv.raftstore.records import RaftEnvelope, RegionReport, SnapshotManifest


class Transport(Protocol):
    """Carries messages to other stores. Best effort: messages may be lost, late or repeated, never damaged."""

    def send(self, store_id: StoreId, envelopes: list[RaftEnvelope]) -> None:
        """Hand over a turn's messages for one store. Never blocks; what can't be sent is dropped."""
        ...

    def send_snapshot(
        self,
        envelope: RaftEnvelope,
        manifest: SnapshotManifest,
        directory: Path,
        on_done: Callable[[bool], None],
    ) -> None:
        """Stream a snapshot's files to `envelope.receiver`; call `on_done` exactly once with whether its region took it."""
        ...


class SchedulerLink(Protocol):
    """What a store tells the scheduler. Never blocks; what can't be sent is dropped, the next report repeats it."""

    def report_region(self, report: RegionReport) -> None: ...

    def ask_membership(self, region_id: RegionId, on_answer: Callable[[Region], None]) -> None:
        """Ask for the region as the scheduler knows it, for a peer that may have been removed; no answer on failure."""
        ...

    def ask_split(
        self, region: Region, keys: Sequence[bytes], on_answer: Callable[[Sequence[SplitIds] | str], None]
    ) -> None:
        """Ask for the ids to split `region` at `keys`; answered once, within a few seconds: one for each key, or why not.

        A stop may swallow the answer.
        """
        ...

    def report_split(self, regions: Sequence[Region]) -> None:
        """Tell what a split has made, so that clients need not wait for the regions' leaders to report."""
        ...
