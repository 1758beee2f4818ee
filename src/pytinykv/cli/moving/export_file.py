"""The file that `tinykv export` writes: a header, blocks of rows, an end, each with a checksum of its own.

Format, all integers little-endian::

    magic    5 bytes   b"TKVX" and the format version, 1
    blocks             length u32 (of the record), crc32c u32, kind u8, record

The records are MessagePack with the version byte of `model.codec`: an array of the fields by position. Kinds and their
records: 1 `Header`, the first block; 2 `TransactionRows`; 3 `RawRows`; 4 `End`, the last. Rows of transactions come first;
within transactions, and within each column family of raw data, keys ascend. The checksum (Castagnoli) is over the block's
number (u32, from 0), its kind (u8) and its record, so that a block which is lost, repeated or moved is noticed too.

While it is written a file has `.part` at its end; a file without it is whole.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Self, TypeAlias

import msgspec
from fastcrc import crc32

from pytinykv.model import FormatError, encode, record_decoder
from pytinykv.storage import sync_directory

MAGIC: Final = b"TKVX\x01"
PART: Final = ".part"
BLOCK_BYTES: Final = 1 << 20
"""A block ends once its keys and values have reached this."""
BLOCK_ROWS: Final = 2048
"""… or once it has so many rows."""
_BLOCK: Final = struct.Struct("<IIB")
_SEAL: Final = struct.Struct("<IB")


class ExportFileError(Exception):
    """A file that can't be read as an export, or not be written; the message names it and says what to do."""


class Header(msgspec.Struct, array_like=True, frozen=True):
    """What an export is of."""

    export_id: bytes
    """16 random bytes: which export this is."""
    source: str
    """Where the data came from, in words."""
    program: str
    """What wrote it."""
    created_s: int
    """When it began, seconds since 1970."""
    ts: int
    """The moment of the transactional data; 0 if there is none in it."""
    families: tuple[str, ...]
    """The column families of the raw data in it."""
    start: bytes
    """Keys from here on …"""
    end: bytes
    """… and below this one; empty: no bound."""


class TransactionRows(msgspec.Struct, array_like=True, frozen=True):
    """Keys and values as of the header's moment."""

    rows: list[tuple[bytes, bytes]]


class RawRows(msgspec.Struct, array_like=True, frozen=True):
    """Raw keys with values, and when they vanish: seconds since 1970, 0 for never."""

    family: str
    rows: list[tuple[bytes, bytes, int]]


class End(msgspec.Struct, array_like=True, frozen=True):
    """That everything is there."""

    transaction_rows: int
    raw_rows: int


Record: TypeAlias = Header | TransactionRows | RawRows | End

_KINDS: Final[dict[int, type[Record]]] = {1: Header, 2: TransactionRows, 3: RawRows, 4: End}
_KIND_OF: Final = {record: kind for kind, record in _KINDS.items()}
_DECODERS: Final = {kind: record_decoder(record, record.__name__) for kind, record in _KINDS.items()}


class Block(NamedTuple):
    """A block that was read and is whole."""

    number: int
    record: Record
    end_offset: int
    """Where the next one begins."""


