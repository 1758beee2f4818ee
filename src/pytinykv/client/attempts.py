"""Attempts to run a command at a store: how one can fail, and what a call has been through so far."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from pytinykv.client.backoff import Backoff
from pytinykv.wire import StatusCode
from pytinykv.wire.errors import RegionError


class FailureKind(Enum):
    """What became of the command when its attempt ended without an answer from the region."""

    NOT_SENT = "not sent"
    """Never handed to the transport; the store is unreachable, silent, or can't take it now."""
    EXPIRED_WAITING = "expired before it was sent"
    """Its time ran out while it still waited in the client."""
    CLOSED_WAITING = "client closed before it was sent"
    REFUSED = "refused"
    """The store answered with a status that says it was not executed."""
    TOO_MUCH = "too much for one answer"
    """The store does not put so many pairs into one answer."""
    BROKEN = "connection lost after it was sent"
    EXPIRED_SENT = "no answer in time"
    CLOSED_SENT = "client closed before the answer"


_DOUBTFUL = frozenset({FailureKind.BROKEN, FailureKind.EXPIRED_SENT, FailureKind.CLOSED_SENT})


class AttemptFailure:
    """Why an attempt ended without an answer. A value, not an exception: one serves all commands of a broken stream."""

    __slots__ = ("code", "kind", "reason")

    def __init__(self, kind: FailureKind, reason: str, code: StatusCode | None = None) -> None:
        self.kind = kind
        self.reason = reason
        self.code = code

    @property
    def doubtful(self) -> bool:
        """Whether the command may have been executed."""
        return self.kind in _DOUBTFUL

    def __repr__(self) -> str:
        return f"{self.kind.value}: {self.reason}"


Failure = AttemptFailure | RegionError
"""Why an attempt failed."""
FAILURES = (AttemptFailure, RegionError)


class Attempts:
    """The attempts of one call, made when the first has failed or could not begin."""

    __slots__ = ("_backoff", "_make_backoff", "deadline", "last_failure", "maybe_executed")

    def __init__(self, deadline: float, make_backoff: Callable[[float], Backoff]) -> None:
        self.deadline = deadline
        """Loop time; no attempt begins later."""
        self._make_backoff = make_backoff
        """Makes the pauses of a call that ends at a deadline."""
        self._backoff: Backoff | None = None
        """Made when it is first asked for: nearly all calls succeed at once."""
        self.last_failure: Failure | None = None
        """What went wrong last, for the message when time is up; None before the first attempt."""
        self.maybe_executed = False
        """Whether an attempt of an idempotent write may have been executed; other writes end with the first such attempt."""

    @property
    def backoff(self) -> Backoff:
        """The pauses between the attempts."""
        if self._backoff is None:
            self._backoff = self._make_backoff(self.deadline)
        return self._backoff
