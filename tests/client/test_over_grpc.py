"""Both faces over real gRPC on loopback, against the fake cluster's services."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.client.fake_cluster import FakeCluster

import pytinykv
from pytinykv import aio
from pytinykv.client import ClientConfig
from pytinykv.lifecycle import LoopThread, Scope
from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.transport.rpc import RpcServer

CONFIG = ClientConfig(read_attempt_timeout_s=0.3, connect_timeout_s=0.5, stall_timeout_s=0.2)


async def serve(cluster: FakeCluster, scope: Scope) -> dict[int, RpcServer]:
    """Put every service of the cluster behind a socket; returns the stores' servers."""
    servers = {}
    for number, store in cluster.stores.items():
        servers[number] = RpcServer(scope, f"store-{number}")
        bind_service(servers[number], store)
        cluster.addresses[number] = f"127.0.0.1:{await servers[number].start('127.0.0.1:0')}"
    server = RpcServer(scope, "pd")
    bind_service(server, cluster.schedulers[0])
    cluster.schedulers[0].address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    cluster.scheduler_leader = cluster.schedulers[0].address
    return servers


@pytest.fixture
async def servers(cluster: FakeCluster, scope: Scope) -> dict[int, RpcServer]:
    return await serve(cluster, scope.child("servers"))


async def test_the_asynchronous_face(cluster: FakeCluster, servers: dict[int, RpcServer]) -> None:
    async with aio.connect(f"http://{cluster.scheduler_address}", config=CONFIG) as db:
        await asyncio.gather(*(db.raw.put(b"%c%d" % (b"ahz"[number % 3], number), b"v") for number in range(90)))
        assert len([pair async for pair in db.raw.scan()]) == 90
        assert [key async for key, _ in db.raw.scan(reverse=True, limit=1)] == [b"z89"]
        assert (await db.raw.compare_and_swap(b"k", None, b"v")).swapped
        assert await db.raw.ttl(b"k") == math.inf
        assert (await db.raw.checksum()).total_kvs == 91
        assert await db.scheduler.timestamp() < await db.scheduler.timestamp()
        assert await db.raw.get(b"a0", cf="write") is None


async def test_awaiting_a_client_connects_it(cluster: FakeCluster, servers: dict[int, RpcServer]) -> None:
    db = await aio.connect(cluster.scheduler_address, timeout=2)
    await db.raw.put(b"k", b"v")
    report = await db.close()
    assert report.ok, report.render()


async def test_a_wrong_address_shows_at_once(cluster: FakeCluster) -> None:
    with pytest.raises(pytinykv.SchedulerUnavailableError, match=r"asked 127.0.0.1:1; last: .*UNAVAILABLE"):
        async with aio.connect("127.0.0.1:1", timeout=0.3):
            pytest.fail("connected without a scheduler")


async def test_a_store_that_stops_and_comes_back(
    cluster: FakeCluster, servers: dict[int, RpcServer], scope: Scope
) -> None:
    async with aio.connect(cluster.scheduler_address, config=CONFIG) as db:
        await db.raw.put(b"k", b"1")
        await servers[2].stop()
        cluster.region_of(b"k").leader = 3
        await db.raw.put(b"k", b"2")
        await db.raw.put(b"a", b"2")
        again = RpcServer(scope, "store-2-again")
        bind_service(again, cluster.stores[2])
        await again.start(cluster.addresses[2])
        cluster.region_of(b"k").leader = 2
        await db.raw.put(b"k", b"3")
    assert cluster.data[""] == {b"k": b"3", b"a": b"2"}


async def test_closing_with_calls_in_flight(cluster: FakeCluster, servers: dict[int, RpcServer], scope: Scope) -> None:
    db = await aio.connect(cluster.scheduler_address)
    await db.raw.get(b"k")
    cluster.stores[2].open.clear()
    outcomes: list[type[Exception]] = []

    async def call() -> None:
        try:
            await db.raw.put(b"k", b"v")
        except pytinykv.ClientError as error:
            outcomes.append(type(error))

    tasks = [scope.start("call", call) for _ in range(5)]
    async with asyncio.timeout(5):
        while len(db.executor.router.stores[2]._sent) < 5:
            await asyncio.sleep(0.001)
    report = await db.close()
    assert report.ok, report.render()
    for task in tasks:
        await task.wait(1)
    assert [kind.__name__ for kind in outcomes] == ["CutOffWriteError"] * 5
    cluster.stores[2].open.set()


