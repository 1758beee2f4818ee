from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.scheduler.helpers import ManualClock

from pytinykv.lifecycle import Scope
from pytinykv.storage import MemoryEngine


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    scope = Scope("test")
    yield scope
    report = await scope.stop()
    assert report.ok, report.render()
