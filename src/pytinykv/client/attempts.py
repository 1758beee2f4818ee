"""How one attempt to run a command at a store can fail without an answer from the store's region."""

from __future__ import annotations

from enum import Enum

from pytinykv.wire import StatusCode


class FailureKind(Enum):
    """What became of the command. Only the kinds after `NOT_SENT` leave a doubt about whether it was executed."""

    NOT_SENT = "not sent"
    """Never handed to the transport; the store is unreachable, silent, or can't take it now."""
    EXPIRED_WAITING = "expired before it was sent"
    """Its time ran out while it still waited in the client."""
    CLOSED_WAITING = "client closed before it was sent"
    REFUSED = "refused"
    """The store answered with a status that says it was not executed."""
    BROKEN = "connection lost after it was sent"
    EXPIRED_SENT = "no answer in time"
    CLOSED_SENT = "client closed before the answer"


_DOUBTFUL = frozenset({FailureKind.BROKEN, FailureKind.EXPIRED_SENT, FailureKind.CLOSED_SENT})


class AttemptFailure:
    """Why an attempt ended without a reply. A value, not an exception: one serves all commands of a broken stream."""

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
