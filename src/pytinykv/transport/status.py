"""The status of a remote call, apart from what carries it: importing this loads nothing of gRPC.

Services raise `RpcError`, and so do gRPC's channels and servers here, and the simulator's. So the same service runs behind a
socket and on a virtual network, and a client sees the same failure in both.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class StatusCode(IntEnum):
    """gRPC's status codes under gRPC's numbers (they travel in the `grpc-status` trailer)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


FINAL_CODES: Final = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.UNIMPLEMENTED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.PERMISSION_DENIED,
    }
)
"""Codes that another try, here or at another server, can't change. Every other code means: find out who serves now."""


class RpcError(Exception):
    """A call that ended with a status other than OK; the server's answer, or what the transport says in its place.

    `code` is never OK. `message` goes to the user of the other side as it is: it says what happened and what to do.
    """

    def __init__(self, code: StatusCode, message: str) -> None:
        assert code is not StatusCode.OK, "OK is not an error"
        super().__init__(code, message)
        self.code: Final = code
        self.message: Final = message

    @property
    def final(self) -> bool:
        """Say whether a repetition of the call is pointless (see `FINAL_CODES`)."""
        return self.code in FINAL_CODES

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class StreamEndedError(RpcError):
    """The peer has ended a stream in good order: no more messages come. To a caller that expects one, it is UNAVAILABLE."""

    def __init__(self, message: str) -> None:
        super().__init__(StatusCode.UNAVAILABLE, message)

    def __reduce__(self) -> tuple[type[StreamEndedError], tuple[str]]:
        """Pickle by what the constructor takes."""
        return type(self), (self.message,)
