"""What kind of thing is waited for, and what state it is in, in words.

Read off the variables of things, not asked of their methods: `queue.Queue.qsize` takes a lock, which whoever is stuck may
hold, and a method that a subclass has written may do anything.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from pytinykv.waitgraph.blocked_on import Aspect
from pytinykv.waitgraph.graph import Kind
from pytinykv.waitgraph.lock_holders import attribute_of, lock_of

_BY_ASPECT: Final = {
    Aspect.TIME: Kind.TIMER,
    Aspect.INPUT: Kind.IO,
    Aspect.ANSWER: Kind.CALL,
    Aspect.LOCK: Kind.LOCK,
    Aspect.PERMIT: Kind.SEMAPHORE,
    Aspect.SET: Kind.EVENT,
    Aspect.NOTIFIED: Kind.CONDITION,
    Aspect.PARTIES: Kind.BARRIER,
    Aspect.ROOM: Kind.QUEUE,
    Aspect.ITEM: Kind.QUEUE,
    Aspect.ALL_DONE: Kind.QUEUE,
    Aspect.DECLARED: Kind.EVENT,
}


def describe_thing(thing: object, aspect: Aspect) -> tuple[Kind, str]:
    """Return kind and state of a thing."""
    return _BY_ASPECT.get(aspect, Kind.FUTURE), _state(thing)


def _state(thing: object) -> str:
    """Return what keeps those waiting who wait for it."""
    for kinds, tell in _STATES:
        if issubclass(type(thing), kinds):
            try:
                return tell(thing)
            except (AttributeError, TypeError):  # a subclass, or a Python, that does it in another way
                return ""
    return ""


def _fill(thing: Any) -> str:
    items, bound = attribute_of(thing, "queue" if isinstance(thing, queue.Queue) else "_queue"), _bound(thing)
    size = len(items)
    if size == 0:
        return "empty"
    return f"full: {size} of {bound}" if 0 < bound <= size else f"{size} of {bound or 'any number'}"


def _bound(thing: Any) -> int:
    bound: int = attribute_of(thing, "maxsize" if isinstance(thing, queue.Queue) else "_maxsize")
    return bound


def _locked(thing: Any) -> bool:
    lock: Any = lock_of(thing)
    return bool(attribute_of(lock, "_locked") if issubclass(type(lock), asyncio.Lock) else lock.locked())


_STATES: Final[tuple[tuple[tuple[type, ...], Callable[[Any], str]], ...]] = (
    ((asyncio.Queue, queue.Queue), _fill),
    ((queue.SimpleQueue,), lambda thing: f"{thing.qsize()} items" if thing.qsize() else "empty"),
    ((asyncio.Event,), lambda thing: "set" if attribute_of(thing, "_value") else "not set"),
    ((threading.Event,), lambda thing: "set" if attribute_of(thing, "_flag") else "not set"),
    (
        (asyncio.Semaphore, threading.Semaphore),
        lambda thing: "permits left" if attribute_of(thing, "_value") else "no permit left",
    ),
    (
        (asyncio.Barrier, threading.Barrier),
        lambda thing: f"{attribute_of(thing, '_count')} of {attribute_of(thing, '_parties')} are there",
    ),
    ((asyncio.Condition,), lambda thing: f"its lock is {'held' if _locked(thing) else 'free'}"),
    ((asyncio.Lock, type(threading.Lock())), lambda thing: "locked" if _locked(thing) else "free"),
    ((asyncio.Future,), lambda thing: "done" if thing.done() else "pending"),
    ((concurrent.futures.Future,), lambda thing: str(attribute_of(thing, "_state")).lower()),
)
