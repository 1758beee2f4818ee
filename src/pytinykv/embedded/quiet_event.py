"""A condition that changes with every commit and is hardly ever waited for: an event that costs nothing until then.

`threading.Event` takes a microsecond to set and another to clear, which is a part of a commit's time that shows.
"""

from __future__ import annotations

import threading


class QuietEvent:
    """As `threading.Event`; `set` and `clear` are called by one thread at a time."""

    __slots__ = ("_is_set", "_mutex", "_waiting")

    def __init__(self) -> None:
        self._is_set = True
        """What the event says; moved by `set` and `clear`."""
        self._waiting: threading.Event | None = None
        """There while threads wait, or have waited; taken away by `set`."""
        self._mutex = threading.Lock()
        """Held while an event is put into `_waiting`."""

    def is_set(self) -> bool:
        """Return what it says now; another thread may change it at any time."""
        return self._is_set

    def clear(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True  # before looking: who comes to wait from now on sees it
        if self._waiting is not None:
            with self._mutex:
                waiting, self._waiting = self._waiting, None
            if waiting is not None:
                waiting.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set; return whether it was."""
        if self.is_set():
            return True
        with self._mutex:
            waiting = self._waiting
            if waiting is None:
                waiting = self._waiting = threading.Event()
        if self.is_set():  # since the first look, by one who may not have seen the event
            return True
        return waiting.wait(timeout_s)
