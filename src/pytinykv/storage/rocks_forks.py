"""What becomes of RocksDB in a forked child: it can't be used there, and the child ends without taking it down.

RocksDB's threads for flushes and compactions belong to the process and not to a database: they come with the first one, and
stay when that is closed. A child has none of them, and its copy of RocksDB does not know: what it hands to them is never
done, so that a database opened in the child takes writes until its memtables are full, and then waits for ever. So none is
opened.

When the child ends by `exit`, RocksDB joins those threads, which reads memory that is gone: the child died by SIGSEGV,
whatever it had to say by its status. So it ends by `_exit` there, after Python has been finalized and C's files have been
flushed; only what native libraries of the parent do at an exit is left out.
"""

from __future__ import annotations

import ctypes
import os

from pytinykv.storage.errors import EngineForkedError


class _Threads:
    """Where RocksDB's threads are. One per process."""

    def __init__(self) -> None:
        self.pid = 0
        """The process that has opened the first database, and so has the threads; 0 before. Set once: a fork inherits it."""
        self.are_lost = False
        """Whether this process was forked from that one, or from such a child; then it stays so."""


_threads = _Threads()


def check() -> None:
    """Raise EngineForkedError where RocksDB's threads are another process's."""
    if _threads.are_lost:
        raise EngineForkedError(
            f"process {_threads.pid} had a database on disk open before it forked this one, where the engine's threads do "
            "not exist: open databases only after the fork, or start the child afresh, as multiprocessing's spawn and "
            "forkserver do"
        )


def note_use() -> None:
    """Note that this process is about to open a database. Raises EngineForkedError, as `check`."""
    check()
    _threads.pid = _threads.pid or os.getpid()


def _after_fork_in_child() -> None:
    if not _threads.pid:
        return
    _threads.are_lost = True
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "on_exit") and hasattr(libc, "__cxa_atexit")):
        return  # not glibc
    # The last to be registered is called first: fflush(NULL), then _exit(status).
    libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)  # noqa: SLF001 - the function's name in C
    libc.__cxa_atexit(ctypes.cast(libc.fflush, ctypes.c_void_p), None, None)  # noqa: SLF001 - as above


os.register_at_fork(after_in_child=_after_fork_in_child)
