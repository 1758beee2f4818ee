"""Find what was left behind, and say where it was started: for test suites, ours and our users'.

Scopes report what they own. This module finds the rest: tasks, threads, file descriptors and child processes that any code
started between two points in time and that are still there at the second one.

```
install()               once per process: remember where things are started from now on
before = take_baseline()
... a test, with its fixtures ...
leaks = find_leaks(before)      waits up to a second for what is just ending, then lists what is left
```

Tasks are found where they usually vanish without a word: `asyncio.Runner.close` (so also `asyncio.run` and pytest-asyncio)
cancels whatever still runs. Here it first looks, and remembers what it saw for the next `find_leaks`.

Not counted are threads and descriptors that a library was excused for (`census`), descriptors that have no meaning outside
native libraries (epoll, eventfd), and threads that Python did not start.

Left out: tasks of event loops that no Runner closes; their scopes' reports list them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from pytinykv.lifecycle.census import child_pids, counted_threads, excused_descriptors, open_descriptors
from pytinykv.lifecycle.children import running_children
from pytinykv.lifecycle.report import Leak, LeakKind
from pytinykv.waitgraph import CallSite
from pytinykv.waitgraph.stacks import UNKNOWN_SITE, await_chain, call_sites, is_standard_library, thread_stack

SETTLE_S: Final = 1.0
"""How long something may take to end that was told to, counted in real time: this is for tests, on real machines."""
_SETTLE_STEP_S: Final = 0.01
_OPENED_KEPT: Final = 256
_STACK_LINES: Final = 6
_HIDDEN: Final = (
    *(str(Path(__file__).with_name(name)) for name in ("leaks.py", "scope.py", "owned.py")),
    "/_pytest/",
    "/pluggy/",
    "/pytest_asyncio/",
)
"""Frames that show how something is started, not what started it; those of the standard library are others."""
_TEST_TIMEOUT: Final = "pytest_timeout"
_EXCUSED_DESCRIPTORS: Final = ("anon_inode:", "/dev/urandom", "/dev/null", "/proc/", "/sys/")
_STANDARD_STREAMS: Final = frozenset({0, 1, 2})
"""A test runner's capturing exchanges them as it likes."""

Sites = tuple[CallSite, ...]


class Baseline(NamedTuple):
    """What there was at a point in time."""

    threads: frozenset[int]
    descriptors: dict[int, str]
    children: frozenset[int]


class _Origins:
    """Where things were started. One per process; empty until `install`."""

    def __init__(self) -> None:
        self.installed = False
        """Set once, by `install`."""
        self.tasks: Final[weakref.WeakKeyDictionary[asyncio.Task[Any], Sites]] = weakref.WeakKeyDictionary()
        """By task, as long as it lives, the lines that started it."""
        self.threads: Final[weakref.WeakKeyDictionary[threading.Thread, Sites]] = weakref.WeakKeyDictionary()
        """By thread, as long as it lives, the lines that started it."""
        self.files: Final[collections.OrderedDict[str, Sites]] = collections.OrderedDict()
        """By path, the lines that opened it last; the oldest are dropped past `_OPENED_KEPT`."""
        self.sockets: Final = collections.deque[Sites](maxlen=16)
        """The lines that opened the latest sockets, newest last."""
        self.programs: Final = collections.deque[tuple[str, Sites]](maxlen=64)
        """The latest programs that were started, and the lines that did, newest last."""
        self.orphaned_tasks: Final[list[Leak]] = []
        """Tasks that were still running when their Runner was closed."""


_origins: Final = _Origins()


def install() -> None:
    """Remember from now on where tasks, threads, files, sockets and processes are started. Idempotent; not undone.

    For test processes: every start then costs a few microseconds more.
    """
    if _origins.installed:
        return
    _origins.installed = True
    uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for signals that all later ones share
    _wrap_thread_start()
    _wrap_runner()
    sys.addaudithook(_audit)


def take_baseline() -> Baseline:
    """Note what there is now, and forget tasks seen earlier."""
    _origins.orphaned_tasks.clear()
    _origins.sockets.clear()
    return Baseline(
        threads=frozenset(id(thread) for thread in threading.enumerate()),
        descriptors=open_descriptors(),
        children=frozenset(child_pids()),
    )


def find_leaks(before: Baseline, *, settle_s: float = SETTLE_S) -> list[Leak]:
    """Return what is there now and was not at `before`, after waiting up to `settle_s` seconds for it to go."""
    leaks = _look(before)
    if not leaks:
        return []
    gc.collect()  # a channel or database in a reference cycle is let go of here; only what stays is a leak
    until = time.monotonic() + settle_s
    leaks = _look(before)
    while leaks and not _origins.orphaned_tasks and time.monotonic() < until:
        time.sleep(_SETTLE_STEP_S)
        leaks = _look(before)
    return leaks


def render_leaks(leaks: list[Leak]) -> str:
    """Return the leaks as text for people."""
    return "\n".join([f"{len(leaks)} thing(s) left behind", *(leak.render() for leak in leaks)])


