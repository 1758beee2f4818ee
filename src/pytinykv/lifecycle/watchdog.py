"""The watchdog: a thread that ends a process which was told to stop and does not, whatever its main thread is in.

CPython runs signal handlers in the main thread, between two instructions. A main thread that is in compiled code never
comes to them, and a stop that only they could begin would never begin. So the watchdog hears of signals itself: the
interpreter writes each one's number into a socket at the moment it arrives (`signal.set_wakeup_fd`), and the watchdog
reads it, arms itself, and passes it on to the previous owner of the socket, the event loop.

While compiled code keeps the interpreter's lock it can't run either. So once it is armed, a last resort is too: a thread in C
that needs no lock prints the stacks and ends the process with status 1 (`faulthandler`). If the lock is held already when
the signal comes, it is not noticed until the lock is free, and only SIGKILL helps.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

AFTER_SECOND_S: Final = 1.5
"""How long the main thread has to act on a second signal, and to print what is stuck, before the watchdog does."""
LAST_RESORT_S: Final = 2.2
"""How much later than the watchdog the last resort ends the process; it may have to print what is stuck first."""
_LOOK: Final = 0
"""Written where the numbers of signals are written, to wake the thread; 0 is no signal."""
_READ_BYTES: Final = 64


class Watchdog:
    """Ends the process by `on_expiry(why)` unless it is disarmed in time. All calls are safe in a signal handler.

    Args:
        limit_s: seconds of real time from the first signal, or from `arm`, to the end.
        signals: those that mean "stop".
        repeat_s: a signal this soon after the first is the same request.
        on_expiry: is called by the thread, and ends the process.
    """

    def __init__(
        self, limit_s: float, signals: Collection[int], repeat_s: float, on_expiry: Callable[[str], NoReturn]
    ) -> None:
        self._limit_s: Final = limit_s
        self._signals: Final = frozenset(signals)
        self._repeat_s: Final = repeat_s
        self._on_expiry: Final = on_expiry
        self._ear, self._wakeup = socket.socketpair()
        """Where the thread reads, and where the interpreter writes the numbers of signals."""
        self._wakeup.settimeout(0.0)
        self._pass_on_to = -1
        """The descriptor that the interpreter wrote to before; -1 for none."""
        self._is_armed = self._is_over = False
        """Whether time runs, and whether the thread is to end."""
        self._first_signal_at: float | None = None
        """When the first of the signals came (monotonic); None before. A later one counts as a repetition."""
        self._expires_at: float | None = None
        """When the process is ended; None until the thread has seen that it is armed. Only ever brought forward."""
        self._why = f"not stopped after {limit_s} s"
        """What is said when the process is ended."""
        self._thread: Final = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread; it waits to be armed, or for a signal."""
        self._thread.start()

    def arm(self) -> None:
        """End the process in `limit_s` seconds. Further calls change nothing."""
        self._be_armed()
        self._wake()

    def disarm(self) -> None:
        """Let the process live, and the thread end. Not to be used again."""
        self._is_over = True
        self._wake()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._ear.close()
        self._wakeup.close()

    @contextmanager
    def hearing_signals(self) -> Iterator[None]:
        """Hear of signals while the block lasts. In the main thread, inside of the running loop, which has its own socket."""
        self._pass_on_to = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        pid = os.getpid()
        os.register_at_fork(after_in_child=lambda: self._be_deaf_in(pid))
        try:
            yield
        finally:
            signal.set_wakeup_fd(self._pass_on_to, warn_on_full_buffer=False)

    # --- inside -------------------------------------------------------------------------------------------------

    def _be_armed(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            faulthandler.dump_traceback_later(self._limit_s + LAST_RESORT_S, exit=True, file=2)

    def _be_deaf_in(self, parent: int) -> None:
        """In a forked child, whose signals would be heard here: it has inherited the socket."""
        if not self._is_over and os.getppid() == parent:
            signal.set_wakeup_fd(-1)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full of signals: it is about to look anyway
            self._wakeup.send(bytes([_LOOK]))

    def _run(self) -> None:
        while not self._is_over:
            now = time.monotonic()
            if self._is_armed and self._expires_at is None:
                self._expires_at = now + self._limit_s
            if self._expires_at is not None and now >= self._expires_at:
                self._on_expiry(self._why)
            self._ear.settimeout(None if self._expires_at is None else self._expires_at - now)
            with suppress(TimeoutError):
                for number in self._ear.recv(_READ_BYTES):
                    self._take(number, time.monotonic())

    def _take(self, number: int, now: float) -> None:
        if number == _LOOK:
            return
        if self._pass_on_to >= 0:
            with suppress(OSError):  # full, so the loop is awake; or closed, so it needs no waking
                os.write(self._pass_on_to, bytes([number]))
        if number not in self._signals:
            return
        self._be_armed()
        if self._first_signal_at is None:
            self._first_signal_at = now
        elif self._expires_at is not None and self._repeat_s <= now - self._first_signal_at:
            self._why = f"{signal.Signals(number).name} for the second time"
            self._expires_at = min(self._expires_at, now + AFTER_SECOND_S)
