"""What a task or thread waits for, read off the place where it stands.

A waiting task has a future at the bottom (`_fut_waiter`), and above it the frames of the function it called: `Queue.get`,
`Lock.acquire`, `asyncio.wait`. Their variables hold the thing itself. A waiting thread stands in a function of the standard
library, or in a C function that the present line of source names: `self._queue.get()`.

Left out: C functions that wait under names unknown here. Such a thread is shown with its stack, as running.
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import functools
import linecache
import queue
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from types import BuiltinMethodType, MethodType
from typing import Any, Final, NamedTuple

from pytinykv.lifecycle.children import OwnedChild
from pytinykv.lifecycle.owned import OwnedThread
from pytinykv.lifecycle.stacks import Step, held_objects, local_variables


class Aspect(Enum):
    """What about a thing is waited for: how it reads, and which methods of the thing end the wait."""

    ROOM = ("waits to put into", "would be emptied by", ("get", "get_nowait", "popleft"))
    ITEM = ("waits for an item from", "would be filled by", ("put", "put_nowait", "append"))
    ALL_DONE = ("waits until all is done of", "would be worked off by", ("task_done",))
    LOCK = ("waits to acquire", "is held by", ("release",))
    PERMIT = ("waits for a permit of", "is held by", ("release",))
    SET = ("waits for", "would be set by", ("set",))
    NOTIFIED = ("waits to be notified of", "would be notified by", ("notify", "notify_all"))
    RESULT = ("waits for", "would be resolved by", ("set_result", "set_exception", "cancel"))
    END = ("waits for the end of", "", ())
    """Of a task, thread or process: the thing is itself a runner."""
    TIME = ("sleeps on", "", ())
    INPUT = ("waits for", "", ())
    ANSWER = ("waits for", "would be answered by", ())
    DECLARED = ("waits for", "would be ended by", ())

    def __init__(self, verb: str, filled: str, methods: tuple[str, ...]) -> None:
        self.verb: Final = verb
        self.filled: Final = filled
        self.methods: Final = frozenset(methods)


class Wait(NamedTuple):
    """What a runner waits for."""

    aspect: Aspect
    things: tuple[object, ...]
    any_of: bool = False
    ends_at_s: float | None = None
    """In the time of the task's loop."""


class Named(NamedTuple):
    """A thing without an object of its own, such as a call or a socket."""

    name: str
    peer: str = ""


_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))
_QUEUES: Final = (queue.Queue, queue.SimpleQueue)

Reader = Callable[[dict[str, Any]], Wait | None]


def _of_self(aspect: Aspect) -> Reader:
    return lambda variables: Wait(aspect, (variables["self"],))


def _acquire(variables: dict[str, Any]) -> Wait:
    thing = variables["self"]
    return Wait(Aspect.PERMIT if isinstance(thing, asyncio.Semaphore) else Aspect.LOCK, (thing,))


def _wait_method(variables: dict[str, Any]) -> Wait | None:
    thing = variables["self"]
    if isinstance(thing, (asyncio.Event, threading.Event)):
        return Wait(Aspect.SET, (thing,))
    if isinstance(thing, (asyncio.Condition, threading.Condition)):
        return Wait(Aspect.NOTIFIED, (thing,))
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
    return Wait(Aspect.RESULT, (future,), ends_at_s=_when(variables.get("timeout_handle")))


def _task_group(variables: dict[str, Any]) -> Wait:
    return Wait(Aspect.END, tuple(getattr(variables["self"], "_tasks", ())))


def _input(variables: dict[str, Any]) -> Wait:
    peer = getattr(variables.get("self"), "_transport", None)
    name = "" if peer is None else str(peer.get_extra_info("peername") or "")
    return Wait(Aspect.INPUT, (Named(f"bytes from {name or 'a stream'}"),))


def _call(variables: dict[str, Any]) -> Wait:
    address = getattr(variables["self"], "address", "?")
    return Wait(Aspect.ANSWER, (Named(f"{variables.get('path', '?')} at {address}", f"the server at {address}"),))


def _stream(variables: dict[str, Any]) -> Wait:
    name = str(getattr(variables["self"], "_name", "a stream"))
    return Wait(Aspect.ANSWER, (Named(f"a message of {name}", f"the server at {name.rpartition(' at ')[2]}"),))


