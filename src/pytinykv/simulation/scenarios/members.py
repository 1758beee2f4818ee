"""TinyKV's stories of membership changes, part 3B: the general story while members are removed and others take their place.

The regions are of the usual size here; in `splits` they are small and split as well.
"""

from __future__ import annotations

from pytinykv.simulation.scenarios.generic import GenericStory, register

register(
    "members-recover",
    "Members change; all stores restart between the rounds.",
    GenericStory(clients=5, crash=True, member_changes=True),
)
register(
    "members-recover-many-clients",
    "Members change under twenty clients; all stores restart between the rounds.",
    GenericStory(clients=20, crash=True, member_changes=True),
)
register(
    "members-unreliable",
    "Members change on a bad network.",
    GenericStory(clients=5, unreliable=True, member_changes=True),
)
register(
    "members-unreliable-recover",
    "Members change on a bad network, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, member_changes=True),
)
register(
    "members-snapshot-unreliable-recover",
    "Members change, with a short log, on a bad network, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, short_log=True, member_changes=True),
)
register(
    "members-snapshot-unreliable-recover-concurrent-partition",
    "Members change, with a short log, on a bad network, with partitions, and all stores restart between the rounds.",
    GenericStory(clients=5, unreliable=True, crash=True, partitions=True, short_log=True, member_changes=True),
)
