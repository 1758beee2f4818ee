"""What a split is: the log entry that says it, which keys it may have, and how many of them fit into one. Pure.

    ADMIN entry: (kind, epoch, keys, new ids)        one id, and one peer id for each peer, for each key

The region that is split keeps the part behind the last key (see `model.split_region`), so a request with too many keys for
one entry is served in several, each of which splits what the one before has left.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import msgspec

from pytinykv.model import FormatError, Region, RegionEpoch, SplitIds, encode, record_decoder
from pytinykv.wire.keys import describe_key
from pytinykv.wire.limits import KEY_BYTES_MAX

# Stored, never renumber.
SPLIT: Final = 1

KEYS_MAX: Final = 512
"""Keys of one entry: so many regions come up in one turn of the store."""
BOUND_BYTES_MAX: Final = KEY_BYTES_MAX // 8 * 9 + 9
"""Longest bound: the memcomparable form of the longest key."""


class Split(msgspec.Struct, frozen=True, array_like=True):
    """The data of an ADMIN entry. Nothing happens unless the region has this very epoch when it is applied."""

    kind: int
    epoch: RegionEpoch
    keys: tuple[bytes, ...]
    new_ids: tuple[SplitIds, ...]


class SplitRefusedError(ValueError):
    """A region can't be split as it was asked for, now or ever; the message says why."""


_decode = record_decoder(Split, "split")


def encode_split(epoch: RegionEpoch, keys: Sequence[bytes], new_ids: Sequence[SplitIds]) -> bytes:
    """Return the data of the entry that splits a region of this epoch."""
    return encode(Split(SPLIT, epoch, tuple(keys), tuple(new_ids)))


def decode_split(data: bytes) -> Split:
    """Return what an ADMIN entry says. Raises FormatError, also for a kind of a later version."""
    split = _decode(data)
    if split.kind != SPLIT:
        raise FormatError(f"admin entry: kind {split.kind} is unknown to this version")
    return split


def problem(region: Region, keys: Sequence[bytes]) -> str | None:
    """Say why a region can't be split at these keys, None if it can."""
    if not keys:
        return "there is no key to split at"
    for key in keys:
        if not key:
            return "a split key is empty"
        if len(key) > BOUND_BYTES_MAX:
            return f"a split key is too long: {len(key)} bytes, at most {BOUND_BYTES_MAX} are allowed"
        if key == region.start_key:
            return f"the region begins with split key {describe_key(key)} already"
        if not region.contains(key):
            return f"split key {describe_key(key)} is not in region {region.id}"
    for left, right in itertools.pairwise(keys):
        if left == right:
            return f"split key {describe_key(left)} is there twice"
        if left > right:
            return f"split keys must ascend: {describe_key(right)} comes after {describe_key(left)}"
    return None


def portion(keys: Sequence[bytes], bytes_max: int) -> Sequence[bytes]:
    """Return as many of the first keys as one entry holds, at least one."""
    size = 0
    for number, key in enumerate(keys):
        size += len(key)
        if number == KEYS_MAX or (number and size > bytes_max):
            return keys[:number]
    return keys
