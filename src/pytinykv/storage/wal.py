"""Check RocksDB's write-ahead logs before recovery reads them, and find the damage after recovery has refused them.

RocksDB recovers here in the mode that takes a record cut short by the end of a log for the trace of a crash, and every other
damage for an error. That is not enough in two ways:

1. Of what was written and not synced a power cut may lose any part, and keep what was written behind it, since the log has
   room ahead of its end (`rocks_log`). RocksDB takes that for damage, or skips what is zero now and goes on behind it.
2. Some damage goes unnoticed. A damaged length field in the last block looks like a record cut short, and hides the whole
   records behind it. A log that lost what was synced at its end is accepted, also one cut within a batch while a younger log
   goes on. A log, or `CURRENT`, that is missing altogether is not noticed.

The mark in `SYNCED` tells one from the other: the logs were synced up to that sequence number. `check_logs` reads all batches
behind it. The first one that is not whole ends the logs there, if all that was synced lies before it; if not, it is damage.

And when RocksDB reports a damaged log, it does not say which: `find_damage` does.

The format (RocksDB's wiki, "Write Ahead Log File Format"): blocks of 32 KiB, filled with records that never cross a block's
end; what is too short for a header (7 bytes) stays zero::

    masked crc32c u32 | length u16 | type u8 | payload         all little-endian
    type: 1 a whole batch, 2 its first part, 3 a middle part, 4 its last part
    batch: sequence number of its first change u64 | number of changes u32 | changes

The checksum covers type and payload. Changes are numbered in the order in which they are written; only ingested files take
numbers that are not in a log.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fastcrc import crc32

from pytinykv.storage.errors import CorruptionError
from pytinykv.storage.rocks_log import read_mark

BLOCK_BYTES: Final = 32 * 1024
_HEADER: Final = struct.Struct("<IHB")
_BATCH: Final = struct.Struct("<QI")
_FULL, _FIRST, _LAST = 1, 2, 4
_TYPE_MAX: Final = 8
_MASK_DELTA: Final = 0xA282_EAD8
_ADVICE: Final = "restore it, or give up this copy of the data and start with an empty directory"
_MANIFEST_OF_A_NEW_DATABASE: Final = b"MANIFEST-000001"
"""What CURRENT says until the first log has been made."""


class Record(NamedTuple):
    """One physical record."""

    offset: int
    """Within the block."""
    type: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + _HEADER.size + len(self.payload)


class Block(NamedTuple):
    """What a block holds: whole records, then nothing, or something that is no whole record."""

    records: list[Record]
    bad_offset: int | None
    """Where the first bytes lie that are no whole record and not zero; None when there are none."""


class Part(NamedTuple):
    """What a log holds from the start of a block on, up to the first record that is not whole."""

    first_sequence: int | None
    """Of the first whole batch that begins there; None if there is none."""
    last_sequence: int | None
    """Of the last one."""
    end: int
    """Where the last whole batch ends in the log."""
    is_broken: bool
    """Whether anything but zeros lies behind that."""


def check_logs(path: Path) -> None:
    """End the logs of the database in `path` where a crash has torn them; raise if that would take what was synced.

    A directory without a database passes.

    Raises:
        CorruptionError: names the file. Nothing was changed.
        OSError: a log can't be read or cut.
    """
    synced = read_mark(path)
    logs = log_files(path)
    current = path / "CURRENT"
    if not current.exists():
        if synced or any(path.glob("*.sst")) or any(log.stat().st_size for log in logs):
            raise CorruptionError(f"{current} is missing, although there is a database: restore it", file=current)
        return
    if not logs and current.read_bytes().strip() != _MANIFEST_OF_A_NEW_DATABASE:
        raise CorruptionError(f"the write-ahead log of {path} is missing (*.log): restore it", file=path)
    _end_at_first_break(logs, synced)


def check_recovered(path: Path, last_sequence: int) -> None:
    """Raise if recovery has found less than what was synced. Raises CorruptionError."""
    synced = read_mark(path)
    if last_sequence < synced:
        raise CorruptionError(
            f"the write-ahead log of {path} lost its end: change {synced} was synced, but the last one there is "
            f"{last_sequence}: {_ADVICE}",
            file=path,
        )


def log_files(path: Path) -> list[Path]:
    """Return the logs, oldest first."""
    return sorted((file for file in path.glob("*.log") if file.stem.isdigit()), key=lambda file: int(file.stem))


def find_damage(path: Path) -> tuple[Path, int] | None:
    """Return the first damaged log and the offset of the damage; None when every record is whole. Reads everything."""
    for log in log_files(path):
        content = log.read_bytes()
        for start in range(0, len(content), BLOCK_BYTES):
            bad_offset = read_block(content[start : start + BLOCK_BYTES]).bad_offset
            if bad_offset is not None:
                return log, start + bad_offset
    return None


def read_block(block: bytes) -> Block:
    """Take a block apart, as far as its records are whole."""
    records = list(_records(block))
    offset = records[-1].end if records else 0
    return Block(records, offset if any(block[offset:]) else None)


def _records(block: bytes) -> Iterator[Record]:
    offset = 0
    while offset + _HEADER.size <= len(block):
        record = _read_record(block, offset)
        if record is None:
            return
        yield record
        offset = record.end


def _read_record(block: bytes, offset: int) -> Record | None:
    checksum, length, kind = _HEADER.unpack_from(block, offset)
    start = offset + _HEADER.size
    if kind == 0 or kind > _TYPE_MAX or start + length > len(block):
        return None
    if masked_crc(block[start - 1 : start + length]) != checksum:
        return None
    return Record(offset, kind, block[start : start + length])


def masked_crc(data: bytes) -> int:
    """Return the checksum in the form in which RocksDB stores it."""
    crc = crc32.iscsi(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFF_FFFF


def _end_at_first_break(logs: list[Path], synced: int) -> None:
    """Read what lies behind the batch that was synced last, and end the logs where the first batch is not whole."""
    contents = [log.read_bytes() for log in logs]
    starts = [_synced_block(content, synced) for content in contents]
    last_sequence: int | None = None
    for index, (content, start) in enumerate(zip(contents, starts, strict=True)):
        part = read_part(content, start or 0)
        if synced and last_sequence is not None and (part.first_sequence or 0) > max(last_sequence, synced) + 1:
            _cut(logs[index:], 0)  # the log before lost its end, all of it behind what was synced
            return
        last_sequence = part.last_sequence or last_sequence
        if part.is_broken:
            if last_sequence is not None:
                is_damaged = last_sequence < synced
            else:  # nothing whole before it: was anything synced that lies behind it?
                is_damaged = any(younger is not None for younger in starts[index + 1 :]) or _holds_synced(
                    content[part.end :][:BLOCK_BYTES], synced
                )
            if is_damaged:
                text = f"the write-ahead log {logs[index]} is damaged at byte {part.end}: {_ADVICE}"
                raise CorruptionError(text, file=logs[index])
            _cut(logs[index:], part.end)
            return


def _synced_block(content: bytes, synced: int) -> int | None:
    """Return where the last block starts in which a batch begins that was synced; None without one."""
    for start in reversed(range(0, len(content), BLOCK_BYTES)):
        sequences = map(_sequence, _records(content[start : start + BLOCK_BYTES]))
        first = next((sequence for sequence in sequences if sequence is not None), None)
        if first is not None and first <= synced:
            return start
    return None


def read_part(content: bytes, start: int = 0) -> Part:
    """Read what a log holds from the block at `start` on, as far as its batches are whole."""
    first_sequence = last_sequence = None
    end = start
    head: bytes | None = None  # of a batch whose last record has not come yet
    for block_start in range(start, len(content), BLOCK_BYTES):
        filled = 0
        for record in _records(content[block_start : block_start + BLOCK_BYTES]):
            filled = record.end
            if record.type in (_FULL, _FIRST):
                if head is not None:
                    return Part(first_sequence, last_sequence, end, is_broken=True)
                head = b""
            if head is not None and len(head) < _BATCH.size:
                head += record.payload[: _BATCH.size - len(head)]
            if record.type in (_FULL, _LAST):
                end = block_start + record.end
                if head is not None and len(head) == _BATCH.size:
                    sequence, changes = _BATCH.unpack(head)
                    first_sequence = first_sequence or sequence
                    last_sequence = sequence + changes - 1
                head = None
        if filled + _HEADER.size <= BLOCK_BYTES:
            break  # the log ends here, or is broken
    return Part(first_sequence, last_sequence, end, is_broken=bool(content[end:].strip(b"\0")))


def _holds_synced(block: bytes, synced: int) -> bool:
    """Say whether a whole batch that was synced begins anywhere in a block whose start is broken."""
    for offset in range(len(block) - _HEADER.size):
        record = _read_record(block, offset)
        sequence = None if record is None else _sequence(record)
        if sequence is not None and sequence <= synced:
            return True
    return False


def _sequence(record: Record) -> int | None:
    """Return the number of the first change of the batch that begins with a record; None if none does, or it is cut off."""
    if record.type not in (_FULL, _FIRST) or len(record.payload) < _BATCH.size:
        return None
    sequence: int = _BATCH.unpack_from(record.payload)[0]
    return sequence


def _cut(logs: list[Path], end: int) -> None:
    """Cut the first of `logs` at `end`, and empty the younger ones; these first, so that none ever goes on after a hole."""
    for log, size in reversed([(logs[0], end), *((log, 0) for log in logs[1:])]):
        with log.open("r+b") as file:
            file.truncate(size)
            os.fsync(file.fileno())
