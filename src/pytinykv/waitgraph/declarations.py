"""Say what ends a wait, where the source code does not: declarations for the wait-for graph.

Most waits explain themselves (see `blocked_on` and `wakers`). These are for the others: something that another process does,
a callback from compiled code, a lock whose holder has to be known for certain.

```
OwnedLock("routes")                           a lock that knows its holder
Signal("synced", set_by=("store/disk",))      an event that knows what sets it
declare(queue, "inbox", woken_by=…)           the same for any object
with waiting_for("a timestamp", woken_by=…)   a wait that has no object
```

A waker is a task, a thread, a handle of one (`Label.handles`), the name of one (`*` as in file names), or any other text,
which then names something outside of this process.

Costs: a declaration costs a table entry, once. `OwnedLock` and `waiting_for` cost less than a microsecond per use.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

from pytinykv.waitgraph.stacks import CallSite, call_site

Waker = object
"""A task, a thread, a handle of one, or a text."""


class Declaration(NamedTuple):
    """What was said about an object."""

    name: str
    woken_by: tuple[Waker, ...]
    made_at: CallSite


_declared: Final[dict[int, tuple[weakref.ref[Any], Declaration]]] = {}
"""By the identity of the object, which need not have a hash; an entry goes with its object."""
_waiting: Final[dict[waiting_for, None]] = {}
"""The `waiting_for` blocks that a task or thread is inside of."""


def declare(thing: object, name: str, *, woken_by: Sequence[Waker] = ()) -> None:
    """Say what an event, queue, future or the like is called, and what ends the wait for it. The last call counts."""
    _remember(thing, Declaration(name, tuple(woken_by), call_site()))


def declaration_of(thing: object) -> Declaration | None:
    """Return what was said about `thing`."""
    known = _declared.get(id(thing))
    return known[1] if known is not None and known[0]() is thing else None


def _remember(thing: object, declaration: Declaration) -> None:
    key = id(thing)
    _declared[key] = weakref.ref(thing, lambda _: _declared.pop(key, None)), declaration


class OwnedLock(asyncio.Lock):
    """An `asyncio.Lock` with a name, which knows the task that holds it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name: Final = name
        self.made_at: Final = call_site()
        self.holder: asyncio.Task[Any] | None = None
        """The task that has acquired it; None while it is free."""

    async def acquire(self) -> Literal[True]:
        """Acquire the lock, and note the task that has it."""
        await super().acquire()
        self.holder = asyncio.current_task()
        return True

    def release(self) -> None:
        """Release the lock."""
        super().release()
        self.holder = None


class Signal(asyncio.Event):
    """An `asyncio.Event` with a name, which says what sets it."""

    def __init__(self, name: str, *, set_by: Sequence[Waker] = ()) -> None:
        super().__init__()
        self.name: Final = name
        _remember(self, Declaration(name, tuple(set_by), call_site()))


class waiting_for:  # noqa: N801 - reads as what it does, like contextlib's
    """A block in which the running task, or thread, waits for `what`, which one of `woken_by` will end."""

    __slots__ = ("__weakref__", "declaration", "since_s", "task", "thread")

    def __init__(self, what: str, *, woken_by: Sequence[Waker] = ()) -> None:
        self.declaration: Final = Declaration(what, tuple(woken_by), call_site())
        self.task: asyncio.Task[Any] | None = None
        """The task that is inside of the block; None outside, and in a thread without a running loop."""
        self.thread = 0
        """The thread that is, or was last, inside; 0 before."""

    def __enter__(self) -> Self:
        try:
            self.task = asyncio.current_task()
        except RuntimeError:  # no loop runs in this thread
            self.task = None
        self.thread = threading.get_ident()
        _waiting[self] = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del _waiting[self]


def open_waits() -> list[waiting_for]:
    """Return the `waiting_for` blocks that a task or thread is inside of, in the order in which they were entered."""
    return list(_waiting)
