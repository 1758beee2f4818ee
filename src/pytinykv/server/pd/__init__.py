"""`pdpb.PD` over a scheduler."""

from __future__ import annotations
