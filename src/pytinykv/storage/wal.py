"""Check RocksDB's write-ahead logs before recovery reads them, and find the damage after recovery has refused them.

RocksDB recovers here in the mode that takes a torn record at the end of a log for the trace of a crash and every other
damage for an error. Three kinds of damage then go unnoticed, with acknowledged writes lost; `check_logs` finds them:

1. a damaged length field in the last block looks like a torn record, and hides the whole records behind it;
2. a log that lost its end is accepted although a younger log goes on after the hole;
3. a log, or `CURRENT`, that is missing altogether is not noticed.

And when RocksDB reports a damaged log, it does not say which: `find_damage` does.

The format (RocksDB's wiki, "Write Ahead Log File Format"): blocks of 32 KiB, filled with records that never cross a block's
end; what is too short for a header (7 bytes) stays zero::

    masked crc32c u32 | length u16 | type u8 | payload         all little-endian
    type: 1 a whole batch, 2 its first part, 3 a middle part, 4 its last part
    batch: sequence number of its first change u64 | number of changes u32 | changes

The checksum covers type and payload.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fastcrc import crc32

from pytinykv.storage.errors import CorruptionError

BLOCK_BYTES: Final = 32 * 1024
_HEADER: Final = struct.Struct("<IHB")
_BATCH: Final = struct.Struct("<QI")
_FULL, _FIRST, _LAST = 1, 2, 4
_TYPE_MAX: Final = 8
_MASK_DELTA: Final = 0xA282_EAD8
_MANIFEST_OF_A_NEW_DATABASE: Final = b"MANIFEST-000001"
"""What CURRENT says until the first log has been made."""


class Record(NamedTuple):
    """One physical record."""

    offset: int
    """Within the block."""
    type: int
    payload: bytes


class Block(NamedTuple):
    """What a block holds: whole records, then nothing, or something that is no whole record."""

    records: list[Record]
    bad_offset: int | None
    """Where the first bytes lie that are no whole record and not zero; None when there are none."""


def check_logs(path: Path) -> None:
    """Raise if the logs of the database in `path` have damage that recovery would not notice.

    Reads the last block of each log only. A directory without a database passes.

    Raises:
        CorruptionError: names the file.
    """
    logs = log_files(path)
    current = path / "CURRENT"
    if not current.exists():
        if any(path.glob("*.sst")) or any(log.stat().st_size for log in logs):
            raise CorruptionError(f"{current} is missing, although there is a database: restore it", file=current)
        return
    if not logs and current.read_bytes().strip() != _MANIFEST_OF_A_NEW_DATABASE:
        raise CorruptionError(f"the write-ahead log of {path} is missing (*.log): restore it", file=path)
    for index, log in enumerate(logs):
        if _is_torn(log):
            _check_no_hole(log, logs[index + 1 :])


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
    records: list[Record] = []
    offset = 0
    while offset + _HEADER.size <= len(block):
        record = _read_record(block, offset)
        if record is None:
            return Block(records, offset if any(block[offset:]) else None)
        records.append(record)
        offset += _HEADER.size + len(record.payload)
    return Block(records, offset if any(block[offset:]) else None)


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


def _is_torn(log: Path) -> bool:
    """Say whether the last record was cut off by a crash; raise if it was damaged otherwise."""
    start = max(0, log.stat().st_size - 1) // BLOCK_BYTES * BLOCK_BYTES
    with log.open("rb") as file:
        file.seek(start)
        block = file.read()
    records, bad_offset = read_block(block)
    if bad_offset is None:
        return len(records) > 0 and records[-1].type not in (_FULL, _LAST)
    if _whole_record_behind(block, bad_offset) or _only_length_is_wrong(block, bad_offset):
        raise CorruptionError(
            f"the write-ahead log {log} is damaged at byte {start + bad_offset}: restore it, or give up this copy of the "
            f"data and start with an empty directory",
            file=log,
        )
    return True


def _whole_record_behind(block: bytes, bad_offset: int) -> bool:
    """Say whether a whole record starts anywhere after the bad bytes: then a crash did not make them."""
    return any(_read_record(block, offset) is not None for offset in range(bad_offset + 1, len(block) - _HEADER.size))


def _only_length_is_wrong(block: bytes, bad_offset: int) -> bool:
    """Say whether the last record is whole, but for its length field."""
    if len(block) - bad_offset < _HEADER.size:
        return False
    checksum, _, kind = _HEADER.unpack_from(block, bad_offset)
    return 0 < int(kind) <= _TYPE_MAX and bool(masked_crc(block[bad_offset + _HEADER.size - 1 :]) == checksum)


def _check_no_hole(torn: Path, younger: list[Path]) -> None:
    """Raise if a younger log goes on after changes that the torn log lost.

    A younger log that was synced would prove that the torn one was synced, too: so either the torn log was damaged
    later, or nothing of the younger one was ever acknowledged. It can't be told which.
    """
    following = next((first for first in map(_first_sequence, younger) if first is not None), None)
    if following is None:
        return
    ends = [sequence + changes for sequence, changes in _batches(torn.read_bytes())]
    if not ends or ends[-1] != following:
        raise CorruptionError(
            f"the write-ahead log {torn} lost its end, but a younger log goes on after it: restore it, or give up this "
            f"copy of the data and start with an empty directory",
            file=torn,
        )


def _first_sequence(log: Path) -> int | None:
    with log.open("rb") as file:
        block = file.read(BLOCK_BYTES)
    return next((sequence for sequence, _ in _batches(block)), None)


def _batches(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (first sequence number, number of changes) of every batch that is whole."""
    head: bytes | None = None
    for start in range(0, len(content), BLOCK_BYTES):
        for record in read_block(content[start : start + BLOCK_BYTES]).records:
            if record.type in (_FULL, _FIRST):
                head = record.payload[: _BATCH.size]
            if record.type in (_FULL, _LAST) and head is not None and len(head) == _BATCH.size:
                yield _BATCH.unpack(head)
                head = None
