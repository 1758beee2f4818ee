"""Programs that use a client and end, or fork, without care for it: none hangs, and each is told what was wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.process.cluster import Cluster, running_cluster

ENDS_S = 20.0
"""No assertion: a program that takes this long hangs."""

PYTHONS_OWN = "ignore:This process (pid:DeprecationWarning"
"""What Python itself says from 3.12 on of a fork in a process with several threads."""

PRELUDE = """
import asyncio, atexit, multiprocessing, os, sys, threading, time
threads = []
atexit.register(lambda: [thread.join(5) for thread in threads])  # before the import: runs after the client's own
import pytinykv
address = sys.argv[1]

def say(*words):
    print(" ".join(map(str, words)) + "\\n", end="", flush=True)  # in one piece, whatever else prints
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("hosts"), stores=1) as made:
        yield made


def run(cluster: Cluster, program: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-W", PYTHONS_OWN, "-c", PRELUDE + program, cluster.address],
        capture_output=True,
        text=True,
        timeout=ENDS_S,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("TINYKV_")},
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_fork_with_an_open_client(cluster: Cluster) -> None:
    done = run(
        cluster,
        """
db = pytinykv.connect(address)
db.raw.put(b"k", b"v")
pid = os.fork()
if pid == 0:
    try:
        db.raw.get(b"k")
    except pytinykv.ClientForkedError as error:
        say("child:", error)
    db.close()
    sys.exit(7)  # with all that an interpreter does at its exit
say("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
say("parent:", db.raw.get(b"k"))
db.close()
""",
    )
    assert "do not survive a fork; connect only after the fork" in done.stdout
    assert "child ended with 7\nparent: b'v'\n" in done.stdout
    assert done.stderr == ""


def test_a_fork_in_a_program_with_an_event_loop_and_an_open_client(cluster: Cluster) -> None:
    """The child inherits a running loop and a client in it; what it awaits there can't be answered."""
    done = run(
        cluster,
        """
async def main():
    async with pytinykv.aio.connect(address) as db:
        await db.raw.put(b"k", b"v")
        pid = os.fork()
        if pid == 0:
            for call in (db.raw.get(b"k"), db.scheduler.timestamp(), db.raw.scan().__anext__()):
                try:
                    await call
                except pytinykv.ClientForkedError as error:
                    say("child:", error)
            await db.close()
            os._exit(7)
        say("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        say("parent:", await db.raw.get(b"k"))
asyncio.run(main())
""",
    )
    assert done.stdout.count("do not survive a fork; connect only after the fork") == 3
    assert "child ended with 7\nparent: b'v'\n" in done.stdout
    assert done.stderr == ""


def test_processes_of_multiprocessing_that_are_forked(cluster: Cluster) -> None:
    done = run(
        cluster,
        """
db = pytinykv.connect(address)
db.raw.put(b"k", b"v")

def use(number):
    try:
        return db.raw.get(b"k")
    except pytinykv.ClientForkedError as error:
        return type(error).__name__

context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    say("pool:", pool.map(use, range(4)))
process = context.Process(target=use, args=(0,))
process.start()
process.join()
say("process:", process.exitcode)
say("parent:", db.raw.get(b"k"))
db.close()
""",
    )
    assert done.stdout == f"pool: {['ClientForkedError'] * 4}\nprocess: 0\nparent: b'v'\n"
    assert done.stderr == ""


OPEN = """
db = pytinykv.connect(address)
db.raw.put(b"k", b"v")
"""

IN_A_DAEMON = """
def work():
    global db
    db = pytinykv.connect(address)
    db.raw.put(b"k", b"v")
    connected.set()
    try:
        while True:
            db.raw.get(b"k")
    except pytinykv.ClientClosedError:
        pass

connected = threading.Event()
threads.append(threading.Thread(target=work, daemon=True))
threads[-1].start()
connected.wait()
"""

IN_A_LOOP = """
async def main():
    global db
    db = await pytinykv.aio.connect(address)
    await db.raw.put(b"k", b"v")
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [OPEN, IN_A_DAEMON, IN_A_LOOP], ids=["open", "in-a-daemon", "in-a-loop"])
def test_an_exit_with_an_open_client(cluster: Cluster, program: str) -> None:
    done = run(cluster, program + "say('end of program')")
    assert done.stdout == "end of program\n"
    assert "ResourceWarning" in done.stderr
    assert "was never closed" in done.stderr
    assert "Traceback" not in done.stderr


CALLS = """
def call():
    try:
        db.raw.put(b"k", b"w", timeout=600)
    except BaseException as error:
        say("call ended with", type(error).__name__)
    else:
        say("call was answered")

def timestamp():
    try:
        db.timestamp(timeout=600)
    except BaseException as error:
        say("question ended with", type(error).__name__)
    else:
        say("question was answered")

def connect():
    try:
        pytinykv.connect(address, timeout=600)
    except BaseException as error:
        say("connecting ended with", type(error).__name__)
    else:
        say("connected")

sys.stdin.read()  # until the servers are paused
for function in (call, timestamp, connect):
    threads.append(threading.Thread(target=function, daemon=True))
    threads[-1].start()
time.sleep(0.5)
say("end of program")
"""


def test_an_exit_with_unanswered_calls_under_way(cluster: Cluster) -> None:
    """Scheduler and store are paused: to a client they are silent. Its calls could wait for minutes."""
    with subprocess.Popen(
        [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            "-c",
            PRELUDE + OPEN + "say('ready')" + CALLS,
            cluster.address,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            for process in cluster.processes:
                process.pause()
            output, errors = program.communicate(timeout=ENDS_S)
        finally:
            program.kill()
            for process in cluster.processes:
                process.resume()
    assert program.returncode == 0, errors
    assert output.startswith("end of program\n"), output
    assert "call ended with CutOffWriteError" in output
    assert "question ended with ClientClosedError" in output
    assert "connecting ended with" in output
    assert "ResourceWarning" in errors
    assert "Traceback" not in errors, errors
