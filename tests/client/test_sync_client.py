"""The synchronous face: shared by threads, closed at any time, interrupted, forgotten, forked, left open at exit."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.client.fake_cluster import QUICK, FakeCluster

from pytinykv.client import (
    Client,
    ClientClosedError,
    ClientConfig,
    CutOffWriteError,
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidTypeError,
    SchedulerUnavailableError,
    UndeterminedError,
)
from pytinykv.client.raw_commands import RawGet
from pytinykv.client.sync_core import SyncCore

STORE = 2  # leads [g, p)
HERE = Path(__file__).parent


def connected(cluster: FakeCluster, config: ClientConfig = QUICK) -> Client:
    return Client(SyncCore(cluster.scheduler_address, config=config, connector=cluster.connector, timeout=None))


@pytest.fixture
def shared() -> FakeCluster:
    return FakeCluster(splits=[b"g", b"p"])


@pytest.fixture
def db(shared: FakeCluster) -> Iterator[Client]:
    with connected(shared) as client:
        yield client


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException | None]]:
    """Run something in a thread; returns the thread and, once it ended, how."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
            outcome.append(None)
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.001)


def test_every_operation(db: Client, shared: FakeCluster) -> None:
    raw = db.raw
    raw.put(b"k", b"v", ttl=9)
    assert raw.get(b"k") == b"v"
    assert raw.ttl(b"k") == 9
    assert raw.get(b"missing") is None
    raw.batch_put(pair for pair in [(b"a", b"1"), (b"z", b"2")])
    assert raw.batch_get(iter([b"a", b"z", b"b"])) == {b"a": b"1", b"z": b"2"}
    assert list(raw.scan()) == [(b"a", b"1"), (b"k", b"v"), (b"z", b"2")]
    assert list(raw.scan(reverse=True, limit=2, key_only=True)) == [(b"z", b""), (b"k", b"")]
    assert raw.checksum().total_kvs == 3
    assert raw.compare_and_swap(b"k", b"v", b"w") == (True, b"v")
    raw.delete(b"k")
    raw.batch_delete([b"a"])
    assert shared.data[""] == {b"z": b"2"}
    raw.delete_range(prefix=b"z")
    assert shared.data[""] == {}
    assert db.timestamp() < db.timestamp()
    assert db.cluster_id == 77
    assert "open" in repr(db)


def test_bad_arguments_are_refused_in_the_callers_thread(db: Client) -> None:
    with pytest.raises(InvalidTypeError, match="key must be bytes, not str"):
        db.raw.get("k")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="key is empty"):
        db.raw.put(b"", b"v")
    with pytest.raises(InvalidTypeError, match="keys must be several keys"):
        db.raw.batch_get(b"k")  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="pairs must be several pairs"):
        db.raw.batch_put(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="limit must not be negative"):
        db.raw.scan(limit=-1)


def test_threads_share_a_client(db: Client, shared: FakeCluster) -> None:
    def work(name: int) -> None:
        for number in range(100):
            key = b"%c-%d-%d" % (b"ahz"[number % 3], name, number)
            db.raw.put(key, b"%d" % number)
            assert db.raw.get(key) == b"%d" % number

    threads = [in_thread(lambda name=name: work(name)) for name in range(8)]  # type: ignore[misc]
    for thread, outcome in threads:
        thread.join(30)
        assert outcome == [None]
    assert len(shared.data[""]) == 800


def test_errors_carry_over(db: Client, shared: FakeCluster) -> None:
    shared.stores[STORE].open.clear()
    with pytest.raises(UndeterminedError, match="put b'k': no answer in time"):
        db.raw.put(b"k", b"v", timeout=0.03)
    with pytest.raises(DeadlineExceededError, match="get b'k' ran out of time"):
        db.raw.get(b"k", timeout=0.03)


def test_region_errors_are_dealt_with_in_the_background(db: Client, shared: FakeCluster) -> None:
    db.raw.put(b"k", b"1")
    shared.region_of(b"k").leader = 3
    db.raw.put(b"k", b"2")
    shared.split(b"j")
    assert db.raw.get(b"k") == b"2"


@pytest.mark.parametrize("step", ["encode", "decode"])
def test_what_a_command_raises_reaches_its_caller(db: Client, step: str) -> None:
    class Broken(RawGet):
        def broken(self, *_: object) -> None:
            raise ValueError("a number that no field has room for")

    setattr(Broken, step, Broken.broken)
    db.raw.put(b"k", b"v")
    with pytest.raises(ValueError, match="no field"):
        db._core.run_command(Broken(b"k", ""), None)
    assert db.raw.get(b"k") == b"v"


def test_closing_resolves_calls_of_other_threads(shared: FakeCluster) -> None:
    with connected(shared) as db:
        shared.stores[STORE].open.clear()
        calls = [in_thread(lambda: db.raw.put(b"k", b"v")), in_thread(lambda: db.raw.batch_get([b"k"]))]
        wait_for(lambda: STORE in db._core.client.executor.router.stores)
        wait_for(lambda: db._core.client.executor.router.stores[STORE].in_flight == 2)
    outcomes = []
    for thread, outcome in calls:
        thread.join(5)
        outcomes.append(type(outcome[0]))
    assert outcomes == [CutOffWriteError, ClientClosedError]


def test_closing_twice_and_from_several_threads(shared: FakeCluster) -> None:
    db = connected(shared)
    closers = [in_thread(db.close) for _ in range(4)]
    db.close()
    for thread, outcome in closers:
        thread.join(5)
        assert outcome == [None]
    db.close()
    for call in (lambda: db.raw.get(b"k"), lambda: list(db.raw.scan()), db.timestamp):
        with pytest.raises(ClientClosedError, match="closed; make a new one"):
            call()
    assert "closed" in repr(db)


