"""The calling end of `pdpb.PD`: finds the scheduler's leader, and asks it."""

from __future__ import annotations
