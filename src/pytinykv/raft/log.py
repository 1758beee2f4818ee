"""One peer's log, as the rules of Raft see it: numbered entries, each with the term in which a leader made it.

In quiet times it only grows: a leader appends what clients ask for, followers append what the leader sends. Once a majority
has an entry on disk it is *committed*, which is final: all peers will have it at that index, and apply it to their state
machines in the same order. What is not committed may be replaced. A leader that lost its majority may have appended entries
that no other peer has; when the next leader's entries come for the same indexes, its own give way from the first difference
on. Here the leader of term 2 was cut off with 3@2 and 4@2 (index 3 and 4, term 2) in its own log only; then it hears of the
leader of term 3. No client was told that a command of 3@2 or 4@2 was executed, since no majority had it:

    old leader         1@1 no-op   2@1 a   3@2 no-op   4@2 b
    new leader         1@1 no-op   2@1 a   3@3 no-op               sends 3@3, to be put behind 2@1
    old leader, then   1@1 no-op   2@1 a   3@3 no-op               it has 2@1: 3@3 replaces 3@2, and 4@2 goes with that

What an entry's data says is the driver's affair; Raft looks at its kind. A no-op has no data: with it a leader opens its
term, because entries of older terms are committed only together with one of its own (Raft 5.4.2, figure 8; see `leading`).

Two logs that have the same term at one index are equal up to there (log matching, Raft 5.3), since a term has one leader, and
a follower appends only behind an entry that it shares with the leader. So peers compare logs by one position, index and term.

Here the log is what the storage has, then the newest entries, which the storage does not have yet:

                  snapshot                                                       last_index
                     │                                                               │
    index  ...  4    5  │  6    7    8    9    10   11  │  12   13  │  14   15   16  │
    term        2    2  │  2    2    2    3    3    3   │  3    3   │  4    4    4   │
                        └────── storage.entries() ──────┴───── _unwritten (memory) ──┘
                        first_index                     │           │
                                                        │      handed: in a Ready, being written
                                                        │
    two chains of positions, which never cross their own order but know nothing of each other:

      state machine    snapshot ≤ applied ≤ applying ≤ committed ≤ last_index
      disk                     durability.index ≤ handed ≤ last_index

`committed` may lie above `durability.index`: then a majority without this peer has the entries on disk.

One put at a leader of three, whose log ends at 6 and is committed and applied up to there (a test plays it):

                                                  last_index  handed  durable  committed  applying  applied
    it is proposed                                         7       6        6          6         6        6
    a Ready: write 7, send it to the followers             7       7        6          6         6        6
    both followers have it on disk, we not yet             7       7        6          7         6        6
    the next Ready: apply 7                                7       7        6          7         7        6
    it is applied, and its client is answered              7       7        6          7         7        7
    our own disk has it                                    7       7        7          7         7        7

An entry's way: `append` puts it into memory; `take_unhanded` gives it to the driver in a Ready; once the driver asks for the
next Ready it has written this one, and `on_written` lets go of it: from then on the storage serves it. A cache of recent
entries, if there is to be one, is the storage's affair.

A log can be replaced by a snapshot (`restore`). Until the driver has installed that and said so (`on_applied`), the storage
still holds the old log, and nothing below the snapshot may be read.

Invariants:
1. Indexes have no gap; terms never fall along the log, and none is above the peer's own term.
2. Nothing at or below `committed` is ever overwritten.
3. The two chains above.
4. An entry above the snapshot is in memory or in the storage; where both have its index, memory is right.
"""

from __future__ import annotations

from pytinykv.raft.durability import Durability
from pytinykv.raft.errors import Compacted, StorageError, Unavailable
from pytinykv.raft.messages import Entry, LogIndex, SnapshotMeta, Term
from pytinykv.raft.storage import Storage, limit_bytes


