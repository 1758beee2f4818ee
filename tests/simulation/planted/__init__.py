"""Bugs that the simulator must find; `plants` has them, `measure` counts the seeds."""
