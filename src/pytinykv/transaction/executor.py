"""One way to run a command that changes something: latch → evaluate → replicate → let go.

    submit ─▶ latches on its keys ─▶ evaluate on the engine as it is ─▶ changes ─▶ log ─▶ applied ─▶ answer
                   ▲                    │                                                      │
                   │                    ├─▶ none: is it still the newest state? ─▶ answer      ├─▶ locks that are gone
                   │                    └─▶ locked by another ─▶ queued ──┐                    ▼
                   └───────────────── woken, or its time is over ─────────┴─────────── the next waiter

No snapshot is needed: evaluation is one step of the only thread that writes, and the latches keep others from the keys until
the changes are applied. The region comes in by a small port, so that a store with its log and an engine of one's own are
served alike.

Invariants:
1. A command is answered exactly once.
2. What is evaluated sees every change to its keys that was ever acknowledged: those of this store are applied before their
   latches are given back, and `RegionPort.is_current` says that those of earlier leaders are.
3. An answer that rests on what was there (no changes) is given only once it is sure that no other leader had
   written meanwhile.
4. Who waits for a lock holds no latch.

Left out: reads, which take no latch; and a timer: the owner calls `on_time` when `next_due` has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from pytinykv.transaction.commands import (
    PessimisticLock,
    PessimisticRollback,
    Prewrite,
    ResolveLock,
    WriteCommand,
    latch_keys,
)
from pytinykv.transaction.deadlock import Wait, key_hash
from pytinykv.transaction.errors import Deadlock, KeyIsLocked
from pytinykv.transaction.evaluate import evaluate, evaluate_in
from pytinykv.transaction.latches import Latch, Latches
from pytinykv.transaction.lock_waits import LockWaits, WaitEnd, Waiter
from pytinykv.transaction.pessimistic import after_waiting
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.records import NO_TS
from pytinykv.transaction.resolve import next_portion
from pytinykv.transaction.results import DONE, Evaluation, Failure, Result

if TYPE_CHECKING:
    from pytinykv.storage import Reader
    from pytinykv.storage.changes import Change
    from pytinykv.transaction.concurrency import ConcurrencyManager

WAIT_MS_DEFAULT: Final = 1000
"""How long a pessimistic lock is waited for if the client leaves it to us; below the 2 s after which some give up."""

OnAnswer = Callable[["Exception | None", "Result | None"], None]
"""Gets why the region could not run the command, or what came of it."""
OnSettled = Callable[["Exception | None"], None]


class RegionPort(Protocol):
    """A region as the caller of a command found it: its range, its leader's term."""

    @property
    def region_id(self) -> int: ...

    @property
    def reader(self) -> Reader:
        """The engine as it is now."""
        ...

    @property
    def may_compute_commit_ts(self) -> bool:
        """Whether the largest timestamp of all reads here is known: what async and one-phase commit rest on."""
        ...

    def refusal(self) -> Exception | None:
        """Return why nothing may be evaluated here any more: the region is led elsewhere, or has another range."""
        ...

    def is_current(self) -> bool:
        """Return whether the engine shows all that former leaders of the region have acknowledged."""
        ...

    def wait_until_current(self, on_ready: OnSettled) -> None:
        """Call `on_ready(error)` once, when `is_current` holds or can't come to hold."""
        ...

    def confirm(self, on_confirmed: OnSettled) -> None:
        """Call `on_confirmed(error)` once, now or later: with None if the engine's present state is the newest there is."""
        ...

    def propose(self, changes: list[Change], on_applied: OnSettled) -> None:
        """Replicate changes; `on_applied(error)` is called once.

        They are refused unless the region is what it was when the port was made. A command that failed for any other reason
        than `is_undetermined` has changed nothing.
        """
        ...

    def is_undetermined(self, error: Exception) -> bool:
        """Return whether changes may have been applied, or may be yet, although `propose` told this error."""
        ...


class WaitObserver(Protocol):
    """Is told of waits, to look for deadlocks; tells `Executor.on_deadlock` of one, at once or later."""

    def begin_wait(self, waiter: Waiter) -> None:
        """Take note of a wait. One that goes on for another transaction is ended and begun anew."""
        ...

    def end_wait(self, waiter: Waiter) -> None: ...


