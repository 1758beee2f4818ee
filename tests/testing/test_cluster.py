"""Clusters in this process: started, used, harmed, ended; and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytinykv import aio, connect, testing
from pytinykv.client import (
    ClientError,
    DeadlockError,
    EntryTooLargeError,
    Transaction,
    UndeterminedError,
)
from pytinykv.testing.ports import free_address


@pytest.fixture
def three() -> Iterator[testing.Cluster]:
    with testing.cluster(stores=3) as cluster:
        yield cluster


@pytest.fixture
def one() -> Iterator[testing.Cluster]:
    with testing.cluster(stores=1) as cluster:
        yield cluster


def test_one_store_serves_raw_and_transactional_clients() -> None:
    with testing.cluster(stores=1) as c:
        db = c.client()
        db.raw.put(b"k", b"v")
        with db.transaction() as txn:
            txn.put(b"a", b"1")
        assert db.raw.get(b"k") == b"v"
        assert [(r.leader, r.stores) for r in c.regions()] == [(1, (1,))]


def test_an_acknowledged_write_survives_the_loss_of_the_leader() -> None:
    with testing.cluster(stores=3) as c:
        db = c.client(timeout=20)
        db.raw.put(b"k", b"v")
        leader = c.stores[c.regions()[0].leader - 1]
        leader.kill()
        assert not leader.is_running
        assert db.raw.get(b"k") == b"v"
        leader.start()
        c.wait_replicated()


def test_a_killed_store_keeps_what_was_acknowledged() -> None:
    with testing.cluster(stores=1) as c:
        db = c.client(timeout=20)
        for number in range(20):
            db.raw.put(b"k%02d" % number, b"v")
        c.stores[0].kill()
        c.stores[0].start()
        assert len(list(db.raw.scan())) == 20
        c.stores[0].restart()
        assert len(list(db.raw.scan())) == 20


def test_a_paused_store_does_nothing_until_it_is_resumed() -> None:
    with testing.cluster(stores=1) as c:
        db = c.client(timeout=20)
        c.stores[0].pause()
        done = threading.Event()

        def put() -> None:
            db.raw.put(b"k", b"v")
            done.set()

        thread = threading.Thread(target=put)
        thread.start()
        assert not done.wait(0.2)
        c.stores[0].resume()
        thread.join(20)
        assert done.is_set()


def test_a_paused_store_can_be_killed_stopped_and_left() -> None:
    with testing.cluster(stores=2, replicas=1) as c:
        for end in (c.stores[0].kill, c.stores[0].stop):
            c.stores[0].pause()
            c.stores[0].pause()
            end()
            c.stores[0].start()
        c.stores[1].pause()


def test_the_others_go_on_without_a_store_that_is_cut_off(three: testing.Cluster) -> None:
    db = three.client(timeout=20)
    cut_off = three.regions()[0].leader
    for other in {1, 2, 3} - {cut_off}:
        three.cut(cut_off, other)
    with db.transaction() as txn:  # begun at a leader that can't reach a majority any more
        txn.put(b"k", b"v")
    assert three.regions()[0].leader != cut_off
    three.heal()
    three.wait_replicated()


def test_a_cut_keeps_waits_from_the_detector_of_deadlocks_too(three: testing.Cluster) -> None:
    """Of a deadlock at two leaders that can't hear each other, neither knows more than half."""
    three.split(b"m")
    first, second = three.regions()
    three.transfer_leader(first.id, 1)  # where deadlocks are looked for
    three.transfer_leader(second.id, 2)
    three.cut(1, 2)
    raised = deadlocked(three, timeout=2.0)
    assert raised
    assert DeadlockError not in raised
    three.heal()
    assert DeadlockError in deadlocked(three, timeout=20.0)


