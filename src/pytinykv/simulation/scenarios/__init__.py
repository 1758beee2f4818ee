"""The stories. Importing this package registers them all in `scenario.SCENARIOS`."""

from __future__ import annotations

from pytinykv.simulation.scenarios import boot, generic, growth, single, splits, stops, storm

__all__ = ["boot", "generic", "growth", "single", "splits", "stops", "storm"]
