"""What a task or thread is blocked on, read off its stack.

A waiting task has a future at the bottom (`_fut_waiter`), and above it the frames of the function it called: `Queue.get`,
`Lock.acquire`, `asyncio.wait`. Their variables hold the resource itself. A waiting thread is in a function of the standard
library, or in a C function that the present line of source names: `self._queue.get()`. Functions that wait on behalf of
their callers elsewhere register themselves (`wait.explains_wait`).

The variables of the standard library's functions have the names that they have in CPython 3.11 to 3.13. Where a newer one
names them otherwise, the wait is told by the future at the bottom alone. Where in the source a frame is (`co_positions`) is
documented by Python and read on every version.

Left out: C functions that wait under names unknown here. Such a thread is shown with its stack, as running.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import concurrent.futures.thread
import itertools
import linecache
import queue
import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pytinykv.waitgraph.lock_holders import attribute_of, blocks_entered, entering, evaluate, variables_of
from pytinykv.waitgraph.stacks import Step, local_variables
from pytinykv.waitgraph.wait import Aspect, Named, Wait, WaitReader, reader_of

_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))
_QUEUES: Final = (queue.Queue, queue.SimpleQueue)


def _of_self(aspect: Aspect) -> WaitReader:
    return lambda variables: Wait(aspect, (variables["self"],))


def _acquire(variables: dict[str, Any]) -> Wait:
    resource = variables["self"]
    return Wait(Aspect.PERMIT if isinstance(resource, asyncio.Semaphore) else Aspect.LOCK, (resource,))


def _wait_method(variables: dict[str, Any]) -> Wait | None:
    resource = variables["self"]
    if isinstance(resource, (asyncio.Event, threading.Event)):
        return Wait(Aspect.SET, (resource,))
    if isinstance(resource, (asyncio.Barrier, threading.Barrier)):
        return Wait(Aspect.PARTIES, (resource,))
    if isinstance(resource, asyncio.Condition):
        notified = variables.get("fut")
        return Wait(Aspect.LOCK if notified is not None and notified.done() else Aspect.NOTIFIED, (resource,))
    if isinstance(resource, threading.Condition):
        waiting = variables.get("waiter")
        waiters = tuple(attribute_of(resource, "_waiters") or ())
        is_notified = waiting is not None and all(waiter is not waiting for waiter in waiters)
        return Wait(Aspect.LOCK if is_notified else Aspect.NOTIFIED, (resource,))
    return None


def _sleep(variables: dict[str, Any]) -> Wait:
    return Wait(Aspect.TIME, (Named("a timer"),), ends_at_s=_when(variables.get("h")))


def _asyncio_wait(variables: dict[str, Any]) -> Wait:
    pending = tuple(future for future in variables["fs"] if not future.done())
    any_of = variables.get("return_when") == asyncio.FIRST_COMPLETED
    return Wait(Aspect.RESULT, pending, any_of=any_of, ends_at_s=_when(variables.get("timeout_handle")))


def _asyncio_wait_for(variables: dict[str, Any]) -> Wait | None:
    future = variables.get("fut")
    if not isinstance(future, asyncio.Future):
        return None
    return Wait(Aspect.RESULT, (future,), ends_at_s=_when(variables.get("timeout_handle")), cancels=True)


def _task_group(variables: dict[str, Any]) -> Wait:
    return Wait(Aspect.END, tuple(getattr(variables["self"], "_tasks", ())))


def _input(variables: dict[str, Any]) -> Wait:
    peer = getattr(variables.get("self"), "_transport", None)
    return Wait(Aspect.INPUT, (Named(f"bytes from {_peer_of(peer) or 'a stream'}"),))


def _output(variables: dict[str, Any]) -> Wait:
    peer = getattr(variables.get("self"), "_transport", None)
    return Wait(Aspect.INPUT, (Named(f"{_peer_of(peer) or 'the reader of a stream'} to take what was written"),))


def _peer_of(transport: object) -> str:
    ask = getattr(transport, "get_extra_info", None)
    return str(ask("peername") or "") if callable(ask) else ""


_TASK_READERS: Final[dict[tuple[str, str], WaitReader]] = {
    ("asyncio/locks.py", "acquire"): _acquire,
    ("asyncio/locks.py", "wait"): _wait_method,
    ("asyncio/queues.py", "get"): _of_self(Aspect.ITEM),
    ("asyncio/queues.py", "put"): _of_self(Aspect.ROOM),
    ("asyncio/queues.py", "join"): _of_self(Aspect.ALL_DONE),
    ("asyncio/tasks.py", "sleep"): _sleep,
    ("asyncio/tasks.py", "_wait"): _asyncio_wait,
    ("asyncio/tasks.py", "wait_for"): _asyncio_wait_for,
    ("asyncio/taskgroups.py", "__aexit__"): _task_group,
    ("asyncio/taskgroups.py", "_aexit"): _task_group,
    ("asyncio/streams.py", "_wait_for_data"): _input,
    ("asyncio/streams.py", "drain"): _output,
}
_THREAD_READERS: Final[dict[tuple[str, str], WaitReader]] = {
    ("threading.py", "wait"): _wait_method,
    ("threading.py", "join"): _of_self(Aspect.END),
    ("threading.py", "acquire"): _of_self(Aspect.PERMIT),
    ("threading.py", "__enter__"): _of_self(Aspect.LOCK),
    ("queue.py", "get"): _of_self(Aspect.ITEM),
    ("queue.py", "put"): _of_self(Aspect.ROOM),
    ("queue.py", "join"): _of_self(Aspect.ALL_DONE),
    ("futures/_base.py", "result"): _of_self(Aspect.RESULT),
    ("futures/_base.py", "exception"): _of_self(Aspect.RESULT),
    ("subprocess.py", "wait"): _of_self(Aspect.END),
    ("subprocess.py", "communicate"): _of_self(Aspect.END),
}
_EXPRESSION_MAX: Final = 60
_POOL_THREAD: Final = getattr(getattr(concurrent.futures.thread, "_worker", None), "__code__", None)
"""Where a thread of a pool waits for work; None on a Python that has it elsewhere, where pools are not told from others."""
WAITING_LIBRARY: Final = (
    f"{Path(asyncio.__file__).parent}/",
    f"{Path(concurrent.futures.__file__).parent}/",
    threading.__file__,
    queue.__file__,
    subprocess.__file__,
)
"""Paths of the standard library that wait on behalf of their callers; of directories, with a slash at the end."""
_POOL_WORK: Final = getattr(
    getattr(getattr(concurrent.futures.thread, "_WorkItem", None), "run", None), "__code__", None
)
"""Where it works; None likewise."""
_GRPC_COMPILED: Final = "src/python/grpcio/"
_GRPC: Final = "/site-packages/grpc/"


def is_library(step: Step) -> bool:
    """Whether a frame is one of the functions that wait on behalf of their caller."""
    path = step.code.co_filename
    return path.startswith((*WAITING_LIBRARY, _GRPC_COMPILED)) or _GRPC in path


def task_wait(task: asyncio.Task[Any], steps: Sequence[Step]) -> Wait | None:
    """Return what a suspended task waits for; None when it runs or is ready to."""
    future = getattr(task, "_fut_waiter", None)
    if future is None or future.done():
        return None
    found = _read(steps, _TASK_READERS) or _grpc_wait(steps) or _future_wait(future, steps)
    timeouts = _timeouts(steps)
    deadlines = [at for at in (found.ends_at_s, *timeouts) if at is not None]
    ends_at_s = min(deadlines, default=None)
    cancels = found.cancels or any(at == ends_at_s for at in timeouts)
    return found._replace(ends_at_s=ends_at_s, cancels=cancels and ends_at_s is not None)


def thread_wait(steps: Sequence[Step]) -> Wait | None:
    """Return what a thread waits for; None when it runs, or waits for something that is not known here."""
    if not steps or is_pool_idle(steps):
        return None
    return _read(steps, _THREAD_READERS) or _c_call(steps[-1])


def is_pool_idle(steps: Sequence[Step]) -> bool:
    """Whether a thread is one of a `ThreadPoolExecutor` and waits for work."""
    return bool(steps) and steps[-1].code is _POOL_THREAD


def pool_work(steps: Sequence[Step]) -> object | None:
    """Return the future that a thread of a `ThreadPoolExecutor` will resolve when its present work is done."""
    for step in steps:
        if step.code is _POOL_WORK and step.frame is not None:
            future: object = attribute_of(local_variables(step.frame).get("self"), "future")
            return future
    return None


def is_of_a_pool(steps: Sequence[Step]) -> bool:
    """Whether a thread is one of a `ThreadPoolExecutor`."""
    return any(step.code is _POOL_THREAD for step in steps)


def inner_future(future: asyncio.Future[Any]) -> object | None:
    """Return what a future stands for: the task behind a shield, the thread's future behind `wrap_future`; None: itself."""
    for function in callbacks_of(future):
        name = getattr(function, "__qualname__", "")
        variables = closure_of(function)
        if name == "shield.<locals>._outer_done_callback":
            return variables.get("inner")
        if name == "_chain_future.<locals>._call_check_cancel":
            return variables.get("source")
    return None


