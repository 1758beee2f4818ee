"""The checksum of `RawChecksum`: XOR over all pairs of CRC-64/XZ(key followed by value).

XOR makes it independent of the order of pairs, so clients combine the checksums of several regions by XOR as well.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from fastcrc import crc64


class RangeChecksum(msgspec.Struct, frozen=True, kw_only=True):
    """What `RawChecksumResponse` reports about a range."""

    checksum: int
    total_kvs: int
    total_bytes: int
    """Keys and values together."""

    def __xor__(self, other: RangeChecksum) -> RangeChecksum:
        """Combine two disjoint ranges."""
        return RangeChecksum(
            checksum=self.checksum ^ other.checksum,
            total_kvs=self.total_kvs + other.total_kvs,
            total_bytes=self.total_bytes + other.total_bytes,
        )


def checksum_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> RangeChecksum:
    """Checksum (key, value) pairs."""
    checksum = total_kvs = total_bytes = 0
    for key, value in pairs:
        checksum ^= crc64.xz(key + value)
        total_kvs += 1
        total_bytes += len(key) + len(value)
    return RangeChecksum(checksum=checksum, total_kvs=total_kvs, total_bytes=total_bytes)
