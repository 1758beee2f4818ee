"""Addresses: the one parser of them, kept on loopback, bound, and explained when they cannot be listened on.

gRPC reports every failure to bind with one sentence. An address is therefore tried with a plain socket first, which knows
the reason; gRPC's own attempt follows at once, without SO_REUSEPORT, so that a race is still refused, only less clearly.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pytinykv.lifecycle import LifecycleError

_REASONS: Final = {
    errno.EADDRINUSE: "another process listens there; stop it, or choose another port (port 0 picks a free one)",
    errno.EACCES: "this user may not listen on that port; choose one above 1023",
    errno.EADDRNOTAVAIL: "that host address is not one of this machine's; use 127.0.0.1 or one of its own",
}


EXAMPLE: Final = "127.0.0.1:20160"
PORT_MAX: Final = 0xFFFF
LISTEN_BACKLOG: Final = 128
BIND_TRIES: Final = 8
"""How often a free port is looked for that is free at every address of a host name."""
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]*:[^\[\]]*)\]|(?P<name>[^:\[\]/\s]+))(?::(?P<port>[0-9]{1,9}))?")
_DOTTED: Final = re.compile(r"[0-9.]+")
_NAME: Final = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)
_NAME_LENGTH_MAX: Final = 254
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""Why one of a host name's addresses can't be had, where another may do: IPv6 is switched off, say."""


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


def parse_address(text: str, *, default_port: int | None = None, example: str = EXAMPLE) -> Address:
    """Take `host:port` apart. An `http://` before it and a `/` behind it are dropped.

    `default_port` is taken where there is no port; None: there must be one. `example`: what the message of an error shows.

    Raises:
        AddressError: another scheme, no host, a host that can't be one, an IPv6 address without brackets, no port, or a
            port outside 0 to 65535.
    """
    rest = text.strip()
    scheme, has_scheme, after = rest.partition("://")
    if has_scheme:
        if scheme.lower() != "http":
            raise AddressError(f"{text!r} has the scheme {scheme}://, which is not spoken here; {_advice(example)}")
        rest = after.removesuffix("/")
    match = _ADDRESS.fullmatch(rest)
    if match is None:
        raise AddressError(f"{text!r} is not an address; {_advice(_in_brackets(rest, _port_of(example)) or example)}")
    host, port = match["v6"] or match["name"], match["port"]
    if not _is_host(host, in_brackets=bool(match["v6"])):
        raise AddressError(f"{text!r} is not an address: {host!r} is no host; {_advice(example)}")
    if port is None:
        if default_port is None:
            right = Address(host, _port_of(example))
            raise AddressError(f"{text!r} is not an address: it has no port; {_advice(str(right))}")
        return Address(host, default_port)
    if int(port) > PORT_MAX:
        raise AddressError(f"{text!r} is not an address: ports end at {PORT_MAX}; {_advice(example)}")
    return Address(host, int(port))


def _advice(example: str) -> str:
    return f"write host:port, as in {example}"


def _port_of(example: str) -> int:
    return int(example.rpartition(":")[2])


def _in_brackets(text: str, default_port: int) -> str:
    """Return `::1:80` as `[::1]:80`, the right form of an IPv6 address with a port; empty if `text` is no such thing."""
    host, _, port = text.rpartition(":")
    if _is_host(host, in_brackets=True) and port.isascii() and port.isdigit():
        return f"[{host}]:{port}"
    return f"[{text}]:{default_port}" if _is_host(text, in_brackets=True) else ""


def _is_host(host: str, *, in_brackets: bool) -> bool:
    """Tell whether `host` can be one: an IPv6 address in brackets, else an IPv4 address or a name."""
    is_number = in_brackets or _DOTTED.fullmatch(host) is not None
    if not is_number:
        return len(host) <= _NAME_LENGTH_MAX and _NAME.fullmatch(host) is not None
    try:
        return (ipaddress.ip_address(host).version == 6) is in_brackets
    except ValueError:
        return False


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
    """Try to bind plain sockets, and let go again.

    Raises:
        AddressError: it cannot be bound; the message says why and what to do.
    """
    for probe in bind_sockets(address):
        probe.close()


def bind_sockets(address: Address) -> list[socket.socket]:
    """Return listening sockets, one for each address of the host, all of them at one port. The caller closes them.

    Raises:
        AddressError: it cannot be bound; the message says why and what to do.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise AddressError(f"cannot listen on {address}: the host name is not known ({error})") from error
    targets = list(dict.fromkeys((family, target) for family, _, _, _, target in found))
    for tries_left in reversed(range(BIND_TRIES)):
        try:
            return _bind_all(targets, address)
        except OSError as error:
            if address.port != 0 or not tries_left or error.errno != errno.EADDRINUSE:
                raise AddressError(f"cannot listen on {address}: {_explain(error)}") from error
    raise AssertionError("the last try returns or raises")


def _bind_all(targets: Sequence[tuple[socket.AddressFamily, tuple[Any, ...]]], address: Address) -> list[socket.socket]:
    """Bind every target, with port 0 the later ones at the port that the first got. Raises OSError, with none bound."""
    bound: list[socket.socket] = []
    unavailable: OSError | None = None
    try:
        for family, target in targets:
            port = bound[0].getsockname()[1] if bound else address.port
            try:
                bound.append(_bind(family, (target[0], port, *target[2:]), is_dual=address.is_wildcard))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                unavailable = error
        if not bound and unavailable is not None:
            raise unavailable
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _bind(family: socket.AddressFamily, target: tuple[Any, ...], *, is_dual: bool) -> socket.socket:
    """Return a listening socket. `is_dual`: one for all IPv6 addresses takes connections over IPv4, too, as gRPC's does."""
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
        one.bind(target)
        one.listen(LISTEN_BACKLOG)
    except BaseException:
        one.close()
        raise
    return one


def _explain(error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0)
    return reason if reason is not None else os.strerror(error.errno or 0)