def test_no_scheduler_leaves_nothing_behind(shared: FakeCluster) -> None:
    shared.down.add(shared.scheduler_address)
    with pytest.raises(
        SchedulerUnavailableError, match=r"no scheduler answered in time \(asked pd-1:2379; last: .*refused"
    ):
        connected(shared, QUICK.with_timeout(0.05))


def test_ctrl_c_leaves_the_client_usable(db: Client, shared: FakeCluster) -> None:
    store = shared.stores[STORE]
    db.raw.get(b"k")
    store.open.clear()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_for(lambda: db._core.client.executor.router.stores[STORE].in_flight)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore it
    try:
        thread, _ = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            db.raw.put(b"k", b"v")
        thread.join(5)
    finally:
        signal.signal(signal.SIGINT, before)
    db._core._loop.call_soon_threadsafe(store.open.set)
    db.raw.put(b"k", b"w")
    assert db.raw.get(b"k") == b"w"


def test_a_forgotten_client_warns_and_ends(shared: FakeCluster) -> None:
    db = connected(shared)
    db.raw.put(b"k", b"v")
    thread = db._core._thread._thread
    holder = [db]
    del db
    with pytest.warns(ResourceWarning, match="open> was never closed"):
        holder.clear()
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


SCRIPT = """
import atexit, sys, os, threading, time
threads = []
atexit.register(lambda: [thread.join(5) for thread in threads])  # runs after the client's own
sys.path.insert(0, {here!r})
from fake_cluster import FakeCluster
from pytinykv.client import Client, ClientConfig, ClientForkedError
from pytinykv.client.raw_commands import RawGet
from pytinykv.client.sync_core import SyncCore
cluster = FakeCluster()
db = Client(SyncCore(cluster.scheduler_address, config=ClientConfig(), connector=cluster.connector, timeout=None))
db.raw.put(b"k", b"v")
{body}
"""


def run_script(body: str) -> subprocess.CompletedProcess[str]:
    """Run a script with an open client `db`; the time limit is the test: an exit must not hang."""
    code = SCRIPT.format(here=str(HERE), body=body)
    return subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )


def test_after_a_fork_the_child_gets_a_clear_error() -> None:
    done = run_script(
        """
pid = os.fork()
if pid == 0:
    try:
        db.raw.get(b"k")
    except ClientForkedError as error:
        print("child:", error, flush=True)
    db.close()
    del db
    os._exit(7)
print("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print("parent:", db.raw.get(b"k"))
db.close()
"""
    )
    assert done.returncode == 0, done.stderr
    assert "do not survive a fork; connect only after the fork" in done.stdout
    assert "child ended with 7" in done.stdout
    assert "parent: b'v'" in done.stdout
    assert "ResourceWarning" not in done.stderr


SHARED_SCAN = """
import sys
sys.setswitchinterval(1e-5)
db.raw.batch_put({b"%05d" % number: b"v" for number in range(5000)})
db.raw.delete(b"k")
scan, seen = db.raw.scan(), []
threads = [threading.Thread(target=lambda: seen.extend(scan)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("pairs:", len(seen), len(set(seen)), next(scan, "over"))
db.close()
"""


def test_threads_that_share_a_scan_get_each_pair_once() -> None:
    done = run_script(SHARED_SCAN)
    assert done.stderr == ""
    assert "pairs: 5000 5000 over" in done.stdout


def test_a_scan_reads_one_page_ahead(db: Client, shared: FakeCluster) -> None:
    shared.data[""] = {b"%05d" % number: b"v" for number in range(500)}
    scan = db.raw.scan()
    taken = [next(scan) for _ in range(2)]
    wait_for(lambda: len(shared.stores[1].pairs) == 3)
    assert [*taken, *scan] == sorted(shared.data[""].items())
    assert shared.stores[1].pairs == [1, 4, 16, 64, 256, 159]


@pytest.mark.parametrize("timeout", [float("inf"), 1e12, 1 << 70])
def test_a_timeout_may_be_as_long_as_one_likes(db: Client, timeout: float) -> None:
    db.raw.put(b"k", b"v", timeout=timeout)
    assert db.raw.get(b"k", timeout=timeout) == b"v"
    assert [key for key, _ in db.raw.scan(timeout=timeout)] == [b"k"]


def test_a_client_left_open_warns_at_exit() -> None:
    done = run_script("print('end of script')")
    assert done.returncode == 0, done.stderr
    assert "end of script" in done.stdout
    assert "ResourceWarning" in done.stderr
    assert "was never closed" in done.stderr


def test_an_exit_does_not_wait_for_calls_in_flight() -> None:
    done = run_script(
        """
db.raw.get(b"k")
for store in cluster.stores.values():
    store.open.clear()
def call():
    try:
        db.raw.put(b"k", b"w")
    except BaseException as error:
        print("call ended with", type(error).__name__, flush=True)
for _ in range(3):
    threads.append(threading.Thread(target=call, daemon=True))
    threads[-1].start()
while db._core.client.executor.router.stores[1].in_flight < 3:
    time.sleep(0.001)
print("end of script")
"""
    )
    assert done.returncode == 0, done.stderr
    assert "end of script" in done.stdout
    assert done.stdout.count("CutOffWriteError") == 3
    assert "ResourceWarning" in done.stderr


def test_an_exception_at_the_end_of_a_script_does_not_hang() -> None:
    done = run_script("raise SystemExit(5)")
    assert done.returncode == 5
