"""Consensus for one group: the Raft state machine, without I/O, clock, tasks or logging.

A `RawNode` is one peer of a group. Its driver tells it what happened (`tick`, `step`, `propose`, `on_persisted`, …) and
asks it what to do (`ready`). Time and randomness are handed in, so the same inputs always give the same outputs, and a
test can play through any schedule.

The chapter, bottom-up: `messages` and `errors` (the words), `storage` (what a driver must be able to read back), `log` and
`durability` (entries, and how far each of them got), `quorum` and `progress` (counting, feeding a follower), `roles` and
`core` (the state), `election`, `leading`, `following`, `membership`, `read_index` (the rules), `ready` and `raw_node` (the
face), `describe` (its state as text).

The Ready contract
------------------
```
node.step(…), node.propose(…), node.tick(…)          any number of times
if node.has_ready():
    ready = node.ready(now)
    1 write ready.snapshot, then ready.entries and ready.hard_state (one atomic batch; not synced yet)
    2 apply ready.committed_entries, in the same batch or later;  node.on_applied(index)
      a CONF_CHANGE among them: node.apply_conf_change(change), before on_applied
    3 send ready.messages
    4 keep ready.read_states until their index is applied, then answer them; fail ready.dropped_reads
    5 if ready.must_sync: have the batch synced; then send ready.messages_after_sync, and node.on_persisted(ready.number, now)
```
* Step 1 is done before the next call of `ready`, and so are 3 and 4. Steps 2 and 5 may come later: applying may lag, and
  several Readys may be under way to the disk. They become durable in order. Telling only the newest number is enough.
* Without `must_sync` there is nothing in `messages_after_sync` and no call of `on_persisted` is needed.
* A crash may lose Readys whose sync was not confirmed, from the end: the batches on disk are a prefix of those written.
* Installing a snapshot may take longer than until the next call of `ready`. It replaces also what was handed out before and
  is not applied yet; when it is in place, `on_applied(snapshot.index)` says so. Until then Readys hold messages and changes
  of role, and nothing to write or to apply.

Invariants
----------
1. Election safety: at most one leader a term (Raft 5.2). Votes are durable before they are sent.
2. Leader append-only, log matching (5.3), leader completeness (5.4), state-machine safety (5.4.3).
3. An acknowledgement covers only entries that are on the follower's disk, also when entries still under way to the disk
   are overwritten; a leader counts itself by the same rule (thesis 10.2.1).
4. Nothing that speaks for a term leaves a peer before that term is durable.
5. While `lease_until` lies ahead, no other peer leads, and the applied state is what a linearizable read may see, provided
   that clock rates differ by less than `Config.clock_drift_max` (thesis 6.4.1). This holds across restarts, leadership
   transfers and membership changes, and however far applying lags behind committing.
6. At most one admin entry (a membership change, a split) is not applied by its leader, and no peer campaigns that knows of
   a committed one which it has not applied (see "Barriers" in `leading`).
7. A call that raises a `RaftError` has changed nothing.

Sources: Ongaro and Ousterhout 2014 ("Raft"); Ongaro's thesis: 3.10 leadership transfer, 4 membership, 6.2 check-quorum,
6.4 reads, 9.6 pre-vote, 10.2.1 writing to the leader's disk in parallel.

Left out: joint consensus (docs/adr/0008; `quorum.Configuration` is where it would go), deciding when a learner has caught
up (the driver promotes it by ADD_VOTER), leader priorities, witnesses, quiescence of idle groups. A proposal made at a
follower is refused, not forwarded.
"""

from __future__ import annotations

from pytinykv.raft.config import Config
from pytinykv.raft.describe import ProgressStatus, Status
from pytinykv.raft.errors import (
    Compacted,
    DropReason,
    NotLeading,
    ProposalDropped,
    ProtocolViolation,
    RaftError,
    ReadNotReady,
    SnapshotTemporarilyUnavailable,
    StorageError,
    Unavailable,
)
from pytinykv.raft.messages import (
    NO_PEER,
    AppendEntries,
    AppendRejection,
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    Message,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    SnapshotMeta,
    StaleTerm,
    Term,
    TimeoutNow,
    TransferRequest,
    VoteRequest,
    VoteResponse,
    decode_conf_change,
    encode_conf_change,
)
from pytinykv.raft.progress import ProgressState
from pytinykv.raft.raw_node import RawNode
from pytinykv.raft.read_index import ReadState
from pytinykv.raft.ready import Ready, SoftState
from pytinykv.raft.roles import RoleKind
from pytinykv.raft.storage import MemoryStorage, Storage

__all__ = [
    "NO_PEER",
    "AppendEntries",
    "AppendRejection",
    "AppendResponse",
    "Compacted",
    "ConfChange",
    "ConfChangeKind",
    "ConfState",
    "Config",
    "DropReason",
    "Entry",
    "EntryKind",
    "HardState",
    "Heartbeat",
    "HeartbeatResponse",
    "InstallSnapshot",
    "LogIndex",
    "MemoryStorage",
    "Message",
    "NotLeading",
    "PeerId",
    "PreVoteRequest",
    "PreVoteResponse",
    "ProgressState",
    "ProgressStatus",
    "ProposalDropped",
    "ProtocolViolation",
    "RaftError",
    "RawNode",
    "ReadNotReady",
    "ReadState",
    "Ready",
    "RoleKind",
    "SnapshotMeta",
    "SnapshotTemporarilyUnavailable",
    "SoftState",
    "StaleTerm",
    "Status",
    "Storage",
    "StorageError",
    "Term",
    "TimeoutNow",
    "TransferRequest",
    "Unavailable",
    "VoteRequest",
    "VoteResponse",
    "decode_conf_change",
    "encode_conf_change",
]
