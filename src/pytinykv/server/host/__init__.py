"""The processes: a data directory, ports, and a store or a scheduler in them."""

from __future__ import annotations
