"""Looking for deadlocks among the transactions that wait for locks, wherever in the cluster they wait.

    store 1: waits ──┐   Detect, again each second, until it ends
    store 2: waits ──┼──▶ the store that leads the first region ──▶ a cycle? ──▶ the store that waits ──▶ Executor.on_deadlock
    store 3: waits ──┘

The detector is where the first region is led, as in TiKV: one place that every store finds. It keeps nothing: when it moves,
the new one has learned all waits a second later, since they are told again while they last. Until then, and while no detector
can be reached, a deadlock ends by the waiters' deadlines.

Invariants:
1. Waits are told without waiting: what can't be sent is dropped, the next repetition says it again.
2. A detector answers only where the first region is led; others refuse the stream, and are asked no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.raftstore.region_events import Deposed, Destroyed
from pytinykv.server.kv.txn_answers import wait_entry
from pytinykv.transaction.deadlock import DeadlockDetector, Wait, key_hash
from pytinykv.wire import MethodSpec, RpcError, StatusCode, service_methods
from pytinykv.wire.pb import deadlock_pb2 as pb
from pytinykv.wire.timestamp import Timestamp

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.lifecycle import Scope
    from pytinykv.raftstore import Store
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.transaction.executor import Executor
    from pytinykv.transaction.lock_waits import Waiter
    from pytinykv.wire import BidiStream, Connector

_log = logging.getLogger(__name__)

SERVICE: Final = "deadlock.Deadlock"
_DETECT: Final = f"/{SERVICE}/Detect"
_LIST: Final = f"/{SERVICE}/GetWaitForEntries"

REPEAT_S: Final = 1.0
"""How often waits are told again."""
FIND_TIMEOUT_S: Final = 1.0
"""How long the scheduler may take to say where the first region is led."""

FindFirstLeader = Callable[[float], Awaitable[str]]
"""Returns the address of the store that leads the first region, "" if none is known, within so many seconds. May raise."""


class Deadlocks:
    """One store's part: it tells its waits to the detector, and is the detector while it leads the first region.

    A `WaitObserver`, and the service that the others call. Its tasks, which end when no command waits, belong to `scope`.
    """

    def __init__(
        self,
        store: Store,
        scope: Scope,
        *,
        connector: Connector | None = None,
        find_first_leader: FindFirstLeader | None = None,
    ) -> None:
        """Without the last two, only deadlocks among the waits of this store are found, and those at any time."""
        self._store = store
        self._scope = scope
        self._connector = connector
        self._find_first_leader = find_first_leader
        self.detector: Final = DeadlockDetector()
        """Of all waits in the cluster while this store leads the first region; else it has none, or old ones."""
        self._executor: Executor | None = None
        """Hears of deadlocks. None until `attach`, before which nothing can wait."""
        self._waits: dict[Waiter, None] = {}
        """Those who wait here, in the order they began."""
        self._stream: BidiStream | None = None
        """To the detector of another store, while it is there."""
        self._address = ""
        """Of that store."""
        self._is_telling = False
        """Whether a task tells the waits; it ends when there are none."""
        self.methods: Final[Mapping[str, MethodSpec]] = service_methods(SERVICE)
        store.listen(self._on_event)

    def attach(self, executor: Executor) -> None:
        """Name the executor; called once, before any wait."""
        self._executor = executor

    # --- those who wait here ------------------------------------------------------------------------------------

    def begin_wait(self, waiter: Waiter) -> None:
        """Tell a wait, also one that is for another transaction than before."""
        self._waits[waiter] = None
        self._tell(waiter)
        if not self._is_telling:
            try:
                self._scope.start("deadlock-waits", self._tell_again)
                self._is_telling = True
            except ScopeStoppedError:
                return

    def end_wait(self, waiter: Waiter) -> None:
        """Take back what was told."""
        if waiter not in self._waits:
            return
        del self._waits[waiter]
        if self._detects_here():
            self.detector.end_transaction(waiter.start_ts)
        else:
            entry = pb.WaitForEntry(txn=waiter.start_ts)
            self._send(pb.DeadlockRequest(tp=pb.DeadlockRequestType.CleanUp, entry=entry))

    def _tell(self, waiter: Waiter) -> None:
        wait = Wait(waiter.start_ts, waiter.lock_ts, waiter.key)
        if self._detects_here():
            cycle = self.detector.detect(wait, self._store.clock.monotonic())
            if cycle:
                self._on_cycle(waiter, cycle)
        else:
            self._send(pb.DeadlockRequest(tp=pb.DeadlockRequestType.Detect, entry=wait_entry(wait)))

    def _on_cycle(self, waiter: Waiter, cycle: tuple[Wait, ...]) -> None:
        assert self._executor is not None, "attached before any wait"
        self._executor.on_deadlock(waiter, cycle)

    def _send(self, request: pb.DeadlockRequest) -> None:
        if self._stream is None:
            return
        try:
            self._stream.send_nowait(request)
        except RpcError as error:
            _log.debug("a wait was not told: %s", error)

    async def _tell_again(self) -> None:
        """Tell all waits again and again, to the detector of the moment, as long as there are any."""
        try:
            while self._waits:
                await self._look_for_detector()
                for waiter in list(self._waits):
                    if not waiter.is_over:
                        self._tell(waiter)
                await asyncio.sleep(REPEAT_S)
        finally:
            self._is_telling = False
            self._drop_stream()

    async def _look_for_detector(self) -> None:
        """See to it that there is a stream to the detector, unless that is here."""
        if self._detects_here() or self._find_first_leader is None or self._connector is None:
            self._drop_stream()
            return
        try:
            address = await self._find_first_leader(FIND_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever keeps the scheduler away: it is asked again
            _log.debug("the detector of deadlocks is not known: %s", error)
            return
        if address == self._address and self._stream is not None:
            return
        self._drop_stream()
        if address:
            stream = self._stream = self._connector.stream(address, _DETECT)
            self._address = address
            self._scope.start("deadlock-answers", self._take_answers, stream)

    async def _take_answers(self, stream: BidiStream) -> None:
        try:
            while True:
                answer: Any = await stream.receive()
                self._on_answer(answer)
        except RpcError as error:
            _log.debug("the stream to the detector of deadlocks has ended: %s", error)
        finally:
            stream.close()
            if self._stream is stream:
                self._stream = None

    def _on_answer(self, answer: pb.DeadlockResponse) -> None:
        refused = _wait(answer.entry)
        for waiter in list(self._waits):
            if (waiter.start_ts, waiter.lock_ts, waiter.key) == refused:
                self._on_cycle(waiter, (refused, *map(_wait, answer.wait_chain)))

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # --- the detector -------------------------------------------------------------------------------------------

    def _detects_here(self) -> bool:
        if self._find_first_leader is None:
            return True
        regions = self._store.table.by_start()
        first = self._store.peers.get(regions[0].id) if regions and not regions[0].start_key else None
        return first is not None and first.is_leader

    def _on_event(self, event: RegionEvent) -> None:
        """Forget the waits of others when this store does not lead the first region any more."""
        region = event.region if isinstance(event, Deposed) else None
        if isinstance(event, Destroyed):
            region = event.tombstone.region
        if region is not None and not region.start_key:
            self.detector.clear()

    async def unary(self, path: str, request: Message) -> Message:
        """List who waits here. Raises RpcError."""
        assert path == _LIST
        return pb.WaitForEntriesResponse(entries=self.entries())

    def entries(self) -> list[pb.WaitForEntry]:
        """Return who waits here, and for whom."""
        return [wait_entry(Wait(waiter.start_ts, waiter.lock_ts, waiter.key)) for waiter in self._waits]

    async def stream(self, path: str, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Take the waits of another store; answer those that close a cycle. The iterator raises RpcError."""
        assert path == _DETECT
        async for request in requests:
            assert isinstance(request, pb.DeadlockRequest)
            if not self._detects_here():
                raise RpcError(StatusCode.UNAVAILABLE, "this store does not lead the first region, and detects nothing")
            answer = self._detect(request)
            if answer is not None:
                yield answer

    def _detect(self, request: pb.DeadlockRequest) -> pb.DeadlockResponse | None:
        wait = _wait(request.entry)
        match request.tp:
            case pb.DeadlockRequestType.CleanUp:
                self.detector.end_transaction(wait.start_ts)
            case pb.DeadlockRequestType.CleanUpWaitFor:
                self.detector.end_wait(wait.start_ts, wait.lock_ts)
            case _:
                cycle = self.detector.detect(wait, self._store.clock.monotonic())
                if cycle:
                    return pb.DeadlockResponse(
                        entry=request.entry,
                        wait_chain=[wait_entry(one) for one in cycle[1:]],
                        deadlock_key=cycle[-1].key,
                        deadlock_key_hash=key_hash(cycle[-1].key),
                    )
        return None


def _wait(entry: pb.WaitForEntry) -> Wait:
    return Wait(Timestamp(entry.txn), Timestamp(entry.wait_for_txn), entry.key)
