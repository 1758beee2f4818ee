"""Where a client was made: it can be used there only.

A child process has copies of its parent's connections and none of the threads that serve them; another event loop runs
none of the client's callbacks. A call from such a place is refused before anything is sent.
"""

from __future__ import annotations

import asyncio
import os
from threading import get_ident

from pytinykv.client.errors import ClientForkedError, WrongEventLoopError

_forks = 0
"""How many forks lie between this process and the one that imported the module. Cheaper to ask than `os.getpid`."""


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - it mirrors the process, of which there is one
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


_ADVICE = "after the fork, or start the child afresh, as multiprocessing's spawn and forkserver do"


class ProcessOrigin:
    """The process that a client was made in."""

    __slots__ = ("_forks", "_is_of_database", "_pid")

    def __init__(self, *, is_of_database: bool = False) -> None:
        """`is_of_database`: what was made is a database of this process, for messages."""
        self._forks = _forks
        self._pid = os.getpid()
        self._is_of_database = is_of_database

    @property
    def is_here(self) -> bool:
        """Whether this is that process, and not one that was forked from it."""
        return self._forks == _forks

    def check(self) -> None:
        """Raise `ClientForkedError` in a process that was forked from that one."""
        if self._forks != _forks:
            if self._is_of_database:
                raise ClientForkedError(
                    f"this database was opened by process {self._pid}, and does not survive a fork; open it only {_ADVICE}"
                )
            raise ClientForkedError(
                f"this client belongs to process {self._pid}, and its connections do not survive a fork; "
                f"connect only {_ADVICE}"
            )


class LoopOrigin(ProcessOrigin):
    """The process and the event loop that an asyncio client was made in."""

    __slots__ = ("_thread", "loop")

    def __init__(self, *, is_of_database: bool = False) -> None:
        """Take the running loop. Raises `WrongEventLoopError` where none runs."""
        super().__init__(is_of_database=is_of_database)
        self._thread = get_ident()
        """Where the loop ran when the client was made."""
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongEventLoopError(
                "an asyncio client is made within a running event loop: call connect in a coroutine"
            ) from None

    def check(self) -> None:
        """Raise `ClientForkedError` or `WrongEventLoopError` outside of that process or loop."""
        if self._forks != _forks:
            super().check()
        if get_ident() == self._thread and self.loop.is_running():
            return  # one loop runs in a thread at a time; asking for it makes a system call in CPython 3.11
        if asyncio._get_running_loop() is not self.loop:  # noqa: SLF001 - documented, and it does not raise
            state = "which has been closed" if self.loop.is_closed() else "in which it was connected"
            raise WrongEventLoopError(
                f"this client belongs to another event loop, {state}; nothing was sent. Connect once in each loop, or "
                "share a synchronous client (pytinykv.connect) among threads"
            )
