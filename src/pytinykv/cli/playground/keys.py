"""What is typed while the playground is watched.

    1-9, ↑ ↓    choose a store          s    stop it (SIGTERM)      b    bring it back, with its data, at its old address
    q           stop everything         k    kill it (SIGKILL)

`Keys` decides what a key does, `keyboard` reads them from the terminal, which it leaves as it was. Ctrl-C stays a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pytinykv.cli.playground.home import PlaygroundError
from pytinykv.lifecycle import LifecycleError

if TYPE_CHECKING:
    from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
    from pytinykv.lifecycle import Scope

_UP, _DOWN = "\x1b[A", "\x1b[B"


class Keys:
    """The store that is chosen, and what was done last."""

    def __init__(
        self,
        cluster: LocalCluster,
        scope: Scope,
        on_change: Callable[[], object],
        stop: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGINT),
    ) -> None:
        """`on_change` is called after each key that meant something; `stop` by `q`."""
        self._cluster: Final = cluster
        self._scope: Final = scope
        self._on_change: Final = on_change
        self._stop: Final = stop
        self._index = 0
        """Of the store that is chosen, among `cluster.stores`. Moved by the digits and arrows."""
        self._coming: Final[set[str]] = set()
        """Names of stores that are being brought back."""
        self._is_stopping = False
        """Whether `q` was pressed; set by the first one, for good."""
        self.message = ""
        """What the last key has done, or why nothing; empty at first."""

    @property
    def chosen(self) -> ServerProcess:
        """The store that `s`, `k` and `b` are about."""
        return self._cluster.stores[self._index]

    def is_coming(self, process: ServerProcess) -> bool:
        """Whether a store is being brought back, and does not serve yet."""
        return process.name in self._coming

    def press(self, keys: str) -> None:
        """Obey what was typed: one key, or several when they come fast."""
        while keys:
            key = keys[:3] if keys.startswith("\x1b[") else keys[0]
            keys = keys[len(key) :]
            self._press(key)

    def _press(self, key: str) -> None:
        count = len(self._cluster.stores)
        if key.isdecimal() and 1 <= int(key) <= count:
            self._index, self.message = int(key) - 1, ""
        elif key in {_UP, _DOWN}:
            self._index, self.message = (self._index + (1 if key == _DOWN else -1)) % count, ""
        elif key == "q" and not self._is_stopping:  # a second signal would not wait for anything any more
            self._is_stopping, self.message = True, "stopping"
            self._stop()
        elif key in {"s", "k"}:
            self._end(self.chosen, kill=key == "k")
        elif key == "b":
            self._bring_back(self.chosen)
        else:
            return
        self._on_change()

    def _end(self, process: ServerProcess, *, kill: bool) -> None:
        if not process.is_running:
            self.message = f"{process.name} does not run; b brings it back"
            return
        os.kill(process.child.pid, signal.SIGKILL if kill else signal.SIGTERM)
        self.message = f"{process.name} {'is killed' if kill else 'is told to stop'}"

    def _bring_back(self, process: ServerProcess) -> None:
        if process.is_running or process.name in self._coming:
            self.message = f"{process.name} runs already"
            return
        self._coming.add(process.name)
        self.message = f"{process.name} is started again"
        self._scope.start(f"bring-back-{process.name}", self._restart, process)

    async def _restart(self, process: ServerProcess) -> None:
        try:
            await self._cluster.restart(process)
            self.message = f"{process.name} is back"
        except (PlaygroundError, LifecycleError, OSError) as error:
            self.message = str(error).partition("\n")[0]
        finally:
            self._coming.discard(process.name)
        self._on_change()


@contextlib.contextmanager
def keyboard(keys: Keys) -> Iterator[None]:
    """Hand keys over as they are typed, within the block; nothing where standard input is no terminal of ours."""
    descriptor = _terminal()
    if descriptor is None:
        yield
        return
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        try:
            typed = os.read(descriptor, 64)
        except OSError:  # the terminal was closed
            typed = b""
        if not typed:
            loop.remove_reader(descriptor)
        keys.press(typed.decode(errors="replace"))

    tty.setcbreak(descriptor, termios.TCSANOW)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        with contextlib.suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _terminal() -> int | None:
    """Return standard input's descriptor if that is a terminal which we may change; None if not."""
    try:
        descriptor = sys.stdin.fileno()
        return descriptor if os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp() else None
    except (OSError, ValueError):  # closed, or of another session
        return None
