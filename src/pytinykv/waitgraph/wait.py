"""A wait as a record: which resource, what about it, and what would end the wait; and how code says that of itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable
from enum import Enum
from types import CodeType
from typing import Any, Final, NamedTuple, TypeVar, cast

from pytinykv.waitgraph.graph import NodeKind
from pytinykv.waitgraph.lock_holders import attribute_of, lock_of

Function = TypeVar("Function", bound=Callable[..., object])


class Aspect(Enum):
    """What about a resource is waited for: its kind, how the wait reads, and which of its methods end the wait."""

    ROOM = (NodeKind.QUEUE, "waits to put into", "would be emptied by", ("get", "get_nowait", "popleft"))
    ITEM = (NodeKind.QUEUE, "waits for an item from", "would be filled by", ("put", "put_nowait", "append"))
    ALL_DONE = (NodeKind.QUEUE, "waits until all is done of", "would be worked off by", ("task_done",))
    LOCK = (NodeKind.LOCK, "waits to acquire", "is held by", ("release",))
    PERMIT = (NodeKind.SEMAPHORE, "waits for a permit of", "is held by", ("release",))
    SET = (NodeKind.EVENT, "waits for", "would be set by", ("set",))
    PARTIES = (NodeKind.BARRIER, "waits for the others at", "would be completed by", ("wait", "abort", "reset"))
    NOTIFIED = (NodeKind.CONDITION, "waits to be notified of", "would be notified by", ("notify", "notify_all"))
    RESULT = (NodeKind.FUTURE, "waits for", "would be resolved by", ("set_result", "set_exception", "cancel"))
    END = (NodeKind.FUTURE, "waits for the end of", "", ())
    """Of a task, thread or process: what is waited for is itself a runner."""
    TIME = (NodeKind.TIMER, "sleeps on", "", ())
    INPUT = (NodeKind.IO, "waits for", "", ())
    ANSWER = (NodeKind.CALL, "waits for", "would be answered by", ())
    DECLARED = (NodeKind.EVENT, "waits for", "would be ended by", ())

    def __init__(self, kind: NodeKind, verb: str, woken: str, methods: tuple[str, ...]) -> None:
        self.kind: Final = kind
        self.verb: Final = verb
        self.woken: Final = woken
        """Reads between the resource and what would end the wait."""
        self.methods: Final = frozenset(methods)


class Wait(NamedTuple):
    """What a runner waits for."""

    aspect: Aspect
    resources: tuple[object, ...]
    any_of: bool = False
    """Whether one of the resources is enough."""
    ends_at_s: float | None = None
    """In the time of the task's loop."""
    cancels: bool = False
    """Whether what is waited for is cancelled then."""
    expression: str = ""
    """What the code that waits calls the resource, for one that has no name."""


class Named(NamedTuple):
    """A resource without an object of its own, such as a call or a socket."""

    name: str
    peer: str = ""
    """What outside of this process would end the wait."""


WaitReader = Callable[[dict[str, Any]], Wait | None]
"""Returns what a function waits for, given its variables at the moment; None if it does not wait."""

_readers: Final[dict[CodeType, WaitReader]] = {}


def explains_wait(reader: WaitReader) -> Callable[[Function], Function]:
    """Decorate a function that waits on behalf of its callers, as `Queue.get` does; the graph then asks `reader` what for.

    What it calls while it waits has to be of asyncio, the standard library or gRPC, or be decorated as well. The function is
    returned as it is, so its calls cost nothing more.
    """

    def register(function: Function) -> Function:
        _readers[cast("Any", function).__code__] = reader
        return function

    return register


def reader_of(code: CodeType) -> WaitReader | None:
    """Return what was said with `explains_wait` of a function."""
    return _readers.get(code)


# --- the state of a resource ------------------------------------------------------------------------------------
# Read off the variables of objects, not asked of their methods: `queue.Queue.qsize` takes a lock, which a stuck thread may
# hold, and a method that a subclass has written may do anything.


def state_of(resource: object) -> str:
    """Return in words the state in which a resource makes its waiters wait."""
    for kinds, tell in _STATES:
        if issubclass(type(resource), kinds):
            try:
                return tell(resource)
            except (AttributeError, TypeError):  # a subclass, or a Python, that does it in another way
                return ""
    return ""


def _items(resource: Any) -> str:
    is_of_threads = isinstance(resource, queue.Queue)
    size = len(attribute_of(resource, "queue" if is_of_threads else "_queue"))
    bound: int = attribute_of(resource, "maxsize" if is_of_threads else "_maxsize")
    if size == 0:
        return "empty"
    return f"full: {size} of {bound}" if 0 < bound <= size else f"{size} of {bound or 'any number'}"


def _is_locked(resource: Any) -> bool:
    lock: Any = lock_of(resource)
    return bool(attribute_of(lock, "_locked") if issubclass(type(lock), asyncio.Lock) else lock.locked())


_STATES: Final[tuple[tuple[tuple[type, ...], Callable[[Any], str]], ...]] = (
    ((asyncio.Queue, queue.Queue), _items),
    ((queue.SimpleQueue,), lambda resource: f"{resource.qsize()} items" if resource.qsize() else "empty"),
    ((asyncio.Event,), lambda resource: "set" if attribute_of(resource, "_value") else "not set"),
    ((threading.Event,), lambda resource: "set" if attribute_of(resource, "_flag") else "not set"),
    (
        (asyncio.Semaphore, threading.Semaphore),
        lambda resource: "permits left" if attribute_of(resource, "_value") else "no permit left",
    ),
    (
        (asyncio.Barrier, threading.Barrier),
        lambda resource: f"{attribute_of(resource, '_count')} of {attribute_of(resource, '_parties')} are there",
    ),
    ((asyncio.Condition,), lambda resource: f"its lock is {'held' if _is_locked(resource) else 'free'}"),
    ((asyncio.Lock, type(threading.Lock())), lambda resource: "locked" if _is_locked(resource) else "free"),
    ((asyncio.Future,), lambda resource: "done" if resource.done() else "pending"),
    ((concurrent.futures.Future,), lambda resource: str(attribute_of(resource, "_state")).lower()),
)
