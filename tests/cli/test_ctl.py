"""`tinykv ctl …`, against a playground of one store."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from tests.cli.processes import Running, started, tinykv, tinykv_here, wait_until

from pytinykv.cli.ctl import describe_operator
from pytinykv.wire.pb import adminpb_pb2, pdpb_pb2

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(cluster: Running) -> Run:
    return lambda *arguments: tinykv_here(*arguments, TINYKV_SCHEDULER=cluster.ready()["scheduler"])


def test_a_region_is_split_and_the_operator_shows(run: Run) -> None:
    done = run("ctl", "split", "m", "t", "m")
    assert (done.returncode, done.stderr) == (0, b"")
    bounds = [(region["start"], region["end"]) for region in json.loads(run("regions", "--json").stdout)]
    assert bounds == [("", "6d"), ("6d", "74"), ("74", "")]
    assert run("ctl", "split", "--hex", "6d").stdout.startswith(b"regions ")
    (operator,) = json.loads(run("ctl", "operators", "--json").stdout)
    assert (operator["description"], operator["kind"], operator["status"]) == ("split", "admin", "success")
    header, row = run("ctl", "operators").stdout.decode().splitlines()
    assert header.split() == ["REGION", "STATUS", "KIND", "WHAT", "STEP", "TOOK", "ENDED"]
    assert row.split()[1:5] == ["success", "admin", "split", "1/1"]


def test_what_can_not_be_done_is_refused_with_the_reason(run: Run) -> None:
    region = json.loads(run("regions", "--json").stdout)[0]
    region_id, store_id = region["region"], region["leader_store"]
    done = run("ctl", "transfer-leader", region_id, store_id)
    assert (done.returncode, done.stdout) == (0, f"store {store_id} leads region {region_id} already\n".encode())
    assert run("ctl", "scatter").returncode == 0
    unknown = f"invalid store ID 999999, not found: there are stores {store_id}".encode()
    for arguments, why in (
        (("transfer-leader", 999_999, store_id), b"region 999999 is not known"),
        (("transfer-leader", region_id, 999_999), unknown),
        (("store", "remove", store_id), b"without store %d there are only 0 that can hold one" % store_id),
        (("store", "remove", 999_999), unknown),
        (("store", "restore", 999_999), unknown),
        (("scatter", 999_999), b"region 999999 is not known"),
        (("split", ""), b"can't split at the empty key"),
    ):
        done = run("ctl", *arguments)
        assert (done.returncode, done.stdout) == (4, b""), done
        assert done.stderr.startswith(f"tinykv ctl {arguments[0]}".encode()), done.stderr
        assert why in done.stderr
    for arguments in (("store", "remove", 0), ("store", "remove", "one"), ("split",), ("transfer-leader", 1)):
        assert run("ctl", *arguments).returncode == 2
    assert run("ctl", "split", "--hex", "xyz").returncode == 2
    assert run("ctl", "store", "restore", store_id).stdout == f"store {store_id} stays\n".encode()


class Site:
    """A scheduler, and stores that are started one by one."""

    def __init__(self, directory: Path, scheduler: Running) -> None:
        self._directory = directory
        self.address = scheduler.ready()["addr"]

    def store(self, name: str, addr: str = "127.0.0.1:0") -> AbstractContextManager[Running]:
        logs = self._directory / f"log-{name}"
        logs.mkdir(exist_ok=True)
        data = self._directory / name
        return started(logs, "store", "--data-dir", data, "--addr", addr, "--scheduler", self.address)

    def ask(self, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        return tinykv_here(*arguments, TINYKV_SCHEDULER=self.address)

    def is_whole(self) -> bool:
        regions = json.loads(self.ask("regions", "--json").stdout)
        return [len(region["peers"]) for region in regions] == [3] and regions[0]["state"] == "healthy"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with started(tmp_path, "scheduler", "--data-dir", tmp_path / "pd", "--addr", "127.0.0.1:0") as scheduler:
        yield Site(tmp_path, scheduler)
        assert scheduler.stop() == 0


def test_an_empty_store_at_the_address_of_one_whose_disk_was_lost_replaces_it(site: Site, tmp_path: Path) -> None:
    with site.store("a") as first, site.store("b") as second, site.store("c") as third:
        first.ready()
        second.ready()
        lost = third.ready()
        wait_until(site.is_whole)
        assert third.stop() == 0
        shutil.rmtree(tmp_path / "c")
        with site.store("c", lost["addr"]) as again:
            assert again.ready()["addr"] == lost["addr"]
            assert again.ready()["store"] != lost["store"]
            done = site.ask("ctl", "store", "remove", lost["store"])
            assert done.returncode == 0, done
            assert done.stdout.endswith(f"store {lost['store']} is removed\n".encode())
            listed = json.loads(site.ask("stores", "--json").stdout)
            assert lost["store"] not in {str(one["store"]) for one in listed}
            assert len(listed) == 3
            assert site.is_whole()
            assert again.stop() == 0
        assert second.stop() == 0
        assert first.stop() == 0


def test_a_store_that_says_it_is_where_another_one_runs_is_refused(site: Site, tmp_path: Path) -> None:
    with site.store("a") as first:
        taken = first.ready()
        done = tinykv(
            *("store", "--data-dir", tmp_path / "b", "--addr", "127.0.0.1:0", "--advertise-addr", taken["addr"]),
            *("--scheduler", site.address),
        )
        assert done.returncode == 1
        last = done.stderr.decode().splitlines()[-1]
        assert "tinykv store: " in last
        assert f"wants {taken['addr']}, which store {taken['store']} has (heard of " in last
        assert f"`tinykv ctl store remove {taken['store']}`" in last
        assert site.ask("put", "still", "there").returncode == 0
        assert first.stop() == 0


def test_three_stores_swap_their_ports(site: Site) -> None:
    names = ("a", "b", "c")
    with site.store("a") as first, site.store("b") as second, site.store("c") as third:
        before = [running.ready() for running in (first, second, third)]
        wait_until(site.is_whole)
        assert site.ask("put", "greeting", "hello").returncode == 0
        for running in (first, second, third):
            assert running.stop() == 0
    addresses = [ready["addr"] for ready in before]
    with ExitStack() as stack:
        swapped = [
            stack.enter_context(site.store(name, addr))
            for name, addr in zip(names, [*addresses[1:], addresses[0]], strict=True)
        ]
        after = [running.ready() for running in swapped]
        assert [ready["store"] for ready in after] == [ready["store"] for ready in before]
        assert site.ask("get", "greeting").stdout == b"hello\n"
        assert [running.stop() for running in swapped] == [0, 0, 0]


def test_an_operator_that_runs_has_not_ended() -> None:
    operator = adminpb_pb2.Operator(
        region_id=7,
        kind="region",
        description="balance regions",
        status=pdpb_pb2.OperatorStatus.RUNNING,
        steps=["add learner 9 on store 4", "promote learner 9 on store 4"],
        done_steps=1,
        duration_ms=1500,
    )
    facts = describe_operator(operator)
    assert (facts["status"], facts["ended_ago_s"], facts["duration_s"]) == ("running", None, 1.5)
