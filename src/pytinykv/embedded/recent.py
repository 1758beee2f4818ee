"""Which keys were committed lately: most commits learn from it that nobody was first, without a look into the engine.

A transaction that began at 100 conflicts with records above 100. While all of those are of keys that stand here, one look
into a dictionary for each of its keys does what a search in the engine would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytinykv.transaction.plain import PlainWrite

KEYS_MAX: Final = 8192
BYTES_MAX: Final = 1 << 20
"""Keys together; beyond either bound it begins anew, and transactions that are open then are looked up in the engine."""


class RecentCommits:
    """The newest record of each key that has one above `since_ts`. Used under the writer's lock.

    Invariant: every record in the engine is at or below `since_ts`, or at or below what stands here for its key. Also when an
    interrupt ends a call in its middle.
    """

    def __init__(self, since_ts: int) -> None:
        """Make one for an engine that has no record above `since_ts`."""
        self.since_ts = since_ts
        """Only grows."""
        self._newest: dict[bytes, int] = {}
        """By encoded key, the greatest timestamp of a record."""
        self._newest_ts = since_ts
        """The greatest of all that were noted."""
        self._bytes = 0
        """Of the keys that were noted since it began anew."""

    def note(self, encoded: bytes, timestamp: int) -> None:
        """Take note of a record before it is in the engine."""
        self._newest_ts = max(self._newest_ts, timestamp)
        self._newest[encoded] = max(timestamp, self._newest.get(encoded, 0))
        self._bytes += len(encoded)
        self._forget_if_full()

    def note_commit(self, writes: Iterable[PlainWrite], commit_ts: int) -> None:
        """As `note`, for the records of a commit; `has_none_since` has said that they are the newest of their keys."""
        newest = self._newest
        self._newest_ts = max(self._newest_ts, commit_ts)
        for encoded, _ in writes:
            newest[encoded] = commit_ts
            self._bytes += len(encoded)
        self._forget_if_full()

    def _forget_if_full(self) -> None:
        if self._bytes > BYTES_MAX or len(self._newest) > KEYS_MAX:
            self.since_ts = self._newest_ts
            self._newest.clear()
            self._bytes = 0

    def has_none_since(self, writes: Iterable[PlainWrite], start_ts: int) -> bool:
        """Whether it is certain that no key of `writes` has a record at or above `start_ts`."""
        if start_ts <= self.since_ts:
            return False
        newest = self._newest.get
        for encoded, _ in writes:  # noqa: SIM110 - `all` with a generator takes twice as long, for each commit
            if newest(encoded, 0) >= start_ts:
                return False
        return True
