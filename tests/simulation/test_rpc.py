from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.simulation import toy_store as toy

from pytinykv.simulation.errors import Violation
from pytinykv.simulation.network import LinkConditions
from pytinykv.simulation.world import World, WorldOptions, run_world
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2


def run(history: Callable[[World], Coroutine[Any, Any, None]], seed: int = 1, **options: Any) -> None:
    run_world(seed, history, WorldOptions(**options))


def test_a_call_takes_a_round_trip_and_carries_copies() -> None:
    async def history(world: World) -> None:
        _, _, store = toy.serve(world)
        _, connector = toy.client(world)
        await toy.put(connector, b"k", b"v")
        assert world.loop.time() > 0.0006
        assert await toy.get(connector, b"k") == b"v"
        assert store.data == {b"k": b"v"}
        await connector.close()

    run(history)


def test_the_servers_status_and_an_unknown_method_reach_the_caller() -> None:
    async def history(world: World) -> None:
        toy.serve(world)
        _, connector = toy.client(world)
        with pytest.raises(RpcError, match="NOT_FOUND: boom"):
            await toy.get(connector, b"boom")
        with pytest.raises(RpcError, match="UNIMPLEMENTED"):
            await connector.unary(toy.ADDRESS, "/tikvpb.Tikv/RawScan", kvrpcpb_pb2.RawScanRequest(), timeout_s=1)
        await connector.close()

    run(history)


def test_an_address_without_a_listener_is_unavailable() -> None:
    async def history(world: World) -> None:
        _, connector = toy.client(world)
        with pytest.raises(RpcError) as caught:
            await toy.get(connector, b"k")
        assert caught.value.code is StatusCode.UNAVAILABLE
        await connector.close()

    run(history)


def test_a_late_answer_is_a_deadline_and_the_handler_is_cancelled() -> None:
    async def history(world: World) -> None:
        _, _, store = toy.serve(world)
        _, connector = toy.client(world)
        with pytest.raises(RpcError) as caught:
            await connector.unary(toy.ADDRESS, toy.DELETE, kvrpcpb_pb2.RawDeleteRequest(), timeout_s=0.5)
        assert caught.value.code is StatusCode.DEADLINE_EXCEEDED
        assert 0.5 <= world.loop.time() < 0.51
        await asyncio.sleep(0.1)
        assert store.cancelled == 1
        await connector.close()

    run(history)


def test_a_partition_breaks_calls_under_way_and_healing_lets_new_ones_through() -> None:
    async def history(world: World) -> None:
        toy.serve(world)
        _, connector = toy.client(world)
        await toy.put(connector, b"k", b"1")
        world.network.partition(["client"], ["toy"])
        with pytest.raises(RpcError) as caught:
            await toy.put(connector, b"k", b"2", timeout_s=10)
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert world.loop.time() >= 0.2
        world.network.heal()
        await toy.put(connector, b"k", b"3")
        assert await toy.get(connector, b"k") == b"3"
        await connector.close()

    run(history)


def test_a_cut_on_the_way_back_loses_the_answer_but_not_the_effect() -> None:
    async def history(world: World) -> None:
        _, _, store = toy.serve(world)
        _, connector = toy.client(world)
        await toy.put(connector, b"k", b"1")
        world.network.block("toy", "client")
        with pytest.raises(RpcError):
            await toy.put(connector, b"k", b"2", timeout_s=10)
        assert store.data == {b"k": b"2"}
        await connector.close()

    run(history)


def test_a_crash_ends_calls_and_streams_and_leaves_no_task() -> None:
    async def history(world: World) -> None:
        process, _, store = toy.serve(world)
        _, connector = toy.client(world)
        stream = connector.stream(toy.ADDRESS, toy.BATCH)
        stream.send_nowait(tikvpb_pb2.BatchCommandsRequest(request_ids=[7]))
        assert list((await stream.receive()).request_ids) == [7]
        world.loop.call_later(1.0, lambda: world.loop.create_task(process.crash()))
        with pytest.raises(RpcError) as caught:
            await stream.receive()
        assert caught.value.code is StatusCode.UNAVAILABLE
        assert world.loop.pending_tasks(process) == []
        toy.serve(world, store)
        await toy.put(connector, b"k", b"after")
        await connector.close()

    run(history)


def test_a_streams_messages_keep_their_order_on_a_bad_link() -> None:
    async def history(world: World) -> None:
        toy.serve(world)
        _, connector = toy.client(world)
        stream = connector.stream(toy.ADDRESS, toy.BATCH)
        for number in range(200):
            stream.send_nowait(tikvpb_pb2.BatchCommandsRequest(request_ids=[number]))
        got = [(await stream.receive()).request_ids[0] for _ in range(200)]
        assert got == list(range(200))
        stream.close()
        with pytest.raises(RpcError, match="CANCELLED"):
            await stream.receive()
        await connector.close()

    run(history, conditions=LinkConditions(loss=0.2, straggle=0.2))


def test_a_stopped_server_ends_its_calls_and_refuses_new_ones() -> None:
    async def history(world: World) -> None:
        _, server, _ = toy.serve(world)
        _, connector = toy.client(world)
        call = world.loop.create_task(
            connector.unary(toy.ADDRESS, toy.DELETE, kvrpcpb_pb2.RawDeleteRequest(), timeout_s=60)
        )
        await asyncio.sleep(0.1)
        await server.stop(grace_s=1.0)
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            await call
        with pytest.raises(RpcError, match="UNAVAILABLE"):
            await toy.get(connector, b"k")
        await connector.close()

    run(history)


def test_a_server_that_stops_reads_streams_no_further_and_lets_them_end_by_themselves() -> None:
    """As the real one: their handlers can say how far they came, and no stop waits for its whole grace."""

    async def history(world: World) -> None:
        _, server, _ = toy.serve(world)
        _, connector = toy.client(world)
        stream = connector.stream(toy.ADDRESS, toy.BATCH)
        stream.send_nowait(tikvpb_pb2.BatchCommandsRequest(request_ids=[1]))
        assert (await stream.receive()).request_ids == [1]
        since = world.loop.time()
        await server.stop(grace_s=1.0)
        assert world.loop.time() - since < 0.5
        with pytest.raises(RpcError, match="the server closed the stream"):
            await stream.receive()
        await connector.close()

    run(history)


def test_a_stalled_process_answers_when_it_goes_on() -> None:
    async def history(world: World) -> None:
        process, _, _ = toy.serve(world)
        _, connector = toy.client(world)
        await toy.put(connector, b"k", b"v")
        process.stall()
        world.loop.call_later(3.0, process.resume)
        assert await toy.get(connector, b"k") == b"v"
        assert world.loop.time() > 3.0
        await connector.close()

    run(history)


def test_what_is_left_behind_is_a_violation() -> None:
    async def forgotten_connector(world: World) -> None:
        toy.serve(world)
        _, connector = toy.client(world)
        await toy.get(connector, b"k")

    async def forgotten_task(world: World) -> None:
        world.loop.create_task(asyncio.Event().wait(), name="forgotten")

    with pytest.raises(Violation, match="1 connections are open"):
        run(forgotten_connector)
    with pytest.raises(Violation, match="forgotten"):
        run(forgotten_task)