def read_blocks(file: BinaryIO, name: str) -> Iterator[Block]:
    """Yield the blocks of a file, from its beginning; it ends before the first that is not whole, or after the last.

    Raises `ExportFileError` for a file that is no export at all.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ExportFileError(f"{name} is no export of version {MAGIC[-1]}: it does not begin with {MAGIC!r}")
    offset, number = len(MAGIC), 0
    while len(head := file.read(_BLOCK.size)) == _BLOCK.size:
        length, checksum, kind = _BLOCK.unpack(head)
        content = file.read(length)
        if len(content) < length or kind not in _DECODERS or _seal(number, kind, content) != checksum:
            return
        offset += _BLOCK.size + length
        try:
            record = _DECODERS[kind](content)
        except FormatError as error:
            raise ExportFileError(f"{name}: block {number} can't be understood: {error}") from error
        yield Block(number, record, offset)
        number += 1


def _seal(number: int, kind: int, content: bytes) -> int:
    return crc32.iscsi(content, crc32.iscsi(_SEAL.pack(number, kind)))


class Left(NamedTuple):
    """What an export that was interrupted has left."""

    header: Header
    family: str | None
    """Of the last row: a column family of raw data, None for transactional data."""
    last_key: bytes | None
    """None: there is no row."""
    transaction_rows: int
    raw_rows: int


class ExportWriter:
    """Writes one export; carries on one that was interrupted. It has the part file locked until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open the part file of `path`, which does not exist itself. Raises `ExportFileError`, OSError."""
        self.path: Final = path
        self.part: Final = path.with_name(path.name + PART)
        if path.exists():
            raise ExportFileError(f"{path} exists already; name another file, or remove it")
        self._file: Final = self.part.open("ab", buffering=0)
        self._number = 0
        """Of the next block."""
        self.transaction_rows = 0
        """Rows in the file."""
        self.raw_rows = 0
        """As `transaction_rows`, of the raw column families. Both only grow."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ExportFileError(f"{self.part} is being written by another process") from None

    def left(self) -> Left | None:
        """Return what an earlier export has left, None if nothing; what is not whole at its end is cut off."""
        header: Header | None = None
        end, family, last_key = 0, None, None
        with self.part.open("rb") as file:
            if file.read(len(MAGIC)) not in (MAGIC[:length] for length in range(len(MAGIC))):
                file.seek(0)
                for block in read_blocks(file, str(self.part)):
                    record = block.record
                    if isinstance(record, Header):
                        header = record
                    elif isinstance(record, TransactionRows | RawRows):
                        self._count(record)
                        family = record.family if isinstance(record, RawRows) else None
                        last_key = record.rows[-1][0]
                    else:
                        break  # killed between the end and the renaming: the end is written anew
                    end, self._number = block.end_offset, block.number + 1
        self._file.truncate(end)
        return None if header is None else Left(header, family, last_key, self.transaction_rows, self.raw_rows)

    def write(self, record: Record) -> None:
        """Append a block. Raises OSError: what is too much then is cut off when the export is carried on."""
        kind = _KIND_OF[type(record)]
        content = encode(record)
        head = _BLOCK.pack(len(content), _seal(self._number, kind, content), kind)
        left = memoryview((head if self._number else MAGIC + head) + content)
        while left:
            left = left[self._file.write(left) :]
        self._number += 1
        self._count(record)

    def _count(self, record: Record) -> None:
        if isinstance(record, TransactionRows):
            self.transaction_rows += len(record.rows)
        elif isinstance(record, RawRows):
            self.raw_rows += len(record.rows)

    def finish(self) -> int:
        """Write the end, make all durable, give the file its name; return its size in bytes. Raises OSError."""
        self.write(End(self.transaction_rows, self.raw_rows))
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self.part.rename(self.path)
        sync_directory(self.path.parent)
        return size

    def close(self) -> None:
        """Close the file; without `finish` it can be carried on."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Survey(NamedTuple):
    """What a whole file has in it."""

    header: Header
    end: End
    spans: dict[str | None, tuple[bytes, bytes]]
    """The first and the last key: of the transactional data (None), and of each column family that has rows."""
    row_blocks: int


class Surveyor:
    """Reads a file once from end to end: `step` by step, as it may be long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header: Header | None = None
        """The first block, once it was read."""
        self._end: End | None = None
        """The last one."""
        self._spans: dict[str | None, tuple[bytes, bytes]] = {}
        """By column family (None: transactions), the first and the last key seen so far."""
        self._row_blocks = 0
        """Blocks of rows seen so far."""
        self._rows = [0, 0]
        """Of transactions and raw ones, to be compared with what the end says."""

    def steps(self) -> Iterator[None]:
        """Check a block at a time. Raises `ExportFileError`, OSError."""
        with self._path.open("rb") as file:
            for block in read_blocks(file, str(self._path)):
                self._take(block)
                yield
            at = file.tell()
        if self._header is None or self._end is None:
            size = self._path.stat().st_size
            raise ExportFileError(
                f"{self._path} is damaged or was cut off: nothing whole follows block {self._row_blocks} "
                f"(near byte {at} of {size}); nothing was imported"
            )
        if self._rows != [self._end.transaction_rows, self._end.raw_rows]:
            raise ExportFileError(
                f"{self._path} is damaged: it has {self._rows[0]} transactional and {self._rows[1]} raw rows where its end "
                f"says {self._end.transaction_rows} and {self._end.raw_rows}; nothing was imported"
            )

    def _take(self, block: Block) -> None:
        record = block.record
        if (block.number == 0) is not isinstance(record, Header) or self._end is not None:
            raise ExportFileError(f"{self._path}: block {block.number} is in the wrong place; nothing was imported")
        if isinstance(record, Header):
            self._header = record
        elif isinstance(record, End):
            self._end = record
        else:
            family = record.family if isinstance(record, RawRows) else None
            self._rows[0 if family is None else 1] += len(record.rows)
            self._row_blocks += 1
            if record.rows:
                first, _ = self._spans.get(family, (record.rows[0][0], b""))
                self._spans[family] = (first, record.rows[-1][0])

    def survey(self) -> Survey:
        """Return what was found; after the last step."""
        assert self._header is not None
        assert self._end is not None
        return Survey(self._header, self._end, self._spans, self._row_blocks)
