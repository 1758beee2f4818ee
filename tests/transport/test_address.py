"""Addresses as text: what can be read, and what is refused."""

from __future__ import annotations

import pytest

from pytinykv.transport.address import Address, AddressError, parse_address


@pytest.mark.parametrize("text", ["", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "[::1]"])
def test_malformed(text: str) -> None:
    with pytest.raises(AddressError, match="write host:port"):
        parse_address(text)


def test_ipv6() -> None:
    assert parse_address("[::1]:80") == Address("::1", 80)
    assert str(Address("::1", 80)) == "[::1]:80"
