"""Percolator on one store."""

from __future__ import annotations
