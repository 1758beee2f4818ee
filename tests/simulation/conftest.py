"""Counts the histories that tests tell, for the line at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytinykv.simulation import scenario


@pytest.fixture(autouse=True)
def _count_histories(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    run_world, count = scenario.run_world, 0

    def counting(*args: Any) -> Any:
        nonlocal count
        count += 1
        return run_world(*args)

    monkeypatch.setattr(scenario, "run_world", counting)
    yield
    if count:
        request.node.user_properties.append(("histories", count))
