"""Real processes under signals: exit statuses, forced exits, and the watchdog."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PRELUDE = """
import asyncio, signal, sys, threading, time
from pytinykv.lifecycle import Scope, run_process

async def forever(*_):
    await asyncio.Event().wait()

async def stubborn(*_):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def serve(main, **options):
    async def ready(scope):
        await main(scope)
        print("ready", flush=True)
        await forever()
    sys.exit(run_process(ready, **options))
"""


def start(body: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        output, errors = process.communicate(timeout=30)
        raise AssertionError(f"not ready: {line}{output}{errors}")
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()  # one that did not end by itself must not keep the test from failing
    return process.returncode, output, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_stops_in_order_and_exits_0(number: int) -> None:
    process = start("""
        async def main(scope):
            scope.on_stop("say", lambda: print("stage", flush=True))
            scope.child("kid").start("task", forever)
        serve(main, on_report=lambda report: print(report.render(), flush=True))
    """)
    process.send_signal(number)
    status, output, errors = finish(process)
    assert (status, errors) == (0, "")
    assert output.startswith("stage\n")
    assert "stopped, nothing left behind" in output


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As `nohup` wants it: the process outlives its terminal."""
    process = start("""
        import signal
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        async def main(scope):
            async def say():
                await asyncio.sleep(0.2)
                print("still here", flush=True)
            scope.start("say", say)
        serve(main)
    """)
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    assert process.stdout.readline() == "still here\n"
    process.send_signal(signal.SIGTERM)
    status, _, errors = finish(process)
    assert (status, errors) == (0, "")


def test_main_that_returns_gives_its_status() -> None:
    script = PRELUDE + "async def main(scope): return 7\nsys.exit(run_process(main))"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 7


def test_main_that_raises_exits_1() -> None:
    script = PRELUDE + "async def main(scope): raise OSError('no disk')\nsys.exit(run_process(main))"
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no disk" in done.stderr


def test_failing_task_stops_the_process_with_an_error() -> None:
    process = start("""
        async def fail():
            raise OSError("disk full")
        async def main(scope):
            asyncio.get_running_loop().call_later(0.05, lambda: scope.child("store").start("writer", fail))
        serve(main)
    """)
    status, _, errors = finish(process)
    assert status == 1
    assert "process/store/writer failed" in errors


def test_stuck_task_is_reported_and_exit_forced() -> None:
    process = start("""
        async def main(scope):
            scope.start("mule", stubborn)
            await asyncio.sleep(0)
        serve(main, stop_deadline_s=0.3)
    """)
    process.terminate()
    status, _, errors = finish(process)
    assert status == 3
    assert "LEFT task process/mule" in errors
    assert "in stubborn" in errors


def test_second_signal_forces_and_says_who_is_stuck() -> None:
    process = start("""
        async def main(scope):
            scope.start("mule", stubborn)
            scope.on_stop("long", lambda: asyncio.sleep(20), deadline_s=20)
            scope.on_stop("never", forever)
            asyncio.get_running_loop().call_later(0.1, lambda: None)
        serve(main, stop_deadline_s=20)
    """)
    process.terminate()
    while process.poll() is None:  # a signal soon after the first is taken for the same one
        process.send_signal(signal.SIGINT)
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    status, _, errors = finish(process)
    assert status == 3
    assert "for the second time" in errors
    assert "STUCK task process/mule" in errors


def test_one_wish_told_twice_is_not_a_second_signal() -> None:
    process = start("""
        async def main(scope):
            scope.on_stop("short", lambda: asyncio.sleep(0.05))
        serve(main)
    """)
    process.terminate()
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_watchdog_forces_the_exit_of_a_loop_that_is_blocked() -> None:
    process = start("""
        def be_blocked():
            while True:
                time.sleep(0.01)
        async def main(scope):
            scope.on_stop("hang", be_blocked)
        serve(main, stop_deadline_s=0.1)
    """)
    process.terminate()
    status, _, errors = finish(process)
    assert status == 3
    assert "the stacks of all threads" in errors
    assert "be_blocked" in errors


def test_compiled_code_that_keeps_the_interpreters_lock_during_the_stop() -> None:
    """No Python thread can end that: not the watchdog, not a second signal."""
    process = start("""
        import ctypes
        def keep_the_lock():
            ctypes.PyDLL(None).pause()
        async def main(scope):
            scope.on_stop("hang", keep_the_lock)
        serve(main, stop_deadline_s=0.1)
    """)
    process.terminate()
    status, _, errors = finish(process)
    assert status == 1
    assert "Timeout (" in errors
    assert "in keep_the_lock" in errors


