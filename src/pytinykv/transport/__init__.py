"""What carries bytes between processes, with owners and ends: gRPC servers and channels, frames over TCP."""

from __future__ import annotations
