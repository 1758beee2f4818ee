"""What becomes of the regions on a store, for the parts that have to know: reports, message routing, later transactions.

A peer adds events to its turn; the store passes them on, in order, once the turn's batch is written. A listener is a plain
function, called on the store loop; it may ask for a turn and must not change regions itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pytinykv.model import Region
from pytinykv.raft import Term
from pytinykv.raftstore.records import RegionLocalState


class Leading(NamedTuple):
    """The peer here has come to lead. Reads are served once the term's first entry is applied."""

    region: Region
    term: Term


class Deposed(NamedTuple):
    """The peer here led and does not any more; a destroyed leader is told of by `Destroyed` alone."""

    region: Region


class RegionChanged(NamedTuple):
    """The region has another range or other members, by an applied entry or by a snapshot."""

    old: Region
    """Without members where the peer did not know its region yet."""
    new: Region


class Destroyed(NamedTuple):
    """The peer is gone with its data and its log; `tombstone` is what it leaves."""

    tombstone: RegionLocalState


RegionEvent = Leading | Deposed | RegionChanged | Destroyed
RegionListener = Callable[[RegionEvent], None]
