"""Numbers that name stores, regions and peers.

The scheduler allocates all three from one sequence: a number is given once, so no two things of a cluster share one. 0 is
never given. A peer's id is also its number in the Raft group of its region.
"""

from __future__ import annotations

from typing import NewType

from pytinykv.raft import PeerId

__all__ = ["PeerId", "RegionId", "StoreId"]

RegionId = NewType("RegionId", int)
StoreId = NewType("StoreId", int)