class _Execution:
    """A command on its way."""

    __slots__ = (
        "began_at",
        "command",
        "deadline",
        "evaluation",
        "is_taken_back",
        "latch",
        "on_answer",
        "port",
        "tried_key",
    )

    def __init__(self, port: RegionPort, command: WriteCommand, on_answer: OnAnswer, began_at: float) -> None:
        self.port: Final = port
        self.command: Final = command
        self.on_answer: Final = on_answer
        self.began_at: Final = began_at
        """Monotonic."""
        self.latch: Latch | None = None
        """Held or waited for; None while it waits for a lock, and in the end."""
        self.evaluation: Evaluation | None = None
        """What the last evaluation gave."""
        self.deadline: float | None = None
        """Until when it may wait for locks, monotonic; set when it waits first."""
        self.tried_key: bytes | None = None
        """The key for whose lock it was woken last: those behind it depend on what comes of that."""
        self.is_taken_back = False
        """Whether its transaction has taken the lock request back between its last wait and its next evaluation."""


class Executor:
    """Runs the writing commands of one store, or of one local engine. Belongs to one thread."""

    def __init__(
        self,
        *,
        concurrency: ConcurrencyManager,
        observer: WaitObserver,
        monotonic: Callable[[], float],
        wait_ms_default: int = WAIT_MS_DEFAULT,
    ) -> None:
        self.concurrency: Final = concurrency
        self.latches: Final = Latches()
        self.waits: Final = LockWaits()
        self.safe_point = NO_TS
        """Up to which garbage may have been collected; moved by the owner, only up."""
        self._observer = observer
        self._monotonic = monotonic
        self._wait_ms_default = wait_ms_default
        self._ready: deque[_Execution] = deque()
        """Commands that hold their latches and are to be evaluated."""
        self._is_running = False
        """Whether `_run` is under way further up the stack: it takes what is added."""
        self._unsettled: dict[int, list[tuple[bytes, ...]]] = {}
        """By region, locks in memory of commands whose fate is not known: kept while this store may serve its reads."""
        self._waiting: dict[Waiter, _Execution] = {}
        """Commands that wait for locks."""
        self._woken: set[_Execution] = set()
        """Commands that have waited for a lock, and wait for latches until they may look again."""
        self._is_together = False
        """Whether commands share a reader: within a block of `together`."""
        self._reader: MvccReader | None = None
        """What they share; made for the first of them, None outside of such a block."""

    # --- commands -----------------------------------------------------------------------------------------------

    def submit(self, port: RegionPort, command: WriteCommand, on_answer: OnAnswer) -> None:
        """Run a command; `on_answer` is called once, now or later."""
        if isinstance(command, ResolveLock) and command.keys is None:
            _RangeResolution(self, port, command, on_answer).go_on()
            return
        self._latch(_Execution(port, command, on_answer, self._monotonic()))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the commands that are submitted within the block, all for one engine, share a reader, which is cheaper.

        Nothing may be written to the engine within it: the ports only take note of what is proposed.
        """
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()

    def _evaluate_now(self, port: RegionPort, command: WriteCommand) -> Evaluation:
        if not self._is_together:
            return evaluate(port.reader, command, self.concurrency, safe_point=self.safe_point)
        if self._reader is None:
            self._reader = MvccReader(port.reader, safe_point=self.safe_point)
        return evaluate_in(self._reader, command, self.concurrency)

    def _latch(self, execution: _Execution) -> None:
        execution.latch = latch = self.latches.acquire(latch_keys(execution.command), lambda: self._add(execution))
        if latch.is_held:
            self._add(execution)

    def _add(self, execution: _Execution) -> None:
        self._ready.append(execution)
        if self._is_running:
            return
        self._is_running = True
        try:
            while self._ready:
                self._evaluate(self._ready.popleft())
        finally:
            self._is_running = False

    def _evaluate(self, execution: _Execution) -> None:
        self._woken.discard(execution)
        port = execution.port
        refusal = self._lost(WaitEnd.TAKEN_BACK) if execution.is_taken_back else port.refusal()
        if refusal is not None:
            self._finish(execution, refusal)
        elif not port.is_current():
            port.wait_until_current(
                lambda error: self._add(execution) if error is None else self._finish(execution, error)
            )
        else:
            if isinstance(execution.command, PessimisticRollback):
                self._end_waits_of(execution.command)
            try:
                evaluation = self._evaluate_now(port, self._command_now(execution))
            except Exception as error:  # noqa: BLE001 - a defect, or a disk: the latches must come free, the caller tells
                self._finish(execution, error)
                return
            execution.evaluation = evaluation
            if self._waits(execution, evaluation):
                return
            if evaluation.changes:
                port.propose(evaluation.changes, lambda error: self._finish(execution, error))
            else:
                port.confirm(lambda error: self._finish(execution, error))

    def _command_now(self, execution: _Execution) -> WriteCommand:
        command = execution.command
        if isinstance(command, Prewrite) and not execution.port.may_compute_commit_ts:
            return command.as_two_phase()
        if isinstance(command, PessimisticLock) and execution.deadline is not None:
            return after_waiting(command, int((self._monotonic() - execution.began_at) * 1000))
        return command

    def _finish(self, execution: _Execution, error: Exception | None) -> None:
        """Let go of everything, let those go on who waited for it, and answer."""
        evaluation = execution.evaluation
        result = None
        if evaluation is not None:
            if error is None:
                result = evaluation.result
                self.waits.on_released([one.key for one in evaluation.released])
                for new in evaluation.new_locks:
                    for waiter in self.waits.on_locked(new.key, new.lock.start_ts):
                        self._observer.end_wait(waiter)
                        self._observer.begin_wait(waiter)
            self._unlock_memory(execution.port, evaluation.memory_locks, error)
        self._pass_on(execution, locked=error is None and evaluation is not None)
        latch, execution.latch = execution.latch, None
        if latch is not None:
            self.latches.release(latch)
        execution.on_answer(error, result)

    def _unlock_memory(self, port: RegionPort, keys: tuple[bytes, ...], error: Exception | None) -> None:
        if keys and error is not None and port.is_undetermined(error):
            self._unsettled.setdefault(port.region_id, []).append(keys)
        elif keys:
            self.concurrency.unlock(keys)

    def _pass_on(self, execution: _Execution, *, locked: bool) -> None:
        """Give the next waiter its chance, if this command was woken for a lock and did not take it."""
        key, execution.tried_key = execution.tried_key, None
        if key is None:
            return
        evaluation = execution.evaluation
        if not (locked and evaluation is not None and any(new.key == key for new in evaluation.new_locks)):
            self.waits.on_tried(key, self._monotonic())

    # --- waiting for locks --------------------------------------------------------------------------------------

    def _waits(self, execution: _Execution, evaluation: Evaluation) -> bool:
        """Queue a command if it met a lock that it may wait for; return whether it did."""
        command = execution.command
        if not isinstance(command, PessimisticLock) or not isinstance(evaluation.result, Failure):
            return False
        met = evaluation.result.errors[0]
        if not isinstance(met, KeyIsLocked) or command.wait_timeout_ms < 0:
            return False
        now = self._monotonic()
        if execution.deadline is None:
            execution.deadline = now + (command.wait_timeout_ms or self._wait_ms_default) / 1000
        if now >= execution.deadline:
            return False
        if execution.tried_key not in {None, met.key}:
            self._pass_on(execution, locked=False)
        execution.tried_key = None
        waiter = Waiter(
            key=met.key,
            start_ts=command.start_ts,
            lock_ts=met.lock.start_ts,
            region_id=execution.port.region_id,
            deadline=execution.deadline,
            on_end=lambda why: self._on_wait_end(waiter, why),
        )
        self._waiting[waiter] = execution
        self.waits.add(waiter)
        latch, execution.latch = execution.latch, None
        assert latch is not None, "it was evaluated"
        self.latches.release(latch)
        if not command.is_first_lock and not waiter.is_over:
            self._observer.begin_wait(waiter)
        return True

    def _on_wait_end(self, waiter: Waiter, why: WaitEnd) -> None:
        execution = self._waiting.pop(waiter, None)
        if execution is None:
            return
        self._observer.end_wait(waiter)
        if why is WaitEnd.WOKEN or why is WaitEnd.TIMED_OUT:
            execution.tried_key = waiter.key  # too late to wait on, but not to look once more
            self._woken.add(execution)
            self._latch(execution)
        else:
            self._finish(execution, execution.port.refusal() or self._lost(why))

    def _end_waits_of(self, command: PessimisticRollback) -> None:
        """End the waits for locks that a transaction takes back: it would get them later, and never give them back."""
        for waiter in [waiter for key in command.keys for waiter in self.waits.of_key(key)]:
            execution = self._waiting.get(waiter)
            if execution is not None and _takes_back(command, execution.command):
                self.waits.end(waiter, WaitEnd.TAKEN_BACK)
        for execution in self._woken:
            # All of them came before this command: of one that came later, the latches would have kept it from waiting.
            if execution.tried_key in command.keys and _takes_back(command, execution.command):
                execution.is_taken_back = True

    def _lost(self, why: WaitEnd) -> Exception:
        return WaitLostError(_LOST_BY[why])

    def on_deadlock(self, waiter: Waiter, cycle: tuple[Wait, ...]) -> None:
        """End a wait that closes a cycle, with an error that names it. Late ones are ignored."""
        execution = self._waiting.get(waiter)
        if execution is None or waiter.lock_ts != cycle[0].lock_ts:
            return
        del self._waiting[waiter]
        self._observer.end_wait(waiter)
        self.waits.end(waiter, WaitEnd.DEADLOCK)
        execution.evaluation = Evaluation(result=Failure((_cycle_error(cycle),)))
        self._finish(execution, None)

    def end_wait(self, on_answer: OnAnswer) -> None:
        """End the wait of the command with this `on_answer`, whose caller has given up: it is told a `WaitLostError`.

        Does nothing for a command that does not wait.
        """
        for waiter, execution in list(self._waiting.items()):
            if execution.on_answer is on_answer:
                self.waits.end(waiter, WaitEnd.STOPPING)

    # --- what its owner tells -----------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return the monotonic time at which `on_time` is to be called, None while there is nothing to do then."""
        return self.waits.next_due()

    def on_time(self, now: float) -> None:
        """Do what time brings."""
        self.waits.on_time(now)

    def on_region_lost(self, region_id: int) -> None:
        """End what waits in a region that this store does not lead any more, or leads anew."""
        for keys in self._unsettled.pop(region_id, ()):
            self.concurrency.unlock(keys)
        self.on_range_changed(region_id)

    def on_range_changed(self, region_id: int) -> None:
        """End what waits in a region that has another range."""
        self.waits.fail_region(region_id)

    def stop(self) -> None:
        """End every wait for a lock. What is in the log is answered by the log."""
        self.waits.fail_all()


