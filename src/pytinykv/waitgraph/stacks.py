"""Where a task or thread was started, and where it is now: cheap call sites, await chains and thread stacks.

A call site is taken at every start of a task, so it costs one frame walk and no formatting. The await chain of a task is
what `Task.get_stack()` does not show: the coroutine it runs, the one that one awaits, and so on down to the future at the
bottom, which is the thing the task really waits for.

What will resolve that future is found by `explain`, from the steps collected here.

Stacks, await chains and variables are read as Python documents them. What a piece of code is about to do is read off its
bytecode, which changes with every version of CPython: only those of `BYTECODE_KNOWN` are read (`bytecode_is_known`). On any
other one the graph shows less: who waits for what, and no holders of locks and no wakers but those that are declared or known
otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from pathlib import PurePath
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final, NamedTuple

BYTECODE_KNOWN: Final = ((3, 11), (3, 12), (3, 13))
"""The versions of CPython whose bytecode can be read here, because the whole test suite passes on them."""
_LINES_MAX: Final = 32
"""Of a longer chain only the ends are shown: what lies between is recursion, not information."""
_STEPS_MAX: Final = 2000
_REFERENCES_OF_OURS: Final = 3
"""To the variables of a frame that has not been asked for them: the frame's, ours, and that of the question."""


class CallSite(NamedTuple):
    """One line of source that started something."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} in {self.function}"


_STANDARD_LIBRARY: Final = f"{sysconfig.get_path('stdlib')}/"
_INSTALLED: Final = (f"{_STANDARD_LIBRARY}site-packages/", f"{_STANDARD_LIBRARY}dist-packages/")
UNKNOWN_SITE: Final = CallSite("<unknown>", 0, "?")


def bytecode_is_known() -> bool:
    """Whether the bytecode of this Python can be read; otherwise nothing may be concluded from it."""
    return sys.implementation.name == "cpython" and sys.version_info[:2] in BYTECODE_KNOWN


def why_code_is_not_read() -> str:
    """Return what a graph without holders and wakers says about that, for people."""
    known = ", ".join(f"{major}.{minor}" for major, minor in BYTECODE_KNOWN)
    return (
        f"this is {sys.implementation.name} {'.'.join(map(str, sys.version_info[:3]))}, and only the bytecode of CPython "
        f"{known} is known here: it is shown who waits for a lock, a queue or an event, but who would end that wait, and "
        "by when, only where that is declared"
    )


def call_site(depth: int = 1) -> CallSite:
    """Return the line that called the caller of this function (`depth` 1), or one further out (2, 3, …)."""
    try:
        frame = sys._getframe(depth + 1)  # noqa: SLF001 - the documented way to a frame without building a traceback
    except ValueError:
        return UNKNOWN_SITE
    return CallSite(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def is_standard_library(path: str) -> bool:
    """Whether a frame's file is one of Python's own, of any version, and not one that was installed beside them."""
    return path.startswith("<frozen ") or (path.startswith(_STANDARD_LIBRARY) and not path.startswith(_INSTALLED))


def call_sites(
    *, is_hidden: Callable[[str], bool] = lambda _path: False, count: int = 8, depth: int = 1
) -> tuple[CallSite, ...]:
    """Return up to `count` lines of the current stack, innermost first, without those whose file `is_hidden`."""
    frame: FrameType | None = sys._getframe(depth)  # noqa: SLF001 - as above
    sites: list[CallSite] = []
    while frame is not None and len(sites) < count:
        path = frame.f_code.co_filename
        if not is_hidden(path):
            sites.append(CallSite(path, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(sites)


def await_chain(task: asyncio.Task[Any], start: Any = None) -> tuple[str, ...]:
    """Return the lines the task is in, outermost first; the last names what it waits for.

    `start` is where to begin instead of the task's own coroutine: for tasks of compiled code, which shows no chain, give
    the first coroutine that is Python again. Callable from another thread than the task's: it only reads, and a chain that
    moves meanwhile is merely stale.
    """
    lines: list[str] = []
    step: Any = task.get_coro() if start is None else start
    while step is not None and len(lines) < _STEPS_MAX:
        frame, code, inner = _step(step)
        if code is None:
            waited_for = getattr(task, "_fut_waiter", None)  # the future itself; `step` is only its iterator
            lines.append(f"waits for {_describe_awaitable(step if waited_for is None else waited_for)}")
            break
        line = frame.f_lineno if frame is not None else code.co_firstlineno
        lines.append(f"{code.co_filename}:{line or code.co_firstlineno} in {code.co_qualname}")
        if inner is None and frame is not None and task is _current_task_of(task):
            lines.append("is running now")
        step = inner
    return ends_of(lines)


def ends_of(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of a stack, without the middle of one that is too long to be read."""
    if len(lines) <= _LINES_MAX:
        return tuple(lines)
    outer = _LINES_MAX // 4
    inner = _LINES_MAX - outer
    return (*lines[:outer], f"… {len(lines) - _LINES_MAX} more …", *lines[-inner:])


