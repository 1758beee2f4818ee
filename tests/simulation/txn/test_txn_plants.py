"""Bugs planted into transactions, each of which the story of lists and a bank has to find within a few seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from pytinykv.client.txn import cluster_backend, committer, resolver
from pytinykv.simulation import run_scenario

SEEDS_MAX = 8
Plant = Callable[[pytest.MonkeyPatch], None]


def no_lock_check_on_read(patch: pytest.MonkeyPatch) -> None:
    for module in list(sys.modules.values()):
        if module.__name__.startswith("pytinykv.transaction") and hasattr(module, "lock_in_the_way"):
            patch.setattr(module, "lock_in_the_way", lambda *_: None)


def secondaries_resolved_the_wrong_way(patch: pytest.MonkeyPatch) -> None:
    right = resolver.Resolver._resolve

    async def wrong(self: Any, locks: Any, status: Any, deadline: float) -> None:
        await right(self, locks, status._replace(commit_ts=0), deadline)

    patch.setattr(resolver.Resolver, "_resolve", wrong)

    async def left_to_others(*_: Any) -> None:
        pass

    patch.setattr(committer._Commit, "_background_commit", left_to_others)


def a_stale_timestamp(patch: pytest.MonkeyPatch) -> None:
    right = cluster_backend.ClusterBackend._timestamp

    async def stale(self: Any, deadline: float) -> int:
        return await right(self, deadline) - (50 << 18)

    patch.setattr(cluster_backend.ClusterBackend, "_timestamp", stale)


def a_refused_prewrite_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    right = committer.run_batch

    async def blind(*args: Any) -> Any:
        results = await right(*args)
        return [result._replace(error=None, locks=()) if hasattr(result, "error") else result for result in results]

    patch.setattr(committer, "run_batch", blind)


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        no_lock_check_on_read,
        secondaries_resolved_the_wrong_way,
        a_stale_timestamp,
        a_refused_prewrite_taken_for_done,
    )
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS[name](monkeypatch)
    failures = (run_scenario("transactions", seed).failure for seed in range(1, SEEDS_MAX + 1))
    assert any("snapshot isolation:" in failure or "bank:" in failure for failure in failures)
