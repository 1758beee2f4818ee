"""Addresses: what is taken and what is refused with which advice, and what is bound of a host with several."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from pytinykv.transport.address import Address, AddressError, bind_sockets, check_can_bind, parse_address


@pytest.mark.parametrize(
    "text",
    [
        *("", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "[::1]", "127.0.0.1:80:90"),
        *("no host at all/x?:80", "a b:80", "-a:80", "a..b:80", "a/b:80", "user@host:80", "1.2.3:80", "256.0.0.1:80"),
        *(
            "[127.0.0.1]:80",
            "[::1:80",
            "[nonsense:x]:80",
            "http://:80",
            "http://h:80/path",
            "grpc://h:80",
            "https://h:80",
        ),
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(AddressError, match="write host:port, as in ") as refused:
        parse_address(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "right"), [("::1:20160", "[::1]:20160"), ("fe80::1:2:80", "[fe80::1:2]:80"), ("::", "[::]:20160")]
)
def test_ipv6_without_brackets_is_refused_with_its_right_form(text: str, right: str) -> None:
    with pytest.raises(AddressError) as refused:
        parse_address(text)
    assert str(refused.value).endswith(f"write host:port, as in {right}")
    assert str(parse_address(right)) == right


@pytest.mark.parametrize(
    ("text", "host"),
    [
        *(("[::1]:80", "::1"), ("[fe80::1%eth0]:80", "fe80::1%eth0"), ("127.0.0.1:80", "127.0.0.1")),
        *(
            ("a_b.example.:80", "a_b.example."),
            (" http://kv-1:80/ ", "kv-1"),
            ("HTTP://[::1]:80", "::1"),
            ("a1:80", "a1"),
        ),
    ],
)
def test_a_scheme_is_dropped_and_brackets_come_back(text: str, host: str) -> None:
    address = parse_address(text)
    assert address == Address(host, 80)
    assert parse_address(str(address)) == address


def test_a_default_port_and_an_example_of_ones_own() -> None:
    assert parse_address("[::1]", default_port=2379) == Address("::1", 2379)
    assert parse_address("http://pd/", default_port=2379) == Address("pd", 2379)
    with pytest.raises(AddressError, match="it has no port; write host:port, as in pd:7"):
        parse_address("pd", example="pd:7")


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name have these addresses."""

    def getaddrinfo(_host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host in hosts]
        ends = [(host, port, 0, 0) if ":" in host else (host, port) for host in hosts]
        return [(family, socket.SOCK_STREAM, 6, "", end) for family, end in zip(families, ends, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_all_addresses_of_a_name_are_bound_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")
    bound = bind_sockets(Address("kv", 0))
    try:
        assert [one.getsockname()[0] for one in bound] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        assert len({one.getsockname()[1] for one in bound}) == 1
        with pytest.raises(AddressError, match="another process listens there"):
            check_can_bind(Address("kv", bound[0].getsockname()[1]))
    finally:
        for one in bound:
            one.close()


def test_a_second_address_that_is_taken_is_not_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    with socket.create_server(("127.0.0.2", 0)) as taken, pytest.raises(AddressError, match="another process"):
        check_can_bind(Address("kv", taken.getsockname()[1]))


def test_an_address_that_this_machine_has_not_is_left_out_if_another_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve_to(monkeypatch, "192.0.2.1", "127.0.0.1")
    (bound,) = bind_sockets(Address("kv", 0))
    bound.close()
    resolve_to(monkeypatch, "192.0.2.1")
    with pytest.raises(AddressError, match="not one of this machine's"):
        bind_sockets(Address("kv", 0))


def test_every_address_of_the_machine_over_ipv6_takes_ipv4_too() -> None:
    if not (socket.has_ipv6 and Path("/proc/net/if_inet6").exists()):
        pytest.skip("this machine has no IPv6")
    (bound,) = bind_sockets(Address("::", 0))
    with bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        socket.create_connection(("127.0.0.1", bound.getsockname()[1])).close()
