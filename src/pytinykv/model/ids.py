"""Numbers that name stores, regions and peers.

The scheduler allocates all three from one sequence: a number is given once, so no two things of a cluster share one. 0 is
never given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from pytinykv.raft import PeerId  # a peer's number in the Raft group of its region is its id
else:
    PeerId = NewType("PeerId", int)  # schedulers and clients load no Raft for it

__all__ = ["PeerId", "RegionId", "StoreId"]

RegionId = NewType("RegionId", int)
StoreId = NewType("StoreId", int)
