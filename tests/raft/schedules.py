"""Schedules for `world`: lists of actions, each with a number that says how, drawn from a seed."""

from __future__ import annotations

import random

ACTIONS: dict[str, int] = {
    "deliver": 30,
    "turn": 16,
    "sync": 10,
    "advance": 12,
    "calm": 10,
    "talk": 10,
    "campaign": 1,
    "propose": 8,
    "drop": 3,
    "duplicate": 4,
    "hold": 2,
    "release": 2,
    "crash": 2,
    "restart": 4,
    "reboot": 2,
    "cut": 3,
    "heal": 2,
    "transfer": 2,
    "change": 3,
    "admin": 2,
    "compact": 2,
    "read": 4,
    "stall": 1,
}
"""Kinds of actions with their weights."""

TURBULENT = {**ACTIONS, "talk": 50, "campaign": 16, "calm": 1, "deliver": 8, "turn": 6, "sync": 4, "reboot": 8}
"""For groups without pre-vote and check-quorum: one campaign after the other, and pairs that talk alone."""

Action = tuple[str, int]


def random_schedule(seed: int, length: int, focus: dict[str, int] | None = None) -> list[Action]:
    """Draw a schedule from a seed, fit for `World(seed)`; `focus` replaces weights."""
    rng = random.Random(seed)
    weights = {**(TURBULENT if is_plain(seed) else ACTIONS), **(focus or {})}
    kinds = rng.choices(list(weights), weights=list(weights.values()), k=length)
    return [(kind, rng.randrange(1 << 16)) for kind in kinds]


def is_plain(seed: int) -> bool:
    """Tell whether the world of a seed does without pre-vote, check-quorum and leases."""
    return seed % 3 == 2
