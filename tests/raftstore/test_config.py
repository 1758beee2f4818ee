from __future__ import annotations

from dataclasses import fields

import pytest

from pytinykv.raftstore import RaftStoreConfig

NUMBERS = [setting.name for setting in fields(RaftStoreConfig) if setting.name != "lease_reads"]


def test_the_defaults_work_together() -> None:
    RaftStoreConfig().validate()
    RaftStoreConfig(
        lease_reads=False, clock_drift_max=0.0, log_keep_entries=0, expiry_pairs_per_s=0, expiry_pause_s=0.0
    ).validate()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_negative_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        RaftStoreConfig(**{name: -1}).validate()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"snapshots_max": 0}, "snapshots_max must be positive, not 0"),
        ({"tick_s": 0.0}, "tick_s must be positive, not 0.0"),
        ({"heartbeat_ticks": 10}, "below election_ticks"),
        ({"clock_drift_max": 1.0}, "clock_drift_max must be below 1"),
        ({"log_gc_bytes": 2, "log_gc_bytes_force": 1}, "log_gc_bytes_force must not be below"),
        ({"entry_bytes_max": 2, "uncommitted_bytes_max": 1}, "entry_bytes_max must not be above"),
    ],
)
def test_settings_that_can_t_work_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaftStoreConfig(**settings).validate()  # type: ignore[arg-type]
