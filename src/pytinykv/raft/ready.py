"""What the core wants done: the record that a driver takes from `RawNode.ready`."""

from __future__ import annotations

import msgspec

from pytinykv.raft.messages import Entry, HardState, Message, PeerId, SnapshotMeta
from pytinykv.raft.read_index import ReadState
from pytinykv.raft.roles import RoleKind


class SoftState(msgspec.Struct, frozen=True, array_like=True):
    """The leader as far as this peer knows, and its own role; not persisted."""

    leader_id: PeerId
    role: RoleKind


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Work for the driver; the package's docstring says in which order to do it."""

    number: int
    """Counts up by one; what `RawNode.on_persisted` takes."""
    soft_state: SoftState | None = None
    """Set when it changed."""
    hard_state: HardState | None = None
    """To write, set when it changed. A change of `commit` alone needs no sync."""
    entries: tuple[Entry, ...] = ()
    """To append to the storage; from the first one's index on they replace what is there."""
    snapshot: SnapshotMeta | None = None
    """To install instead of everything, before `entries`."""
    committed_entries: tuple[Entry, ...] = ()
    """To apply, after `snapshot` and `entries` are written; may be in `entries` too."""
    messages: tuple[Message, ...] = ()
    """To send at once."""
    messages_after_sync: tuple[Message, ...] = ()
    """To send once this Ready, and so every earlier one, is durable; empty unless `must_sync`."""
    read_states: tuple[ReadState, ...] = ()
    """Reads that are safe once their index is applied."""
    dropped_reads: tuple[bytes, ...] = ()
    """Contexts of reads that will never be answered because leadership was lost."""
    must_sync: bool = False
    """Whether `RawNode.on_persisted` must be told when this is durable."""