def callbacks_of(future: asyncio.Future[Any]) -> list[Callable[..., object]]:
    """Return the functions that will be called when a future is done."""
    return [entry[0] for entry in getattr(future, "_callbacks", None) or ()]


def closure_of(function: Callable[..., object]) -> dict[str, Any]:
    """Return the variables that a function brought along from where it was defined."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or cells is None:
        return {}
    found = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _read(steps: Sequence[Step], readers: Mapping[tuple[str, str], WaitReader]) -> Wait | None:
    """Ask the functions of libraries at the bottom of a stack; the outermost knows best what is waited for."""
    found = None
    for step in reversed(steps):
        own = reader_of(step.code)
        if own is None and not is_library(step):
            break
        reader = own or readers.get((_end_of(step.code.co_filename, readers), step.code.co_name))
        if reader is not None and step.frame is not None:
            try:
                found = reader(local_variables(step.frame)) or found
            except (AttributeError, KeyError, TypeError):
                if own is not None:
                    raise
                continue  # a version of the library that names its variables otherwise
    return found


def _end_of(path: str, readers: Mapping[tuple[str, str], WaitReader]) -> str:
    return next((end for end, _ in readers if path.endswith(end)), "")


def _grpc_wait(steps: Sequence[Step]) -> Wait | None:
    """Tell the waits of gRPC's own tasks, for futures that its compiled code resolves."""
    inside = bool(steps) and steps[-1].code.co_filename.startswith(_GRPC_COMPILED)
    return Wait(Aspect.INPUT, (Named("an event of gRPC"),)) if inside else None


