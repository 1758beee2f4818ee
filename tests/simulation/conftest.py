"""Hands out seeds, as many as `--more` wants, and counts the histories that tests tell, for the line at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pytinykv.simulation import scenario


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "seeds(count): run the test with seeds 1 to `count`, and with more of them for `--more`"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("seeds")
    if marker is not None:
        metafunc.parametrize("seed", range(1, marker.args[0] * metafunc.config.getoption("--more") + 1))


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