_LOST_BY: Final = {
    WaitEnd.STOPPING: "the store is stopping",
    WaitEnd.REGION_LOST: "the region changed while a lock was waited for",
    WaitEnd.TAKEN_BACK: "the transaction has taken its lock requests back",
}


def _takes_back(command: PessimisticRollback, asked: WriteCommand) -> bool:
    assert isinstance(asked, PessimisticLock), "nothing else waits"
    return asked.start_ts == command.start_ts and asked.for_update_ts <= command.for_update_ts


def _cycle_error(cycle: tuple[Wait, ...]) -> Deadlock:
    """Return what the transaction is told whose wait closes this cycle, as `DeadlockDetector.detect` returned it."""
    refused, last = cycle[0], cycle[-1]
    return Deadlock(
        key=refused.key,
        start_ts=refused.start_ts,
        lock_ts=refused.lock_ts,
        deadlock_key=last.key,
        deadlock_key_hash=key_hash(last.key),
        wait_chain=(*cycle[1:], refused),
    )


class WaitLostError(Exception):
    """A lock is not waited for any more; the command has changed nothing."""


class _RangeResolution:
    """A `ResolveLock` without keys: portions of the range, one after the other, each under its own latches."""

    def __init__(self, executor: Executor, port: RegionPort, command: ResolveLock, on_answer: OnAnswer) -> None:
        self._executor = executor
        self._port = port
        self._on_answer = on_answer
        self._rest: ResolveLock | None = command
        """The range that is left; None: nothing."""

    def go_on(self) -> None:
        error = self._port.refusal()
        if error is not None:
            self._on_answer(error, None)
        elif not self._port.is_current():
            self._port.wait_until_current(lambda late: self.go_on() if late is None else self._on_answer(late, None))
        else:
            self._take_portion()

    def _take_portion(self) -> None:
        if self._rest is None:
            self._port.confirm(lambda error: self._on_answer(error, None if error else DONE))
            return
        portion = next_portion(self._port.reader, self._rest)
        self._rest = portion.rest
        self._executor.submit(self._port, portion.command, self._on_portion)

    def _on_portion(self, error: Exception | None, result: Result | None) -> None:
        if error is not None or isinstance(result, Failure):
            self._on_answer(error, result)
        else:
            self.go_on()
