"""What a client's stream sees of a store that stops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.kv_harness import Desk

from pytinykv.lifecycle import Scope
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode


async def no_requests() -> AsyncIterator[Any]:
    return
    yield


async def test_a_stream_opened_while_the_store_stops_is_unavailable(tmp_path: Path) -> None:
    scope = Scope("store")
    service = Desk(tmp_path, scope).service
    await scope.stop()
    with pytest.raises(RpcError) as caught:
        await anext(service.stream(BATCH_COMMANDS, no_requests()))
    assert caught.value.code is StatusCode.UNAVAILABLE
