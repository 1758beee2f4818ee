"""Addresses as people write them, to addresses as connectors take them ("host:port")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytinykv.client.errors import InvalidArgumentError, InvalidTypeError
from pytinykv.transport.address import AddressError, parse_address


def bare_address(url: str) -> str:
    """Strip scheme and path: `http://127.0.0.1:2379/` becomes `127.0.0.1:2379`."""
    return url.strip().rpartition("://")[2].partition("/")[0]


def parse_addresses(addresses: Any) -> tuple[str, ...]:
    """Return the distinct `host:port` in `addresses`, in the order given.

    Takes one string (several addresses separated by commas) or several; an `http://` before an address is dropped.
    Raises `InvalidArgumentError`, naming the address that can't be one.
    """
    if isinstance(addresses, bytes) or not isinstance(addresses, Iterable):
        raise InvalidTypeError(f"addresses must be a string or several, not {addresses!r}")
    several = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    for address in several:
        if not isinstance(address, str):
            raise InvalidTypeError(f"an address must be a string like '127.0.0.1:2379', not {address!r}")
    result = tuple(dict.fromkeys(_checked(bare_address(address)) for address in several if address.strip()))
    if not result:
        raise InvalidArgumentError("no scheduler address given; pass one like '127.0.0.1:2379'")
    return result


def _checked(address: str) -> str:
    try:
        reachable = parse_address(address).port != 0
    except AddressError:
        reachable = False
    if not reachable:
        raise InvalidArgumentError(f"scheduler address {address!r} is not of the form host:port, like '127.0.0.1:2379'")
    return address