def short_site(path: str, line: int, function: str) -> str:
    """Return a place in the source with the end of its path, which is what tells files apart."""
    parts = PurePath(path).parts
    return f"{'/'.join(parts[-3:])}:{line} in {function}"


class Step(NamedTuple):
    """One coroutine or generator of an await chain, or one frame of a thread."""

    frame: FrameType | None
    """None where the code is compiled, or has ended meanwhile."""
    code: CodeType
    suspended: Any
    """The coroutine or generator itself; None for a thread's frame."""

    @property
    def line(self) -> int:
        """The line it is in."""
        return (self.frame.f_lineno if self.frame is not None else None) or self.code.co_firstlineno


def await_steps(task: asyncio.Task[Any], start: Any = None) -> tuple[Step, ...]:
    """Return the coroutines and generators of a task's await chain, outermost first; `start` as for `await_chain`."""
    steps: list[Step] = []
    step: Any = task.get_coro() if start is None else start
    while step is not None and len(steps) < _STEPS_MAX:
        frame, code, inner = _step(step)
        if code is not None:
            steps.append(Step(frame, code, step))
        elif (inner := _unwrap(step)) is None:
            break
        step = inner
    return tuple(steps)


def thread_steps(ident: int | None) -> tuple[Step, ...]:
    """Return the frames of a thread as they are at this moment, outermost first; empty when it has ended."""
    frame = None if ident is None else sys._current_frames().get(ident)  # noqa: SLF001 - public in all but name
    steps: list[Step] = []
    while frame is not None and len(steps) < _STEPS_MAX:
        steps.append(Step(frame, frame.f_code, None))
        frame = frame.f_back
    return tuple(reversed(steps))


def local_variables(frame: FrameType) -> dict[str, Any]:
    """Return a copy of a frame's variables that keeps nothing alive in the frame.

    Before Python 3.13 a frame remembers the dictionary that it was asked for, and with it every object that was in a
    variable at that moment, for as long as the function runs. It is the one that `locals()` gives: not ours to empty if
    the function has kept it.
    """
    seen = frame.f_locals
    variables = dict(seen)
    is_ours = sys.version_info < (3, 13) and sys.getrefcount(seen) <= _REFERENCES_OF_OURS
    if is_ours and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        seen.clear()
    return variables


def held_objects(suspended: Any) -> list[Any]:
    """Return what a suspended coroutine holds: its variables and what lies on its stack, in no order; empty while it runs.

    Inside a `with` or `async with` block that is the bound `__exit__` or `__aexit__` too: proof of being inside.
    """
    return gc.get_referents(suspended) if suspended is not None else []


def thread_stack(thread: threading.Thread) -> tuple[str, ...]:
    """Return the lines the thread is in right now, outermost first; empty when it has ended."""
    if thread.ident is None:
        return ()
    return ends_of(
        [f"{step.code.co_filename}:{step.line} in {step.code.co_qualname}" for step in thread_steps(thread.ident)]
    )


def _step(step: Any) -> tuple[FrameType | None, CodeType | None, Any]:
    """Return frame, code and what it awaits, of a coroutine, generator or async generator; code None for a leaf."""
    for prefix, inner in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
        code = getattr(step, f"{prefix}_code", None)
        if isinstance(code, CodeType):
            return getattr(step, f"{prefix}_frame", None), code, getattr(step, inner, None)
    return None, None, None


def _unwrap(step: Any) -> Any:
    """Return the coroutine or generator inside one of the interpreter's own awaitables (`asend`, `__await__`); None if none.

    They tell what they refer to through the collector only.
    """
    if isinstance(step, asyncio.Future) or type(step).__module__ not in ("builtins", "_asyncio"):
        return None
    for inner in gc.get_referents(step):
        if isinstance(inner, (CoroutineType, AsyncGeneratorType, GeneratorType)):
            return inner
    return None


def _describe_awaitable(awaitable: Any) -> str:
    if isinstance(awaitable, asyncio.Task):
        return f"task {awaitable.get_name()!r}"
    if isinstance(awaitable, asyncio.Future):  # its repr would run that of everything in its callbacks
        state = "cancelled" if awaitable.cancelled() else "finished" if awaitable.done() else "pending"
        return f"<{type(awaitable).__name__} {state}>"
    return f"<{type(awaitable).__qualname__} object>"


def _current_task_of(task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task(task.get_loop())
    except RuntimeError:
        return None