# --- looking ----------------------------------------------------------------------------------------------------


def _look(before: Baseline) -> list[Leak]:
    return [
        *_origins.orphaned_tasks,
        *_threads(before),
        *_children(before),
        *_descriptors(before),
    ]


def _threads(before: Baseline) -> list[Leak]:
    return [
        _leak(LeakKind.THREAD, thread.name, _origins.threads.get(thread, ()), thread_stack(thread))
        for thread in counted_threads()
        if id(thread) not in before.threads
        and not isinstance(thread, threading._DummyThread)  # noqa: SLF001 - the mark of a thread Python did not start
        and _TEST_TIMEOUT not in thread.name
    ]


def _children(before: Baseline) -> list[Leak]:
    ours = running_children()
    leaks = []
    for pid, command in sorted(child_pids().items()):
        if pid in before.children:
            continue
        sites: Sites = (ours[pid],) if pid in ours else ()
        sites = sites or next(
            (sites for program, sites in reversed(_origins.programs) if program and program in command), ()
        )
        leaks.append(_leak(LeakKind.CHILD, f"pid {pid}: {command}", sites))
    return leaks


def _descriptors(before: Baseline) -> list[Leak]:
    leaks = []
    excused = excused_descriptors() | _STANDARD_STREAMS
    for number, target in sorted(open_descriptors().items()):
        if number in excused or before.descriptors.get(number) == target or target.startswith(_EXCUSED_DESCRIPTORS):
            continue
        sites = _origins.files.get(target, ())
        if target.startswith("socket:"):  # which of the sockets made it is, is not known; there are rarely many
            sites = tuple(dict.fromkeys(made[0] for made in _origins.sockets if made))
        leaks.append(_leak(LeakKind.DESCRIPTOR, f"{number}: {target}", sites))
    return leaks


def _leak(kind: LeakKind, name: str, sites: Sites, stack: tuple[str, ...] = ()) -> Leak:
    return Leak(kind, name, sites[0] if sites else UNKNOWN_SITE, stack, sites[1:])


# --- remembering ------------------------------------------------------------------------------------------------


def _sites() -> Sites:
    return call_sites(is_hidden=_is_hidden, count=_STACK_LINES, depth=2)


def _is_hidden(path: str) -> bool:
    return is_standard_library(path) or any(part in path for part in _HIDDEN)


def _wrap_thread_start() -> None:
    start = threading.Thread.start

    def remembering_start(self: threading.Thread) -> None:
        _origins.threads[self] = _sites()
        start(self)

    threading.Thread.start = remembering_start  # type: ignore[method-assign]  # what remembering needs


def _wrap_runner() -> None:
    run, close = asyncio.Runner.run, asyncio.Runner.close

    def remembering_run(self: asyncio.Runner, *args: Any, **kwargs: Any) -> Any:
        loop = self.get_loop()
        if loop.get_task_factory() is None:
            loop.set_task_factory(_remembering_factory)
        return run(self, *args, **kwargs)

    def looking_close(self: asyncio.Runner) -> None:
        loop = getattr(self, "_loop", None)
        if loop is not None and not loop.is_closed() and not loop.is_running():
            _look_for_tasks(loop)
        close(self)

    asyncio.Runner.run = remembering_run  # type: ignore[method-assign]  # what remembering needs
    asyncio.Runner.close = looking_close  # type: ignore[method-assign]  # what remembering needs


def _remembering_factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
    _origins.tasks[task] = _sites()
    return task


def _look_for_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Give the tasks of a loop that is about to be closed a moment to end, and remember the others."""
    until = time.monotonic() + SETTLE_S
    while asyncio.all_tasks(loop) and time.monotonic() < until:
        loop.run_until_complete(asyncio.sleep(_SETTLE_STEP_S))
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        sites = _origins.tasks.get(task, ())
        _origins.orphaned_tasks.append(_leak(LeakKind.TASK, task.get_name(), sites, await_chain(task)))


def _audit(event: str, args: tuple[Any, ...]) -> None:
    remember = _AUDITED.get(event)
    if remember is not None:
        with contextlib.suppress(Exception):  # an error here would fail the audited operation, which is not ours
            remember(args)


def _on_open(args: tuple[Any, ...]) -> None:
    path = args[0]
    if isinstance(path, str):
        _origins.files[path] = _sites()
        if len(_origins.files) > _OPENED_KEPT:
            _origins.files.popitem(last=False)


def _on_socket(args: tuple[Any, ...]) -> None:
    del args
    _origins.sockets.append(_sites())


def _on_program(args: tuple[Any, ...]) -> None:
    argv = args[1]
    words = [argv] if isinstance(argv, (str, bytes)) else list(argv)
    _origins.programs.append((" ".join(str(word) for word in words), _sites()))


_AUDITED: Final[dict[str, Callable[[tuple[Any, ...]], None]]] = {
    "open": _on_open,
    "socket.__new__": _on_socket,
    "subprocess.Popen": _on_program,
}
