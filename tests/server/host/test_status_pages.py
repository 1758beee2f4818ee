"""What the status port shows of a process, whom it listens to, and that neither a stuck loop nor a silent client matters."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.raftstore.harness import Cluster

from pytinykv.lifecycle import Scope
from pytinykv.server.host.describe import describe_store
from pytinykv.server.host.metrics import StoreMetrics
from pytinykv.server.host.status import StatusServer
from pytinykv.server.kv.service import KvService
from pytinykv.transport.address import AddressError


def get(address: str, path: str) -> tuple[int, str]:
    """Ask, from this very thread: the event loop is stuck meanwhile, and the answer comes all the same."""
    connection = http.client.HTTPConnection(address, timeout=10.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def test_health_is_told_while_the_loop_is_stuck(scope: Scope) -> None:
    problems = [""]
    server = StatusServer(scope, registry=CollectorRegistry(), health=lambda: problems[0])
    address = server.start("127.0.0.1:0")
    assert get(address, "/healthz") == (200, "ok\n")
    assert get(address, "/healthz?verbose") == (200, "ok\n")
    problems[0] = "stopping"
    assert get(address, "/healthz") == (503, "stopping\n")
    status, text = get(address, "/nowhere")
    assert status == 404
    assert "/healthz" in text


async def test_metrics_and_pages_of_a_store(scope: Scope, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    leader = cluster.elect()
    cluster.put(leader.store_id, b"k", b"v")
    cluster.settle()
    registry = CollectorRegistry()
    service = KvService(leader.running, cluster_id=7, scope=scope)
    registry.register(StoreMetrics(leader.running, service, tmp_path))
    pages = {"/debug/store": lambda: describe_store(leader.running)}
    address = StatusServer(scope, registry=registry, health=lambda: "", pages=pages).start("127.0.0.1:0")
    status, text = get(address, "/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["tinykv_store_regions"]) == 1
    assert float(values["tinykv_store_leaders"]) == 1
    assert float(values["tinykv_store_operations_total"]) == 1
    assert float(values["tinykv_store_syncs_total"]) > 0
    assert float(values["tinykv_store_answer_bytes"]) == 0
    assert float(values["tinykv_store_read_slices_total"]) == 0
    assert float(values["process_resident_memory_bytes"]) > 1e6
    status, text = get(address, "/debug/store")
    page = json.loads(text)
    assert (page["store"], page["failure"]) == (leader.store_id, None)
    (region,) = page["regions"]
    assert region["is_leader"] is True
    assert region["applied"] == leader.peer.node.applied_index


async def test_an_address_that_other_machines_reach_is_refused(scope: Scope) -> None:
    server = StatusServer(scope, registry=CollectorRegistry(), health=lambda: "")
    with pytest.raises(AddressError, match="insecure"):
        server.start("0.0.0.0:0")


async def test_a_client_that_says_nothing_does_not_hold_up_the_stop() -> None:
    scope = Scope("test")
    address = StatusServer(scope, registry=CollectorRegistry(), health=lambda: "").start("127.0.0.1:0")
    silent = http.client.HTTPConnection(address, timeout=10.0)
    silent.connect()
    report = await scope.stop()
    assert report.ok, report.render()
    silent.close()
    for thread in threading.enumerate():
        if "process_request" in thread.name:
            thread.join(10.0)
