from __future__ import annotations

import time

import pytest

from pytinykv.lifecycle import SystemClock


def test_the_stopwatch_counts_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was suspended for an hour: only CLOCK_BOOTTIME has noticed."""
    readings = {time.CLOCK_BOOTTIME: 3700.0, time.CLOCK_MONOTONIC: 100.0}
    monkeypatch.setattr(time, "clock_gettime", readings.__getitem__)
    monkeypatch.setattr(time, "monotonic", lambda: readings[time.CLOCK_MONOTONIC])
    assert SystemClock().monotonic() == 3700.0


def test_it_never_goes_back() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)
