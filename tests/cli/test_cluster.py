"""`tinykv status`, `regions`, `stores`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.processes import Running, started, tinykv_here

from pytinykv.cli.cluster import print_status
from pytinykv.cli.cluster_facts import describe_region, describe_store, judge_regions, notes, problems
from pytinykv.cli.tables import Column, plain_table, size
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2


@pytest.fixture
def run(cluster: Running) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    return lambda *arguments: tinykv_here(*arguments, TINYKV_SCHEDULER=cluster.ready()["scheduler"])


def test_status_as_text_and_as_json(run: Callable[..., subprocess.CompletedProcess[bytes]], cluster: Running) -> None:
    done = run("status")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.decode().splitlines()[1:]
    assert lines[1:4] == [
        f"scheduler  {cluster.ready()['scheduler']}",
        "stores     1 (1 up)",
        "regions    1 (1 healthy)",
    ]
    facts = json.loads(run("status", "--json").stdout)
    assert lines[0] == f"cluster    {facts['cluster_id']}"
    assert facts["bootstrapped"] is True
    assert (facts["ok"], facts["problems"], facts["max_replicas"]) == (True, [], 1)
    assert facts["stores"][0]["address"] == cluster.ready()["stores"]


def test_stores_and_regions(run: Callable[..., subprocess.CompletedProcess[bytes]], cluster: Running) -> None:
    header, row = run("stores").stdout.decode().splitlines()
    assert header.split() == ["STORE", "STATE", "ADDRESS", "REGIONS", "LEADERS", "DISK_FREE", "DISK_SIZE", "HEARD"]
    assert row.split()[1:5] == ["up", cluster.ready()["stores"], "1", "1"]
    header, row = run("regions").stdout.decode().splitlines()
    assert header.split() == ["REGION", "STATE", "START", "END", "EPOCH", "SIZE", "PEERS", "LEADER"]
    assert row.split()[1:5] == ["healthy", "-", "-", "1,1"]
    (region,) = json.loads(run("regions", "--json").stdout)
    assert isinstance(region["approximate_size_bytes"], int)
    (store,) = json.loads(run("stores", "--json").stdout)
    assert region["leader_store"] == store["store"]


def test_a_cluster_without_stores_says_what_to_do(tmp_path: Path) -> None:
    with started(tmp_path, "scheduler", "--data-dir", tmp_path / "data", "--addr", "127.0.0.1:0") as scheduler:
        address = scheduler.ready()["addr"]
        done = tinykv_here("status", TINYKV_SCHEDULER=address)
        assert done.returncode == 1
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


def region(*, down: tuple[int, ...] = (), pending: tuple[int, ...] = (), leader: int = 1) -> dict[str, Any]:
    """Return region 2, with voters 11, 12, 13 on stores 1, 2, 3 and the learner 14 on store 4."""
    peers = [metapb_pb2.Peer(id=10 + n, store_id=n, role=metapb_pb2.PeerRole.Learner * (n == 4)) for n in (1, 2, 3, 4)]
    by_id = {peer.id: peer for peer in peers}
    return describe_region(
        pdpb_pb2.Region(
            region=metapb_pb2.Region(id=2, peers=peers, start_key=b"\xff"),
            leader=by_id.get(10 + leader),
            down_peers=[pdpb_pb2.PeerStats(peer=by_id[one]) for one in down],
            pending_peers=[by_id[one] for one in pending],
        )
    )


def stores(*, silent: tuple[int, ...] = (), free: int = 50) -> list[dict[str, Any]]:
    return [
        {
            "store": n,
            "state": "silent" if n in silent else "up",
            "address": f"127.0.0.1:{20160 + n}",
            "last_heartbeat_ago_s": 70.0 if n in silent else 0.3,
            "capacity_bytes": 100 << 30,
            "available_bytes": free << 30,
            "regions": 1,
            "leaders": 0,
        }
        for n in (1, 2, 3, 4)
    ]


def test_a_region_as_plain_data() -> None:
    facts = region(down=(12,), pending=(13,))
    assert (facts["start"], facts["leader"], facts["leader_store"]) == ("ff", 11, 1)
    assert (facts["down_peers"], facts["pending_peers"]) == ([12], [13])
    assert facts["peers"][3] == {"peer": 14, "store": 4, "role": "learner"}


@pytest.mark.parametrize(
    ("facts", "silent", "state", "replicas"),
    [
        (region(), (), "healthy", 3),
        (region(pending=(14,)), (), "healthy", 3),  # a learner that is behind is on its way
        (region(pending=(12,)), (), "pending", 3),
        (region(down=(12,)), (), "under-replicated", 2),
        (region(), (2,), "under-replicated", 2),
        (region(down=(12,)), (2,), "under-replicated", 2),
        (region(), (2, 3), "no quorum", 1),
        (region(leader=0), (2, 3), "no quorum", 1),
        (region(leader=0), (), "leaderless", 3),
    ],
)
def test_the_state_of_a_region(facts: dict[str, Any], silent: tuple[int, ...], state: str, replicas: int) -> None:
    judge_regions(stores(silent=silent), [facts], 3)
    assert (facts["state"], facts["replicas"]) == (state, replicas)


def found(*regions: dict[str, Any], silent: tuple[int, ...] = (), free: int = 50, max_replicas: int = 3) -> list[str]:
    known = stores(silent=silent, free=free)
    judge_regions(known, list(regions), max_replicas)
    return problems(known, list(regions), "", bootstrapped=True, max_replicas=max_replicas)


def test_what_is_wrong_is_named_with_stores_and_regions() -> None:
    assert found(region()) == []
    assert found(region(), silent=(2,)) == [
        "store 2 at 127.0.0.1:20162 is silent, last heard of 70 s ago; it has 1 peer",
        "region 2 has 2 of 3 replicas",
    ]
    assert found(region(), silent=(2, 3))[2] == (
        "region 2 has no quorum: half of the peers or more are on silent stores; start those again"
    )
    assert found(region(leader=0)) == ["region 2 has no leader"]
    assert found(region(pending=(13,))) == ["region 2 has a replica that is behind its leader"]


def test_what_a_scheduler_that_has_just_started_does_not_know_is_not_made_up() -> None:
    store = {**stores(silent=(1,))[0], "last_heartbeat_ago_s": None}
    assert problems([store], None, "not yet", bootstrapped=True, max_replicas=3) == [
        "store 1 at 127.0.0.1:20161 is silent, not heard of since the scheduler began",
        "the regions are not all known: not yet",
    ]


def test_many_regions_are_one_problem_and_too_few_stores_are_told() -> None:
    (told,) = found(*(region() for _ in range(7)), max_replicas=5)
    assert told == (
        "7 regions (2, 2, 2, 2, 2, …) have 3 of 5 replicas; only 4 stores can hold one: start 1 more, "
        "or give the scheduler --max-replicas 4"
    )


def test_a_disk_above_85_percent_is_a_problem() -> None:
    assert found(region(), free=16) == []
    full = found(region(), free=14)
    assert len(full) == 4
    assert full[0] == (
        "store 1 at 127.0.0.1:20161: its disk is 86% full, 14.0 GiB free of 100 GiB; give it a larger one, or add a store"
    )


def test_a_removal_is_a_note_and_no_problem() -> None:
    known = stores()
    known[3]["state"] = "offline"
    judge_regions(known, [region()], 3)
    assert notes(known, [region()]) == [
        "store 4 at 127.0.0.1:20164 is being removed, 1 peer left",
        "region 2 has a new peer that is being filled",
    ]


def test_the_problems_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"cluster_id": 7, "scheduler": "127.0.0.1:2379", "stores": stores(), "regions": None, "notes": ["a note"]}
    print_status({**facts, "problems": ["a problem"]})
    print_status({**facts, "problems": []})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["problem    a problem", "note       a note", "cluster    7"]
    assert "well       all stores are heard, and every region has all its replicas and a leader" in lines


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
