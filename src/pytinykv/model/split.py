"""What a split makes of a region. Pure arithmetic: every replica and the scheduler must come to the same regions.

    before     [a                                   z)   region 7, version 4
    split at g and p, new ids 20 and 21
    after      [a       g)[g          p)[p          z)   regions 20, 21, 7, all of version 6

The old region keeps the *last* part (TiKV calls it right derive): where keys grow, as with time stamps and sequence
numbers, writes go to the end of the range, and so they stay with the Raft group that is busy with them already.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from pytinykv.model.ids import PeerId, RegionId
from pytinykv.model.region import Peer, Region, RegionEpoch


class SplitIds(msgspec.Struct, frozen=True, array_like=True):
    """The ids of one region that a split makes; one peer id for each peer of the old region, in its order."""

    region_id: RegionId
    peer_ids: tuple[PeerId, ...]


def split_region(region: Region, keys: Sequence[bytes], new_ids: Sequence[SplitIds]) -> tuple[Region, ...]:
    """Return the regions that replace `region` when it is split at `keys`, in key order; the last is `region` itself.

    Each new region has a peer on every store of the old one, in the same role. All get the version of the old one plus the
    number of new regions, as in TiKV: the version then grows with every boundary that was ever made.

    Raises:
        ValueError: `keys` are not in ascending order, one of them is not inside the region or is its start, or the ids do not
            match the keys and peers.
    """
    if not keys or len(new_ids) != len(keys):
        raise ValueError(f"region {region.id} can't be split at {len(keys)} keys with {len(new_ids)} new ids")
    bounds = [region.start_key, *keys]
    if any(left >= right for left, right in itertools.pairwise(bounds)) or not region.contains(keys[-1]):
        raise ValueError(f"region {region.id} can't be split: the keys are not in ascending order inside of it")
    epoch = RegionEpoch(region.epoch.conf_ver, region.epoch.version + len(new_ids))
    made = [
        Region(ids.region_id, start, end, epoch, _peers(region, ids))
        for ids, (start, end) in zip(new_ids, itertools.pairwise(bounds), strict=True)
    ]
    return (*made, msgspec.structs.replace(region, start_key=keys[-1], epoch=epoch))


def _peers(region: Region, ids: SplitIds) -> tuple[Peer, ...]:
    if len(ids.peer_ids) != len(region.peers):
        raise ValueError(f"new region {ids.region_id} needs {len(region.peers)} peer ids, not {len(ids.peer_ids)}")
    return tuple(Peer(new, old.store_id, old.role) for new, old in zip(ids.peer_ids, region.peers, strict=True))
