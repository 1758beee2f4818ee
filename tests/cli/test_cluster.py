"""`tinykv status`, `regions`, `stores`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.processes import Running, started, tinykv_here

from pytinykv.cli.cluster import describe_region, describe_store, mark_lost_quorums
from pytinykv.cli.tables import Column, plain_table, size
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2


@pytest.fixture
def run(cluster: Running) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    return lambda *arguments: tinykv_here(*arguments, TINYKV_SCHEDULER=cluster.ready()["scheduler"])


def test_status_as_text_and_as_json(run: Callable[..., subprocess.CompletedProcess[bytes]], cluster: Running) -> None:
    lines = run("status").stdout.decode().splitlines()
    assert lines[1:4] == [
        f"scheduler  {cluster.ready()['scheduler']}",
        "stores     1 (1 up)",
        "regions    1 (1 healthy)",
    ]
    facts = json.loads(run("status", "--json").stdout)
    assert lines[0] == f"cluster    {facts['cluster_id']}"
    assert facts["bootstrapped"] is True
    assert facts["problems"] == []
    assert facts["stores"][0]["address"] == cluster.ready()["stores"]


def test_stores_and_regions(run: Callable[..., subprocess.CompletedProcess[bytes]], cluster: Running) -> None:
    header, row = run("stores").stdout.decode().splitlines()
    assert header.split() == ["STORE", "STATE", "ADDRESS", "REGIONS", "LEADERS", "DISK_FREE", "DISK_SIZE", "HEARD"]
    assert row.split()[1:5] == ["up", cluster.ready()["stores"], "1", "1"]
    header, row = run("regions").stdout.decode().splitlines()
    assert header.split() == ["REGION", "STATE", "START", "END", "EPOCH", "PEERS", "LEADER"]
    assert row.split()[1:5] == ["healthy", "-", "-", "1,1"]
    (region,) = json.loads(run("regions", "--json").stdout)
    (store,) = json.loads(run("stores", "--json").stdout)
    assert region["leader_store"] == store["store"]


def test_a_cluster_without_stores_says_what_to_do(tmp_path: Path) -> None:
    with started(tmp_path, "scheduler", "--data-dir", tmp_path / "data", "--addr", "127.0.0.1:0") as scheduler:
        address = scheduler.ready()["addr"]
        done = tinykv_here("status", TINYKV_SCHEDULER=address)
        assert done.returncode == 0
        assert b"problem    no store has joined yet; start one: tinykv store" in done.stdout
        assert tinykv_here("stores", TINYKV_SCHEDULER=address).returncode == 0
        done = tinykv_here("regions", TINYKV_SCHEDULER=address)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"the cluster gets its first with its first store" in done.stderr
        done = tinykv_here("get", "k", "--timeout", 0.2, TINYKV_SCHEDULER=address)
        assert (done.returncode, done.stdout) == (4, b"")
        assert done.stderr.startswith(b"tinykv get: get b'k' ")


def store(heard_s: float, state: metapb_pb2.StoreState = metapb_pb2.StoreState.Up) -> metapb_pb2.Store:
    return metapb_pb2.Store(id=4, address="127.0.0.1:20160", state=state, last_heartbeat=int(heard_s * 1e9))


@pytest.mark.parametrize(
    ("known", "state", "ago_s"),
    [
        (store(999.0), "up", 1.0),
        (store(990.0), "silent", 10.0),
        (store(0.0), "silent", None),
        (store(1001.0), "up", 0.0),
        (store(990.0, metapb_pb2.StoreState.Tombstone), "tombstone", 10.0),
    ],
)
def test_a_store_that_is_not_heard_is_silent(known: metapb_pb2.Store, state: str, ago_s: float | None) -> None:
    facts = describe_store(known, pdpb_pb2.StoreStats(region_count=7), leaders=2, now_s=1000.0)
    assert (facts["state"], facts["last_heartbeat_ago_s"], facts["regions"], facts["leaders"]) == (state, ago_s, 7, 2)


def test_the_state_of_a_region() -> None:
    peer = metapb_pb2.Peer(id=5, store_id=1)
    other = metapb_pb2.Peer(id=6, store_id=2)
    meta = metapb_pb2.Region(id=2, peers=[peer, other], start_key=b"\xff")
    healthy = describe_region(pdpb_pb2.Region(region=meta, leader=peer))
    assert (healthy["state"], healthy["start"], healthy["leader_store"]) == ("healthy", "ff", 1)
    behind = pdpb_pb2.Region(region=meta, leader=peer, pending_peers=[other])
    assert describe_region(behind)["state"] == "pending"
    down = pdpb_pb2.Region(region=meta, leader=peer, down_peers=[pdpb_pb2.PeerStats(peer=other)])
    assert (describe_region(down)["state"], describe_region(down)["down_peers"]) == ("degraded", [6])
    assert describe_region(pdpb_pb2.Region(region=meta))["state"] == "leaderless"


def test_a_plain_table_has_a_cell_in_every_column() -> None:
    columns = (Column("N", is_number=True), Column("NAME"), Column("X"))
    assert plain_table(columns, [["1", "a", ""], ["10", "", "x"]]) == " N  NAME  X\n 1  a     -\n10  -     x"
    assert plain_table(columns, []) == "N  NAME  X"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (200 << 20, "200 MiB"),
        (3 << 40, "3.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(("silent", "state"), [((), "healthy"), ((2,), "healthy"), ((2, 3), "no quorum")])
def test_a_region_most_of_whose_stores_are_silent_is_not_called_healthy(silent: tuple[int, ...], state: str) -> None:
    stores = [{"store": n, "state": "silent" if n in silent else "up"} for n in (1, 2, 3, 4)]
    learner = {"peer": 14, "store": 4, "role": "learner"}
    regions = [{"state": "healthy", "peers": [*({"peer": 10 + n, "store": n} for n in (1, 2, 3)), learner]}]
    mark_lost_quorums(stores, regions)
    assert regions[0]["state"] == state
