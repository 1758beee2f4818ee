"""The networks that other tests harm: what is cut is lost without a word, each direction for itself, and heals.

Both kinds are tested where both can be had, so that neither rots on machines that prefer the other.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.process import talker
from tests.process.network import CLIENT, FINE, Network, Place, Weather, can_have_namespaces

from pytinykv.transport.frames import connect_frames

SILENCE_S = 0.3
HEALED_S = 20.0


@pytest.fixture(params=["namespaces", "relays"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    from tests.process.namespaces import NamespaceNetwork
    from tests.process.proxy import ProxyNetwork

    if request.param == "namespaces" and not can_have_namespaces():
        pytest.skip("network namespaces need root, and a container that allows them")
    made = NamespaceNetwork() if request.param == "namespaces" else ProxyNetwork()
    try:
        yield made
    finally:
        made.close()


class Node:
    """A talker on the network."""

    def __init__(self, name: str, network: Network) -> None:
        self._place: Place = network.join(name)
        argv = (*self._place.prefix, sys.executable, str(Path(__file__).with_name("talker.py")), self._place.addr)
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        network.on_started(name, self.process.pid)
        self.wait_line("ready")

    @property
    def address(self) -> str:
        return self._place.advertise_addr or self._place.addr

    def wait_line(self, start: str) -> str:
        """Return the rest of the next line that it says and that begins so."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline().decode():
            if line.startswith(start):
                return line.removeprefix(start).strip()
        raise AssertionError("it has ended")

    def ask(self, other: Node) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(other.address.encode() + b"\n")
        return self.wait_line("got")

    def connect(self) -> socket.socket:
        """Return a connection of the test's own."""
        connection = socket.create_connection(talker.pair(self.address), HEALED_S)
        connection.settimeout(SILENCE_S)
        return connection

    def close(self) -> None:
        self.process.kill()
        with self.process:
            pass


@pytest.fixture
def node(network: Network) -> Iterator[Callable[[str], Node]]:
    made: list[Node] = []

    def make(name: str) -> Node:
        made.append(Node(name, network))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.close()


def test_nodes_are_cut_from_each_other_and_from_no_others(network: Network, node: Callable[[str], Node]) -> None:
    one, other, third = node("one"), node("other"), node("third")
    assert one.ask(other) == "answer"
    network.cut("one", "other")
    assert one.ask(other) == "silence"
    assert third.ask(other) == third.ask(one) == one.ask(third) == "answer"
    with other.connect() as connection:
        connection.sendall(b"a client?")
        assert connection.recv(100) == b"a client?"
    network.heal("one", "other")
    assert one.ask(other) == "answer"


def test_one_who_is_cut_off_one_way_is_still_heard_the_other_way(network: Network, node: Callable[[str], Node]) -> None:
    there = node("there")
    with there.connect() as connection:
        connection.sendall(b"12")
        assert connection.recv(100) == b"12"
        assert there.wait_line("heard") == "2"
        network.cut("there", CLIENT)
        connection.sendall(b"123")
        assert there.wait_line("heard") == "3"
        with pytest.raises(TimeoutError):
            connection.recv(100)
        network.heal("there", CLIENT)
        connection.settimeout(HEALED_S)
        assert connection.recv(100) == b"123"
        network.cut(CLIENT, "there")
        connection.settimeout(SILENCE_S)
        connection.sendall(b"1234")
        with pytest.raises(TimeoutError):
            connection.recv(100)
        network.heal(CLIENT, "there")
        connection.settimeout(HEALED_S)
        assert connection.recv(100) == b"1234"


def test_who_dies_while_it_is_cut_off_leaves_its_connections_half_open(
    network: Network, node: Callable[[str], Node]
) -> None:
    there = node("there")
    with there.connect() as connection:
        connection.sendall(b"1")
        assert connection.recv(100) == b"1"
        network.cut("there", CLIENT)
        there.close()
        with pytest.raises(TimeoutError):
            connection.recv(100)
        connection.sendall(b"2")  # as if a process listened there
        with pytest.raises(TimeoutError):
            connection.recv(100)


async def test_a_connection_of_frames_that_says_nothing_notices_that_its_other_end_is_gone(
    network: Network, node: Callable[[str], Node]
) -> None:
    from tests.process.proxy import ProxyNetwork

    if isinstance(network, ProxyNetwork):
        pytest.skip("behind a relay the other end is the relay, and that is never gone")
    over = asyncio.Event()
    await connect_frames(node("there").address, lambda *_: None, lambda _: over.set(), timeout_s=5.0, silence_max_s=1.0)
    network.cut("there", CLIENT)
    async with asyncio.timeout(HEALED_S):
        await over.wait()


@pytest.mark.parametrize(
    "weather",
    [
        Weather(bytes_per_s=200_000),
        Weather(delay_s=0.3, jitter_s=0.05),
        Weather(delay_s=0.05, jitter_s=0.02, loss=0.2),
    ],
    ids=["slow", "far", "lossy"],
)
def test_weather_holds_up_what_a_node_says(network: Network, node: Callable[[str], Node], weather: Weather) -> None:
    from tests.process.namespaces import NamespaceNetwork, can_have

    if isinstance(network, NamespaceNetwork) and not can_have(weather):
        pytest.skip("the kernel has no netem")
    there = node("there")
    network.weather("there", weather)
    with there.connect() as connection:
        connection.settimeout(HEALED_S)
        before = time.monotonic()
        assert echo(connection, 100_000) == 100_000
        took_s = time.monotonic() - before
        assert took_s > 100_000 / weather.bytes_per_s / 2 if weather.bytes_per_s else took_s > weather.delay_s / 2
        network.weather("there", FINE)
        assert echo(connection, 1_000) == 1_000


def echo(connection: socket.socket, count: int) -> int:
    """Return how much of what is said comes back."""
    connection.sendall(b"x" * count)
    received = 0
    while received < count and (data := connection.recv(65536)):
        received += len(data)
    return received
