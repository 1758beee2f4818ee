"""Where commands for the keys of one region go."""

from __future__ import annotations

from typing import NamedTuple

from pytinykv.model import Peer, Region, epoch_to_pb, peer_to_pb
from pytinykv.wire.encoding import field_tag, varint
from pytinykv.wire.pb import kvrpcpb_pb2

_CONTEXT = field_tag(kvrpcpb_pb2.RawPutRequest, "context")
"""Field 1 of every request."""


class Destination(NamedTuple):
    """Which region a command is for, by keys in the form of regions' bounds (see `key_space`)."""

    bound: bytes
    below: bool = False
    """Meant is not the region that holds `bound` but the one that holds the greatest possible key below it."""
    needed_to: bytes | None = None
    """The caller will need the regions from there on to this bound as well (empty: all); None: this region alone."""


class Route:
    """A region as last heard of, and the peer believed to lead it. Never changes."""

    __slots__ = ("context", "context_field", "end", "leader", "region", "start", "store_id")

    def __init__(self, region: Region, leader: Peer) -> None:
        self.region = region
        self.leader = leader
        self.store_id = leader.store_id
        self.start = region.start_key
        self.end = region.end_key
        """Exclusive; empty means that the region has no upper end."""
        self.context = kvrpcpb_pb2.Context(
            region_id=region.id, region_epoch=epoch_to_pb(region.epoch), peer=peer_to_pb(leader)
        )
        """What every command to this region carries."""
        context = self.context.SerializeToString()
        self.context_field = b"".join((_CONTEXT, varint(len(context)), context))
        """The same, as the field of an encoded request; made once, copied into each."""

    def contains(self, key: bytes) -> bool:
        """Tell whether `key` lies in the region."""
        return self.start <= key and (not self.end or key < self.end)

    def contains_below(self, upper: bytes) -> bool:
        """Tell whether the greatest possible key below `upper` lies in the region."""
        return self.start < upper and (not self.end or upper <= self.end)

    def serves(self, destination: Destination) -> bool:
        """Tell whether the region is the one that `destination` means."""
        contains = self.contains_below if destination.below else self.contains
        return contains(destination.bound)

    def is_newer_than(self, other: Route) -> bool:
        """Tell whether this region, which overlaps the other, came after it."""
        mine, theirs = self.region, other.region
        return mine.epoch.version > theirs.epoch.version or (
            mine.id == theirs.id and mine.epoch.conf_ver > theirs.epoch.conf_ver
        )

    def led_by(self, leader: Peer) -> Route:
        """Return the route to the same region with another leader."""
        return Route(self.region, leader)

    def __repr__(self) -> str:
        epoch = self.region.epoch
        return (
            f"region {self.region.id} [{self.start!r}, {self.end!r}) epoch {epoch.conf_ver}/{epoch.version} "
            f"led by peer {self.leader.id} on store {self.store_id}"
        )