def test_a_signal_to_a_forked_child_is_not_heard_by_its_parent() -> None:
    process = start("""
        import os
        async def main(scope):
            readable, writable = os.pipe()
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
                os.write(writable, b"x")
                for _ in range(6000):  # a signal that comes just before a sleep does not end it
                    time.sleep(0.01)
                os._exit(1)
            os.read(readable, 1)
            os.close(readable)
            os.close(writable)
            os.kill(child, signal.SIGTERM)
            assert os.waitpid(child, 0)[1] == 0
            await asyncio.sleep(1.5)  # longer than the watchdog would take
        serve(main, stop_deadline_s=0.1)
    """)
    process.terminate()
    assert finish(process)[0] == 0


def test_standard_error_that_is_not_read() -> None:
    """A log shipper that hangs blocks the log, then the loop; it must not block the forced exit as well."""
    process = start("""
        import os, select
        def log_a_lot():
            poll = select.poll()
            poll.register(2, select.POLLOUT)
            while poll.poll(0):
                os.write(2, b"x" * 4096)
            os.write(2, b"x" * 8192)
        async def main(scope):
            asyncio.get_running_loop().call_later(0.05, log_a_lot)
            threading.Timer(0.3, lambda: print("full", flush=True)).start()
        serve(main, stop_deadline_s=0.1)
    """)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        process.terminate()
        try:
            assert process.wait(timeout=30) == 3
        finally:
            process.kill()


IN_COMPILED_CODE = """
    import ctypes
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    def be_blocked():
        libc.pthread_mutex_lock(mutex)  # a signal interrupts it for as long as its handler in C takes, and no longer
    async def main(scope):
        asyncio.get_running_loop().call_later(0.05, be_blocked)
        threading.Timer(0.3, lambda: print("blocked", flush=True)).start()
    serve(main, stop_deadline_s={deadline_s})
"""


def test_a_first_signal_is_noticed_while_the_main_thread_is_in_compiled_code() -> None:
    process = start(IN_COMPILED_CODE.format(deadline_s=0.1))
    assert process.stdout is not None
    assert process.stdout.readline() == "blocked\n"
    process.terminate()
    status, _, errors = finish(process)
    assert status == 3
    assert "process: not stopped after 1.1 s, exit forced; the stacks of all threads" in errors
    assert "in be_blocked" in errors


def test_a_second_signal_is_noticed_while_the_main_thread_is_in_compiled_code() -> None:
    process = start(IN_COMPILED_CODE.format(deadline_s=600))
    assert process.stdout is not None
    assert process.stdout.readline() == "blocked\n"
    while process.poll() is None:  # a signal soon after the first is taken for the same one
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    status, _, errors = finish(process)
    assert status == 3
    assert "process: SIGINT for the second time, exit forced" in errors
    assert "in be_blocked" in errors


def test_stray_task_without_an_owner_is_an_error() -> None:
    process = start("""
        async def main(scope):
            global stray
            stray = asyncio.get_running_loop().create_task(forever(), name="stray")
        serve(main)
    """)
    process.terminate()
    status, _, errors = finish(process)
    assert status == 1
    assert "left behind without an owner: task stray" in errors


def test_a_forced_exit_shows_the_wait_for_graph() -> None:
    process = start("""
        class Worker:
            def __init__(self):
                self.inbox = asyncio.Queue(1)
            async def run(self):
                while True:
                    await self.inbox.get()
                    for message in ("one", "two"):
                        await self.put(message)
            async def put(self, message):
                while True:
                    try:
                        return await self.peer.inbox.put(message)
                    except asyncio.CancelledError:
                        pass  # "must not be lost"
        async def main(scope):
            left, right = Worker(), Worker()
            left.peer, right.peer = right, left
            for worker in (left, right):
                worker.inbox.put_nowait("hello")
            scope.start("left", left.run)
            scope.start("right", right.run)
            await asyncio.sleep(0.1)
        serve(main, stop_deadline_s=0.3)
    """)
    process.terminate()
    status, _, errors = finish(process)
    assert status == 3
    assert "DEADLOCK CYCLE 1: each waits for the next, and none can go on" in errors
    assert "waits to put into queue Worker.inbox (full: 1 of 1)" in errors


