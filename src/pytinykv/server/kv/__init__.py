"""`tikvpb.Tikv` on a store: commands of clients, unary and in frames."""

from __future__ import annotations
