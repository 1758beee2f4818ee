"""A checker that never fails proves nothing: each bug planted here, in the real code, must be found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pytinykv.raftstore.peer import RegionPeer
from pytinykv.raftstore.pending import PendingProposals, PendingReads
from pytinykv.raftstore.store import Store
from pytinykv.simulation import run_scenario

Plant = Callable[[pytest.MonkeyPatch], None]


def acknowledges_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    original = Store._start_sync

    def start_sync(self: Store) -> None:
        if self._sync_wanted > self._synced_turn:
            self._synced_turn = self._sync_wanted
            self._wake.set()
            return
        original(self)

    patch.setattr(Store, "_start_sync", start_sync)


def serves_reads_after_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RegionPeer, "can_read_now", lambda self, _now: self.can_ask_reads())


def loses_the_callers_of_an_overtaken_proposal(patch: pytest.MonkeyPatch) -> None:
    settle = PendingProposals.settle

    def settle_and_forget(self: PendingProposals, index: Any, term: Any) -> Any:
        parts, _lost = settle(self, index, term)
        return parts, []

    patch.setattr(PendingProposals, "settle", settle_and_forget)


def loses_reads_of_a_deposed_leader(patch: pytest.MonkeyPatch) -> None:
    original = PendingReads.take_all

    def take_all(self: PendingReads) -> list[Any]:
        original(self)
        return []

    patch.setattr(PendingReads, "take_all", take_all)


def starts_a_task_without_an_exit(patch: pytest.MonkeyPatch) -> None:
    original = Store.start

    def start(self: Store, scope: Any) -> None:
        original(self, scope)
        self.stray = asyncio.get_running_loop().create_task(asyncio.Event().wait(), name="stray")

    patch.setattr(Store, "start", start)


def leaves_a_timer(patch: pytest.MonkeyPatch) -> None:
    original = Store.start

    def start(self: Store, scope: Any) -> None:
        original(self, scope)
        asyncio.get_running_loop().call_later(3600, print)

    patch.setattr(Store, "start", start)


def stop_waits_for_what_never_comes(patch: pytest.MonkeyPatch) -> None:
    async def wait(self: Store) -> None:
        await asyncio.Event().wait()

    patch.setattr(Store, "_finish", wait)


PLANTS: list[tuple[Plant, str, int, set[str]]] = [
    # the bug, the scenario that must find it, within so many seeds, by one of these checkers
    (
        acknowledges_before_the_sync,
        "persist-concurrent",
        6,
        {"appends", "linearizability", "AssertionError", "task failure"},
    ),
    (serves_reads_after_the_lease, "split-brain", 10, {"linearizability", "appends"}),
    (loses_the_callers_of_an_overtaken_proposal, "many-partitions-many-clients", 10, {"answers"}),
    (loses_reads_of_a_deposed_leader, "storm", 40, {"answers"}),
    (starts_a_task_without_an_exit, "basic", 1, {"stop", "leaks"}),
    (leaves_a_timer, "basic", 1, {"leaks"}),
    (stop_waits_for_what_never_comes, "basic", 1, {"stop"}),
]


@pytest.mark.parametrize(
    ("plant", "scenario", "seeds", "checkers"), PLANTS, ids=[plant[0].__name__ for plant in PLANTS]
)
def test_planted_bug_is_found(
    plant: Plant, scenario: str, seeds: int, checkers: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = (result for seed in range(1, seeds + 1) if not (result := run_scenario(scenario, seed)).ok)
    result = next(found, None)
    assert result is not None, f"not found in {seeds} seeds of {scenario}"
    assert result.checker in checkers, result.failure
