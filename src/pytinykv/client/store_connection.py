"""One store: commands go out in shared `BatchCommands` frames, replies come back to their futures.

    submit ──► waiting (deque) ──flush, once per loop turn──► frame ──► stream ──► sent (by request id) ──reply──► future
                    │                                                                   │
                    └── time is up: EXPIRED_WAITING, no reconnect: NOT_SENT              └── EXPIRED_SENT, BROKEN

Nothing is handed over before the store has answered a probe (an `Empty` command) on the new stream. So a store that is
down, or just restarting, costs a retry elsewhere and never a write of unknown fate. A store that goes silent while
commands wait is probed again; if it stays silent, new commands are refused with NOT_SENT until it answers.

Invariants:

1. A future made by `submit` is always resolved, at its deadline at the latest: by a reply or an `AttemptFailure`, or what
   encoding the command has raised.
2. A command is in `_waiting` or in `_sent` or resolved. It moves to `_sent` only after the transport took its frame.
   Back it never goes: what a stopping store says it has not read (`wire.cut_streams`) fails with NOT_SENT.
3. One task per store (the receiver), none per command; one timer for all deadlines.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from pytinykv.client.attempts import AttemptFailure, FailureKind
from pytinykv.client.commands import Command, Effect
from pytinykv.client.config import ClientConfig
from pytinykv.client.deadlines import DeadlineTimer
from pytinykv.client.route import Route
from pytinykv.lifecycle import Scope
from pytinykv.transport.status import FINAL_CODES
from pytinykv.wire import BATCH_COMMANDS, BidiStream, Connector, RpcError, StatusCode
from pytinykv.wire.cut_streams import frames_read_of
from pytinykv.wire.encoding import member_head
from pytinykv.wire.pb import tikvpb_pb2

_log = logging.getLogger(__name__)

PROBE_ID = 0
"""The request id of probes; those of commands begin at 1."""
READS_APART_MIN = 32
WRITES_APART_MIN = 256
"""A frame takes at most half of what is under way to the store, unless it would have fewer commands than this.

