"""The status port, asked while the event loop turns, and while it is blocked."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import NoReturn

import pytest
from prometheus_client import CollectorRegistry

from pytinykv.lifecycle import Scope
from pytinykv.server.host import status
from pytinykv.server.host.metrics import OwnerMetrics
from pytinykv.server.host.status import StatusServer


def get(address: str, path: str) -> tuple[int, str, str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read().decode()
    finally:
        connection.close()


async def ask(address: str, path: str) -> tuple[int, str, str]:
    """Ask from a thread, with the loop turning meanwhile, and all tasks waiting already."""
    await asyncio.sleep(0)
    return await asyncio.get_running_loop().run_in_executor(None, get, address, path)


class Serving:
    def __init__(self, scope: Scope, address: str) -> None:
        self.scope = scope
        self.address = address


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    scope = Scope("server")
    registry = CollectorRegistry()
    registry.register(OwnerMetrics(scope))
    inner = scope.child("store")
    server = StatusServer(inner, registry=registry, health=lambda: "", pages={"/debug/store": lambda: {"id": 1}})
    yield Serving(scope, server.start("127.0.0.1:0"))
    await asyncio.get_running_loop().shutdown_default_executor()
    assert (await scope.stop()).ok


async def worker(inbox: asyncio.Queue[int]) -> None:
    while True:
        await inbox.get()


async def test_the_graph_as_text(serving: Serving) -> None:
    serving.scope.start("worker", worker, asyncio.Queue())
    status, kind, text = await ask(serving.address, "/debug/tasks")
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    assert text.startswith("wait-for graph of server (pid ")
    assert "task server/worker" in text
    assert "waits for an item from queue inbox in worker (empty)" in text


async def test_the_graph_as_json(serving: Serving) -> None:
    serving.scope.start("worker", worker, asyncio.Queue())
    status, kind, text = await ask(serving.address, "/debug/tasks?format=json")
    assert (status, kind) == (200, "application/json")
    graph = json.loads(text)
    assert graph["cycles"] == []
    assert "server/worker" in [node["name"] for node in graph["nodes"]]


async def test_owners_as_json_and_as_metrics(serving: Serving) -> None:
    serving.scope.start("worker", worker, asyncio.Queue())
    owned = json.loads((await ask(serving.address, "/debug/owned"))[2])
    [entry] = [entry for entry in owned if (entry["kind"], entry["owner"]) == ("task", "server")]
    assert entry["count"] == 1
    assert "test_status.py" in entry["started_at"]
    metrics = (await ask(serving.address, "/metrics"))[2]
    assert 'tinykv_owned{kind="task",owner="server"} 1.0' in metrics


async def test_pages_of_the_owner_are_still_served(serving: Serving) -> None:
    assert json.loads((await ask(serving.address, "/debug/store"))[2]) == {"id": 1}
    assert (await ask(serving.address, "/healthz"))[2] == "ok\n"
    status, _, text = await ask(serving.address, "/nothing")
    assert status == 404
    assert "/debug/tasks" in text


async def test_the_graph_is_drawn_while_the_loop_is_blocked(serving: Serving) -> None:
    answers: list[str] = []

    def ask_and_let_go(let_go: Callable[[], None]) -> None:
        try:
            for _ in range(100):  # until the main thread is where it blocks
                answers[:] = [get(serving.address, "/debug/tasks")[2]]
                if "waits for event answered in" in answers[0]:
                    break
        finally:
            let_go()

    def block() -> None:
        answered = threading.Event()
        thread = serving.scope.start_thread("asker", ask_and_let_go, answered.set)
        assert answered.wait(30)
        thread.thread.join()

    async def run() -> None:
        block()

    await serving.scope.start("stuck", run).wait()
    assert "task server/stuck: runs now" in answers[0]
    assert "in test_the_graph_is_drawn_while_the_loop_is_blocked.<locals>.block" in answers[0]
    assert "waits for event answered in" in answers[0]


async def test_an_index_and_head(serving: Serving) -> None:
    status, kind, text = await ask(serving.address, "/")
    assert (status, kind) == (200, "text/plain; charset=utf-8")
    assert text.split() == ["/", "/healthz", "/metrics", "/debug/tasks", "/debug/owned", "/debug/store"]

    def head(path: str) -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection(serving.address, timeout=10)
        try:
            connection.request("HEAD", path)
            response = connection.getresponse()
            return response.status, response.headers["Content-Length"], response.read()
        finally:
            connection.close()

    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, head, "/healthz") == (200, "3", b"")
    assert (await loop.run_in_executor(None, head, "/nowhere"))[0] == 404


@pytest.mark.parametrize(("number", "pauses"), [(errno.EMFILE, [0.5]), (errno.ECONNABORTED, [])])
def test_without_a_file_descriptor_it_does_not_try_again_at_once(
    monkeypatch: pytest.MonkeyPatch, number: int, pauses: list[float]
) -> None:
    """The connection stays in the queue, so the next look would find it there at once, and for ever."""
    slept: list[float] = []

    def accept() -> NoReturn:
        raise OSError(number, "no")

    monkeypatch.setattr(status.time, "sleep", slept.append)
    server = status._Server.__new__(status._Server)
    server.socket = SimpleNamespace(accept=accept)  # type: ignore[assignment]  # a fake socket
    with pytest.raises(OSError, match="no"):
        server.get_request()
    assert slept == pauses
