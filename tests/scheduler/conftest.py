from __future__ import annotations

import pytest
from tests.helpers import ManualClock

from pytinykv.storage import MemoryEngine


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()
