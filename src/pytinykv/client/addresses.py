"""Addresses as people write them, to addresses as connectors take them ("host:port")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pytinykv.client.errors import InvalidArgumentError, InvalidTypeError
from pytinykv.transport.address import AddressError, parse_address

DEFAULT_PORT: Final = 2379
"""Where a scheduler is if its address has no port."""
_EXAMPLE: Final = "127.0.0.1:2379"


def bare_address(url: str) -> str:
    """Return the `host:port` of a member's URL: `http://127.0.0.1:2379/` becomes `127.0.0.1:2379`. No check is made."""
    return url.strip().rpartition("://")[2].partition("/")[0]


def parse_addresses(addresses: Any) -> tuple[str, ...]:
    """Return the distinct `host:port` in `addresses`, in the order given.

    Takes one string (several addresses separated by commas) or several. An `http://` before an address is dropped, and
    one without a port gets 2379. Raises `InvalidArgumentError`, naming the address that can't be one.
    """
    if isinstance(addresses, bytes) or not isinstance(addresses, Iterable):
        raise InvalidTypeError(f"addresses must be a string or several, not {addresses!r}")
    several = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    for address in several:
        if not isinstance(address, str):
            raise InvalidTypeError(f"an address must be a string like {_EXAMPLE!r}, not {address!r}")
    result = tuple(dict.fromkeys(_checked(address) for address in several if address.strip()))
    if not result:
        raise InvalidArgumentError(f"no scheduler address given; pass one like {_EXAMPLE!r}")
    return result


def _checked(text: str) -> str:
    try:
        address = parse_address(text, default_port=DEFAULT_PORT, example=_EXAMPLE)
    except AddressError as error:
        raise InvalidArgumentError(f"scheduler address {error}") from error
    if address.port == 0:
        raise InvalidArgumentError(f"scheduler address {text!r} can't be reached: port 0 is no port")
    return str(address)
