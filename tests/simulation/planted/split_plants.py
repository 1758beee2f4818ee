"""Bugs to plant, continued: splits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from planted.patching import Patch
from planted.plants import DAMAGED, LOST, STUCK, planted
from pytinykv.model import Region
from pytinykv.raft.core import Core
from pytinykv.raftstore import peer as peers
from pytinykv.raftstore.calls import PeerCalls
from pytinykv.raftstore.children import Children
from pytinykv.raftstore.operations import decode_operations, encode_operations
from pytinykv.raftstore.peer import RegionPeer
from pytinykv.raftstore.regions import RegionTable
from pytinykv.raftstore.router import MessageRouter
from pytinykv.raftstore.turn import Turn

REGIONS = frozenset({"no overlap", "no data outside a region", "story"}) | LOST | STUCK | DAMAGED


@planted("applies what was proposed before a split", "split-load", 10, REGIONS, first=2)
def applies_what_was_proposed_before_a_split(patch: Patch) -> None:
    original = peers.apply_entry

    def apply_entry(turn: Turn, storage: Any, entry: Any, parts: Any, outdated: Any) -> None:
        _version, operations = decode_operations(entry.data)
        data = encode_operations(storage.region.epoch.version, operations)
        original(turn, storage, type(entry)(entry.index, entry.term, entry.kind, data), parts, outdated)

    patch.setattr(peers, "apply_entry", apply_entry)


@planted("takes regions that share keys with another", "missed-split", 10, REGIONS, first=2)
def takes_regions_that_overlap(patch: Patch) -> None:
    patch.setattr(RegionTable, "overlapping", lambda _self, _region: None)


@planted("tells of one part of a split only", "deaf-scheduler", 3, REGIONS | {"DeadlineExceededError"})
def tells_of_one_part_only(patch: Patch) -> None:
    patch.setattr(RegionTable, "siblings", lambda _self, region, _version: [region])


@planted("writes parent and children in two batches", "split-cuts", 20, REGIONS)
def writes_a_split_in_two_batches(patch: Patch) -> None:
    original = Children.create

    def create(self: Children, turn: Turn, parent: RegionPeer, made: Iterable[Region]) -> None:
        turn.write()
        original(self, turn, parent, made)

    patch.setattr(Children, "create", create)


@planted("the other parts of a split wait for an election", "split-load", 3, REGIONS)
def children_wait_for_an_election(patch: Patch) -> None:
    original = Children.create

    def create(self: Children, turn: Turn, parent: RegionPeer, made: Iterable[Region]) -> None:
        leads, parent.is_leader = parent.is_leader, False
        original(self, turn, parent, made)
        parent.is_leader = leads

    patch.setattr(Children, "create", create)


@planted("calls for a new region are refused until it has a leader", "split-calls", 3, REGIONS)
def calls_for_new_regions_are_refused(patch: Patch) -> None:
    patch.setattr(PeerCalls, "expect_leadership", lambda _self, _until: None)


@planted("votes before a split is applied, and forgets it then", "early-votes", 3, REGIONS)
def votes_too_early_and_forgets_it(patch: Patch) -> None:
    patch.setattr(MessageRouter, "_is_occupied", lambda _self, _envelope: False)
    patch.setattr(Children, "_promised", lambda _self, _engine, _own, _region: None)


@planted("campaigns while a snapshot is installed", "slow-install", 3, REGIONS)
def campaigns_while_a_snapshot_is_installed(patch: Patch) -> None:
    patch.setattr(Core, "is_promotable", lambda self: self.id in self.conf.voters)
