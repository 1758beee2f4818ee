"""Clusters of processes: the same calls as for those in this process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytinykv import testing
from pytinykv.client import UndeterminedError


def test_what_can_be_done_to_stores_that_are_processes() -> None:
    with testing.cluster(stores=3, processes=True) as c:
        db = c.client(timeout=20)
        busy = c.answer("RawPut", testing.ServerIsBusy(), times=2)
        db.raw.put(b"k", b"v")
        assert busy.given == 2
        c.answer("RawPut", testing.Lost())
        with pytest.raises(UndeterminedError):
            db.raw.put(b"k", b"w", timeout=0.5)
        assert db.raw.get(b"k") == b"w"

        cut_off = c.regions()[0].leader
        for other in {1, 2, 3} - {cut_off}:
            c.cut(cut_off, other)
        with db.transaction() as txn:
            txn.put(b"k", b"v")
        leader = c.regions()[0].leader
        assert leader != cut_off
        c.heal()
        c.wait_replicated()

        c.stores[leader - 1].kill()
        with db.transaction() as txn:
            assert txn.get(b"k") == b"v"
            txn.put(b"k", b"x")
        c.stores[leader - 1].start()
        with pytest.raises(testing.ClusterError, match=f"store {leader} runs already"):
            c.stores[leader - 1].start()
        c.wait_replicated()
        assert "knows the addresses of stores" in c.log()


def test_a_command_that_is_delayed_on_demand_is_answered() -> None:
    with testing.cluster(stores=1, processes=True) as c:
        db = c.client(timeout=20)
        order = c.answer("RawPut", testing.Delay(0.05))
        db.raw.put(b"k", b"v")  # a write is not repeated: without an answer it would be undetermined
        assert order.given == 1
        assert db.raw.get(b"k") == b"v"


def test_a_store_may_be_paused_stopped_and_left() -> None:
    with testing.cluster(stores=1, processes=True) as c:
        c.client(timeout=20).raw.put(b"k", b"v")
        c.stores[0].restart()
        assert c.client(timeout=20).raw.get(b"k") == b"v"
        c.stores[0].pause()
        assert c.stores[0].is_running


def test_without_permission_to_send_signals_the_advice_is_to_do_without_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_pid: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with testing.cluster(stores=1, processes=True) as c:
        monkeypatch.setattr(os, "kill", refuse)
        for harm in (c.stores[0].pause, c.stores[0].kill):
            with pytest.raises(testing.ClusterError, match="use the cluster in this process"):
                harm()
        monkeypatch.undo()
        assert c.client(timeout=20).raw.get(b"k") is None


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with testing.cluster(stores=1) as c:
        port = int(c.address.rpartition(":")[2])
        with pytest.raises(testing.ClusterError, match="another process listens there"):
            testing.cluster(stores=1, processes=True, port=port).start()


ALONE = """
import socket
from pytinykv import testing

for processes in (False, True):
    with testing.cluster(stores=1, processes=processes) as c:
        c.client(timeout=20).raw.put(b"k", b"v")
try:
    socket.create_server(("::1", 0), family=socket.AF_INET6)
except OSError:
    print("served without IPv6")
"""


def test_both_kinds_serve_without_ipv6_and_without_a_network() -> None:
    """In a network namespace of its own a process has nothing but what is set up there: loopback, for IPv4 only."""
    set_up = 'ip link set lo up; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; exec "$@"'
    in_namespace = ("unshare", "--net", "sh", "-c", set_up, "sh")
    if subprocess.run((*in_namespace, "true"), capture_output=True, check=False).returncode != 0:
        pytest.skip("a network namespace needs root, and a container that allows it")
    run = subprocess.run(
        (*in_namespace, sys.executable, "-c", ALONE), capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "served without IPv6\n"
