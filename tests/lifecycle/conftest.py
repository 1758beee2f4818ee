"""What the tests of lifecycle are handed: a scope that is stopped, and a task that does not stop before the test's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.lifecycle.helpers import Stubborn

from pytinykv.lifecycle import Scope


@pytest.fixture
async def stubborn() -> AsyncIterator[Stubborn]:
    made = Stubborn()
    yield made
    made.released.set()
    await asyncio.sleep(0)


@pytest.fixture
async def scope() -> AsyncIterator[Scope]:
    made = Scope("test")
    yield made
    await made.stop(1.0)
