"""Ctrl-C waits for the end of what must not be left in the middle.

Python raises KeyboardInterrupt in the main thread between any two steps of its code: also while that thread holds a latch,
leads a group, or has just been given a lock that nothing else knows of yet. A program that catches it, as interactive
sessions do, would go on with a database in which others wait for that thread for ever.

    with UNINTERRUPTED:             # SIGINT is only noted, and handed over to the program's handler at the end
        …
        interruptibly(wait)         # but within this call it is raised at once

The signals of a program other than SIGINT are left as they are.
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_C: Final[Any] = importlib.import_module("_signal")
"""`signal` without the search for the names of its enumerations, which would cost a tenth of a commit."""
_SIGINT: Final = int(signal.SIGINT)


class _Uninterrupted:
    """A context in which the main thread gets no KeyboardInterrupt; nothing in other threads, which never get one.

    There is one in a process. What it notes is moved by the main thread alone.
    """

    def __init__(self) -> None:
        self._depth = 0
        """How many contexts the main thread is in, one within the other; 0 also where the program has no handler."""
        self._handler: Any = None
        """The program's handler; while the depth is above 0."""
        self._came = False
        """Whether there was a SIGINT since then."""

    def __enter__(self) -> None:
        if threading.get_ident() != threading.main_thread().ident:
            return
        if self._depth:
            self._depth += 1
        elif callable(handler := _C.getsignal(_SIGINT)):
            self._handler = handler
            _C.signal(_SIGINT, self._note)
            self._depth = 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._depth or threading.get_ident() != threading.main_thread().ident:
            return
        self._depth -= 1
        if self._depth:
            return
        handler, self._handler = self._handler, None
        _C.signal(_SIGINT, handler)
        if self._came:
            self._came = False
            handler(_SIGINT, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True

    def lifted(self, wait: Callable[[], _T]) -> _T:
        """See `interruptibly`."""
        if not self._depth or threading.get_ident() != threading.main_thread().ident:
            return wait()
        if self._came:
            self._came = False
            self._handler(_SIGINT, None)
        note = self._note
        try:
            _C.signal(_SIGINT, self._handler)
            return wait()
        finally:
            try:
                _C.signal(_SIGINT, note)  # no call of Python's own: an interrupt could come at its beginning
            except BaseException:
                _C.signal(_SIGINT, note)
                raise


UNINTERRUPTED: Final = _Uninterrupted()


class UninterruptedLock:
    """A lock that is held for loops. CPython 3.13 does not release one whose `with` is interrupted at the end of a round."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        UNINTERRUPTED.__enter__()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        UNINTERRUPTED.__exit__(kind, error, trace)


def interruptibly(wait: Callable[[], _T]) -> _T:
    """Call a function that waits, and let Ctrl-C end it, also within `UNINTERRUPTED`. The caller cleans up behind it."""
    return UNINTERRUPTED.lifted(wait)
