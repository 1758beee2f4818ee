"""A region's log and state on disk, with the newest part of the log in memory; serves as `raft.Storage`.

    truncated_index            applied_index              last_index
         |                          |                         |
    -----+--------------------------+-------------------------+----->  log index
      gone   kept for followers        not applied yet

Invariants, checked when a region is loaded:
1. truncated_index <= applied_index <= last_index: data, apply state and log share one write-ahead log, so whatever
   prefix of it a crash leaves, the applied part of the log is there.
2. Every index in (truncated_index, last_index] has an entry.

All changes go into the caller's write batch; the in-memory state follows at once, since the batch is written within the
same turn of the store loop and a failed write stops the store.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytinykv.model import Region, encode
from pytinykv.raft import (
    Compacted,
    ConfState,
    Entry,
    HardState,
    LogIndex,
    SnapshotMeta,
    SnapshotTemporarilyUnavailable,
    Term,
    Unavailable,
)
from pytinykv.raftstore import keys
from pytinykv.raftstore.membership import conf_state
from pytinykv.raftstore.records import ApplyState, RaftLocalState, decode_apply_state, decode_entry, decode_raft_state
from pytinykv.storage import ColumnFamily, CorruptionError

if TYPE_CHECKING:
    from pytinykv.raftstore.records import SnapshotManifest
    from pytinykv.storage import Engine, WriteBatch

RAFT_CF = ColumnFamily.RAFT

INITIAL_LOG_INDEX = LogIndex(5)
INITIAL_LOG_TERM = Term(5)
"""The first region's log begins after this index, as if there had been entries that are gone: a peer that joins with an
empty log then always starts from a snapshot, which carries the data that was there before the first entry."""


class SnapshotNeed(enum.Enum):
    """Whether a follower waits for a snapshot of this region."""

    NONE = "none"
    WANTED = "wanted"
    MAKING = "making"


class PeerStorage:
    """The persisted side of one peer. See the module's docstring."""

    def __init__(self, engine: Engine, region: Region, *, cache_bytes_max: int) -> None:
        self._engine = engine
        self._raft_state_key = keys.raft_state_key(region.id)
        self._apply_state_key = keys.apply_state_key(region.id)
        self._entry_prefix = keys.entry_prefix(region.id)
        """These three never change, and are needed with each entry."""
        self.region = region
        """The region as of `applied_index`; moved by applied admin commands and by snapshots."""
        self._cache: deque[Entry] = deque()
        """A run of entries without gaps that ends at `last_index`, all added since the region was loaded: those that are not
        applied, since Raft asks for them again to have them applied, and of those applied as many as `cache_bytes_max` and
        `log_budget` allow. What is not in it is read from the engine."""
        self._cache_bytes = 0
        """Data bytes of the entries in it."""
        self._cache_bytes_max = cache_bytes_max
        self.snapshot_need = SnapshotNeed.NONE
        """`snapshot` makes it WANTED, `OutgoingSnapshots` MAKING, `offer_snapshot` NONE."""
        self._offered: SnapshotManifest | None = None
        """The finished snapshot that Raft may send; its files are there as long as it stands here."""
        self.log_bytes = 0
        """Roughly how much log there is, as if all entries had the same size; decides when to cut."""
        self.appended_bytes = 0
        """Of all entries that were added since the region was loaded; tells who has to be looked at for its size."""
        self.hard_state = HardState()
        """Raft's term, vote and commit index as last written; moved by `save_hard_state`."""
        self.apply_state = ApplyState(LogIndex(0), Term(0), LogIndex(0), Term(0))
        """How far the log is applied and cut. `set_applied` moves the one, `truncate` the other, `restore` both."""
        self._last_index = LogIndex(0)
        """Index and term of the last entry, or of the last one that is cut off where there is none. Moved by `append` and
        `restore`; not below the applied index."""
        self._last_term = Term(0)
        """The term at `_last_index`; both move together."""
        self._load()

    def _load(self) -> None:
        region_id = self.region.id
        raft_state = self._engine.get(RAFT_CF, keys.raft_state_key(region_id))
        apply_state = self._engine.get(RAFT_CF, keys.apply_state_key(region_id))
        if apply_state is not None:
            self.apply_state = decode_apply_state(apply_state)
        if raft_state is None:
            self._last_index = self.apply_state.truncated_index
        else:
            state = decode_raft_state(raft_state)
            self.hard_state = state.hard_state
            self._last_index = state.last_index
        self._last_term = self.apply_state.truncated_term
        self._check_loaded()

    def _check_loaded(self) -> None:
        state = self.apply_state
        if not state.truncated_index <= state.applied_index <= self._last_index:
            raise CorruptionError(
                f"region {self.region.id}: truncated {state.truncated_index}, applied {state.applied_index}, "
                f"last {self._last_index} are out of order; the data directory is damaged"
            )
        expected: int = state.truncated_index
        low, high = self._entry_range(LogIndex(expected + 1), LogIndex(self._last_index + 1))
        newest = b""
        for key, value in self._engine.scan(RAFT_CF, low, high):
            newest = value
            expected += 1
            if keys.index_of_entry(key) != expected:
                break
            self.log_bytes += len(value)
        if expected != self._last_index:
            raise CorruptionError(
                f"region {self.region.id}: log entry {expected} of {state.truncated_index + 1}..{self._last_index} is "
                "missing; the data directory is damaged"
            )
        if newest:
            self._last_term = decode_entry(newest).term

    # --- raft.Storage -------------------------------------------------------------------------------------------

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, conf_state(self.region)

    def first_index(self) -> LogIndex:
        return LogIndex(self.apply_state.truncated_index + 1)

    def last_index(self) -> LogIndex:
        return self._last_index

    def term(self, index: LogIndex) -> Term:
        if index == self._last_index:
            return self._last_term
        if index == self.apply_state.truncated_index:
            return self.apply_state.truncated_term
        if index == self.apply_state.applied_index:
            return self.apply_state.applied_term
        self._check_range(index, LogIndex(index + 1))
        return self._entry(index).term

    def entries(self, low: LogIndex, high_exclusive: LogIndex, bytes_max: int) -> list[Entry]:
        """Return entries low <= index < high_exclusive, at least one, then as many as fit into `bytes_max`."""
        self._check_range(low, high_exclusive)
        if low + 1 == high_exclusive:
            return [self._entry(low)]
        found: list[Entry] = []
        size = 0
        for entry in self._entries(low, high_exclusive):
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def snapshot(self) -> SnapshotMeta:
        offered = self._offered
        # One of an older epoch is of no use: a peer that isn't in it does not take it, and a store that has the other half
        # of a split already does not take a region that still covers both.
        if (
            offered is not None
            and offered.meta.index >= self.apply_state.truncated_index
            and offered.region.epoch == self.region.epoch
        ):
            return offered.meta
        self._offered = None
        if self.snapshot_need is SnapshotNeed.NONE:
            self.snapshot_need = SnapshotNeed.WANTED
        raise SnapshotTemporarilyUnavailable

    def _check_range(self, low: LogIndex, high: LogIndex) -> None:
        if low <= self.apply_state.truncated_index:
            raise Compacted(low)
        if high > self._last_index + 1:
            raise Unavailable(LogIndex(high - 1))

    def _entry(self, index: LogIndex) -> Entry:
        if self._cache and index >= self._cache[0].index:
            return self._cache[index - self._cache[0].index]
        value = self._engine.get(RAFT_CF, keys.entry_key(self.region.id, index))
        if value is None:
            raise CorruptionError(f"region {self.region.id}: log entry {index} is missing")
        return decode_entry(value)

    def _entries(self, low: LogIndex, high: LogIndex) -> Sequence[Entry]:
        if self._cache and low >= self._cache[0].index:
            first = self._cache[0].index
            return [self._cache[index - first] for index in range(low, high)]
        start, end = self._entry_range(low, high)
        return [decode_entry(value) for _key, value in self._engine.scan(RAFT_CF, start, end)]

    def _entry_range(self, low: LogIndex, high: LogIndex) -> tuple[bytes, bytes]:
        return keys.entry_key(self.region.id, low), keys.entry_key(self.region.id, high)

    # --- changes, each into the turn's batch --------------------------------------------------------------------

    def append(self, batch: WriteBatch, entries: Sequence[Entry]) -> None:
        """Add entries; what they overwrite is deleted (Raft figure 2, AppendEntries step 3 and 4)."""
        first = entries[0].index
        if first <= self.apply_state.applied_index:
            raise AssertionError(f"region {self.region.id}: overwrites applied entry {first}")
        old_last = self._last_index
        while self._cache and self._cache[-1].index >= first:
            self._cache_bytes -= len(self._cache.pop().data)
        prefix, size = self._entry_prefix, 0
        for entry in entries:
            value = encode(entry)
            batch.put(RAFT_CF, prefix + entry.index.to_bytes(8, "big"), value)
            self._cache_append(entry)
            size += len(value)
        self.log_bytes += size
        self.appended_bytes += size
        self._last_index = entries[-1].index
        self._last_term = entries[-1].term
        for index in range(self._last_index + 1, old_last + 1):
            batch.delete(RAFT_CF, keys.entry_key(self.region.id, index))

    def save_hard_state(self, batch: WriteBatch, hard_state: HardState | None) -> None:
        """Write Raft's state together with the end of the log; call it after `append`."""
        if hard_state is not None:
            self.hard_state = hard_state
        state = RaftLocalState(self.hard_state, self._last_index)
        batch.put(RAFT_CF, self._raft_state_key, encode(state))

    def set_applied(self, index: LogIndex, term: Term) -> None:
        """Move the applied index; `save_applied` writes it, once for a run of entries."""
        old = self.apply_state
        self.apply_state = ApplyState(index, term, old.truncated_index, old.truncated_term)

    def save_applied(self, batch: WriteBatch) -> None:
        batch.put(RAFT_CF, self._apply_state_key, encode(self.apply_state))

    def truncate(self, batch: WriteBatch, index: LogIndex, term: Term) -> None:
        """Cut off the log's front up to and including an applied index."""
        old = self.apply_state
        if index <= old.truncated_index:
            return
        if index > old.applied_index:
            raise AssertionError(f"region {self.region.id}: cuts the log at {index}, applied {old.applied_index}")
        batch.delete_range(RAFT_CF, *self._entry_range(LogIndex(old.truncated_index + 1), LogIndex(index + 1)))
        self.apply_state = ApplyState(old.applied_index, old.applied_term, index, term)
        kept, held = self._last_index - index, self._last_index - old.truncated_index
        batch.put(RAFT_CF, keys.apply_state_key(self.region.id), encode(self.apply_state))
        while self._cache and self._cache[0].index <= index:
            self._cache_bytes -= len(self._cache.popleft().data)
        self.log_bytes = self.log_bytes * kept // held

    def restore(self, batch: WriteBatch, region: Region, meta: SnapshotMeta, hard_state: HardState | None) -> None:
        """Replace log and state by those of a snapshot; the data is the caller's job."""
        self.clear_log(batch)
        self.region = region
        self._last_index, self._last_term = meta.index, meta.term
        self.apply_state = ApplyState(meta.index, meta.term, meta.index, meta.term)
        batch.put(RAFT_CF, keys.apply_state_key(region.id), encode(self.apply_state))
        self.save_hard_state(batch, hard_state)

    def clear_log(self, batch: WriteBatch) -> None:
        low = keys.entry_prefix(self.region.id)
        batch.delete_range(RAFT_CF, low, low + b"\xff" * 9)
        self._cache.clear()
        self._cache_bytes = self.log_bytes = 0

    # --- snapshots a leader sends -------------------------------------------------------------------------------

    def offer_snapshot(self, manifest: SnapshotManifest | None) -> None:
        """Tell Raft of a finished snapshot, or with None that there is none (any more)."""
        self._offered = manifest
        self.snapshot_need = SnapshotNeed.NONE

    @property
    def cache_bytes(self) -> int:
        """Return the data bytes of the entries in memory."""
        return self._cache_bytes

    def trim_cache(self, bytes_max: int) -> None:
        """Let go of the oldest entries in memory beyond so many bytes, as far as they are applied."""
        applied = self.apply_state.applied_index
        while self._cache and self._cache_bytes > bytes_max and self._cache[0].index <= applied:
            self._cache_bytes -= len(self._cache.popleft().data)

    def _cache_append(self, entry: Entry) -> None:
        self._cache.append(entry)
        self._cache_bytes += len(entry.data)
        if self._cache_bytes > self._cache_bytes_max:
            self.trim_cache(self._cache_bytes_max)
