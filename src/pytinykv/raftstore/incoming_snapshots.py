"""Receiving snapshots, over any transport: refused by their header or written to files, checked, and given to the region.

    header ──receive──▶ SnapshotReceiver ──write, chunk by chunk──▶ ──finish──▶ sealed ──a turn──▶ the region takes it
       └──▶ refused                  └──▶ damaged, disk full: aborted                      └──▶ or not: refused

The sender is told the truth: that a snapshot has arrived means that the region has taken it. Writing and checking take place
in the worker, since a large region must not hold up the others.
"""

from __future__ import annotations

import shutil
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from pytinykv.model import FormatError
from pytinykv.raft import InstallSnapshot
from pytinykv.raftstore.snapshot_files import SnapshotWriter, snapshot_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytinykv.lifecycle import Worker
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.records import SnapshotHeader

    OnEnd = Callable[[BaseException | None], None]
    """Called with None when all went well, else with what went wrong."""
    OnSealed = Callable[[SnapshotHeader, Path, OnEnd], None]
    """Takes a snapshot that has arrived whole, and calls `OnEnd` once the region has taken it or not."""


class SnapshotRefusedError(Exception):
    """A snapshot is not taken, or not now. The message says why; the sender tries again if it still has to."""


class IncomingSnapshots:
    """The snapshots that one store receives. All methods are called on the event loop; none blocks for long."""

    def __init__(self, directory: Path, worker: Worker, config: RaftStoreConfig, on_sealed: OnSealed) -> None:
        self._directory = directory
        self._worker = worker
        self._snapshots_max = config.snapshots_max
        self._on_sealed = on_sealed
        self._receiving: set[str] = set()
        """Names of the snapshots that are arriving, or whose files are being deleted because they broke off."""
        self._durable = 0
        """All turns up to this one are durable."""
        self._used: deque[tuple[int, Path]] = deque()
        """Installed snapshots, each with the turn that must be durable before its files may go; in the order of turns."""

    def receive(self, header: SnapshotHeader) -> SnapshotReceiver:
        """Begin to take a snapshot. Raises SnapshotRefusedError when busy or when the same one is here already,
        FormatError for a header that no store makes, OSError.
        """
        check_header(header)
        name = snapshot_name(header.envelope.region_id, header.manifest.meta)
        if len(self._receiving) >= self._snapshots_max:
            raise SnapshotRefusedError(f"already receiving {len(self._receiving)} snapshots")
        if name in self._receiving or (self._directory / name).exists():
            raise SnapshotRefusedError(f"snapshot {name} is being received or installed")
        writer = SnapshotWriter(header.manifest, self._directory / name)
        self._receiving.add(name)
        return SnapshotReceiver(header, writer, self._on_sealed, partial(self._receiving.discard, name), self._worker)

    def discard(self, directory: Path) -> None:
        """Delete a received snapshot that its region did not take, or that no stored state needs any more."""
        self._worker.submit(partial(shutil.rmtree, directory, ignore_errors=True), lambda _result: None)

    def discard_after(self, turn: int, directory: Path) -> None:
        """Delete a received snapshot once that turn is durable: until then a crash leads back to it."""
        self._used.append((turn, directory))
        self.on_durable(self._durable)

    def on_durable(self, turn: int) -> None:
        """Take note that all turns up to this one are durable."""
        self._durable = turn
        while self._used and self._used[0][0] <= turn:
            self.discard(self._used.popleft()[1])


def check_header(header: SnapshotHeader) -> None:
    """Refuse a header whose parts do not belong together. Raises FormatError."""
    envelope, manifest = header.envelope, header.manifest
    message = envelope.message
    if not isinstance(message, InstallSnapshot) or message.meta != manifest.meta:
        raise FormatError("snapshot header: its message does not speak of its files")
    if envelope.region_id != manifest.region.id:
        raise FormatError(f"snapshot header: files of region {manifest.region.id} for region {envelope.region_id}")


class SnapshotReceiver:
    """One arriving snapshot: `write` its chunks in order, then `finish`; `abort` if its sender is gone.

    Each call but `abort` has an `on_end`, called on the event loop; the next call comes after it. After an error the receiver
    has aborted itself, and after `abort` nothing is called any more. It deletes in the worker, as what was under way there
    would write on; until that is done the same snapshot is not taken again.
    """

    def __init__(
        self,
        header: SnapshotHeader,
        writer: SnapshotWriter,
        on_sealed: OnSealed,
        on_gone: Callable[[], None],
        worker: Worker,
    ) -> None:
        self._header = header
        self._writer = writer
        self._on_sealed = on_sealed
        self._on_gone = on_gone
        self._worker = worker
        self._is_open = True
        """Until it is handed over or aborted."""

    def write(self, chunk: bytes, on_end: OnEnd) -> None:
        """Take the next bytes. Ends with FormatError when they don't fit the manifest, OSError when the disk is full."""
        self._in_worker(partial(self._writer.write, chunk), on_end, partial(on_end, None))

    def finish(self, on_end: OnEnd) -> None:
        """Check that everything is there, make it durable and give it to its region.

        Ends with FormatError or OSError as `write`, and with SnapshotRefusedError when the region does not take it.
        """
        self._in_worker(self._writer.finish, on_end, partial(self._hand_over, on_end))

    def abort(self) -> None:
        """Give up and delete what has arrived."""
        if self._is_open:
            self._is_open = False
            self._worker.submit(self._writer.abort, lambda _result: self._on_gone())

    def _in_worker(self, work: Callable[[], None], on_end: OnEnd, then: Callable[[], None]) -> None:
        def on_done(result: BaseException | None) -> None:
            if not self._is_open:
                return
            if result is None:
                then()
            else:
                self.abort()
                on_end(result)

        self._worker.submit(work, on_done)

    def _hand_over(self, on_end: OnEnd) -> None:
        self._is_open = False
        self._on_gone()
        self._on_sealed(self._header, self._writer.directory, on_end)