class RaftLog:
    """One peer's log."""

    __slots__ = (
        "_snapshot_index",
        "_snapshot_term",
        "_storage",
        "_unwritten",
        "_unwritten_first",
        "applied",
        "applying",
        "committed",
        "durability",
        "handed",
        "installing",
        "last_index",
        "pending_snapshot",
    )

    def __init__(self, storage: Storage, committed: LogIndex, applied: LogIndex, durable_term: Term) -> None:
        first, last = storage.first_index(), storage.last_index()
        base = LogIndex(first - 1)
        assert committed <= last, f"the log ends at {last}, below the persisted commit index {committed}"
        self._storage = storage
        """Read only. The driver writes to it what Readys contain, and cuts its front off when it likes."""
        self._unwritten: list[Entry] = []
        """Entries that the storage may not have: not handed out, or handed out in the newest Ready. A run without gaps that
        ends at `last_index`. Grows by `append`, shrinks by `on_written`, by overwriting, and wholly by `restore`."""
        self._unwritten_first = LogIndex(last + 1)
        """Index of the first of them, also while there is none: everything below is the storage's."""
        self._snapshot_index, self._snapshot_term = base, storage.term(base)
        """The entry before the log's first one when this peer started, or since then the end of the newest snapshot that
        replaced the log. Lies below the true beginning once the driver has cut the storage's front off."""
        self.pending_snapshot: SnapshotMeta | None = None
        """A snapshot that was accepted and is not handed out: set by `restore`, taken by the next Ready."""
        self.installing: SnapshotMeta | None = None
        """A snapshot that was handed out and is not installed: set by `take_snapshot`, cleared by `on_applied`."""
        self.last_index = last
        """Highest index of the log, on disk or not. Falls only when entries or a snapshot replace uncommitted entries."""
        self.handed = last
        """Everything up to here was given to the driver in some Ready, or lies below a snapshot. Moved by `take_unhanded` and
        `restore`, back by overwriting."""
        self.committed = max(committed, base)
        """Everything up to here is on the disks of a majority and final. Moved by `commit_to` and `restore`; never falls."""
        self.applied = max(applied, base)
        """Everything up to here has changed the state machine. Moved by the driver through `on_applied`; never falls."""
        self.applying = self.applied
        """Everything up to here was handed out for applying. Moved by `take_committed` and `take_snapshot`; never falls."""
        self.durability = Durability(last, durable_term)
        """How far the log has got on this peer's own disk; told of every overwriting here, of syncs by `RawNode`."""
        assert self.applied <= self.committed, f"applied {self.applied} lies above the commit index {self.committed}"

    # --- looking things up --------------------------------------------------------------------------------------

    def first_index(self) -> LogIndex:
        """Return the lowest index that can be read, `last_index` + 1 when there is no entry."""
        return max(LogIndex(self._snapshot_index + 1), self._storage.first_index())

    def term(self, index: LogIndex) -> Term:
        """Return an entry's term, or that of the last entry inside the snapshot.

        Raises:
            Compacted, Unavailable: as `Storage.term`.
        """
        if index >= self._unwritten_first:
            if index > self.last_index:
                raise Unavailable(index)
            return self._unwritten[index - self._unwritten_first].term
        if index <= self._snapshot_index:
            if index == self._snapshot_index:
                return self._snapshot_term
            raise Compacted(index)
        return self._storage.term(index)

    def last_term(self) -> Term:
        """Return the term of the last entry."""
        return self._unwritten[-1].term if self._unwritten else self.term(self.last_index)

    def matches(self, index: LogIndex, term: Term) -> bool:
        """Tell whether the entry at `index` is there and has `term`; then all before it are the same, too (Raft 5.3)."""
        if index > self.last_index:
            return False
        try:
            return self.term(index) == term
        except StorageError:
            return False

    def is_up_to_date(self, last_index: LogIndex, last_term: Term) -> bool:
        """Tell whether a log that ends so has all that may be committed in this one (Raft 5.4.1)."""
        own = self.last_term()
        return last_term > own or (last_term == own and last_index >= self.last_index)

    def entries(self, low: LogIndex, high: LogIndex, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `low` to `high`, both included: at least one, and no more than fit into `bytes_max`.

        May return fewer than would fit, where the storage ends and memory begins.

        Raises:
            Compacted: `low` lies below the log.
        """
        first = self._unwritten_first
        if low >= first:
            if low == high:
                return (self._unwritten[low - first],)
            return tuple(limit_bytes(self._unwritten[low - first : high - first + 1], bytes_max))
        if low <= self._snapshot_index:
            raise Compacted(low)
        return tuple(self._storage.entries(low, min(LogIndex(high + 1), first), bytes_max))

    def conflict_hint(self, index: LogIndex, term: Term) -> tuple[LogIndex, Term]:
        """Return the highest position not above `index` whose term is not above `term`, and its term.

        A log that has an entry of `term` at `index` can agree with this one only there or below, because terms never fall
        along a log. Below the log the term is not known; then it is 0.

        With it a leader finds the common beginning of two logs in one round trip for each differing term, not for each entry:

            index      1  2  3  4  5  6  7
            leader     1  1  4  4  4  4        asks: do you have (6, term 4)?
            follower   1  1  2  2  2  3  3     refuses; conflict_hint(6, 4) is (6, 3): its 3 at 6 is not above the leader's 4
            leader                             conflict_hint(6, 3) is (2, 1): it has no 3 and no 2; asks for (2, term 1) next
            follower                           accepts, and replaces 3 to 7
        """
        index = min(index, self.last_index)
        try:
            while (own := self.term(index)) > term:
                index = LogIndex(index - 1)
        except StorageError:
            return index, Term(0)
        return index, own

    def first_conflict(self, entries: tuple[Entry, ...]) -> int:
        """Return the position of the first of `entries` that this log does not have, `len(entries)` when it has all.

        A follower appends from there on, and nothing if there is none: an append that was sent earlier and arrives late has
        fewer entries than the log by now, and must not cut off those behind, which may be acknowledged already (Raft 5.3).
        """
        if entries and entries[0].index > self.last_index:
            return 0
        for position, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                return position
        return len(entries)

    # --- changing it --------------------------------------------------------------------------------------------

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Put entries at the place their indexes say; what was there and above is gone.

        The caller has found the first conflict: entries that the log has already would be written and synced once more.
        """
        first = entries[0].index
        assert self.committed < first <= self.last_index + 1, (
            f"append at {first} would overwrite the commit index {self.committed} or leave a gap after {self.last_index}"
        )
        if first <= self.last_index:
            self._truncate(first)
        self._unwritten.extend(entries)
        self.last_index = entries[-1].index

    def _truncate(self, from_index: LogIndex) -> None:
        position = from_index - self._unwritten_first
        if position > 0:
            del self._unwritten[position:]
        else:
            self._unwritten.clear()
            self._unwritten_first = from_index
        self.handed = min(self.handed, LogIndex(from_index - 1))
        self.durability.overwritten(from_index)

    def commit_to(self, index: LogIndex) -> bool:
        """Move the commit index up; return whether it moved.

        The caller knows that a majority has the entry at `index`, and that this log's is the same one.
        """
        if index <= self.committed:
            return False
        assert index <= self.last_index, f"commit index {index} lies above the log's end {self.last_index}"
        self.committed = index
        return True

    def restore(self, meta: SnapshotMeta) -> None:
        """Replace the whole log by a snapshot, which the next Ready hands out (Raft section 7)."""
        self.durability.overwritten(LogIndex(self.committed + 1))
        self._unwritten.clear()
        self._unwritten_first = LogIndex(meta.index + 1)
        self._snapshot_index, self._snapshot_term = meta.index, meta.term
        self.pending_snapshot = meta
        self.last_index = self.handed = self.committed = meta.index

    # --- handing out --------------------------------------------------------------------------------------------

    def take_unhanded(self) -> tuple[Entry, ...]:
        """Return the entries to persist, each once."""
        if self.handed == self.last_index:
            return ()
        taken = tuple(self._unwritten[self.handed + 1 - self._unwritten_first :])
        self.handed = self.last_index
        return taken

    def on_written(self) -> None:
        """Let go of what was handed out: the driver has written it, so the storage serves it from now on."""
        count = self.handed + 1 - self._unwritten_first
        if count > 0:
            del self._unwritten[:count]
            self._unwritten_first = LogIndex(self.handed + 1)

    def take_snapshot(self) -> SnapshotMeta | None:
        """Return the snapshot to install, once."""
        meta, self.pending_snapshot = self.pending_snapshot, None
        if meta is not None:
            self.installing = meta
            self.applying = meta.index
        return meta

    def is_installing(self) -> bool:
        """Tell whether an accepted snapshot is not installed yet; until then the storage's log is not this one."""
        return self.pending_snapshot is not None or self.installing is not None

    def has_committed(self) -> bool:
        """Tell whether entries wait to be handed out for applying; while a snapshot is being installed, none do."""
        return self.applying < self.committed and not self.is_installing()

    def take_committed(self, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries to apply, each once, about `bytes_max` at a time."""
        if not self.has_committed():
            return ()
        taken = self.entries(LogIndex(self.applying + 1), self.committed, bytes_max)
        self.applying = taken[-1].index
        return taken

    def on_applied(self, index: LogIndex) -> SnapshotMeta | None:
        """Note that everything up to `index` is applied; return the snapshot that is installed by that, if there is one."""
        assert index <= self.applying, f"applied {index}, but only {self.applying} was handed out"
        self.applied = max(self.applied, index)
        installed = self.installing
        if installed is None or index < installed.index:
            return None
        self.installing = None
        return installed
