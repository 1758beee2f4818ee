"""What a client's stream sees of a store that stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.kv_harness import Desk

from pytinykv.lifecycle import Scope
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode
from pytinykv.wire.cut_streams import frames_read_of, stream_cut
from pytinykv.wire.frames import encode_commands
from pytinykv.wire.pb import tikvpb_pb2


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
    assert frames_read_of(caught.value) == 0


async def test_a_stream_that_is_cut_tells_how_many_frames_were_read_and_answers_those(tmp_path: Path) -> None:
    scope = Scope("store")
    desk = Desk(tmp_path, scope)
    sent: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        while True:
            yield await sent.get()

    for number in range(1, 4):
        frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[number])
        frame.requests.add().Empty.test_id = number
        sent.put_nowait(encode_commands(frame))
    stream = desk.service.stream(BATCH_COMMANDS, requests())
    answered: list[int] = []

    async def read_all() -> None:
        async for frame in stream:
            answered.extend(tikvpb_pb2.BatchCommandsResponse.FromString(frame).request_ids)
            if len(answered) == 3:
                stopped.append(asyncio.create_task(scope.stop()))

    stopped: list[asyncio.Task[Any]] = []
    with pytest.raises(RpcError) as caught:
        await read_all()
    await stopped[0]
    assert answered == [1, 2, 3]
    assert frames_read_of(caught.value) == 3


async def test_a_stream_opened_in_the_moment_in_which_the_store_begins_to_stop_is_told_that_nothing_was_read(
    tmp_path: Path,
) -> None:
    """Its reader is cancelled before its first step. Without a count, the client could not repeat its writes elsewhere."""
    scope = Scope("store")
    service = Desk(tmp_path, scope).service
    sent = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        await sent.wait()
        yield encode_commands(tikvpb_pb2.BatchCommandsRequest())

    opened = asyncio.ensure_future(anext(service.stream(BATCH_COMMANDS, requests())))
    stopped = asyncio.ensure_future(scope.stop())  # the next step of the loop, right after that of the stream
    with pytest.raises(RpcError) as caught:
        async with asyncio.timeout(5.0):
            await opened
    await stopped
    assert caught.value.code is StatusCode.UNAVAILABLE
    assert frames_read_of(caught.value) == 0


@pytest.mark.parametrize(
    ("error", "read"),
    [
        (stream_cut("the store is stopping", 0), 0),
        (stream_cut("the store is stopping", 17), 17),
        (RpcError(StatusCode.UNAVAILABLE, "connection reset"), None),
        (RpcError(StatusCode.INTERNAL, "no; 3 frames of the stream were read"), None),
    ],
)
def test_a_status_tells_how_much_was_read_or_nothing(error: RpcError, read: int | None) -> None:
    assert frames_read_of(error) == read
