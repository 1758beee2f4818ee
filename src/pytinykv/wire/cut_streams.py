"""How a store that stops tells what it has read of a stream of frames.

    client   frame 1 ── frame 2 ── frame 3 ─►          commands of frame 3 were not executed: try them elsewhere
    store    reads 1, 2; stops; answers all of 1 and 2; ends with UNAVAILABLE, "…; 2 frames of the stream were read"

A client that is busy has always sent something that a stopping store does not read any more. Without that number it could not
tell those commands from others that were executed and whose answers got lost. It travels in the message of the status,
which clients of TiKV show and don't read.
"""

from __future__ import annotations

import re
from typing import Final

from pytinykv.transport import RpcError, StatusCode

_READ: Final = re.compile(r"; (\d+) frames of the stream were read$")


def stream_cut(message: str, frames_read: int) -> RpcError:
    """Return the status of a stream that a server ends; frames after the first `frames_read` were not looked at at all."""
    return RpcError(StatusCode.UNAVAILABLE, f"{message}; {frames_read} frames of the stream were read")


def frames_read_of(error: RpcError) -> int | None:
    """Return how many frames the server has looked at, None if the status does not tell: perhaps all of them."""
    found = _READ.search(error.message) if error.code is StatusCode.UNAVAILABLE else None
    return None if found is None else int(found[1])
