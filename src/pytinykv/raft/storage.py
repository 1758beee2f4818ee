"""What the core reads of the persisted group, and an implementation in memory.

    first_index - 1      first_index ......... last_index
    ───────────────      ────────────────────────────────
    last entry in the    entries that `entries` serves
    snapshot; its term
    is still known

Invariants of an implementation:
1. Indexes have no gap; `term(first_index() - 1)` is known.
2. What a Ready handed out is served from the moment the driver wrote it, durable or not, at the latest when it takes the
   next Ready. An implementation that reads from a disk keeps recent entries in memory, above all those not applied yet: the
   core asks for them again when they are committed, and for slightly slow followers.
3. `initial_state` gives what was durable when the process started, and a `ConfState` that is right for the applied index
   handed in `Config.applied`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytinykv.raft.errors import Compacted, SnapshotTemporarilyUnavailable, Unavailable
from pytinykv.raft.messages import ConfState, Entry, HardState, LogIndex, SnapshotMeta, Term


class Storage(Protocol):
    """Read access to one peer's log and state."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """Return the state to start from; read once, by `RawNode`'s constructor."""
        ...

    def entries(self, low: LogIndex, high_exclusive: LogIndex, bytes_max: int) -> Sequence[Entry]:
        """Return entries from `low` on, at least one, stopping before `high_exclusive` or when `bytes_max` is exceeded.

        Raises:
            Compacted: `low` lies below the log.
            Unavailable: `high_exclusive` lies more than one above it.
        """
        ...

    def term(self, index: LogIndex) -> Term:
        """Return the term of an entry; also of the last entry inside the snapshot.

        Raises:
            Compacted: the index lies below that.
            Unavailable: it lies above the log.
        """
        ...

    def first_index(self) -> LogIndex:
        """Return the lowest index that `entries` can serve, when the log is not empty."""
        ...

    def last_index(self) -> LogIndex:
        """Return the highest index, `first_index() - 1` when the log is empty."""
        ...

    def snapshot(self) -> SnapshotMeta:
        """Return what the snapshot that the driver would send now stands for.

        Raises:
            SnapshotTemporarilyUnavailable: it is being prepared.
        """
        ...


def limit_bytes(entries: Sequence[Entry], bytes_max: int) -> Sequence[Entry]:
    """Return the longest prefix whose data fits `bytes_max`, but at least one entry."""
    if len(entries) == 1:
        return entries
    total = 0
    for position, entry in enumerate(entries):
        total += len(entry.data)
        if total > bytes_max and position > 0:
            return entries[:position]
    return entries


class MemoryStorage:
    """A `Storage` in memory, with the writes that a driver would make."""

    def __init__(self, conf_state: ConfState | None = None) -> None:
        """Begin with an empty log; `conf_state` are the members of a group that is being created."""
        self.hard_state = HardState()
        """The newest that was written."""
        self.conf_state = conf_state if conf_state is not None else ConfState()
        """The members as of `applied`."""
        self.applied = LogIndex(0)
        """How far the state machine has got; what `snapshot` stands for."""
        self.snapshot_unavailable = False
        """Set by tests: snapshots take time."""
        self._base_index, self._base_term = LogIndex(0), Term(0)
        """The entry before the first one."""
        self._entries: list[Entry] = []
        """Without gaps, from `_base_index` + 1 on."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.conf_state

    def first_index(self) -> LogIndex:
        return LogIndex(self._base_index + 1)

    def last_index(self) -> LogIndex:
        return LogIndex(self._base_index + len(self._entries))

    def term(self, index: LogIndex) -> Term:
        if index < self._base_index:
            raise Compacted(index)
        if index == self._base_index:
            return self._base_term
        if index > self.last_index():
            raise Unavailable(index)
        return self._entries[index - self._base_index - 1].term

    def entries(self, low: LogIndex, high_exclusive: LogIndex, bytes_max: int) -> Sequence[Entry]:
        if low <= self._base_index:
            raise Compacted(low)
        if high_exclusive > self.last_index() + 1:
            raise Unavailable(LogIndex(high_exclusive - 1))
        start = self._base_index + 1
        return limit_bytes(self._entries[low - start : high_exclusive - start], bytes_max)

    def snapshot(self) -> SnapshotMeta:
        if self.snapshot_unavailable:
            raise SnapshotTemporarilyUnavailable
        return SnapshotMeta(self.applied, self.term(self.applied), self.conf_state)

    def set_hard_state(self, hard_state: HardState) -> None:
        """Keep what `Ready.hard_state` gave."""
        self.hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Write what `Ready.entries` gave: from the first one's index on, the old log is gone."""
        if not entries:
            return
        position = entries[0].index - self._base_index - 1
        assert 0 <= position <= len(self._entries), f"gap or overwritten snapshot at index {entries[0].index}"
        self._entries[position:] = entries

    def set_applied(self, index: LogIndex, conf_state: ConfState) -> None:
        """Note that the state machine stands at `index`, where `conf_state` holds: snapshots are taken of it."""
        self.applied, self.conf_state = index, conf_state

    def compact(self, index: LogIndex) -> None:
        """Drop entries up to and including `index`, which must be applied."""
        assert index <= self.applied, f"entry {index} is not applied yet"
        term = self.term(index)
        del self._entries[: index - self._base_index]
        self._base_index, self._base_term = index, term

    def apply_snapshot(self, meta: SnapshotMeta) -> None:
        """Replace everything by a snapshot, as `Ready.snapshot` asks."""
        self._entries.clear()
        self._base_index, self._base_term = meta.index, meta.term
        self.set_applied(meta.index, meta.conf_state)
