"""The status of a remote call, apart from the transport that carries it.

Services raise `RpcError`, connectors raise `RpcError`, and only the module that binds a service to gRPC knows gRPC's
own exceptions. So the same service runs behind a socket and inside the simulator, and a client sees the same failure
in both.
"""

from __future__ import annotations

from typing import Final

from pytinykv.transport.status_code import StatusCode

__all__ = ["RpcError", "StatusCode"]


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

    `code` is never OK. `message` goes to the other side's user as it is: it says what happened and what to do.
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
