"""Snapshots as files: made from an engine snapshot, streamed, and checked. `installing` puts them in a region's place.

A snapshot is a directory `<region>_<term>_<index>` with one SST file for each of the region's engine ranges that holds
anything, and its manifest, which names every file with its size and CRC-32C. The manifest is written last, so a
directory with a manifest is whole.

    <snapshots>/send/…    made here, deleted when no follower wants it any more
    <snapshots>/receive/… arriving or being installed; kept until the installed state is durable

What is found in `send`, or in `receive` without belonging to a region in state APPLYING, is left from an earlier life of
the process and deleted at start.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastcrc import crc32

from pytinykv.model import FormatError, Region, encode
from pytinykv.raftstore import keys
from pytinykv.raftstore.records import SnapshotFile, SnapshotManifest, decode_manifest
from pytinykv.storage import ColumnFamily, sync_directory, write_atomically

if TYPE_CHECKING:
    from pytinykv.raft import SnapshotMeta
    from pytinykv.storage import Engine, Reader

CHUNK_BYTES = 256 * 1024
MANIFEST = "MANIFEST"

_FAMILIES = frozenset(str(cf) for cf in ColumnFamily)


def snapshot_name(region_id: int, meta: SnapshotMeta) -> str:
    return f"{region_id}_{meta.term}_{meta.index}"


class SnapshotDirectory:
    """The two places of a store's snapshots."""

    def __init__(self, root: Path) -> None:
        self.send = root / "send"
        self.receive = root / "receive"

    def prepare(self, keep: frozenset[str]) -> None:
        """Make both places; delete leftovers, but for received snapshots whose names are in `keep`."""
        shutil.rmtree(self.send, ignore_errors=True)
        self.send.mkdir(parents=True)
        self.receive.mkdir(parents=True, exist_ok=True)
        # A snapshot that is about to be installed is as durable as every directory above it.
        sync_directory(self.receive.parent)
        sync_directory(self.receive.parent.parent)
        for path in sorted(self.receive.iterdir()):
            if path.name not in keep:
                shutil.rmtree(path)


def make_snapshot(
    engine: Engine, reader: Reader, region: Region, meta: SnapshotMeta, directory: Path
) -> SnapshotManifest:
    """Write the region's data as seen by `reader` into a new directory. Blocking. Raises EngineError, OSError."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    files = []
    for number, (cf, start, end) in enumerate(keys.data_ranges(region.start_key, region.end_key)):
        path = directory / f"{number}_{cf}.sst"
        if engine.export_sst(cf, reader, start, end, path):
            files.append(SnapshotFile(str(cf), path.name, path.stat().st_size, checksum(path)))
    manifest = SnapshotManifest(region, meta, tuple(files))
    write_atomically(directory / MANIFEST, encode(manifest))
    return manifest


def read_manifest(directory: Path) -> SnapshotManifest:
    """Return the manifest of a whole snapshot directory. Raises FormatError, OSError."""
    return decode_manifest((directory / MANIFEST).read_bytes())


def snapshot_chunks(manifest: SnapshotManifest, directory: Path) -> Iterator[bytes]:
    """Yield the bytes of all files, in the manifest's order, in pieces of at most CHUNK_BYTES."""
    for file in manifest.files:
        with (directory / file.name).open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk


def checksum(path: Path) -> int:
    """Return the CRC-32C of a file."""
    value = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            value = crc32.iscsi(chunk, value)
    return value


def check_manifest(manifest: SnapshotManifest) -> None:
    """Refuse a manifest that `make_snapshot` never makes, before anything is written. Raises FormatError."""
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        raise FormatError("snapshot: two files have the same name")
    for file in manifest.files:
        if Path(file.name).name != file.name or not file.name.endswith(".sst"):
            raise FormatError(f"snapshot: file name {file.name!r} is not one of a snapshot")
        if file.size_bytes <= 0:
            raise FormatError(f"snapshot: file {file.name} has {file.size_bytes} bytes")
        if file.cf not in _FAMILIES:
            raise FormatError(f"snapshot: column family {file.cf!r} of {file.name} is unknown")


class SnapshotWriter:
    """Takes the chunks of an arriving snapshot, in order; chunk borders need not be file borders.

    The constructor, `write` and `finish` raise FormatError as soon as a size or a checksum is wrong. Until `finish` has
    returned the directory has no manifest and is worth nothing.
    """

    def __init__(self, manifest: SnapshotManifest, directory: Path) -> None:
        check_manifest(manifest)
        self.manifest = manifest
        self.directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self._files = iter(manifest.files)
        self._file: SnapshotFile | None = None
        """The file that the next bytes belong to; None after the last one."""
        self._stream: BinaryIO | None = None
        """That file, open; `abort` and `_close_file` close it."""
        self._written = 0
        """Bytes of the current file that have arrived; never more than the manifest says."""
        self._checksum = 0
        """CRC-32C of these."""
        try:
            self._open_next()
        except OSError:
            self.abort()
            raise

    def _open_next(self) -> None:
        self._file = next(self._files, None)
        self._written = self._checksum = 0
        if self._file is not None:
            self._stream = (self.directory / self._file.name).open("wb")

    def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            if self._file is None or self._stream is None:
                raise FormatError(f"snapshot {self.directory.name}: {len(view)} bytes after the last file")
            piece = view[: self._file.size_bytes - self._written]
            self._stream.write(piece)
            self._checksum = crc32.iscsi(bytes(piece), self._checksum)
            self._written += len(piece)
            view = view[len(piece) :]
            if self._written == self._file.size_bytes:
                self._close_file(self._file, self._stream)
                self._open_next()

    def _close_file(self, file: SnapshotFile, stream: BinaryIO) -> None:
        stream.flush()
        os.fsync(stream.fileno())
        stream.close()
        self._stream = None
        if self._checksum != file.crc32c:
            raise FormatError(
                f"snapshot {self.directory.name}: checksum of {file.name} does not match; ask for it again"
            )

    def finish(self) -> None:
        """Make the directory whole and durable."""
        if self._file is not None:
            raise FormatError(f"snapshot {self.directory.name}: stream ended inside {self._file.name}")
        write_atomically(self.directory / MANIFEST, encode(self.manifest))
        sync_directory(self.directory.parent)

    def abort(self) -> None:
        """Delete what has arrived. Safe at any time, also after `finish` if no region took the directory."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OSError):  # a full disk may refuse the rest of the buffer
                stream.close()
        shutil.rmtree(self.directory, ignore_errors=True)
