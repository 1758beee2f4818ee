"""Group commit: threads that want something durable at the same time share one sync.

    thread 1   enqueue ─▶ leads: run 1 ─▶ sync ─▶ names 2 the next leader, done
    thread 2          enqueue ──────── waits ───────────▶ leads: run 2, 3 ─▶ sync ─▶ done
    thread 3             enqueue ───── waits ───────────────────────────────────────▶ done

There is no thread of its own for it: a caller that finds no leader becomes one, and leads one group, which holds its own
work. With one caller a commit costs one write and one sync, and no switch of threads.

Invariants
----------
1. At most one thread leads. While anything is queued, one does, or has been told to.
2. Every entry ends: done, refused before it was run, or of unknown fate at its deadline. The leader itself takes as long
   as the disk: what hangs in a sync can't be interrupted.
3. Work runs in the order in which it was queued, under the writer's lock. What has run is answered after the sync that
   covers it, and so is what has found that it has nothing to write: it may rest on what others of the group wrote.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from pytinykv.client.errors import ClientError, DeadlineExceededError, UndeterminedError
from pytinykv.embedded.interrupts import UNINTERRUPTED, interruptibly
from pytinykv.embedded.quiet_event import QuietEvent

_T = TypeVar("_T")

CALLBACK = Callable[["Entry[Any]"], object]


class Entry(Generic[_T]):
    """A piece of work that wants to be durable."""

    __slots__ = ("done", "error", "is_finished", "is_taken", "leads", "on_done", "value", "work")

    def __init__(self, work: Callable[[], _T], on_done: CALLBACK | None = None) -> None:
        self.work: Final = work
        """Called once, by the leader, under the writer's lock."""
        self.on_done: Final = on_done
        """Called when it is finished, in the leader's thread; None: a thread waits on `done`."""
        self.value: _T | None = None
        """What `work` has returned; set by the leader before it is finished."""
        self.error: BaseException | None = None
        """Why it failed, alone or with its group; set by the leader before it is finished."""
        self.is_taken = False
        """Whether a leader has it. Moved under the mutex."""
        self.is_finished = False
        """Set once, by `finish`."""
        self.leads = False
        """Whether its thread has been told to lead. Moved under the mutex."""
        self.done = threading.Lock()
        """Held until it is finished, or is to lead."""
        self.done.acquire()

    def finish(self) -> None:
        """Let its caller go on."""
        self.is_finished = True
        if self.on_done is not None:
            self.on_done(self)
        elif self.done.locked():
            self.done.release()

    def result(self) -> _T:
        """Return what the work has returned, or raise what it, or its sync, has raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # no cycle of error, traceback, frame and entry
        return cast("_T", self.value)


class GroupCommit:
    """The queue of one database, and who leads. Thread-safe."""

    def __init__(
        self,
        writer: threading.Lock,
        write: Callable[[list[Entry[Any]]], None],
        make_durable: Callable[[list[Entry[Any]]], None],
    ) -> None:
        """Both are called once for each group: `write(group)` after its work, within the same hold of the writer's lock, and
        `make_durable(group)` after that, without it.
        """
        self._writer = writer
        self._write = write
        self._make_durable = make_durable
        self._mutex = threading.Lock()
        """Guards what follows; held for moments."""
        self._queue: list[Entry[Any]] = []
        """What no leader has taken yet."""
        self._is_led = False
        """Whether a thread leads, or has been told to."""
        self._refusal: Callable[[], ClientError] | None = None
        """Set once, by `close`: why nothing is taken any more."""
        self._idle = QuietEvent()
        """Set while no thread leads. Moved under the mutex."""

    def run(self, work: Callable[[], _T], deadline: float) -> _T:
        """Run work and return its result when it is durable. `deadline` is monotonic.

        Raises:
            DeadlineExceededError: it was not its turn until then; it has not been run.
            UndeterminedError: it was run and not answered until then.
        """
        entry = Entry(work)
        with UNINTERRUPTED:
            if self._enter(entry) or self._wait(entry, deadline):
                self._lead()
            return entry.result()

    def enqueue(self, work: Callable[[], _T], on_done: CALLBACK) -> tuple[Entry[_T], bool]:
        """Queue work without waiting; return its entry, and whether the caller has to see to it that `lead` is called."""
        entry = Entry(work, on_done)
        return entry, self._enter(entry)

    def lead(self) -> None:
        """Lead, in a thread that serves callers who don't wait in threads, as `enqueue` has asked for."""
        self._lead()

    def withdraw(self, entry: Entry[Any]) -> bool:
        """Take an entry back whose caller has given up; return whether it had not begun."""
        with self._mutex:
            if entry.is_taken or entry.leads or entry not in self._queue:
                return False
            self._queue.remove(entry)
            return True

    def _enter(self, entry: Entry[Any]) -> bool:
        """Queue an entry; return whether its caller leads."""
        with self._mutex:
            if self._refusal is not None:
                raise self._refusal()
            self._queue.append(entry)
            if self._is_led:
                return False
            self._is_led = True
            self._idle.clear()
            return True

    def _wait(self, entry: Entry[Any], deadline: float) -> bool:
        """Wait for the end of an entry; return whether its caller is to lead instead."""
        try:
            is_due = interruptibly(lambda: entry.done.acquire(timeout=max(0.0, deadline - time.monotonic())))
        except BaseException:  # an interrupt: this thread is gone, and must not be named the next leader
            self.withdraw(entry)
            if entry.leads:
                self._lead()
            raise
        if not is_due:
            with self._mutex:
                if not (entry.is_taken or entry.leads):
                    self._queue.remove(entry)
                    raise DeadlineExceededError(
                        "the commit's turn did not come before its deadline; nothing was written"
                    )
            if not (entry.leads or entry.is_finished):
                raise UndeterminedError(
                    "the commit was written, but the disk did not say until the deadline that it is durable: whether it "
                    "will be there after a crash is unknown"
                )
        return entry.leads and not entry.is_finished

    # --- leading ------------------------------------------------------------------------------------------------

    def _lead(self) -> None:
        """Lead one group, then pass the lead on to the first thread that waits; without one, lead until nothing is queued."""
        first: BaseException | None = None
        is_over = False
        while not is_over:
            group = self._take()
            try:
                try:
                    self._run_group(group)
                finally:
                    # First: those who are told would run before the next leader, while the disk has nothing to do.
                    is_over = self._pass_on()
                    for entry in group:
                        entry.finish()
            except BaseException as error:  # noqa: BLE001 - raised when nothing depends on this thread any more
                first = first or error
            is_over = is_over or self._retire()
        if first is not None:
            raise first

    def _take(self) -> list[Entry[Any]]:
        """Return the next group."""
        with self._mutex:
            group, self._queue = self._queue, []
            for entry in group:
                entry.is_taken = True
            return group

    def _pass_on(self) -> bool:
        """Name the first thread that waits the next leader; return whether there is one."""
        with self._mutex:
            return self._name_leader()

    def _retire(self) -> bool:
        """Lead no more, unless only tasks are queued; return whether that is so."""
        with self._mutex:
            if self._queue:
                return self._name_leader()
            self._is_led = False
            self._idle.set()
            return True

    def _name_leader(self) -> bool:
        for entry in self._queue:
            if entry.on_done is None:
                entry.leads = True
                entry.done.release()
                return True
        return False

    def _run_group(self, group: list[Entry[Any]]) -> None:
        interrupt: BaseException | None = None
        try:
            with self._writer:
                for entry in group:
                    try:
                        entry.value = entry.work()
                    except Exception as error:  # noqa: BLE001 - its caller raises it
                        entry.error = error
                    except BaseException as error:  # noqa: BLE001 - raised below: the others of the group go on
                        entry.error, interrupt = _interrupted(error), error
                self._write(group)
            self._make_durable(group)
        except BaseException as error:
            for entry in group:
                entry.error = entry.error or _interrupted(error)
            raise
        if interrupt is not None:
            raise interrupt

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self, refusal: Callable[[], ClientError], timeout_s: float) -> bool:
        """Take nothing any more, and wait for what was taken; return whether all of it has ended."""
        with self._mutex:
            self._refusal = refusal
        return self._idle.wait(timeout_s)


def _interrupted(error: BaseException) -> UndeterminedError:
    return UndeterminedError(f"the commit was interrupted: {error!r}")
