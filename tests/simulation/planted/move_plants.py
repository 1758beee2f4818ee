"""Bugs to plant, continued: regions that move, and what splits, snapshots and Raft promise each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planted.patching import Patch
from planted.plants import DAMAGED, ENDS, LOST, STUCK, planted
from pytinykv.model import SplitIds
from pytinykv.raftstore import installing, keys
from pytinykv.raftstore import peer as peers
from pytinykv.raftstore.leaving import Leaving
from pytinykv.raftstore.peer_storage import PeerStorage
from pytinykv.scheduler.leader_balancer import LeaderBalancer
from pytinykv.scheduler.replica_checker import ReplicaChecker
from pytinykv.scheduler.scheduler import Scheduler
from pytinykv.scheduler.stores import StoreInfo
from pytinykv.server.host.scheduler_link import ClientSchedulerLink
from pytinykv.server.host.store_program import StoreProgram

REGIONS = (
    frozenset(
        {"partition", "no overlap", "no data outside a region", "story", "tombstones", "availability", "protocol"}
    )
    | LOST
    | STUCK
    | DAMAGED
)


# --- splits and snapshots ---------------------------------------------------------------------------------------------


@planted("an unbounded region ends at 16 bytes FF", "missed-split", 10, REGIONS)
def unbounded_regions_end(patch: Patch) -> None:
    patch.setattr(keys, "raw_end", lambda tag, end_key: tag + (end_key or b"\xff" * 16))


@planted("offers a snapshot of before a split", "missed-split", 20, REGIONS)
def offers_snapshots_of_before_a_split(patch: Patch) -> None:
    original = PeerStorage.snapshot

    def snapshot(self: PeerStorage) -> Any:
        return original(self) if self._offered is None else self._offered.meta

    patch.setattr(PeerStorage, "snapshot", snapshot)


@planted("installing leaves what the region had outside of its new range", "missed-split", 10, REGIONS)
def installing_leaves_the_old_range(patch: Patch) -> None:
    original = installing.Installation.begin
    patch.setattr(installing.Installation, "begin", lambda self, batch, _old=None: original(self, batch, None))


@planted("ids of a split are given twice", "split-load", 5, REGIONS | {"ids"}, first=3)
def ids_of_a_split_are_given_twice(patch: Patch) -> None:
    original = Scheduler.ask_split
    given: list[list[SplitIds]] = []

    async def ask_split(self: Scheduler, meta: Any, count: int, keys: Sequence[bytes] = ()) -> list[SplitIds]:
        ids = await original(self, meta, count, keys)
        given.append(ids)
        return given[-2] if len(given) == 3 and len(given[-2]) == count else ids

    patch.setattr(Scheduler, "ask_split", ask_split)


@planted("a removed peer leaves its data", "drain", 3, REGIONS)
def removed_peers_leave_their_data(patch: Patch) -> None:
    patch.setattr(peers, "delete_data", lambda _batch, _region: None)


# --- moves ------------------------------------------------------------------------------------------------------------


@planted("takes a peer away before the new one is there", "drain", 3, REGIONS)
def removes_before_it_adds(patch: Patch) -> None:
    original = ReplicaChecker._replace

    def replace(self: ReplicaChecker, region: Any, peer: Any, now: float, why: str) -> Any:
        return self._remove(region, peer, now, why) or original(self, region, peer, now, why)

    patch.setattr(ReplicaChecker, "_replace", replace)


@planted("a store that is to be drained is a tombstone at once", "drain", 10, REGIONS | ENDS, first=10)
def drained_stores_are_tombstones_at_once(patch: Patch) -> None:
    original = Scheduler.take_offline

    async def take_offline(self: Scheduler, store_id: int) -> None:
        await original(self, store_id)
        await self.mark_tombstone(store_id)

    patch.setattr(Scheduler, "take_offline", take_offline)


@planted("a store that was removed goes on", "drain", 3, REGIONS)
def removed_stores_go_on(patch: Patch) -> None:
    patch.setattr(StoreProgram, "_on_end", lambda _self, _said: None)


async def _say_nothing(_self: Any, _store: Any) -> None:
    """The scheduler takes the store for one that goes on."""


@planted("a store that stops hands over once and does not say that it is leaving", "rolling-regions", 5, REGIONS)
def hands_over_once(patch: Patch) -> None:
    patch.setattr(ClientSchedulerLink, "_tell_leaving", _say_nothing)
    patch.setattr(Leaving, "on_event", lambda _self, _event: None)


@planted("leadership goes to a store that has just restarted", "rolling-regions", 5, REGIONS)
def leadership_goes_to_restarted_stores(patch: Patch) -> None:
    patch.setattr(StoreInfo, "has_just_restarted", lambda *_: False)


@planted("leaders are not balanced", "balance", 3, REGIONS)
def leaders_are_not_balanced(patch: Patch) -> None:
    patch.setattr(LeaderBalancer, "check", lambda *_: None)
