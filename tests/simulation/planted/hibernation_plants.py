"""Bugs to plant, continued: hibernation."""

from __future__ import annotations

from typing import Any

from planted.patching import Patch
from planted.plants import LOST, STUCK, planted
from pytinykv.raft import LogIndex, RawNode, hibernation
from pytinykv.raftstore.activity import Activity
from pytinykv.raftstore.liveness import Liveness

SLEEP = LOST | STUCK | frozenset({"story"})


@planted("a sleeping leader keeps its lease", "hibernation", 10, SLEEP)
def a_sleeping_leader_keeps_its_lease(patch: Patch) -> None:
    """It takes the lease for good until a heartbeat says otherwise, which it does not send while it sleeps."""

    def fall_asleep(core: Any) -> None:
        for progress in getattr(core.role, "progress", {}).values():
            progress.acked_at = core.now + 1000.0

    patch.setattr(hibernation, "fall_asleep", fall_asleep)


@planted("a leader sleeps although a follower lacks an entry", "hibernation", 5, SLEEP)
def sleeps_without_all_matched(patch: Patch) -> None:
    patch.setattr(hibernation, "_is_followed", lambda _core, _role, _absent: True)
    original = Activity._on_request

    def on_request(self: Activity, peer: Any, envelope: Any, request: Any, turn: Any) -> None:
        index = LogIndex(peer.node.last_index)
        original(self, peer, envelope, type(request)(request.term, index, request.round), turn)

    patch.setattr(Activity, "_on_request", on_request)


@planted("the silence of the leader's store wakes no one", "hibernation", 3, SLEEP)
def silence_does_not_wake(patch: Patch) -> None:
    patch.setattr(Activity, "_on_store_changed", lambda _self, _store_id, _turn: None)


@planted("stores beat to none", "hibernation", 3, SLEEP)
def stores_do_not_beat(patch: Patch) -> None:
    patch.setattr(Liveness, "_receivers_now", lambda _self: [])


@planted("messages do not wake", "hibernation", 5, SLEEP)
def messages_do_not_wake(patch: Patch) -> None:
    """A peer that sleeps takes messages and stays asleep: its timers never run."""

    def wake(_self: Activity, peer: Any, _turn: Any, *, by_leader: bool = False) -> None:
        del by_leader
        peer.rest.quiet_ticks = 0

    patch.setattr(Activity, "wake", wake)


@planted("a woken follower has forgotten how long it heard nothing", "hibernation", 10, SLEEP)
def waits_anew_for_a_silent_leader(patch: Patch) -> None:
    original = RawNode.wake

    def wake(self: RawNode, now: float, *, missed_ticks: int = 0, election_delay_ticks: int | None = None) -> None:
        del missed_ticks, election_delay_ticks
        original(self, now, missed_ticks=0, election_delay_ticks=40)

    patch.setattr(RawNode, "wake", wake)
