"""Addresses: taken apart, kept on loopback, and explained when they cannot be listened on.

gRPC reports every failure to bind with one sentence. An address is therefore tried with a plain socket first, which knows
the reason; gRPC's own attempt follows at once, without SO_REUSEPORT, so that a race is still refused, only less clearly.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Final, NamedTuple

from pytinykv.lifecycle import LifecycleError

_REASONS: Final = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another port (port 0 picks a free one)",
    errno.EACCES: "this user may not listen on that port; choose one above 1023",
    errno.EADDRNOTAVAIL: "that host address is not one of this machine's; use 127.0.0.1 or one of its own",
}


class AddressError(LifecycleError):
    """An address cannot be listened on or connected to; the message names host and port and says what to do."""


class Address(NamedTuple):
    """A host and a port, as in `127.0.0.1:2379` or `[::1]:2379`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def with_port(self, port: int) -> Address:
        """Return the same host with another port."""
        return Address(self.host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can reach it. A name other than `localhost` counts as reachable."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of this machine: fine to listen at, of no use to a client."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Take `host:port` apart.

    Raises:
        AddressError: no host, no port, or a port outside 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 0xFFFF:
        raise AddressError(f"{text!r} is not an address; write host:port, as in 127.0.0.1:20160")
    return Address(host, int(port))


def check_may_listen(address: Address, *, insecure: bool) -> None:
    """Refuse an address that others can reach, unless `insecure` says that this is meant.

    Raises:
        AddressError: the address is not loopback and `insecure` is false.
    """
    if not insecure and not address.is_loopback:
        raise AddressError(
            f"refusing to listen on {address}: other machines could reach it and nothing is encrypted or authenticated; "
            "use a loopback address such as 127.0.0.1, or say --insecure"
        )


def check_can_bind(address: Address) -> None:
    """Try to bind a plain socket, and let go again.

    Raises:
        AddressError: it cannot be bound; the message says why and what to do.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: the host name is not known ({error})") from error
    family, kind, protocol, _, target = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(target)
            probe.listen(1)
        except OSError as error:
            raise AddressError(f"cannot listen on {address}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0)
    return reason if reason is not None else os.strerror(error.errno or 0)
