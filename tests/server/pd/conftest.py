from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.server.pd.pd_harness import Pd

from pytinykv.lifecycle import Scope


@pytest.fixture
async def pd(scope: Scope) -> AsyncIterator[Pd]:
    pd = Pd(scope)
    yield pd
    await pd.scheduler.stop()
