"""What kind of thing is waited for, and what state it is in, in words."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from pytinykv.lifecycle.graph import Kind
from pytinykv.lifecycle.standing import Aspect

_BY_ASPECT: Final = {
    Aspect.TIME: Kind.TIMER,
    Aspect.INPUT: Kind.IO,
    Aspect.ANSWER: Kind.CALL,
    Aspect.LOCK: Kind.LOCK,
    Aspect.PERMIT: Kind.SEMAPHORE,
    Aspect.SET: Kind.EVENT,
    Aspect.NOTIFIED: Kind.CONDITION,
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
        if isinstance(thing, kinds):
            return tell(thing)
    return ""


def _fill(thing: Any) -> str:
    size, bound = thing.qsize(), thing.maxsize
    if size == 0:
        return "empty"
    return f"full: {size} of {bound}" if 0 < bound <= size else f"{size} of {bound or 'any number'}"


_STATES: Final[tuple[tuple[tuple[type, ...], Callable[[Any], str]], ...]] = (
    ((asyncio.Queue, queue.Queue), _fill),
    ((queue.SimpleQueue,), lambda thing: "empty" if thing.empty() else f"{thing.qsize()} items"),
    ((asyncio.Event, threading.Event), lambda thing: "set" if thing.is_set() else "not set"),
    ((asyncio.Semaphore,), lambda thing: "no permit left" if thing.locked() else "permits left"),
    ((asyncio.Condition,), lambda thing: f"its lock is {'held' if thing.locked() else 'free'}"),
    ((asyncio.Lock, type(threading.Lock())), lambda thing: "locked" if thing.locked() else "free"),
    ((asyncio.Future, concurrent.futures.Future), lambda thing: "done" if thing.done() else "pending"),
)
