"""What the storage tests share: opening each engine, crashing it, and reading all of it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from random import Random

from pytinykv.storage import ColumnFamily, MemoryEngine, RocksConfig, RocksEngine
from pytinykv.storage.engine import Engine, Reader

SMALL = RocksConfig(
    write_buffer_bytes=64 * 1024,
    write_buffers_bytes=256 * 1024,
    unflushed_bytes_max=320 * 1024,
    wal_bytes_max=512 * 1024,
)


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
    """Crashes by copying the files aside and cutting off a part of the log that was not synced."""

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
            self.synced_bytes = wal_sizes(self.path)

        self.synced_bytes = wal_sizes(self.path)
        engine.sync = recording_sync  # type: ignore[method-assign] - the harness must know what is safe
        return engine

    def crash(self, rng: Random) -> None:
        source = self.path
        self.generation += 1
        copy_image(source, self.path)
        self.engine.close()
        shutil.rmtree(source)
        cut_unsynced_tail(self.path, self.synced_bytes, rng)
        self.engine = self._open()

    def reopen(self) -> None:
        self.engine.close()
        self.engine = self._open()

    def open_checkpoint(self, path: Path) -> Engine:
        return RocksEngine.open(path, SMALL)


def wal_sizes(path: Path) -> dict[str, int]:
    """Return the size of each write-ahead log below a database directory."""
    return {name: size for name, size in sizes(path).items() if name.endswith(".log")}


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


def cut_unsynced_tail(path: Path, synced_bytes: dict[str, int], rng: Random) -> None:
    """Truncate the newest log somewhere between what was synced and its end; older logs are closed and synced."""
    newest = max(path.glob("*.log"))
    size = newest.stat().st_size
    safe = synced_bytes.get(newest.name, 0)
    with newest.open("r+b") as file:
        file.truncate(rng.randint(safe, size))


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
