"""What a pessimistic transaction has read from its snapshot: keys, and ranges, whether there was anything in them or not.

What it then writes there must not have been written by others since, or their writes would be lost (`AsyncTransaction`).
"""

from __future__ import annotations

from collections.abc import Iterable

from pytinykv.client.key_space import KeyRange


class ReadSet:
    """Keys and ranges that were read. Only grows."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        """Keys that were read one by one."""
        self._ranges: list[KeyRange] = []
        """Ranges that were scanned, each once, in the order of the scans."""

    def add(self, key: bytes) -> None:
        """Note a key."""
        self._keys.add(key)

    def update(self, keys: Iterable[bytes]) -> None:
        """Note several keys."""
        self._keys.update(keys)

    def add_range(self, range_: KeyRange) -> None:
        """Note a range, as a whole: how far a scan will go is not known when it begins."""
        if range_ not in self._ranges:
            self._ranges.append(range_)

    def holds(self, key: bytes) -> bool:
        """Whether a key was read."""
        return key in self._keys or any(
            range_.start <= key and (not range_.end or key < range_.end) for range_ in self._ranges
        )