def test_a_loop_stuck_in_a_thread_join_is_explained_by_the_watchdog() -> None:
    process = start("""
        def ask(loop):
            asyncio.run_coroutine_threadsafe(forever(), loop).result()
        async def main(scope):
            thread = scope.start_thread("asker", ask, asyncio.get_running_loop())
            scope.on_stop("join", lambda: thread.thread.join())
        serve(main, stop_deadline_s=0.2)
    """)
    process.terminate()
    status, _, errors = finish(process)
    assert status == 3
    assert "the stacks of all threads" in errors
    assert "waits for the end of thread process/asker" in errors


def test_a_descriptor_left_open_is_an_error() -> None:
    process = start("""
        import socket
        async def main(scope):
            global kept
            listener = socket.create_server(("127.0.0.1", 0))
            kept = listener, socket.create_connection(listener.getsockname())
        serve(main, on_report=lambda report: print(report.before, report.after, sep="\\n", flush=True))
    """)
    process.terminate()
    status, output, errors = finish(process)
    assert status == 1
    assert re.search(r"left behind without an owner: file descriptor \d+: .*, listening on 127\.0\.0\.1:\d+\n", errors)
    assert re.search(r"left behind without an owner: file descriptor \d+: .*, from 127\S+ to 127\S+\n", errors)
    before, after = output.splitlines()
    assert before != after


def test_a_connection_whose_peer_does_not_read_is_not_left_behind() -> None:
    """As when a snapshot is on its way through a link that is cut: gRPC alone would hold on to the socket."""
    windows = bytes.fromhex("00000604000000000000047fffffff0000040800000000007fff0000")  # 2 GiB a stream, and in all
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept)
        accepted.add_done_callback(lambda done: done.result()[0].sendall(windows))
        process = start(f"""
            from pytinykv.transport import RpcError
            from pytinykv.transport.rpc import RpcChannel

            async def main(scope):
                channel = RpcChannel(scope, "127.0.0.1:{listener.getsockname()[1]}")
                stream = channel.stream_unary("/any/Thing", serialize=bytes, deserialize=bytes, buffer=100)
                try:
                    while True:
                        await stream.send(bytes(1_000_000), timeout_s=0.5)
                except RpcError:
                    pass  # no room is left anywhere
            serve(main)
        """)
        with accepted.result()[0]:
            process.terminate()
            status, _output, errors = finish(process)
    assert (status, errors) == (0, "")


def test_the_counts_before_and_after_are_equal_when_nothing_is_left() -> None:
    process = start("""
        from pytinykv.transport.rpc import RpcServer
        async def main(scope):
            await RpcServer(scope, "grpc").start("127.0.0.1:0")
            scope.start("task", forever)
        serve(main, on_report=lambda report: print(report.before, report.after, sep="\\n", flush=True))
    """)
    process.terminate()
    status, output, errors = finish(process)
    assert (status, errors) == (0, "")
    before, after = output.splitlines()
    assert before == after


def test_interpreter_that_hangs_at_exit_is_ended() -> None:
    script = """
import threading
from pytinykv.lifecycle import signals
signals.INTERPRETER_EXIT_S = 0.2
threading.Thread(target=threading.Event().wait).start()
signals.leave_process(0)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30, capture_output=True, text=True)
    assert done.returncode == 1
    assert "most recent call first" in done.stderr


def test_a_process_that_leaves_does_all_but_taking_its_objects_apart(tmp_path: Path) -> None:
    """That takes long on a busy machine, and can do nothing that is still needed."""
    script = """
import atexit, sys, threading
from pathlib import Path
from pytinykv.lifecycle import leave_process

class Slow:
    def __del__(self): print("taken apart", flush=True)

kept = Slow()
threading.Thread(target=lambda: (threading.main_thread().join(), print("thread"))).start()
atexit.register(lambda: Path(sys.argv[1]).write_text("exit function"))
print("not flushed", end="")
leave_process(7)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "said")]
    done = subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "not flushedthread\n", "")
    assert (tmp_path / "said").read_text() == "exit function"


def test_signal_handlers_are_restored() -> None:
    script = PRELUDE + textwrap.dedent("""
        async def main(scope): pass
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        assert run_process(main) == 0
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    """)
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30, env=dict(os.environ)).returncode == 0


def test_a_child_inherited_through_exec_is_not_ours() -> None:
    program = """
import sys
from pytinykv.lifecycle import run_process
async def main(scope):
    pass
sys.exit(run_process(main))
"""
    done = subprocess.run(
        ["/bin/sh", "-c", 'sleep 60 >/dev/null 2>&1 & echo $!; exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    os.kill(int(done.stdout), signal.SIGKILL)
    assert (done.returncode, done.stderr) == (0, "")