def deadlocked(cluster: testing.Cluster, *, timeout: float) -> list[type[ClientError]]:
    """Have two transactions wait for each other, each at the leader of another region; return what they raise."""
    db = cluster.client(timeout=20)
    left, right = db.transaction(pessimistic=True), db.transaction(pessimistic=True)
    left.put(b"a", b"1")
    right.put(b"z", b"1")
    raised: list[type[ClientError]] = []

    def wait(txn: Transaction, key: bytes) -> None:
        try:
            txn.put(key, b"2", timeout=timeout)
        except ClientError as error:
            raised.append(type(error))
            txn.rollback()

    threads = [threading.Thread(target=wait, args=pair) for pair in ((left, b"z"), (right, b"a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for txn in (left, right):
        if txn.is_active:
            txn.rollback()
    return raised


def test_regions_are_split_and_moved_on_demand(three: testing.Cluster) -> None:
    three.split(b"m")
    three.split(b"m")
    first, second = three.regions()
    assert first.end == second.start != b""
    target = next(number for number in second.stores if number != second.leader)
    three.transfer_leader(second.id, target)
    assert next(one for one in three.regions() if one.id == second.id).leader == target
    with pytest.raises(testing.ClusterError, match="no region 999"):
        three.transfer_leader(999, 1)


async def test_the_asynchronous_twin_does_the_same() -> None:
    async with testing.aio.cluster(stores=3) as c:
        db = await c.client(timeout=20)
        async with db.transaction() as txn:
            await txn.put(b"k", b"v")
        leader = c.stores[(await c.regions())[0].leader - 1]
        await leader.kill()
        async with db.snapshot() as snapshot:
            assert await snapshot.get(b"k") == b"v"
        await leader.restart()
        await c.wait_replicated()
        await c.split(b"m")
        assert len(await c.regions()) == 2


def test_clusters_live_side_by_side_and_inside_each_other() -> None:
    with testing.cluster(stores=1) as outer, testing.cluster(stores=1) as inner:
        outer.client().raw.put(b"k", b"outer")
        inner.client().raw.put(b"k", b"inner")
        assert outer.client().raw.get(b"k") == b"outer"
        assert outer.address != inner.address


def test_a_body_that_raises_leaves_nothing_and_its_error_comes_through() -> None:
    def body() -> None:
        with testing.cluster(stores=1) as c:
            c.client()
            c.stores[0].pause()
            raise RuntimeError("of the test")

    with pytest.raises(RuntimeError, match="of the test"):
        body()


def test_an_interrupt_in_the_body_leaves_nothing() -> None:
    def body() -> None:
        with testing.cluster(stores=1) as c:
            c.client().raw.put(b"k", b"v")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        body()


async def test_a_cancelled_body_leaves_nothing() -> None:
    started = asyncio.Event()

    async def body() -> None:
        async with testing.aio.cluster(stores=1):
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_of_two_that_ask_for_the_same_port_the_second_is_told() -> None:
    port = int(free_address().rpartition(":")[2])
    with testing.cluster(stores=1, port=port) as c:
        assert c.address == f"127.0.0.1:{port}"
        with pytest.raises(testing.ClusterError, match=rf"127.0.0.1:{port}: another process listens there"):
            testing.cluster(stores=1, port=port).start()
    with testing.cluster(stores=1, port=port):
        pass  # it is free again


def test_without_a_free_port_the_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(*_: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(testing.ClusterError, match="no port is free on 127.0.0.1"):
        testing.cluster(stores=1).start()


@pytest.mark.parametrize("wrong", [{"stores": 0}, {"stores": 10}, {"port": 70_000}, {"stores": 1, "replicas": 2}])
def test_what_cannot_be_is_refused_before_anything_starts(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"stores|port"):
        testing.cluster(**wrong)


@pytest.mark.parametrize("processes", [False, True])
def test_arguments_of_the_wrong_kind_are_named(processes: bool) -> None:
    for wrong, said in (
        ({"stores": "3"}, "stores must be a whole number, not '3'"),
        ({"settings": {"raftstor": {"tick_s": 1.0}}}, "no component 'raftstor'; there are scheduler, raftstore"),
        ({"settings": {"raftstore": 3}}, "settings must be like"),
        ({"settings": [1]}, "settings must be like"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            testing.cluster(processes=processes, **wrong)  # type: ignore[arg-type]  # that is the point


def test_what_is_done_before_the_start_and_after_the_end_says_so() -> None:
    c = testing.cluster(stores=1)
    for call in (c.client, c.regions, c.stores[0].kill, lambda: c.address):
        with pytest.raises(testing.ClusterError, match="was not started: use it in `with`"):
            call()
    with c:
        pass
    for call in (c.client, c.regions, c.stores[0].kill, c.reset):
        with pytest.raises(testing.ClusterError, match="has ended: make another one"):
            call()
    assert not c.stores[0].is_running
    assert isinstance(c.log(), str)


async def test_what_is_done_to_the_asynchronous_twin_before_the_start_and_after_the_end_says_so() -> None:
    c = testing.aio.cluster(stores=1)
    with pytest.raises(testing.ClusterError, match="was not started"):
        await c.client()
    async with c:
        pass
    for call in (c.client, c.regions, c.stores[0].kill, c.reset):
        with pytest.raises(testing.ClusterError, match="has ended: make another one"):
            await call()
    assert not c.stores[0].is_running
    assert isinstance(c.log(), str)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(testing.ClusterError, match="no setting 'tick'"):
        testing.cluster(stores=1, settings={"raftstore": {"tick": 1}}).start()


def test_settings_reach_the_stores() -> None:
    with (
        testing.cluster(stores=1, settings={"raftstore": {"entry_bytes_max": 1000}}) as c,
        pytest.raises(EntryTooLargeError),
    ):
        c.client().raw.put(b"k", bytes(2000))


def test_a_forked_child_is_told_and_harms_nothing(one: testing.Cluster) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for call in (one.regions, one.client, one.stores[0].kill):
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - the child must not go on as a copy of the test
                os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        assert told.read().count(b"a forked child has to make its own") == 3
    os.waitpid(pid, 0)
    assert one.regions()


def test_a_client_of_ones_own_finds_the_cluster(one: testing.Cluster) -> None:
    with connect(one.address) as db:
        db.raw.put(b"own", b"v")

    async def read() -> bytes | None:
        async with aio.connect(one.address) as db:
            return await db.raw.get(b"own")

    assert asyncio.run(read()) == b"v"


def test_answers_on_demand_reach_a_client_in_frames(one: testing.Cluster) -> None:
    db = one.client(timeout=20)
    db.raw.put(b"k", b"v")
    for answer in (testing.NotLeader(), testing.EpochNotMatch(), testing.ServerIsBusy(backoff_s=0.01)):
        order = one.answer("RawPut", answer, times=2)
        db.raw.put(b"k", b"w")
        assert (order.given, order.left) == (2, 0)
    order = one.answer("KvPrewrite", testing.Delay(0.05), store=1)
    with db.transaction() as txn:
        txn.put(b"a", b"1")
    assert order.given == 1


def test_a_lost_answer_leaves_the_outcome_unknown_and_the_write_done(one: testing.Cluster) -> None:
    db = one.client()
    order = one.answer("RawPut", testing.Lost())
    with pytest.raises(UndeterminedError):
        db.raw.put(b"k", b"v", timeout=0.5)
    assert order.given == 1
    assert db.raw.get(b"k") == b"v"


def test_an_answer_that_was_taken_back_is_not_given(one: testing.Cluster) -> None:
    order = one.answer("RawGet", testing.ServerIsBusy(), times=5)
    one.clear_answers()
    assert one.client().raw.get(b"k") is None
    assert order.given == 0


def test_answers_to_commands_that_come_alone(one: testing.Cluster) -> None:
    order = one.answer("RawCompareAndSwap", testing.EpochNotMatch())
    assert one.client(timeout=20).raw.compare_and_swap(b"k", None, b"v").swapped
    assert order.given == 1


def test_a_kind_that_there_is_not_is_refused_with_those_that_there_are(one: testing.Cluster) -> None:
    with pytest.raises(ValueError, match="'Put' is no command of a store; those are .*RawPut"):
        one.answer("Put", testing.NotLeader())
    with pytest.raises(ValueError, match="at least 1"):
        one.answer("RawPut", testing.NotLeader(), times=0)
    with pytest.raises(ValueError, match="no store 2"):
        one.answer("RawPut", testing.NotLeader(), store=2)


def test_orders_that_can_not_be_are_refused(one: testing.Cluster) -> None:
    for wrong in ("NotLeader", testing.NotLeader):
        with pytest.raises(TypeError, match=r"an answer is NotLeader\(\)"):
            one.answer("RawPut", wrong)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="times must be a whole number"):
        one.answer("RawPut", testing.Lost(), times="2")  # type: ignore[arg-type]  # that is the point
    for make in (testing.Delay, lambda seconds: testing.ServerIsBusy(backoff_s=seconds)):
        with pytest.raises(TypeError, match="a number of seconds, not 'x'"):
            make("x")  # type: ignore[arg-type]  # that is the point
        with pytest.raises(ValueError, match="not -1"):
            make(-1)
    with pytest.raises(ValueError, match="can't be cut off from itself"):
        one.cut(1, 1)
    with pytest.raises(TypeError, match="key must be bytes, not 'm'"):
        one.split("m")  # type: ignore[arg-type]  # that is the point


def test_the_first_key_is_where_the_first_region_begins(one: testing.Cluster) -> None:
    one.split(b"")
    assert len(one.regions()) == 1


def test_a_store_that_runs_is_not_started_again(one: testing.Cluster) -> None:
    with pytest.raises(testing.ClusterError, match="runs already"):
        one.stores[0].start()


def test_a_cluster_is_started_once(one: testing.Cluster) -> None:
    with pytest.raises(testing.ClusterError, match="make another one"):
        one.start()
    assert one.regions()


def test_a_cluster_that_is_never_closed_ends_with_the_interpreter(tmp_path: Path) -> None:
    script = "from pytinykv import testing; c = testing.cluster(stores=1).start(); db = c.client()"
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "<Cluster of 1 stores, at 127.0.0.1:" in run.stderr
    assert "was never closed; use `with`" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_read_that_can_not_learn_what_became_of_a_lock_is_late_and_not_undetermined(one: testing.Cluster) -> None:
    one.split(b"m")
    one.answer("KvPrewrite", testing.Lost())
    with connect(one.address) as victim, pytest.raises(UndeterminedError):
        victim.run(lambda txn: [txn.put(key, b"v") for key in (b"a", b"z")], timeout=0.5)
    one.clear_answers()
    order = one.answer("KvCheckTxnStatus", testing.Lost(), times=9)
    with pytest.raises(ClientError) as refused:
        list(one.client().snapshot(timeout=1).scan())
    assert order.given
    assert not isinstance(refused.value, UndeterminedError)
    assert isinstance(refused.value, TimeoutError)
