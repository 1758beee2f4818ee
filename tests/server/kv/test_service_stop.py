"""What a client's stream sees of a store that stops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytinykv.lifecycle import Scope
from pytinykv.server.kv.service import KvService
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode


async def no_requests() -> AsyncIterator[Any]:
    return
    yield


async def test_a_stream_opened_while_the_store_stops_is_unavailable() -> None:
    scope = Scope("store")
    service = KvService(None, cluster_id=1, scope=scope)  # type: ignore[arg-type]  # a stream without frames needs no store
    await scope.stop()
    with pytest.raises(RpcError) as caught:
        await anext(service.stream(BATCH_COMMANDS, no_requests()))
    assert caught.value.code is StatusCode.UNAVAILABLE
