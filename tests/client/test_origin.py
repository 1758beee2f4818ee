"""A client is used in the loop and process that it was made in; elsewhere every call is refused before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.client.fake_cluster import FakeCluster

import pytinykv
from pytinykv import ClientError, WrongEventLoopError
from pytinykv.client import AsyncClient


async def exhaust(scan: Any) -> list[Any]:
    return [pair async for pair in scan]


CALLS: dict[str, Callable[[AsyncClient], Any]] = {
    "get": lambda client: client.raw.get(b"k"),
    "put": lambda client: client.raw.put(b"k", b"new"),
    "delete": lambda client: client.raw.delete(b"k"),
    "batch_get": lambda client: client.raw.batch_get([b"k"]),
    "batch_put": lambda client: client.raw.batch_put({b"k": b"new"}),
    "batch_delete": lambda client: client.raw.batch_delete([b"k"]),
    "delete_range": lambda client: client.raw.delete_range(prefix=b"k"),
    "scan": lambda client: exhaust(client.raw.scan()),
    "ttl": lambda client: client.raw.ttl(b"k"),
    "compare_and_swap": lambda client: client.raw.compare_and_swap(b"k", b"old", b"new"),
    "checksum": lambda client: client.raw.checksum(),
    "timestamp": lambda client: client.scheduler.timestamp(),
    "scheduler": lambda client: client.scheduler.get_all_stores(),
    "open": lambda client: client.open(),
    "close": lambda client: client.close(),
    "async with": lambda client: client.__aenter__(),
}


def in_another_loop(call: Callable[[], Any]) -> object:
    async def run() -> object:
        return await call()

    return asyncio.run(run())


def without_a_loop(call: Callable[[], Any]) -> object:
    return call().send(None)


@pytest.mark.parametrize("elsewhere", [in_another_loop, without_a_loop])
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_elsewhere_is_refused_before_anything_is_sent(
    client: AsyncClient, cluster: FakeCluster, name: str, elsewhere: Callable[[Callable[[], Any]], object]
) -> None:
    await client.raw.put(b"k", b"old")
    sent, asked = cluster.commands(), list(cluster.schedulers[0].seen)
    with pytest.raises(WrongEventLoopError, match="nothing was sent") as raised:
        await asyncio.to_thread(elsewhere, lambda: CALLS[name](client))
    assert isinstance(raised.value, ClientError)
    assert not raised.value.undetermined
    await asyncio.sleep(0)
    assert (cluster.commands(), cluster.schedulers[0].seen) == (sent, asked)
    assert await client.raw.get(b"k") == b"old"


async def test_a_scan_can_not_be_carried_on_elsewhere(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.batch_put({b"%03d" % number: b"v" for number in range(100)})
    scan = client.raw.scan()
    assert await anext(scan) == (b"000", b"v")
    with pytest.raises(WrongEventLoopError):
        await asyncio.to_thread(in_another_loop, lambda: exhaust(scan))
    assert [key async for key, _ in scan][-1] == b"099"


async def test_a_client_whose_loop_has_ended_says_so(cluster: FakeCluster) -> None:
    def connect() -> pytinykv.aio.AsyncClient:
        async def make() -> pytinykv.aio.AsyncClient:
            return pytinykv.aio.connect("127.0.0.1:1")

        return asyncio.run(make())

    client = await asyncio.to_thread(connect)
    with pytest.raises(WrongEventLoopError, match="which has been closed"):
        await client.raw.get(b"k")
    with pytest.warns(ResourceWarning, match="was never closed"):
        client.__del__()
    client._closed = True  # its scope ended with its loop


def test_a_client_can_not_be_made_without_a_loop() -> None:
    with pytest.raises(WrongEventLoopError, match="call connect in a coroutine"):
        pytinykv.aio.connect("127.0.0.1:2379")