If one frame had all of it, all commands would travel as one group: client, leader and followers would work one after the
other, each waiting for the others. Two groups keep both ends busy. But each frame has its price, and one of writes a high
one: it begins a round of replication, with a sync at each store. Measured in docs/adr/0006.
"""
COMPANY_WAIT_MAX_S = 0.05
"""A command that no caller waits for waits for others to go with, where others are to be expected: for as long as the store
took to answer lately, but never longer than this. A frame of writes costs client, leader and followers 2 ms of processor
time together, however little is in it."""
NOT_EXECUTED_CODES = FINAL_CODES | {StatusCode.RESOURCE_EXHAUSTED}
"""Statuses of a unary call that say it was refused before it did anything."""

Reply = Any
"""A `BatchCommandsResponse.Response`, or an `AttemptFailure`."""
_Waiting = tuple[Command[Any], Route, "asyncio.Future[Reply]", float]
_Sent = tuple["asyncio.Future[Reply]", float]


class StoreConnection:
    """The client's end of one store. All methods belong to the event loop's thread."""

    def __init__(
        self, store_id: int, address: str, *, connector: Connector, config: ClientConfig, scope: Scope
    ) -> None:
        self.store_id = store_id
        self.address = address
        self._connector = connector
        self._config = config
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        """Commands that were not sent, in the order of `submit`; some may be resolved (expired, cancelled) by now."""
        self._sent: dict[int, _Sent] = {}
        """Commands that were sent and not answered, by request id."""
        self._frames_sent = 0
        """How many frames the stream was given, probes among them."""
        self._frame_ends: deque[tuple[int, int]] = deque()
        """Of frames with unanswered commands (and a few more): which frame of the stream, and the last request id in it."""
        self._next_id = 1
        """The request id of the next command. Never used twice, also not on another stream."""
        self._stream: BidiStream | None = None
        """Set while the stream is up and has answered its first probe."""
        self._connecting: asyncio.Future[None] | None = None
        """Set while the receiver task runs and has not got that answer; resolved either way."""
        self._running = False
        """Whether the receiver task runs."""
        self._closed = False
        """Set by `close`; from then on commands fail at once."""
        self._retired = False
        """Set by `retire`; from then on commands fail at once, and the stream ends with the last answer that is due."""
        self._flush_scheduled = False
        """Whether `_flush` runs at the end of this loop turn."""
        self._late_flush: asyncio.TimerHandle | None = None
        """The timer that sends patient commands for which no company comes; set while only such wait."""
        self._timed: tuple[int, float] | None = None
        """The request whose answer is timed, and the loop time when it was sent."""
        self._answer_s = 0.0
        """How long the last one took that was timed, at most `COMPANY_WAIT_MAX_S`."""
        self._had_company = False
        """Whether the last frame had several commands: then another one, soon, is likely."""
        self._deadlines = DeadlineTimer(self._loop, self._expire)
        self._watch: asyncio.TimerHandle | None = None
        """The timer that looks for silence; set while answers are due."""
        self._owes_answers = False
        """Whether commands expired since the last response."""
        self._heard_at = 0.0
        """Loop time of the last response, or of the moment since which one is due."""

    def __repr__(self) -> str:
        return f"store {self.store_id} at {self.address}"

    @property
    def in_flight(self) -> int:
        """Commands not answered yet, sent or waiting."""
        return len(self._sent) + len(self._waiting)

    # --- the way out --------------------------------------------------------------------------------------------

    def submit(self, command: Command[Any], route: Route, deadline: float) -> asyncio.Future[Reply]:
        """Queue a command; the future gets the reply or an `AttemptFailure`, until `deadline` (loop time)."""
        command.route = route
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._closed:
            future.set_result(AttemptFailure(FailureKind.CLOSED_WAITING, "the client is closed"))
            return future
        if self._retired:
            future.set_result(self._not_here())
            return future
        if self._stream is not None and self.silent:
            future.set_result(AttemptFailure(FailureKind.NOT_SENT, f"{self!r} has gone silent"))
            return future
        is_first = not self._waiting
        self._waiting.append((command, route, future, deadline))
        if command.is_patient and (self._had_company or self._sent):
            if is_first and not self._flush_scheduled:  # what waits already goes as soon as it can
                self._late_flush = self._loop.call_later(self._answer_s, self._flush)
        elif not self._flush_scheduled:
            self._flush_soon()
        if deadline < self._deadlines.moves_below:
            self._deadlines.watch(deadline)
        return future

    async def call(self, command: Command[Any], route: Route, deadline: float) -> Reply:
        """Run a command that `BatchCommands` does not have as a call of its own; return as `submit`'s future does.

        Waits for the stream to be up first, so that a refused connection is told apart from a lost answer.
        """
        assert command.unary_path is not None
        command.route = route
        failure = await self._wait_up(deadline)
        if failure is not None:
            return failure
        left_s = deadline - self._loop.time()
        if left_s <= 0:
            return AttemptFailure(FailureKind.EXPIRED_WAITING, "no time was left to send it")
        try:
            return await self._connector.unary(
                self.address, command.unary_path, command.request(route), timeout_s=left_s
            )
        except RpcError as error:
            if self._closed:
                return AttemptFailure(FailureKind.CLOSED_SENT, "the client was closed")
            if error.code in NOT_EXECUTED_CODES:
                return AttemptFailure(FailureKind.REFUSED, f"{self!r}: {error}", error.code)
            kind = FailureKind.EXPIRED_SENT if error.code is StatusCode.DEADLINE_EXCEEDED else FailureKind.BROKEN
            return AttemptFailure(kind, f"{self!r}: {error}", error.code)

    async def _wait_up(self, deadline: float) -> AttemptFailure | None:
        if self._closed:
            return AttemptFailure(FailureKind.CLOSED_WAITING, "the client is closed")
        if self._retired:
            return self._not_here()
        if self._stream is not None:
            return AttemptFailure(FailureKind.NOT_SENT, f"{self!r} has gone silent") if self.silent else None
        self._ensure_running()
        if self._connecting is not None:
            await asyncio.wait((self._connecting,), timeout=max(0.0, deadline - self._loop.time()))
        up = self._stream is not None
        return None if up else AttemptFailure(FailureKind.NOT_SENT, f"no connection to {self!r}")

    def _not_here(self) -> AttemptFailure:
        return AttemptFailure(FailureKind.NOT_SENT, f"store {self.store_id} is not at {self.address} any more")

    def _flush_soon(self) -> None:
        self._flush_scheduled = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._late_flush is not None:
            self._late_flush.cancel()
            self._late_flush = None
        if self._stream is None:
            if self._waiting:
                self._ensure_running()
            return
        while self._waiting and len(self._sent) < self._config.in_flight_max:
            # While the transport is busy, what comes in gathers into one frame: otherwise every answer frame of a few
            # commands makes a request frame of a few, without end, and the cost per frame becomes the cost per command.
            if not self._stream.is_drained(self._flush):
                break
            if not self._send_frame(self._stream):
                return
        if self._watch is None and self._sent:
            self._start_watch()
        self._end_if_retired()

    def _send_frame(self, stream: BidiStream) -> bool:
        """Hand over one frame of what waits; False if the transport did not take it (then it all still waits)."""
        parts: list[bytes] = []
        taken: list[_Waiting] = []
        room = self._frame_room()
        bytes_left = self._config.frame_bytes_max
        waiting = self._waiting
        while waiting and len(taken) < room and bytes_left > 0:
            entry = waiting.popleft()
            command, route, future, _ = entry
            if future.done():
                continue  # cancelled, or expired, before it went out
            try:
                request = command.encode(route)
            except Exception as error:  # noqa: BLE001 - its caller raises it; the others go out
                future.set_exception(error)
                continue
            parts += (member_head(command.tag, len(request)), request)
            bytes_left -= len(request)
            taken.append(entry)
        if not taken:
            return True
        first_id = self._next_id
        ids = tikvpb_pb2.BatchCommandsRequest(request_ids=range(first_id, first_id + len(taken)))
        parts.append(ids.SerializeToString())
        try:
            stream.send_nowait(b"".join(parts))
        except RpcError as error:
            waiting.extendleft(reversed(taken))
            if error.code is StatusCode.RESOURCE_EXHAUSTED and self._sent:
                return False  # the next replies make room
            self._drop_stream(error.message)
            return False
        self._next_id = first_id + len(taken)
        self._had_company = len(taken) > 1
        if self._timed is None:
            self._timed = first_id, self._loop.time()
        sent = self._sent
        self._note_frame(self._next_id - 1)
        for request_id, (_, _, future, deadline) in enumerate(taken, first_id):
            sent[request_id] = (future, deadline)
        return True

    def _note_frame(self, last_id: int) -> None:
        """Remember which commands the frame had that was just sent, and forget those that are answered."""
        self._frames_sent += 1
        oldest = next(iter(self._sent), last_id)
        ends = self._frame_ends
        while ends and ends[0][1] < oldest:
            ends.popleft()
        ends.append((self._frames_sent, last_id))

    def _frame_room(self) -> int:
        """Return how many commands the next frame may have; something is waiting."""
        sent, waiting = len(self._sent), self._waiting
        apart_min = READS_APART_MIN if waiting[0][0].effect is Effect.READ else WRITES_APART_MIN
        half = (sent + len(waiting) + 1) // 2
        return min(max(half, apart_min), self._config.frame_commands_max, self._config.in_flight_max - sent)

    # --- the way back -------------------------------------------------------------------------------------------

    def _ensure_running(self) -> None:
        if self._running or self._closed:
            return
        if self._scope.stopping:
            self._fail_waiting(AttemptFailure(FailureKind.CLOSED_WAITING, "the client is closing"))
            return
        self._running = True
        self._connecting = self._loop.create_future()
        self._scope.start(f"store-{self.store_id}:stream", self._run)

    async def _run(self) -> None:
        stream = self._connector.stream(self.address, BATCH_COMMANDS)
        reason, code = "its receiver ended", None
        frames_read: int | None = None
        self._frames_sent = 0
        self._frame_ends.clear()
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._probe_first(stream)
            self._come_up(stream)
            while True:
                self._on_frame(await stream.receive())
        except RpcError as error:
            reason, code = str(error), error.code
            frames_read = frames_read_of(error)
        except TimeoutError:
            reason = f"no answer to the first probe within {self._config.connect_timeout_s} s"
        finally:
            stream.close()
            self._running = False
            self._stream = None
            self._end_connecting()
            if not self._closed:
                self._on_down(f"{self!r}: {reason}", code, frames_read)

    async def _probe_first(self, stream: BidiStream) -> None:
        self._probe(stream)
        while True:
            frame = await stream.receive()
            assert isinstance(frame, tikvpb_pb2.BatchCommandsResponse)
            if PROBE_ID in frame.request_ids:
                return

    def _probe(self, stream: BidiStream) -> None:
        """Send a command that asks for nothing but a response. Raises RpcError: the transport does not take it."""
        stream.send_nowait(_probe())
        self._frames_sent += 1

    def _come_up(self, stream: BidiStream) -> None:
        _log.debug("%r answers", self)
        self._stream = stream
        self._heard_at = self._loop.time()
        self._owes_answers = False
        self._end_connecting()
        self._flush()

    def _end_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.set_result(None)
            self._connecting = None

    def _on_frame(self, frame: Any) -> None:
        ids, responses = frame.request_ids, frame.responses
        if len(ids) != len(responses):
            raise RpcError(StatusCode.INTERNAL, f"a frame with {len(ids)} ids for {len(responses)} responses")
        self._heard_at = self._loop.time()
        self._owes_answers = False
        pop = self._sent.pop
        for request_id, response in zip(ids, responses, strict=True):
            sent = pop(request_id, None)
            if sent is not None and not sent[0].done():
                sent[0].set_result(response)
        if self._timed is not None and self._timed[0] not in self._sent:
            self._answer_s = min(self._heard_at - self._timed[1], COMPANY_WAIT_MAX_S)
            self._timed = None
        if self._waiting and not self._flush_scheduled and self._late_flush is None:
            self._flush()
        self._end_if_retired()

    def _on_down(self, reason: str, code: StatusCode | None, frames_read: int | None) -> None:
        if self._sent or self._waiting:
            _log.info("%s; %d commands sent, %d waiting", reason, len(self._sent), len(self._waiting))
        if frames_read is not None:
            self._fail_unread(frames_read, AttemptFailure(FailureKind.NOT_SENT, reason, code))
        self._fail_sent(AttemptFailure(FailureKind.BROKEN, reason, code))
        kind = FailureKind.REFUSED if code is StatusCode.UNIMPLEMENTED else FailureKind.NOT_SENT
        self._fail_waiting(AttemptFailure(kind, reason, code))

    def _fail_unread(self, frames_read: int, failure: AttemptFailure) -> None:
        """Resolve the commands of frames that the store has not looked at."""
        last_read_id = max((last for number, last in self._frame_ends if number <= frames_read), default=None)
        if last_read_id is None:
            if not self._frame_ends:
                return
            last_read_id = next(iter(self._sent), self._next_id) - 1  # the oldest frame that is remembered is unread
        for request_id in [request_id for request_id in self._sent if request_id > last_read_id]:
            future, _ = self._sent.pop(request_id)
            if not future.done():
                future.set_result(failure)

    def _fail_sent(self, failure: AttemptFailure) -> None:
        sent, self._sent = self._sent, {}
        for future, _ in sent.values():
            if not future.done():
                future.set_result(failure)

    def _fail_waiting(self, failure: AttemptFailure) -> None:
        waiting, self._waiting = self._waiting, deque()
        for _, _, future, _ in waiting:
            if not future.done():
                future.set_result(failure)

    def _drop_stream(self, reason: str) -> None:
        """Give the stream up; the receiver task cleans up after it."""
        _log.debug("%r: dropping the stream: %s", self, reason)
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    # --- deadlines and silence ----------------------------------------------------------------------------------

    def _expire(self, due: float) -> float | None:
        """Fail the commands whose time is up; return the earliest deadline of the others."""
        for request_id in [request_id for request_id, (_, deadline) in self._sent.items() if deadline <= due]:
            future, _ = self._sent.pop(request_id)
            self._owes_answers = True
            if not future.done():
                future.set_result(AttemptFailure(FailureKind.EXPIRED_SENT, f"{self!r} has not answered in time"))
        for _, _, future, deadline in self._waiting:
            if deadline <= due and not future.done():
                future.set_result(
                    AttemptFailure(FailureKind.EXPIRED_WAITING, f"it could not be sent to {self!r} in time")
                )
        self._end_if_retired()
        deadlines = [deadline for _, deadline in self._sent.values()]
        deadlines += [deadline for _, _, future, deadline in self._waiting if not future.done()]
        return min(deadlines, default=None)

    @property
    def silent(self) -> bool:
        """Whether commands wait for an answer and the store has sent nothing for `stall_timeout_s`."""
        owes = self._owes_answers or bool(self._sent)
        return owes and self._loop.time() - self._heard_at > self._config.stall_timeout_s

    def _start_watch(self) -> None:
        self._heard_at = self._loop.time()
        self._watch = self._loop.call_later(self._config.stall_timeout_s / 3, self._check_silence)

    def _check_silence(self) -> None:
        """Probe a store that owes answers; a healthy one answers the probe even while the commands themselves wait."""
        self._watch = None
        if self._stream is None or not (self._sent or self._owes_answers):
            return
        silent_s = self._loop.time() - self._heard_at
        if silent_s > 2 * self._config.stall_timeout_s + self._config.timeout_s:
            self._drop_stream(f"silent for {silent_s:.1f} s")
            return
        if silent_s > self._config.stall_timeout_s / 3:
            try:
                self._probe(self._stream)
            except RpcError as error:
                _log.debug("%r takes no probe: %s", self, error)
        self._watch = self._loop.call_later(self._config.stall_timeout_s / 3, self._check_silence)

    # --- the end ------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no command any more: the store is not here, or has left the cluster. Safe in any state, and twice.

        What was submitted is still sent and answered, or expires; then the stream ends.
        """
        self._retired = True
        self._end_if_retired()

    @property
    def is_idle(self) -> bool:
        """Whether no command waits for its answer, nor to be sent."""
        return not self._sent and all(future.done() for _, _, future, _ in self._waiting)

    def _end_if_retired(self) -> None:
        if self._retired and self.is_idle:
            self._drop_stream("retired")

    def close(self) -> None:
        """Resolve everything at once as cut off by the client's end. Safe in any state, and twice."""
        if self._closed:
            return
        self._closed = True
        self._deadlines.stop()
        for timer in (self._watch, self._late_flush):
            if timer is not None:
                timer.cancel()
        self._fail_sent(AttemptFailure(FailureKind.CLOSED_SENT, "the client was closed"))
        self._fail_waiting(AttemptFailure(FailureKind.CLOSED_WAITING, "the client was closed"))
        self._drop_stream("closed")


def _probe() -> tikvpb_pb2.BatchCommandsRequest:
    frame = tikvpb_pb2.BatchCommandsRequest(request_ids=[PROBE_ID])
    frame.requests.add().Empty.test_id = 1
    return frame
