"""Configuration of the scheduler."""

from __future__ import annotations

import msgspec


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator of the cluster may tune. `validate` checks the rules between the fields."""

    max_replicas: int = 3
    """How many peers every region shall have. Odd numbers only make sense: an even one adds cost and no safety."""

    store_disconnect_time_s: float = 20.0
    """A store silent for this long gets no new peers, and its peers don't count as working. Twice the store heartbeat
    interval or more; in effect at most `max_store_down_time_s`."""
    max_store_down_time_s: float = 1800.0
    """A store silent for this long is taken for lost: its peers are replaced when another store has room."""

    store_address_hold_s: float = 10.0
    """How long a store must be silent, unless it has stopped in good order, before a process at another address may serve it.
    That process may run on a copy of the data: so this must be many heartbeats of a store that is alive, also while it is
    busy."""

    tso_window_ms: int = 3000
    """How far ahead of the clock timestamps are reserved on disk. After an unclean restart timestamps begin at the end
    of the window, so they may run ahead of the clock by as much; a short window means more frequent syncs."""
    tso_ahead_max_ms: int = 5
    """How far a burst of requests may push the physical part past the clock before requests wait for the clock."""
    tso_wait_max_s: float = 3.0
    """How long a timestamp request may wait for the disk or the clock before it fails."""
    id_window: int = 1000
    """How many ids are reserved on disk at a time. A restart skips what was left of the window."""

    tick_interval_s: float = 0.5
    """How often stores are judged, time limits are checked and regions are looked over without waiting for heartbeats."""
    patrol_regions_max: int = 256
    """How many regions one tick looks over at most, in key order and going round."""

    operator_timeout_s: float = 600.0
    """Time limit of an operator that adds or removes a peer (a snapshot may have to be sent)."""
    leader_operator_timeout_s: float = 10.0
    """Time limit of an operator that only moves leadership, or splits a region."""
    operators_max: int = 64
    """How many replica operators may run at once in the cluster."""
    store_operators_max: int = 8
    """How many running operators may add a peer to the same store, or take one from it."""
    leader_operators_max: int = 4
    """How many transfers of leadership for the sake of balance may run at once. 0: leaders are not balanced."""
    leader_balance_tolerance: int = 2
    """By how many leaders two stores must differ before one is moved. Below 2 leaders would swing back and forth."""
    leader_balance_tolerance_ratio: float = 0.05
    """... and by which share of the leaders that a store has on average: elections alone shall start no transfers."""
    leader_rest_s: float = 2.0
    """How long after its restart a store is given no leadership. Its peers keep away from elections for an election timeout
    (1 s), and a leader that hands over to one takes no writes until then. 0: given at once."""
    region_operators_max: int = 8
    """How many peers may be on the move for the sake of balance at once. 0: regions are not balanced."""
    region_balance_tolerance_ratio: float = 0.05
    """By which share of what a store carries on average two stores must differ before a peer is moved."""
    store_add_peers_per_minute: float = 30.0
    """How many peers a store is given per minute, once it has got as many at once as `store_operators_max` allows. A region
    below 1 MiB counts for a twentieth. An administrator's orders are not held back by it. 0: no limit."""
    store_remove_peers_per_minute: float = 30.0
    """How many peers are taken from a store per minute, counted likewise. Lost stores have no such limit. 0: no limit."""
    operator_history_max: int = 1024
    """How many operators that have ended are remembered."""

    split_wait_s: float = 2.0
    """How long a request to split waits for the new regions before it tells how far they are. Below the time after which
    clients take the scheduler for dead (3 s)."""

    plain_split_s: float = 5.0
    """For how long a split at a raw key, whose ids were given, may still come: so long the first transactional write of a
    cluster waits. Above the time that stores wait for ids (3 s)."""
    gc_life_time_s: float = 600.0
    """How long versions that were overwritten or deleted can still be read; older snapshots fail. Running transactions and
    services that ask for it hold collection back for longer. 0: nothing is collected unless a client says so."""

    low_space_ratio: float = 0.8
    """A store whose disk is used beyond this share gets no new peers."""

    @property
    def disconnect_time_s(self) -> float:
        """From how much silence on a store is not counted on."""
        return min(self.store_disconnect_time_s, self.max_store_down_time_s)

    def validate(self) -> None:
        """Raise ValueError with the first rule that is broken."""
        for name in (
            "max_replicas",
            "tso_window_ms",
            "id_window",
            "patrol_regions_max",
            "operators_max",
            "store_operators_max",
            "operator_history_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "store_disconnect_time_s",
            "max_store_down_time_s",
            "store_address_hold_s",
            "tso_wait_max_s",
            "tick_interval_s",
            "operator_timeout_s",
            "leader_operator_timeout_s",
            "split_wait_s",
            "plain_split_s",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in (
            "leader_operators_max",
            "leader_balance_tolerance_ratio",
            "leader_rest_s",
            "region_operators_max",
            "region_balance_tolerance_ratio",
            "store_add_peers_per_minute",
            "store_remove_peers_per_minute",
            "gc_life_time_s",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        if self.leader_balance_tolerance < 2:
            raise ValueError(f"leader_balance_tolerance must be at least 2, not {self.leader_balance_tolerance}")
        if self.tso_ahead_max_ms < 1 or self.tso_ahead_max_ms * 2 > self.tso_window_ms:
            raise ValueError("tso_ahead_max_ms must be at least 1 and at most half of tso_window_ms")
        if not 0 < self.low_space_ratio <= 1:
            raise ValueError(f"low_space_ratio must be above 0 and at most 1, not {self.low_space_ratio}")
