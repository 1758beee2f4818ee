"""The stories. Importing this package registers them all in `scenario.SCENARIOS`."""

from __future__ import annotations

from pytinykv.simulation.scenarios import generic, single, stops, storm

__all__ = ["generic", "single", "stops", "storm"]