def _future_wait(future: asyncio.Future[Any], steps: Sequence[Step]) -> Wait:
    if isinstance(future, asyncio.Task):
        return Wait(Aspect.END, (future,))
    children = getattr(future, "_children", None)  # gather's
    if children is not None:
        return Wait(Aspect.RESULT, tuple(child for child in children if not child.done()))
    own = next((step for step in reversed(steps) if not is_library(step)), steps[-1] if steps else None)
    expression = "" if own is None else _expression(own).removeprefix("await ").strip()
    by_library = bool(steps) and steps[-1].code.co_filename.startswith(WAITING_LIBRARY[0])
    if by_library and expression and inner_future(future) is None:  # a transport or the loop itself resolves it
        return Wait(Aspect.INPUT, (Named(f"`{expression[:_EXPRESSION_MAX]}`"),))
    return Wait(Aspect.RESULT, (future,), expression=expression[:_EXPRESSION_MAX])


def _timeouts(steps: Sequence[Step]) -> list[float | None]:
    return [block.when() for block in blocks_entered(steps) if isinstance(block, asyncio.Timeout)]


def _when(handle: object) -> float | None:
    when = getattr(handle, "when", None)  # uvloop has a class of its own
    return when() if callable(when) else None


# --- threads in C functions -------------------------------------------------------------------------------------

_CALL: Final = re.compile(r"^(?P<resource>[A-Za-z_][\w.]*)\.(?P<method>\w+)\s*\(")
_C_WAITS: Final[dict[str, tuple[tuple[type, ...], Aspect]]] = {
    "acquire": ((*_LOCKS, threading.Condition), Aspect.LOCK),
    "__enter__": (_LOCKS, Aspect.LOCK),
    "_acquire_restore": ((threading.Condition,), Aspect.LOCK),
    "get": (_QUEUES, Aspect.ITEM),
    "put": (_QUEUES, Aspect.ROOM),
    "result": ((concurrent.futures.Future,), Aspect.RESULT),
    "join": ((threading.Thread,), Aspect.END),
    "wait": ((subprocess.Popen,), Aspect.END),
}


def _c_call(step: Step) -> Wait | None:
    """Read off the source what the C function waits for that the innermost frame has called."""
    if step.frame is None:
        return None
    entered = entering(step)
    if isinstance(entered, _LOCKS):
        return Wait(Aspect.LOCK, (entered,))
    text, variables = _expression(step), variables_of(step)
    match = _CALL.match(text)
    if match is None:
        return None
    method, resource = match["method"], evaluate(match["resource"], variables)
    if text.startswith(("time.sleep(", "sleep(")):
        return Wait(Aspect.TIME, (Named("a timer"),))
    if method == "sigtimedwait":
        return Wait(Aspect.TIME, (Named("a signal or a timer"),))
    if method in ("recv", "accept", "read", "readline", "poll", "select", "connect", "sendall", "waitpid"):
        return Wait(Aspect.INPUT, (Named(f"{text[:60]}"),))
    kinds, aspect = _C_WAITS.get(method, ((), Aspect.INPUT))
    return Wait(aspect, (resource,)) if resource is not None and isinstance(resource, kinds) else None


def method_called(step: Step) -> str:
    """Return the name of the method that a frame is about to call, or has called; "" if the source does not say."""
    match = _CALL.match(_expression(step))
    return "" if match is None else match["method"]


def _expression(step: Step) -> str:
    """Return the text of the expression that a frame evaluates, if it is in one line."""
    frame = step.frame
    if frame is None or frame.f_lasti < 0:
        return ""
    here = frame.f_lasti // 2
    line, end_line, start, end = next(itertools.islice(step.code.co_positions(), here, None), (None,) * 4)
    if line is None or line != end_line or start is None or end is None:
        return ""
    source = linecache.getline(step.code.co_filename, line)
    return source.encode()[start:end].decode(errors="replace")
