"""Virtual time for the tests of the raftstore: nothing in them waits for a real clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pytinykv.simulation.loop import SimLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    del item
    return {"virtual": SimLoop}
