"""What a program says of itself before its graph is drawn: its event loops, and names for what it runs.

A program that says nothing but its loop (`Program.of_running_loop`) gets a graph of all tasks of that loop and all threads of
the process. What owns tasks, threads or child processes adds a `Label` for each: a better name, where it was started, by
which other objects it is waited for.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple, Self

from pytinykv.waitgraph.stacks import CallSite
from pytinykv.waitgraph.wait_clock import WaitClock


class Label(NamedTuple):
    """What is known of one task, thread or child process."""

    subject: object
    """The `asyncio.Task` or the `threading.Thread`; any other object stands for a child process."""
    name: str
    started_at: CallSite | None = None
    started_s: float | None = None
    """Of a task: when, in the time of its loop."""
    state: str = ""
    """Of a child process: what it does, in words."""
    handles: tuple[object, ...] = ()
    """Other objects that stand for it: what waits for one of them waits for it."""
    coroutine: Any = None
    """Of a task that compiled code made, which shows no await chain: the first coroutine that is Python again."""


class LoopLabel(NamedTuple):
    """An event loop, and the thread that turns it."""

    loop: asyncio.AbstractEventLoop
    name: str
    thread_id: int | None = None
    """`threading.get_ident()` of that thread; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to look at. The threads of the process are looked at in any case."""

    name: str
    loops: Sequence[LoopLabel]
    labels: Sequence[Label] = ()
    clock: WaitClock | None = None
    """Knows for how long each has waited, if something calls its `look` from time to time."""

    @classmethod
    def of_running_loop(cls, name: str = "", *, clock: WaitClock | None = None) -> Self:
        """Return the program of the loop that runs in this thread; by default named after its script.

        Make it in the loop, use it from any thread, for as long as the loop lives.
        """
        loop = LoopLabel(asyncio.get_running_loop(), "of this program", threading.get_ident())
        return cls(name=name or PurePath(sys.argv[0]).name or "python", loops=(loop,), clock=clock)
