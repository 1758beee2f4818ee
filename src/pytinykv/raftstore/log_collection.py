"""Cutting the front of a region's log: the leader decides up to where and proposes it (TiKV's CompactLog), all replicas cut.

    log held by the leader          kept for
    from log_gc_bytes               every other member, and the last `log_keep_entries` applied entries
    from log_gc_bytes_force         members that answer: a silent one gets a snapshot
    from FORCE_ALL times that       no member
    store over its budget           members that answer, and no entries besides (`log_budget`)

A member that answers may just be getting a snapshot. If the log were cut past that meanwhile, it would need the next one, and
so on under enough load.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from pytinykv.raft import LogIndex, NotLeading, ProposalDropped
from pytinykv.raftstore.operations import COMPACT_LOG, encode_operations

if TYPE_CHECKING:
    from pytinykv.raft import RawNode
    from pytinykv.raftstore.config import RaftStoreConfig
    from pytinykv.raftstore.followers import FollowerWatch
    from pytinykv.raftstore.peer_storage import PeerStorage

FORCE_ALL = 4
"""At so many times `log_gc_bytes_force` the log is cut even if followers that answer need it."""


class LogCollection:
    """Belongs to one peer, which calls it while it leads."""

    def __init__(
        self, *, node: RawNode, storage: PeerStorage, followers: FollowerWatch, config: RaftStoreConfig
    ) -> None:
        self._node = node
        self._storage = storage
        self._followers = followers
        self._config = config
        self._proposed = LogIndex(0)
        """Up to where this peer has proposed to cut since it came to lead; only grows until it leads anew."""

    def on_leading(self) -> None:
        """Forget what was proposed in an earlier term: it may have been lost."""
        self._proposed = LogIndex(0)

    def on_tick(self, now: float) -> None:
        """Propose a cut, once the log of this region alone is worth it."""
        held, config = self._storage.log_bytes, self._config
        if held >= config.log_gc_bytes:
            silence_max_s = config.peer_down_s if held >= config.log_gc_bytes_force else inf
            self.cut(now, config.log_keep_entries, silence_max_s)

    def cut(self, now: float, keep_entries: int, silence_max_s: float) -> bool:
        """Propose to cut what no member needs that has been silent for at most so long; return whether there is any."""
        storage = self._storage
        applied = storage.apply_state.applied_index
        index = min([LogIndex(applied - keep_entries), *self._needed_from(now, silence_max_s)])
        if index < storage.first_index() or index <= self._proposed:
            return False
        operation = (COMPACT_LOG, index, storage.term(index))
        try:
            self._node.propose(encode_operations(storage.region.epoch.version, [operation]), now)
        except (NotLeading, ProposalDropped):
            return False
        self._proposed = index
        return True

    def _needed_from(self, now: float, silence_max_s: float) -> list[LogIndex]:
        """Return how far the logs of those members reach for which this log is kept."""
        if self._storage.log_bytes >= FORCE_ALL * self._config.log_gc_bytes_force:
            return []
        return [
            progress.match
            for peer_id, progress in self._node.status().progress.items()
            if peer_id != self._node.id and self._followers.silent_s(peer_id, now) <= silence_max_s
        ]