@pytest.fixture
def sync_cluster() -> Iterator[FakeCluster]:
    """The cluster in a thread of its own, for callers that block."""
    thread = LoopThread("servers")
    thread.start()
    cluster = FakeCluster(splits=[b"g", b"p"])

    async def start() -> None:
        await serve(cluster, thread.scope)

    thread.call(start, 5.0)
    yield cluster
    report = thread.stop()
    assert report.ok, report.render()


def test_the_synchronous_face(sync_cluster: FakeCluster) -> None:
    with pytinykv.connect([sync_cluster.scheduler_address]) as db:

        def work(name: int) -> None:
            for number in range(20):
                db.raw.put(b"%c%d-%d" % (b"ahz"[number % 3], name, number), b"v")

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(list(db.raw.scan())) == 80
        assert db.raw.compare_and_swap(b"k", expected=None, value=b"me") == (True, None)
        db.raw.delete_range(everything=True)
    assert sync_cluster.data[""] == {}


def test_a_forgotten_client_over_grpc_ends(sync_cluster: FakeCluster) -> None:
    holder = [pytinykv.connect(sync_cluster.scheduler_address)]
    holder[0].raw.put(b"k", b"v")
    thread = holder[0]._core._thread._thread
    with pytest.warns(ResourceWarning, match="was never closed"):
        holder.clear()
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


FORKING = """
import os, sys, time
import pytinykv
db = pytinykv.connect(sys.argv[1])
crashed = 0
for _ in range(40):
    time.sleep(0.01)
    if not (pid := os.fork()):
        os._exit(0)
    crashed += os.waitpid(pid, 0)[1] != 0
print("crashed:", crashed, flush=True)
db.close()
if not (pid := os.fork()):
    before = time.monotonic()
    for connect in (pytinykv.connect, pytinykv.aio.connect):
        try:
            connect(sys.argv[1], timeout=3)
        except pytinykv.ClientForkedError as error:
            print("child:", error, flush=True)
    print("quick:", time.monotonic() - before < 1, flush=True)
    os._exit(0)
print("status:", os.waitpid(pid, 0)[1])
with pytinykv.connect(sys.argv[1]) as db:
    print("parent:", db.raw.get(b"k"), os.environ.get("GRPC_ENABLE_FORK_SUPPORT"))
"""


async def test_forked_children_live_and_are_told_that_they_can_not_connect(
    cluster: FakeCluster, servers: dict[int, RpcServer]
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, cluster.scheduler_address, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = (stream.decode() for stream in await asyncio.wait_for(process.communicate(), 30))
    assert process.returncode == 0, errors
    assert "fork_posix" not in errors, errors  # gRPC's handlers did not run
    assert "crashed: 0\n" in output, output
    assert output.count("used gRPC before it forked this one") == 2, output
    assert "quick: True\nstatus: 0\nparent: None None\n" in output, output


async def test_tasks_that_share_a_scan_get_each_pair_once(cluster: FakeCluster, servers: dict[int, RpcServer]) -> None:
    async with aio.connect(cluster.scheduler_address, config=CONFIG) as db:
        await db.raw.batch_put({b"%05d" % number: b"v" for number in range(3000)})
        scan = db.raw.scan()

        async def rest() -> list[bytes]:
            return [key async for key, _ in scan]

        parts = await asyncio.gather(*(rest() for _ in range(5)))
        assert sorted(key for part in parts for key in part) == [b"%05d" % number for number in range(3000)]


@pytest.mark.parametrize("timeout", [float("nan"), 0, -1])
async def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(pytinykv.InvalidArgumentError, match="timeout must be positive"):
        aio.connect("127.0.0.1:1", timeout=timeout)
