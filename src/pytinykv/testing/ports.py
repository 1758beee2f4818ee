"""Ports for servers that come and go: each keeps its own for life, so that it comes back where its clients look for it.

They are taken from below the range that the system gives to outgoing connections. A port from that range could become one
end of any connection while its server is down; even of a client's that tries to reach this very server.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from typing import Final

from pytinykv.transport.address import Address, AddressError, check_can_bind

_RANGE_FILE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
_USUAL_START: Final = 32_768
_TRIES: Final = 200
HOST: Final = "127.0.0.1"


def free_address() -> str:
    """Return a loopback address where nothing listens now. Raises AddressError when no port is free."""
    highest = max(_LOWEST + 1, _outgoing_start())
    rng = random.Random(f"{os.getpid()} {random.random()}")
    for _ in range(_TRIES):
        address = Address(HOST, rng.randrange(_LOWEST, highest))
        try:
            check_can_bind(address)
        except AddressError:
            continue
        return str(address)
    with socket.socket() as probe:  # nearly all are taken: let the system find one
        try:
            probe.bind((HOST, 0))
        except OSError as error:
            raise AddressError(
                f"no port is free on {HOST} ({error.strerror or error}): end some of the programs that listen there"
            ) from error
        return f"{HOST}:{probe.getsockname()[1]}"


def _outgoing_start() -> int:
    try:
        return int(_RANGE_FILE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        return _USUAL_START