_TASK_READERS: Final[dict[tuple[str, str], Reader]] = {
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
    ("lifecycle/rpc/channel.py", "unary"): _call,
    ("lifecycle/rpc/channel.py", "receive"): _stream,
    ("lifecycle/children.py", "wait"): _of_self(Aspect.END),
    ("lifecycle/children.py", "_stop"): _of_self(Aspect.END),
    ("lifecycle/owned.py", "wait"): lambda variables: (
        Wait(Aspect.END, (variables["self"],)) if isinstance(variables["self"], OwnedThread) else None
    ),
}
_THREAD_READERS: Final[dict[tuple[str, str], Reader]] = {
    ("threading.py", "wait"): _wait_method,
    ("threading.py", "join"): _of_self(Aspect.END),
    ("threading.py", "acquire"): _of_self(Aspect.PERMIT),
    ("queue.py", "get"): _of_self(Aspect.ITEM),
    ("queue.py", "put"): _of_self(Aspect.ROOM),
    ("queue.py", "join"): _of_self(Aspect.ALL_DONE),
    ("futures/_base.py", "result"): _of_self(Aspect.RESULT),
    ("futures/_base.py", "exception"): _of_self(Aspect.RESULT),
    ("subprocess.py", "wait"): _of_self(Aspect.END),
    ("subprocess.py", "communicate"): _of_self(Aspect.END),
}
_LIBRARY: Final = ("/asyncio/", "/threading.py", "/queue.py", "/concurrent/futures/", "/subprocess.py", "/grpc/")
_GRPC_COMPILED: Final = "src/python/grpcio/"
_OUR_LIBRARY: Final = ("/lifecycle/children.py", "/lifecycle/owned.py", "/lifecycle/rpc/channel.py")


def is_library(step: Step) -> bool:
    """Whether a frame is one of the functions that wait on behalf of their caller."""
    return any(part in step.code.co_filename for part in _LIBRARY)


def task_wait(task: asyncio.Task[Any], steps: Sequence[Step]) -> Wait | None:
    """Return what a suspended task waits for; None when it runs or is ready to."""
    future = getattr(task, "_fut_waiter", None)
    if future is None or future.done():
        return None
    found = _read(steps, _TASK_READERS) or _grpc_wait(steps) or _future_wait(future)
    deadlines = [found.ends_at_s, *(_timeouts(steps))]
    return found._replace(ends_at_s=min((at for at in deadlines if at is not None), default=None))


def thread_wait(steps: Sequence[Step]) -> Wait | None:
    """Return what a thread waits for; None when it runs, or waits for something that is not known here."""
    if not steps:
        return None
    return _read(steps, _THREAD_READERS) or _c_call(steps[-1])


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


def blocks_entered(steps: Iterable[Step]) -> list[object]:
    """Return the objects whose `with` or `async with` blocks a suspended task is inside of, or about to enter."""
    return [
        method.__self__
        for step in steps
        for method in held_objects(step.suspended)
        if isinstance(method, (MethodType, BuiltinMethodType)) and method.__name__ in ("__exit__", "__aexit__")
    ]


def _read(steps: Sequence[Step], readers: dict[tuple[str, str], Reader]) -> Wait | None:
    """Ask the functions of libraries that the runner stands in; the outermost knows best what is waited for."""
    found = None
    for step in reversed(steps):
        path = step.code.co_filename
        if not any(part in path for part in (*_LIBRARY, *_OUR_LIBRARY)):
            break
        reader = readers.get((_end_of(path, readers), step.code.co_name))
        if reader is not None and step.frame is not None:
            found = reader(local_variables(step.frame)) or found
    return found


def _end_of(path: str, readers: dict[tuple[str, str], Reader]) -> str:
    return next((end for end, _ in readers if path.endswith(end)), "")


def _grpc_wait(steps: Sequence[Step]) -> Wait | None:
    """Tell the waits of gRPC's own tasks, for futures that its compiled code resolves."""
    inside = bool(steps) and steps[-1].code.co_filename.startswith(_GRPC_COMPILED)
    return Wait(Aspect.INPUT, (Named("an event of gRPC"),)) if inside else None


def _future_wait(future: asyncio.Future[Any]) -> Wait:
    if isinstance(future, asyncio.Task):
        return Wait(Aspect.END, (future,))
    children = getattr(future, "_children", None)  # gather's
    if children is not None:
        return Wait(Aspect.RESULT, tuple(child for child in children if not child.done()))
    return Wait(Aspect.RESULT, (future,))


