"""A new cluster serves from three copies soon after its last program started; see `simulation.scenarios.boot`."""

from __future__ import annotations

import pytest

from pytinykv.simulation import run_scenario


@pytest.mark.seeds(8)
def test_a_cluster_started_in_any_order_serves_soon(seed: int) -> None:
    """An order that came too early was refused, and the next one came with the next region heartbeat, 5 s later."""
    run_scenario("boot", seed).check()
