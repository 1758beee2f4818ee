"""Lifecycle: start, name, own, stop and explain background work. It knows nothing of key-value stores.

The promise of this project is that it always stops. Three things had to come together for the hang that started it: a send
that blocks without a deadline, waits that go round in a circle, and a stop signal that is looked at in one place only. This
package is where the third becomes impossible and the first two become visible.

```
signals    run_process: a process from start to exit; signals, exit status; ends in time by its `watchdog`
  │
scope      Scope: who owns what, and in which order it ends        stopping   the sequence of one stop
  ├── owned      tasks and threads                                 report     what a stop did, as data and as text
  ├── workers    threads that do blocking work for a loop
  ├── children   child processes that never outlive their parent   census     counts of the whole process
  ├── rpc        gRPC servers and channels                         stacks     where started, where standing
  ├── frames     byte frames over TCP, between our own processes
  └── bridge     a loop in a thread, for callers without one       leaks      finds what nobody owned, for test suites
clock      time, handed in
status_code   of remote calls, for who knows no gRPC
```

How to use it:

```python
async def main(scope: Scope) -> None:
    store = scope.child("store")
    store.start("ticker", tick_for_ever)                            # a task named process/store/ticker
    store.start_thread("disk", disk.run, wake=disk.wake)            # returns soon after disk.wake()
    store.on_stop("refuse new requests", gate.close)                # first stage of the stop
    store.on_stop("finish requests", gate.wait_idle, deadline_s=2)  # second stage
    server = RpcServer(store, "grpc")                               # stopped with the scope, newest first
    await server.start("127.0.0.1:0")
    await asyncio.Event().wait()                                    # cancelled by the stop

sys.exit(run_process(main))
```

Invariants
1. Everything that runs in the background has an owner, a name, an exit path and a deadline.
2. A stop runs once, in order: stages, members newest first, tasks, threads. No step can prevent the next one.
3. What is above in the tree outlives what is below it: waits go down, never round.
4. A stop ends with a report. What is left is named, with where it was started and where it stands.
5. All waiting is in loop time and for events, so that the simulator's virtual clock drives it as well.

And the half that explains, when something does not end:

```
explain    the wait-for graph of this process, drawn on demand             graph, graph_text   as data, circles, as text
  ├── runners    who runs here                                            waits               declared by the code itself
  ├── standing   what a task or thread waits for, things: in words        waitclock           since when
  ├── holders    who holds a lock for certain                             strangers           who else could end a wait
  └── fillers    who would end a wait, read off the code
watch      a thread: stalled loops, SIGUSR1, what only ever grows          owners              counts by owner
wiring     refuse components that would wait in a circle
```
"""

from __future__ import annotations

from pytinykv.lifecycle.children import OwnedChild, die_with_parent, start_child
from pytinykv.lifecycle.clock import Clock, SystemClock
from pytinykv.lifecycle.errors import (
    AddressError,
    ChildStartError,
    LifecycleError,
    ScopeStoppedError,
    TaskCancelledError,
)
from pytinykv.lifecycle.loop_thread import LoopThread
from pytinykv.lifecycle.owned import OwnedTask, OwnedThread
from pytinykv.lifecycle.report import Leak, LeakKind, Outcome, StageResult, StopReport
from pytinykv.lifecycle.scope import Member, Scope
from pytinykv.lifecycle.signals import EXIT_CLEAN, EXIT_ERROR, EXIT_FORCED, leave_process, run_process
from pytinykv.lifecycle.wiring import WhenFull, Wiring, WiringError
from pytinykv.lifecycle.workers import InlineWorker, ThreadWorker, Worker, result_of
from pytinykv.waitgraph.waits import OwnedLock, Signal, declare, waiting_for

__all__ = [
    "EXIT_CLEAN",
    "EXIT_ERROR",
    "EXIT_FORCED",
    "AddressError",
    "ChildStartError",
    "Clock",
    "InlineWorker",
    "Leak",
    "LeakKind",
    "LifecycleError",
    "LoopThread",
    "Member",
    "Outcome",
    "OwnedChild",
    "OwnedLock",
    "OwnedTask",
    "OwnedThread",
    "Scope",
    "ScopeStoppedError",
    "Signal",
    "StageResult",
    "StopReport",
    "SystemClock",
    "TaskCancelledError",
    "ThreadWorker",
    "WhenFull",
    "Wiring",
    "WiringError",
    "Worker",
    "declare",
    "die_with_parent",
    "leave_process",
    "result_of",
    "run_process",
    "start_child",
    "waiting_for",
]