def _timeouts(steps: Sequence[Step]) -> list[float | None]:
    return [block.when() for block in blocks_entered(steps) if isinstance(block, asyncio.Timeout)]


def _when(handle: object) -> float | None:
    when = getattr(handle, "when", None)  # uvloop has a class of its own
    return when() if callable(when) else None


# --- threads in C functions -------------------------------------------------------------------------------------

_CALL: Final = re.compile(r"^(?P<thing>[A-Za-z_][\w.]*)\.(?P<method>\w+)\s*\(")
_C_WAITS: Final[dict[str, tuple[tuple[type, ...], Aspect]]] = {
    "acquire": (_LOCKS, Aspect.LOCK),
    "get": (_QUEUES, Aspect.ITEM),
    "put": (_QUEUES, Aspect.ROOM),
    "result": ((concurrent.futures.Future,), Aspect.RESULT),
    "join": ((threading.Thread,), Aspect.END),
    "wait": ((subprocess.Popen, OwnedChild), Aspect.END),
}


def _c_call(step: Step) -> Wait | None:
    """Read off the source what the C function waits for that the innermost frame has called."""
    if step.frame is None:
        return None
    text, variables = _expression(step), local_variables(step.frame)
    for block in _with_blocks(step.code.co_filename):
        if block.line == step.line and isinstance(thing := evaluate(block.text, variables), _LOCKS):
            return Wait(Aspect.LOCK, (thing,))
    match = _CALL.match(text)
    if match is None:
        return None
    method, thing = match["method"], evaluate(match["thing"], variables)
    if text.startswith(("time.sleep(", "sleep(")):
        return Wait(Aspect.TIME, (Named("a timer"),))
    if method == "sigtimedwait":
        return Wait(Aspect.TIME, (Named("a signal or a timer"),))
    if method in ("recv", "accept", "read", "readline", "poll", "select", "connect", "sendall"):
        return Wait(Aspect.INPUT, (Named(f"{text[:60]}"),))
    kinds, aspect = _C_WAITS.get(method, ((), Aspect.INPUT))
    return Wait(aspect, (thing,)) if thing is not None and isinstance(thing, kinds) else None


def source_blocks(step: Step) -> Iterator[tuple[object, str]]:
    """Yield the locks in whose `with` blocks the frame of a running thread stands, as the source has it, with evidence."""
    if step.frame is None:
        return
    blocks = _with_blocks(step.code.co_filename)
    texts = [block.text for block in blocks if block.first_line <= step.line <= block.last_line]
    variables = local_variables(step.frame) if texts else {}
    for text in texts:
        thing = evaluate(text, variables)
        if thing is not None:
            yield thing, f"inside `with {text}` in {step.code.co_qualname}"


class _WithBlock(NamedTuple):
    line: int
    """Where it is entered."""
    first_line: int
    last_line: int
    text: str
    """What is entered."""


@functools.lru_cache(maxsize=256)
def _with_blocks(path: str) -> tuple[_WithBlock, ...]:
    """Return the `with` blocks of a file."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:  # not a file of source code
        return ()
    return tuple(
        _WithBlock(
            item.context_expr.lineno,
            node.body[0].lineno,
            node.body[-1].end_lineno or 0,
            ast.unparse(item.context_expr),
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
    )


def evaluate(text: str, variables: dict[str, Any]) -> object | None:
    """Return what a dotted name means among some variables; None if nothing. Runs no code of properties."""
    first, *rest = text.strip().split(".")
    thing: Any = variables.get(first)
    for name in rest:
        if thing is None or not name.isidentifier():
            return None
        try:
            thing = object.__getattribute__(thing, "__dict__").get(name)
        except AttributeError:
            member = getattr(type(thing), name, None)
            thing = getattr(thing, name, None) if type(member).__name__ == "member_descriptor" else None
    result: object | None = thing
    return result


def _expression(step: Step) -> str:
    """Return the text of the expression that a frame evaluates, if it stands in one line."""
    frame = step.frame
    if frame is None or frame.f_lasti < 0:
        return ""
    positions = list(step.code.co_positions())
    line, end_line, start, end = positions[frame.f_lasti // 2]
    if line is None or line != end_line or start is None or end is None:
        return ""
    source = linecache.getline(step.code.co_filename, line)
    return source.encode()[start:end].decode(errors="replace")
