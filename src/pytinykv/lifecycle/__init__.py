"""Lifecycle: start, name, own and stop background work. It knows nothing of key-value stores, nor of gRPC.

The promise of this project is that it always stops (docs/shutdown.md). Here a task without an exit becomes
impossible, and a wait without an end visible.

```
signals      run_process: a process from start to exit; signals, exit status      watchdog  ends it in time
scope        Scope: what owns what, and in which order it ends                    stopping  the sequence of one stop
  ├── owned      tasks and threads                                                report    what a stop did
  ├── members    what else a scope owns: an interface
  ├── workers    threads that do blocking work for a loop
  └── children   child processes that never outlive their parent
loop_thread  a loop in a thread, for callers without one                          clock     time, handed in
ready_line   what a child process says when it serves
watch        a thread: blocked loops, SIGUSR1, what only ever grows               resource_counts, census   counts
wiring       refuses components that would wait in a cycle                        leaks     for test suites
```

How to use it:

```python
async def main(scope: Scope) -> None:
    engine = Engine.open(path)
    scope.on_stopped("close the engine", engine.close)              # last, when nothing uses it any more
    store = scope.child("store")
    store.start("ticker", tick_for_ever)                            # a task named process/store/ticker
    store.start_thread("disk", disk.run, wake=disk.wake)            # returns soon after disk.wake()
    store.on_stop("refuse new requests", gate.close)                # first step of the stop
    store.on_stop("finish requests", gate.wait_idle, deadline_s=2)  # second step
    server = RpcServer(store, "grpc")                               # stopped with the scope, newest first
    await server.start("127.0.0.1:0")
    await asyncio.Event().wait()                                    # cancelled by the stop

sys.exit(run_process(main))
```

When something does not end, `Scope.explain` draws what waits for what (`pytinykv.waitgraph`).

Invariants (`scope` has those of a stop)
1. Everything that runs in the background has an owner, a name, an exit path and a deadline.
2. A stop ends with a report. What is left is named, with where it was started and where it is.
3. All waiting is in loop time and for events, so that the simulator's virtual clock drives it as well.
"""

from __future__ import annotations

from pytinykv.lifecycle.children import OwnedChild, die_with_parent, start_child
from pytinykv.lifecycle.clock import Clock, SystemClock
from pytinykv.lifecycle.errors import ChildStartError, LifecycleError, ScopeStoppedError, TaskCancelledError
from pytinykv.lifecycle.loop_thread import LoopThread
from pytinykv.lifecycle.members import Member
from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.lifecycle.report import Leak, LeakKind, StageOutcome, StageResult, StopReport
from pytinykv.lifecycle.scope import STOP_DEADLINE_S, Scope
from pytinykv.lifecycle.signals import (
    EXIT_CLEAN,
    EXIT_ERROR,
    EXIT_FORCED,
    PROCESS_STOP_DEADLINE_S,
    leave_process,
    run_process,
)
from pytinykv.lifecycle.wiring import WhenFull, Wiring, WiringError
from pytinykv.lifecycle.workers import InlineWorker, ThreadWorker, Worker, result_of

__all__ = [
    "EXIT_CLEAN",
    "EXIT_ERROR",
    "EXIT_FORCED",
    "PROCESS_STOP_DEADLINE_S",
    "STOP_DEADLINE_S",
    "ChildStartError",
    "Clock",
    "InlineWorker",
    "Leak",
    "LeakKind",
    "LifecycleError",
    "LoopThread",
    "Member",
    "OwnedChild",
    "OwnedTask",
    "OwnedThread",
    "Scope",
    "ScopeStoppedError",
    "StageOutcome",
    "StageResult",
    "StopReport",
    "SystemClock",
    "TaskCancelledError",
    "ThreadWorker",
    "WhenFull",
    "Wiring",
    "WiringError",
    "Worker",
    "die_with_parent",
    "leave_process",
    "result_of",
    "run_process",
    "start_child",
]
