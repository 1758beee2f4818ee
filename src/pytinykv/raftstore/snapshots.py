"""Making, sending and receiving snapshots: the parts that take time, outside the store loop's turns.

A follower that is too far behind makes its leader's Raft ask for a snapshot; the store hands the region's state of that
turn to the worker, which writes files; Raft is offered the finished snapshot and sends it, the transport streams it. At
most `snapshots_max` are made, and as many received, at a time. A finished snapshot is kept for a while, since a second
follower often wants it too, and is dropped when the log is cut past it.
"""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytinykv.raft import InstallSnapshot, SnapshotMeta
from pytinykv.raftstore.peer_storage import SnapshotNeed
from pytinykv.raftstore.records import SnapshotManifest
from pytinykv.raftstore.snapshot_files import (
    SnapshotDirectory,
    SnapshotWriter,
    make_snapshot,
    snapshot_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytinykv.lifecycle import Worker
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.peer import RegionPeer
    from pytinykv.raftstore.ports import Transport
    from pytinykv.raftstore.records import RaftEnvelope, SnapshotHeader
    from pytinykv.storage import Engine

_log = logging.getLogger(__name__)


class SnapshotRefusedError(Exception):
    """A snapshot stream is not taken now; the sender tries again later. The message says why."""


class _Made:
    """A finished snapshot: its files, how many transfers use it, and when it may go."""

    def __init__(self, manifest: SnapshotManifest, directory: Path, until: float) -> None:
        self.manifest = manifest
        self.directory = directory
        self.until = until
        self.transfers = 0
        self.is_dropped = False
        """Not offered any more; its files go with the last transfer."""


class Snapshots:
    """The snapshots of one store. All methods are called on the event loop; none blocks."""

    def __init__(
        self,
        *,
        engine: Engine,
        directory: SnapshotDirectory,
        worker: Worker,
        transport: Transport,
        config: RaftStoreConfig,
        on_made: Callable[[RegionPeer], None],
        on_sent: Callable[[RaftEnvelope, bool], None],
        on_received: Callable[[RaftEnvelope, SnapshotManifest, Path], None],
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._worker = worker
        self._transport = transport
        self._config = config
        self._tell_made = on_made
        self._on_sent = on_sent
        self._on_received = on_received
        self._making = 0
        self._made: dict[int, _Made] = {}
        self._receiving: set[str] = set()

    # --- making and sending -------------------------------------------------------------------------------------

    def make(self, peer: RegionPeer, now: float) -> None:
        """Start making a snapshot of the region as it is now, unless too many are being made."""
        if self._making >= self._config.snapshots_max:
            return  # asked for again at the next tick
        storage = peer.storage
        applied = storage.apply_state
        meta = SnapshotMeta(applied.applied_index, applied.applied_term, peer.region.conf_state())
        path = self._directory.send / snapshot_name(peer.region.id, meta)
        storage.snapshot_need = SnapshotNeed.MAKING
        self._making += 1
        reader = self._engine.snapshot()
        region = peer.region

        def work() -> SnapshotManifest:
            with reader:
                return make_snapshot(self._engine, reader, region, meta, path)

        _log.info("region %d: makes a snapshot at index %d", region.id, meta.index)
        self._worker.submit(work, partial(self._on_made, peer, path, now))

    def _on_made(self, peer: RegionPeer, path: Path, now: float, result: SnapshotManifest | BaseException) -> None:
        self._making -= 1
        if isinstance(result, BaseException):
            _log.error("region %d: no snapshot: %s", peer.region.id, result, exc_info=result)
            peer.storage.offer_snapshot(None)
            shutil.rmtree(path, ignore_errors=True)
            return
        if peer.is_destroyed:
            shutil.rmtree(path, ignore_errors=True)
            return
        self._drop(peer.region.id)
        self._made[peer.region.id] = _Made(result, path, now + self._config.snapshot_keep_s)
        peer.storage.offer_snapshot(result.meta)
        self._tell_made(peer)

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
            envelope, made.manifest, made.directory, partial(self._on_transfer_done, made, envelope)
        )

    def _on_transfer_done(self, made: _Made, envelope: RaftEnvelope, arrived: bool) -> None:
        made.transfers -= 1
        if made.is_dropped and made.transfers == 0:
            shutil.rmtree(made.directory, ignore_errors=True)
        level = logging.INFO if arrived else logging.WARNING
        _log.log(
            level,
            "region %d: snapshot at index %d to store %d %s",
            envelope.region_id,
            made.manifest.meta.index,
            envelope.receiver.store_id,
            "arrived" if arrived else "did not arrive",
        )
        self._on_sent(envelope, arrived)

    def expire(self, peers: dict[int, RegionPeer], now: float) -> None:
        """Delete snapshots that nobody uses and nobody is likely to want."""
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

    # --- receiving ----------------------------------------------------------------------------------------------

    def receive(self, header: SnapshotHeader) -> SnapshotReceiver:
        """Begin to take a snapshot. Raises SnapshotRefusedError when busy or when the same one is arriving already,
        FormatError for a manifest that no store makes, OSError.
        """
        name = snapshot_name(header.envelope.region_id, header.manifest.meta)
        if len(self._receiving) >= self._config.snapshots_max:
            raise SnapshotRefusedError(f"already receiving {len(self._receiving)} snapshots")
        if name in self._receiving or (self._directory.receive / name).exists():
            raise SnapshotRefusedError(f"snapshot {name} is being received or installed")
        writer = SnapshotWriter(header.manifest, self._directory.receive / name)
        self._receiving.add(name)
        return SnapshotReceiver(header, writer, self._on_received, partial(self._receiving.discard, name), self._worker)

    def discard_received(self, directory: Path) -> None:
        """Delete a received snapshot that was installed, or that Raft did not take."""
        shutil.rmtree(directory, ignore_errors=True)


class SnapshotReceiver:
    """One arriving snapshot: `write` its chunks in order, `seal` it, `hand_over`; `abort` in every other case.

    `write` and `seal` block on the disk and may run in the worker, one after the other; the rest belongs to the event loop.
    `abort` may come while they run, so it deletes in the worker, too: what they would go on to write must not stay.
    """

    def __init__(
        self,
        header: SnapshotHeader,
        writer: SnapshotWriter,
        on_received: Callable[[RaftEnvelope, SnapshotManifest, Path], None],
        on_end: Callable[[], None],
        worker: Worker,
    ) -> None:
        self._header = header
        self._writer = writer
        self._on_received = on_received
        self._on_end = on_end
        self._worker = worker

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises FormatError when they don't fit the manifest, OSError; then `abort`."""
        self._writer.write(chunk)

    def seal(self) -> None:
        """Check that everything is there and make it durable. Raises FormatError, OSError; then `abort`."""
        self._writer.finish()

    def hand_over(self) -> None:
        """Give the sealed snapshot to its region."""
        self._on_end()
        self._on_received(self._header.envelope, self._header.manifest, self._writer.directory)

    def finish(self) -> None:
        """Seal and hand over at once. Raises FormatError, OSError; then `abort`."""
        self.seal()
        self.hand_over()

    def abort(self) -> None:
        """Give up and delete what has arrived; until that is done the same snapshot is not taken again."""
        self._worker.submit(self._writer.abort, lambda _result: self._on_end())
