"""What the storage tests share: opening each engine, crashing it, and reading all of it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from random import Random

from pytinykv.storage import ColumnFamily, MemoryEngine, RocksConfig, RocksEngine
from pytinykv.storage.engine import Engine, Reader
from pytinykv.storage.rocks_log import MARK_NAME
from pytinykv.storage.wal import log_files, read_part

SMALL = RocksConfig(
    write_buffer_bytes=64 * 1024,
    write_buffers_bytes=256 * 1024,
    unflushed_bytes_max=320 * 1024,
    wal_bytes_max=512 * 1024,
)
SECTOR_BYTES = 512
"""A disk writes one whole, or not at all."""


class Harness:
    """One engine under test, with the power switch in our hands."""

    engine: Engine

    def crash(self, rng: Random) -> None:
        """Lose power: `engine` is what recovery makes of it."""
        raise NotImplementedError

    def reopen(self) -> None:
        """Close cleanly and open again."""
        raise NotImplementedError

    def open_checkpoint(self, path: Path) -> Engine:
        raise NotImplementedError

    def close(self) -> None:
        self.engine.close()


class MemoryHarness(Harness):
    def __init__(self) -> None:
        self.memory = MemoryEngine()
        self.engine = self.memory

    def crash(self, rng: Random) -> None:
        self.memory = self.engine = self.memory.crash(rng)

    def reopen(self) -> None:
        self.memory.close()
        self.memory = self.engine = self.memory.reopen()

    def open_checkpoint(self, path: Path) -> Engine:
        return MemoryEngine.open_checkpoint(path)


class RocksHarness(Harness):
    """Crashes by copying the files aside and losing a part of what was not synced of the log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.generation = 0
        self.synced_bytes: dict[str, int] = {}
        self.engine = self._open()

    @property
    def path(self) -> Path:
        return self.directory / f"generation-{self.generation}"

    def _open(self) -> RocksEngine:
        engine = RocksEngine.open(self.path, SMALL)
        sync = engine.sync

        def recording_sync() -> None:
            sync()
            self.synced_bytes = log_ends(self.path)

        self.synced_bytes = log_ends(self.path)
        engine.sync = recording_sync  # type: ignore[method-assign] - the harness must know what is safe
        return engine

    def crash(self, rng: Random) -> None:
        source = self.path
        self.generation += 1
        copy_image(source, self.path)
        self.engine.close()
        shutil.rmtree(source)
        lose_power(self.path, self.synced_bytes, rng)
        self.engine = self._open()

    def reopen(self) -> None:
        self.engine.close()
        self.engine = self._open()

    def open_checkpoint(self, path: Path) -> Engine:
        return RocksEngine.open(path, SMALL)


def log_ends(path: Path) -> dict[str, int]:
    """Return where the last batch ends in each write-ahead log below a database directory."""
    ends = {}
    for log in log_files(path):
        with contextlib.suppress(FileNotFoundError):
            ends[log.name] = read_part(log.read_bytes()).end
    return ends


def sizes(path: Path) -> dict[str, int]:
    """Return the size of each file. RocksDB deletes old ones in the background, so some may vanish meanwhile."""
    found = {}
    for entry in sorted(path.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            found[entry.name] = entry.stat().st_size
    return found


def copy_image(source: Path, target: Path) -> None:
    """Copy a database that is open, as of one moment: again, until nothing has moved during the copy."""
    while True:
        before = sizes(source)
        with contextlib.suppress(shutil.Error, FileNotFoundError):
            shutil.copytree(source, target)
            if sizes(source) == before:
                return
        shutil.rmtree(target, ignore_errors=True)


def lose_power(path: Path, synced_bytes: dict[str, int], rng: Random) -> None:
    """Do to a copied database what a power cut may.

    Older logs are closed and synced. Of the newest one, what was not synced may be lost in any part, as if it had never been
    written. The mark is as it is, or it was not written to the disk at all.
    """
    newest = log_files(path)[-1]
    content = bytearray(newest.read_bytes())
    synced = synced_bytes.get(newest.name, 0)
    end = read_part(content).end
    if rng.random() < 0.5:
        del content[rng.randint(synced, end) :]
    else:
        for sector in range(synced - synced % SECTOR_BYTES, end, SECTOR_BYTES):
            if rng.random() < 0.3:
                lost = slice(max(sector, synced), min(sector + SECTOR_BYTES, end))
                content[lost] = bytes(lost.stop - lost.start)
    newest.write_bytes(content)
    if rng.random() < 0.3:
        (path / MARK_NAME).write_bytes(b"")


def make_harness(kind: str, directory: Path) -> Harness:
    return MemoryHarness() if kind == "memory" else RocksHarness(directory)


def put(engine: Engine, cf: ColumnFamily, *pairs: tuple[bytes, bytes]) -> None:
    """Write the pairs as one batch."""
    batch = engine.write_batch()
    for key, value in pairs:
        batch.put(cf, key, value)
    engine.write(batch)


def everything(reader: Reader) -> dict[ColumnFamily, dict[bytes, bytes]]:
    return {cf: dict(reader.scan(cf, b"", None)) for cf in ColumnFamily}
