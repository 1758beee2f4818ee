"""Making and sending snapshots: the parts that take time, outside the store's turns.

A follower that is too far behind makes its leader's Raft ask for a snapshot; the store hands the region's state of that
turn to the worker, which writes files; Raft is offered the finished snapshot and sends it, the transport streams it. At
most `snapshots_max` are made at a time. A finished snapshot is kept for `snapshot_keep_s` after it was made or sent last,
since a second follower often wants it too; it is dropped when the log is cut past it or the region has changed.
"""

from __future__ import annotations

import logging
import shutil
from functools import partial
from typing import TYPE_CHECKING

from pytinykv.raft import InstallSnapshot, SnapshotMeta
from pytinykv.raftstore.membership import conf_state
from pytinykv.raftstore.peer_storage import SnapshotNeed
from pytinykv.raftstore.snapshot_files import make_snapshot, snapshot_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytinykv.lifecycle import Clock, Worker
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.ports import Transport
    from pytinykv.raftstore.records import RaftEnvelope, SnapshotManifest
    from pytinykv.storage import Engine

_log = logging.getLogger(__name__)


class _Made:
    """A finished snapshot: its files, how many transfers use it, and when it may go."""

    def __init__(self, manifest: SnapshotManifest, directory: Path, until: float) -> None:
        self.manifest = manifest
        self.directory = directory
        self.until = until
        """Monotonic time until which it is kept; moved on by each transfer that begins."""
        self.transfers = 0
        """Transfers under way; the files stay while there are any."""
        self.is_dropped = False
        """Not offered any more; its files go with the last transfer."""


class OutgoingSnapshots:
    """The snapshots that one store makes and sends. All methods are called on the event loop; none blocks."""

    def __init__(
        self,
        *,
        engine: Engine,
        directory: Path,
        worker: Worker,
        transport: Transport,
        clock: Clock,
        config: RaftStoreConfig,
        on_made: Callable[[RegionPeer], None],
        on_sent: Callable[[RaftEnvelope, bool], None],
    ) -> None:
        """`on_made` is called when a snapshot is finished and offered; `on_sent` with whether a region took what was sent."""
        self._engine = engine
        self._directory = directory
        self._worker = worker
        self._transport = transport
        self._clock = clock
        self._config = config
        self._on_made = on_made
        self._on_sent = on_sent
        self._making = 0
        """How many are being made."""
        self._made: dict[int, _Made] = {}
        """By region, the finished snapshot that Raft is offered."""

    def make(self, peer: RegionPeer) -> None:
        """Start making a snapshot of the region as it is now, unless too many are being made."""
        if self._making >= self._config.snapshots_max:
            return  # asked for again at the next tick
        storage, region = peer.storage, peer.region
        applied = storage.apply_state
        meta = SnapshotMeta(applied.applied_index, applied.applied_term, conf_state(region))
        path = self._directory / snapshot_name(region.id, meta)
        storage.snapshot_need = SnapshotNeed.MAKING
        self._making += 1
        reader = self._engine.snapshot()

        def work() -> SnapshotManifest:
            with reader:
                return make_snapshot(self._engine, reader, region, meta, path)

        _log.info("region %d: makes a snapshot at index %d", region.id, meta.index)
        self._worker.submit(work, partial(self._end_making, peer, path))

    def _end_making(self, peer: RegionPeer, path: Path, result: SnapshotManifest | BaseException) -> None:
        self._making -= 1
        if isinstance(result, BaseException):
            _log.error("region %d: no snapshot: %s", peer.region.id, result, exc_info=result)
            peer.storage.offer_snapshot(None)  # Raft asks again at the next heartbeat
            shutil.rmtree(path, ignore_errors=True)
        elif peer.is_destroyed:
            shutil.rmtree(path, ignore_errors=True)
        else:
            self._drop(peer.region.id)
            until = self._clock.monotonic() + self._config.snapshot_keep_s
            self._made[peer.region.id] = _Made(result, path, until)
            peer.storage.offer_snapshot(result)
            self._on_made(peer)

    def send(self, envelope: RaftEnvelope, now: float) -> None:
        """Stream the region's finished snapshot to the receiver that Raft chose."""
        made = self._made.get(envelope.region_id)
        message = envelope.message
        if made is None or not isinstance(message, InstallSnapshot) or message.meta != made.manifest.meta:
            self._on_sent(envelope, False)
            return
        made.transfers += 1
        made.until = now + self._config.snapshot_keep_s
        self._transport.send_snapshot(
            envelope, made.manifest, made.directory, partial(self._end_transfer, made, envelope)
        )

    def _end_transfer(self, made: _Made, envelope: RaftEnvelope, arrived: bool) -> None:
        made.transfers -= 1
        if made.is_dropped and made.transfers == 0:
            shutil.rmtree(made.directory, ignore_errors=True)
        level = logging.INFO if arrived else logging.WARNING
        _log.log(
            level,
            "region %d: snapshot at index %d %s store %d",
            envelope.region_id,
            made.manifest.meta.index,
            "was taken by" if arrived else "did not get to",
            envelope.receiver.store_id,
        )
        self._on_sent(envelope, arrived)

    def expire(self, peers: Mapping[int, RegionPeer], now: float) -> None:
        """Delete snapshots that no transfer uses and no follower is likely to want."""
        for region_id, made in list(self._made.items()):
            peer = peers.get(region_id)
            if made.transfers == 0 and (now > made.until or peer is None):
                if peer is not None and peer.storage.snapshot_need is not SnapshotNeed.MAKING:
                    peer.storage.offer_snapshot(None)
                self._drop(region_id)

    def _drop(self, region_id: int) -> None:
        made = self._made.pop(region_id, None)
        if made is None:
            return
        made.is_dropped = True
        if made.transfers == 0:
            shutil.rmtree(made.directory, ignore_errors=True)
