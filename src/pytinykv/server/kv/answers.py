"""Answers on their way to one client, and how many bytes of them a store holds.

    dispatcher ──AnswerBatch──▶ Answers (one stream, or one unary call) ──bytes──▶ gRPC ──▶ client
                                    │ counts what gRPC has not taken yet
                                    ▼
                               AnswerBudget (one store)

Invariants:
1. Bytes are counted from when they are made until gRPC has taken them or they are thrown away.
2. A closed `Answers` holds nothing and takes nothing; reads for it see `is_closed` and stop.

Left out: a client that takes nothing while its connection lives keeps what it has, up to `STREAM_BYTES_MAX` and one answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from pytinykv.server.kv.command_stats import CommandStats
from pytinykv.server.kv.encoding import request_ids
from pytinykv.wire.encoding import member_head

if TYPE_CHECKING:
    from pytinykv.server.kv.kinds import CommandKind
    from pytinykv.wire import RpcError

STORE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of answers that a store holds; beyond it reads are refused (server_is_busy)."""
STREAM_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of answers that a client may leave unread before the requests of its stream are not read any further."""
STREAM_BATCHES_MAX: Final = 1024
"""The same, counted in batches."""
MERGED_BYTES_MAX: Final = 256 * 1024
"""Batches that wait together leave as one frame up to this size; copying more would not pay."""
LARGE_BYTES: Final = 64 * 1024
"""An answer from this size on leaves in a frame of its own, and is not copied into one with others."""


class AnswerBudget:
    """How many bytes of answers one store holds, those of unfinished ones included."""

    def __init__(self, bytes_max: int = STORE_BYTES_MAX) -> None:
        self.bytes_max: Final = bytes_max
        self.used_bytes = 0
        """Answers that were begun and that gRPC has not taken. Each stream adds its own and takes them back, also at
        its end."""
        self.refused = 0
        """How many reads were refused since the start, for lack of room or of time."""
        self.stats: Final = CommandStats()
        """What is counted of the store's commands: everything that answers has this object."""

    @property
    def is_spent(self) -> bool:
        return self.used_bytes >= self.bytes_max


class AnswerBatch:
    """Answers that leave together: those of a frame that are ready at the same time, or the one of a unary call."""

    __slots__ = ("_is_framed", "ids", "parts", "size_bytes")

    def __init__(self, *, is_framed: bool, ids: list[int] | None = None, parts: list[bytes] | None = None) -> None:
        self._is_framed = is_framed
        self.ids: list[int] = [] if ids is None else ids
        """Of the commands that are answered, in the order of the answers. Empty in a frame: `parts` has them already."""
        self.parts: list[bytes] = [] if parts is None else parts
        """Encoded, to be joined."""
        self.size_bytes = sum(map(len, self.parts))
        """Of all `parts`; moved with each that is added or merged in."""

    def add(self, request_id: int, command: CommandKind, response: bytes) -> None:
        """Add the encoded response of a command."""
        self.ids.append(request_id)
        if self._is_framed:
            head = member_head(command.tag, len(response))
            self.parts.append(head)
            self.size_bytes += len(head)
        self.parts.append(response)
        self.size_bytes += len(response)

    def add_answer(self, request_id: int, answer: bytes) -> None:
        """Add what is encoded as an answer already."""
        self.ids.append(request_id)
        self.parts.append(answer)
        self.size_bytes += len(answer)

    def takes(self, other: AnswerBatch) -> bool:
        """Return whether another batch may leave in the same frame. In whole frames no ids may follow their own."""
        return bool(self.ids and other.ids) and self.size_bytes + other.size_bytes <= MERGED_BYTES_MAX

    def extend(self, other: AnswerBatch) -> None:
        """Take the answers of another batch, which is not used any more."""
        self.ids += other.ids
        self.parts += other.parts
        self.size_bytes += other.size_bytes

    def encode(self) -> bytes:
        """Return the frame, or the response."""
        if self._is_framed and self.ids:
            self.parts.append(request_ids(self.ids))
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class Answers:
    """The answers of one stream of frames, or of one unary call, which is a frame of one command."""

    def __init__(self, budget: AnswerBudget, *, is_framed: bool = True) -> None:
        self.budget: Final = budget
        self.is_framed: Final = is_framed
        self.is_closed = False
        """Whether the client has gone, or has got all it will get."""
        self._waiting: deque[AnswerBatch] = deque()
        """Batches that gRPC has not asked for yet, oldest first."""
        self._bytes = 0
        """Waiting here and not taken by gRPC yet; counted in the budget."""
        self._open = 0
        """How many times more was expected than met."""
        self._changed = asyncio.Event()
        """Set when `frames` has something to look at."""
        self._has_room = asyncio.Event()
        """Clear while the client has left too much unread."""
        self._has_room.set()
        self._ended = False
        """Whether no more requests come."""
        self._error: RpcError | None = None
        """What the client is told at the end."""

    def batch(self) -> AnswerBatch:
        return AnswerBatch(is_framed=self.is_framed)

    def expect(self) -> None:
        """Note that something will come later; `met` says that it has come."""
        self._open += 1

    def met(self) -> None:
        """Note that what was expected has come."""
        self._open -= 1
        self._changed.set()

    def send(self, batch: AnswerBatch) -> None:
        """Take a batch for the client; an empty one is fine."""
        if not self.is_closed and batch.parts:
            self._waiting.append(batch)
            self._count(batch.size_bytes)
        self._changed.set()

    def end(self) -> None:
        """Note that no more requests will come."""
        self._ended = True
        self._changed.set()

    def fail(self, error: RpcError) -> None:
        """End with this status, after what waits."""
        self._error = self._error or error
        self._changed.set()

    def close(self) -> None:
        """Throw away what waits: the client does not take it any more. Idempotent."""
        self.is_closed = True
        self._waiting.clear()
        self._count(-self._bytes)

    @property
    def has_room(self) -> bool:
        """Whether the client has taken enough of what it was sent, so that it may be sent more."""
        return self._has_room.is_set()

    async def wait_for_room(self) -> None:
        """Wait until the client has taken enough of what it was sent."""
        if not self._has_room.is_set():
            await self._has_room.wait()

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield encoded frames as they come; those that wait together leave as one. Raises RpcError."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._waiting:
                    batch = self._take()
                    yield batch.encode()
                    self._count(-batch.size_bytes)  # only now has gRPC taken it
                if self._error is not None:
                    raise self._error
                if self._ended and not self._open:
                    return
        finally:
            self.close()

    async def response(self) -> bytes:
        """Return the one answer of a unary call. Raises RpcError.

        It counts until the task that asked has ended: that is gRPC's, which ends once it has sent the response.
        """
        is_handed_over = False
        try:
            while not self._waiting and self._error is None:
                await self._changed.wait()
                self._changed.clear()
            if self._error is not None:
                raise self._error
            if self._bytes >= LARGE_BYTES and (task := asyncio.current_task()) is not None:
                task.add_done_callback(lambda _task: self.close())
                is_handed_over = True
            return self._waiting.popleft().encode()
        finally:
            if not is_handed_over:
                self.close()

    def _take(self) -> AnswerBatch:
        waiting = self._waiting
        batch = waiting.popleft()
        while waiting and batch.takes(waiting[0]):
            batch.extend(waiting.popleft())
        return batch

    def _count(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self.budget.used_bytes += size_bytes
        if self._bytes > STREAM_BYTES_MAX or len(self._waiting) > STREAM_BATCHES_MAX:
            self._has_room.clear()
        else:
            self._has_room.set()
