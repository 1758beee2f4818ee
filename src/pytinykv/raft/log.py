"""The log as the core sees it: the storage's entries, and the recent ones in memory.

    storage                                   window (in memory)
    ────────────────────────────┬─────────────────────────────────────────────
    first_index ...             │ window_first ...                    last_index
                                │
      applied ≤ applying ≤ committed            durable ≤ handed ≤ last_index
      done      handed out   by a majority      on disk   in a Ready

The window holds at least what was not handed out yet, because only then the storage can have it; it keeps more, up to a
number of bytes, so that followers close to the leader never cost a read.

Invariants:
1. Indexes have no gap; terms never fall along the log.
2. Nothing at or below `committed` is ever overwritten.
3. `applied` ≤ `applying` ≤ `committed` ≤ `last_index`.
4. An entry outside the window is in the storage.
"""

from __future__ import annotations

from pytinykv.raft.durability import Durability
from pytinykv.raft.errors import Compacted, StorageError, Unavailable
from pytinykv.raft.messages import Entry, LogIndex, SnapshotMeta, Term
from pytinykv.raft.storage import Storage

_ENTRY_BYTES = 64
"""What an entry takes in memory beside its data, roughly."""


class RaftLog:
    """One peer's log."""

    __slots__ = (
        "_gate",
        "_snapshot_index",
        "_snapshot_term",
        "_storage",
        "_window",
        "_window_bytes",
        "_window_first",
        "applied",
        "applying",
        "committed",
        "durability",
        "handed",
        "last_index",
        "pending_snapshot",
    )

    def __init__(self, storage: Storage, committed: LogIndex, applied: LogIndex, durable_term: Term) -> None:
        first, last = storage.first_index(), storage.last_index()
        base = LogIndex(first - 1)
        assert committed <= last, f"the log ends at {last}, below the persisted commit index {committed}"
        self._storage = storage
        self._window: list[Entry] = []
        self._window_first = LogIndex(last + 1)
        self._window_bytes = 0
        self._snapshot_index = base
        self._snapshot_term = storage.term(base)
        self.pending_snapshot: SnapshotMeta | None = None
        self._gate = LogIndex(0)
        self.last_index = last
        self.handed = last
        self.committed = max(committed, base)
        self.applied = max(applied, base)
        self.applying = self.applied
        self.durability = Durability(last, durable_term)
        assert self.applied <= self.committed, f"applied {self.applied} lies above the commit index {self.committed}"

    # --- looking things up --------------------------------------------------------------------------------------

    def first_index(self) -> LogIndex:
        """Return the lowest index that can be read."""
        if self.pending_snapshot is not None:
            return LogIndex(self.pending_snapshot.index + 1)
        return max(LogIndex(self._snapshot_index + 1), self._storage.first_index())

    def term(self, index: LogIndex) -> Term:
        """Return an entry's term, or that of the last entry inside the snapshot.

        Raises:
            Compacted, Unavailable: as `Storage.term`.
        """
        if index >= self._window_first:
            if index > self.last_index:
                raise Unavailable(index)
            return self._window[index - self._window_first].term
        if index <= self._snapshot_index:
            if index == self._snapshot_index:
                return self._snapshot_term
            raise Compacted(index)
        return self._storage.term(index)

    def last_term(self) -> Term:
        """Return the term of the last entry."""
        return self._window[-1].term if self._window else self.term(self.last_index)

    def matches(self, index: LogIndex, term: Term) -> bool:
        """Tell whether the entry at `index` is there and has `term`."""
        if index > self.last_index:
            return False
        try:
            return self.term(index) == term
        except StorageError:
            return False

    def is_up_to_date(self, last_index: LogIndex, last_term: Term) -> bool:
        """Tell whether a log that ends so may lead this one (Raft 5.4.1)."""
        own = self.last_term()
        return last_term > own or (last_term == own and last_index >= self.last_index)

    def entries(self, low: LogIndex, high: LogIndex, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `low` to `high`, both included, at least one, stopping when `bytes_max` is exceeded.

        May return fewer than would fit, at the border of storage and window.

        Raises:
            Compacted: `low` lies below the log.
        """
        first = self._window_first
        if low < first:
            if low <= self._snapshot_index:
                raise Compacted(low)
            return tuple(self._storage.entries(low, min(LogIndex(high + 1), first), bytes_max))
        start, stop = low - first, high - first + 1
        if self._window_bytes > bytes_max:
            stop = self._fitting(start, stop, bytes_max)
        return tuple(self._window[start:stop])

    def _fitting(self, start: int, stop: int, bytes_max: int) -> int:
        window, total = self._window, len(self._window[start].data)
        for position in range(start + 1, stop):
            total += len(window[position].data)
            if total > bytes_max:
                return position
        return stop

    def bytes_between(self, after: LogIndex, last: LogIndex) -> int:
        """Return the data bytes of entries above `after`, up to `last`, as far as the window has them."""
        start = max(after + 1 - self._window_first, 0)
        stop = last + 1 - self._window_first
        if stop <= start:
            return 0
        return sum(len(entry.data) for entry in self._window[start:stop])

    def conflict_hint(self, index: LogIndex, term: Term) -> tuple[LogIndex, Term]:
        """Return the highest position not above `index` whose term is not above `term`, and its term.

        Whoever has an entry of `term` at `index` can agree with this log only there or below, because terms never fall
        along a log. Below the log the term is not known; then it is 0.
        """
        index = min(index, self.last_index)
        try:
            while (own := self.term(index)) > term:
                index = LogIndex(index - 1)
        except StorageError:
            return index, Term(0)
        return index, own

    def first_conflict(self, entries: tuple[Entry, ...]) -> int:
        """Return the position of the first of `entries` that this log does not have, `len(entries)` when it has all."""
        if entries and entries[0].index > self.last_index:
            return 0
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                return position
        return len(entries)

    # --- changing it --------------------------------------------------------------------------------------------

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Put entries at the place their indexes say; what was there and above is gone."""
        first = entries[0].index
        assert self.committed < first <= self.last_index + 1, (
            f"append at {first} would overwrite the commit index {self.committed} or leave a gap after {self.last_index}"
        )
        if first <= self.last_index:
            self._truncate(first)
        self._window.extend(entries)
        for entry in entries:
            self._window_bytes += len(entry.data) + _ENTRY_BYTES
        self.last_index = entries[-1].index

    def _truncate(self, from_index: LogIndex) -> None:
        position = from_index - self._window_first
        if position > 0:
            del self._window[position:]
        else:
            self._window.clear()
            self._window_first = from_index
        self._window_bytes = sum(len(entry.data) + _ENTRY_BYTES for entry in self._window)
        self.handed = min(self.handed, LogIndex(from_index - 1))
        self.durability.overwritten(from_index)

    def commit_to(self, index: LogIndex) -> bool:
        """Move the commit index up, if it does; return whether it did."""
        if index <= self.committed:
            return False
        assert index <= self.last_index, f"commit index {index} lies above the log's end {self.last_index}"
        self.committed = index
        return True

    def restore(self, meta: SnapshotMeta) -> None:
        """Replace the whole log by a snapshot, which the next Ready hands out."""
        self.durability.overwritten(LogIndex(self.committed + 1))
        self._window.clear()
        self._window_bytes = 0
        self._window_first = LogIndex(meta.index + 1)
        self._snapshot_index, self._snapshot_term = meta.index, meta.term
        self.pending_snapshot = meta
        self._gate = meta.index
        self.last_index = self.handed = self.committed = meta.index

    # --- handing out --------------------------------------------------------------------------------------------

    def take_unhanded(self) -> tuple[Entry, ...]:
        """Return the entries to persist, each once."""
        if self.handed == self.last_index:
            return ()
        taken = tuple(self._window[self.handed + 1 - self._window_first :])
        self.handed = self.last_index
        return taken

    def take_snapshot(self) -> SnapshotMeta | None:
        """Return the snapshot to install, once."""
        meta, self.pending_snapshot = self.pending_snapshot, None
        if meta is not None:
            self.applying = meta.index
        return meta

    def has_committed(self) -> bool:
        """Tell whether entries wait to be applied; while a snapshot is being installed, none do."""
        return self.applying < self.committed and self.applied >= self._gate

    def take_committed(self, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries to apply, each once, about `bytes_max` at a time."""
        if not self.has_committed():
            return ()
        taken = self.entries(LogIndex(self.applying + 1), self.committed, bytes_max)
        self.applying = taken[-1].index
        return taken

    def on_applied(self, index: LogIndex) -> None:
        """Note that everything up to `index` is applied."""
        assert index <= self.applying, f"applied {index}, but only {self.applying} was handed out"
        self.applied = max(self.applied, index)

    def trim(self, bytes_max: int) -> None:
        """Let go of the oldest entries that storage and state machine have, when the window holds more than `bytes_max`."""
        if self._window_bytes <= bytes_max:
            return
        window, count, freed = self._window, 0, 0
        evictable = min(self.handed, self.applying) - self._window_first + 1
        while count < evictable and self._window_bytes - freed > bytes_max // 2:
            freed += len(window[count].data) + _ENTRY_BYTES
            count += 1
        del window[:count]
        self._window_first = LogIndex(self._window_first + count)
        self._window_bytes -= freed
