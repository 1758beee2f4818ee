"""Waitgraph: what each task and thread of a running asyncio program waits for, what would end that wait, and deadlock cycles.

It imports nothing of the rest of this project, and is of use in any asyncio program, asyncio's own loop or uvloop's:

```python
from pytinykv.waitgraph import Program, explain, render_graph

async def main():
    program = Program.of_running_loop()
    signal.signal(signal.SIGUSR1, lambda *_: print(render_graph(explain(program))))
    ...
```

`explain` only reads, and may be called from any thread: a signal handler, a watchdog, a debug page, a test that takes too
long. It shows every task of the loop and every thread of the process: where each is, the lock, queue, event, future, task or
call that it is blocked on, and what would end that wait. Nothing has to be declared, and nothing is instrumented: until it is
called, it costs nothing. What holds a lock is known from the `with` blocks on the stacks of suspended coroutines and threads;
what would fill or empty a queue is read off the code that runs, hence "probably".

A deadlock cycle is reported if nothing outside of it could free a part of it, as far as that can be known, and if nothing in
it has moved meanwhile. `graph.cycles` is then not empty: a test can assert that it is.

A program can say more, each for itself:

| to have shown | do |
| --- | --- |
| names, owners, where a task was started | give `Program` a `Label` for each task, thread and child process |
| for how long each has waited | give `Program` a `WaitClock`, and have a thread call its `look` every second or so |
| what a function of yours waits for on behalf of its callers | decorate it with `explains_wait` |
| what ends a wait, where no code of this process does | `declare`, `Signal`, `waiting_for` |
| what holds a lock that is acquired and released without `with` | use an `OwnedLock` |

```
explain   the graph of this process, drawn on demand      program        what a program says of itself
  ├── tasks_and_threads  the runners                      graph          as data, with its cycles
  ├── blocked_on, wait   what a runner is blocked on      graph_text     as text, and as JSON
  ├── lock_holders       which runner holds a lock        declarations   what ends a wait, said by code
  ├── wakers             what would end a wait            wait_clock     for how long
  └── heap_referrers     what else could                  stacks         await chains, thread stacks, call sites
```
"""

from __future__ import annotations

from pytinykv.waitgraph.declarations import OwnedLock, Signal, declare, waiting_for
from pytinykv.waitgraph.explain import explain
from pytinykv.waitgraph.graph import Edge, GraphNode, NodeKind, WaitGraph
from pytinykv.waitgraph.graph_text import graph_to_data, render_cycles, render_graph
from pytinykv.waitgraph.program import Label, LoopLabel, Program
from pytinykv.waitgraph.stacks import CallSite, call_site
from pytinykv.waitgraph.wait import Aspect, Named, Wait, explains_wait
from pytinykv.waitgraph.wait_clock import WaitClock

__all__ = [
    "Aspect",
    "CallSite",
    "Edge",
    "GraphNode",
    "Label",
    "LoopLabel",
    "Named",
    "NodeKind",
    "OwnedLock",
    "Program",
    "Signal",
    "Wait",
    "WaitClock",
    "WaitGraph",
    "call_site",
    "declare",
    "explain",
    "explains_wait",
    "graph_to_data",
    "render_cycles",
    "render_graph",
    "waiting_for",
]
