"""A store's service behind a real gRPC server on loopback: what a client that does not read its answers costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.kv_harness import Desk

from pytinykv.lifecycle import Scope
from pytinykv.model.raw_values import encode_raw_value
from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.server.kv import answers
from pytinykv.storage import ColumnFamily
from pytinykv.transport.rpc import RpcChannel, RpcServer
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode
from pytinykv.wire.pb import tikvpb_pb2

FRAMES = 300
VALUE = b"x" * 200_000
ROOM = 1_000_000
TIMEOUT_S = 30.0
IDLE_TURNS = 5000
"""Turns of the event loop after which no further request is expected."""


async def test_a_client_that_does_not_read_its_answers_is_not_read_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "STREAM_BYTES_MAX", ROOM)
    most = 0
    async with Scope("test") as scope:
        desk = Desk(tmp_path, scope, stores=1)
        batch = desk.node.engine.write_batch()
        batch.put(ColumnFamily.RAW, b"dk", encode_raw_value(VALUE))
        desk.node.engine.write(batch)
        served = 0
        on_frame = desk.service.on_frame

        def counted(frame: Any, client: answers.Answers, first: int) -> None:
            nonlocal served, most
            served += 1
            on_frame(frame, client, first)
            most = max(most, desk.service.budget.used_bytes)

        monkeypatch.setattr(desk.service, "on_frame", counted)
        server = RpcServer(scope, "store")
        bind_service(server, desk.service)
        channel = RpcChannel(scope, f"127.0.0.1:{await server.start('127.0.0.1:0')}")
        stream: Any = channel.stream_stream(
            BATCH_COMMANDS, serialize=bytes, deserialize=tikvpb_pb2.BatchCommandsResponse.FromString
        )
        for number in range(FRAMES):
            frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[number])
            frame.requests.add().RawGet.CopyFrom(desk.request("RawGet", key=b"k"))
            stream.send_nowait(frame.SerializeToString())
        async with asyncio.timeout(TIMEOUT_S):
            idle_turns = 0
            while desk.service.budget.used_bytes <= ROOM or idle_turns < IDLE_TURNS:
                before = served
                await asyncio.sleep(0)
                idle_turns = idle_turns + 1 if served == before else 0
        assert served < FRAMES, "the rest of the requests waits at the client"
        ids: list[int] = []
        async with asyncio.timeout(TIMEOUT_S):
            while len(ids) < FRAMES:
                ids += (await stream.receive()).request_ids
        stream.close()
    assert sorted(ids) == list(range(FRAMES))
    assert most < ROOM + 3 * len(VALUE)
    assert desk.service.budget.used_bytes == 0


async def test_a_large_answer_arrives_whole_by_a_call_and_by_a_stream(tmp_path: Path) -> None:
    async with Scope("test") as scope:
        desk = Desk(tmp_path, scope, stores=1)
        keys = [b"k%02d" % number for number in range(30)]
        batch = desk.node.engine.write_batch()
        for key in keys:
            batch.put(ColumnFamily.RAW, b"d" + key, encode_raw_value(VALUE))
        desk.node.engine.write(batch)
        server = RpcServer(scope, "store")
        bind_service(server, desk.service)
        channel = RpcChannel(scope, f"127.0.0.1:{await server.start('127.0.0.1:0')}")
        request = desk.request("RawBatchGet", keys=keys)
        response: Any = await channel.unary(
            "/tikvpb.Tikv/RawBatchGet",
            request,
            serialize=type(request).SerializeToString,
            deserialize=desk.service.methods["/tikvpb.Tikv/RawBatchGet"].response_type.FromString,
            timeout_s=TIMEOUT_S,
        )
        assert [(pair.key, pair.value) for pair in response.pairs] == [(key, VALUE) for key in keys]
        stream: Any = channel.stream_stream(
            BATCH_COMMANDS, serialize=bytes, deserialize=tikvpb_pb2.BatchCommandsResponse.FromString
        )
        frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[7])
        frame.requests.add().RawBatchGet.CopyFrom(request)
        stream.send_nowait(frame.SerializeToString())
        async with asyncio.timeout(TIMEOUT_S):
            answer = await stream.receive()
        assert list(answer.request_ids) == [7]
        assert answer.responses[0].RawBatchGet == response
        stream.close()
    assert desk.service.budget.used_bytes == 0, "what gRPC has taken does not count any more"


async def test_a_stream_sees_a_stop_as_unavailable_after_its_answers(tmp_path: Path) -> None:
    async with Scope("client") as client:
        scope = Scope("store")
        desk = Desk(tmp_path, scope, stores=1)
        server = RpcServer(scope, "store")
        bind_service(server, desk.service)
        channel = RpcChannel(client, f"127.0.0.1:{await server.start('127.0.0.1:0')}")
        stream: Any = channel.stream_stream(
            BATCH_COMMANDS, serialize=bytes, deserialize=tikvpb_pb2.BatchCommandsResponse.FromString
        )
        frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[1])
        frame.requests.add().Empty.test_id = 5
        stream.send_nowait(frame.SerializeToString())
        async with asyncio.timeout(TIMEOUT_S):
            assert (await stream.receive()).responses[0].Empty.test_id == 5
            report = await scope.stop()
            with pytest.raises(RpcError) as caught:
                await stream.receive()
    assert report.ok, report.render()
    assert caught.value.code is StatusCode.UNAVAILABLE
