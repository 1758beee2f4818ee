"""What a cluster is made of: regions, their peers, their epochs; one definition for stores, scheduler and clients.

    ids         numbers that are unique in a cluster
    codec       the stored and sent form of a record: a version byte and MessagePack
    region      `Region`, `Peer`, `PeerRole`, `RegionEpoch`
    split       what a split makes of a region
    convert     regions and peers to and from the messages of the wire
    raw_values  the stored form of a raw value, and when it expires

Pure values, immutable. `raftstore` stores and replicates them, `scheduler` decides about them.
"""

from __future__ import annotations

from pytinykv.model.codec import FORMAT_VERSION, FormatError, RecordDecoder, encode, record_decoder
from pytinykv.model.convert import (
    InvalidRegion,
    epoch_from_pb,
    epoch_to_pb,
    peer_from_pb,
    peer_to_pb,
    region_from_pb,
    region_to_pb,
)
from pytinykv.model.ids import PeerId, RegionId, StoreId
from pytinykv.model.region import Peer, PeerRole, Region, RegionEpoch
from pytinykv.model.split import SplitIds, split_region

__all__ = [
    "FORMAT_VERSION",
    "FormatError",
    "InvalidRegion",
    "Peer",
    "PeerId",
    "PeerRole",
    "RecordDecoder",
    "Region",
    "RegionEpoch",
    "RegionId",
    "SplitIds",
    "StoreId",
    "encode",
    "epoch_from_pb",
    "epoch_to_pb",
    "peer_from_pb",
    "peer_to_pb",
    "record_decoder",
    "region_from_pb",
    "region_to_pb",
    "split_region",
]
