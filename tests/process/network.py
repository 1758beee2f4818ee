"""Networks that tests can harm, between the processes of a cluster and their clients.

Two implementations of `Network`. `NamespaceNetwork` gives each process a network stack of its own, so packets vanish as
they do in a cut cable: it needs root. `ProxyNetwork` needs nothing: each process is reached through a relay that holds up
what it should not let through. `network_for` takes the first that can do what a test wants.

Harm is done to directions: `cut("store-1", "store-2")` loses what store-1 says to store-2 and nothing else. The test itself,
with all its clients, is the node `CLIENT`. Status ports can be reached whatever is cut: tests look through them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

CLIENT: Final = "client"
_PORTS: Final = range(21_000, 32_000)
_WORKERS_MAX: Final = 8
"""Into how many parts they are divided."""


def _ports() -> Iterator[int]:
    """Yield free ports, again and again, out of a part of the range that no other worker of this test run takes any from.

    A port is free, too, while its server is down: a worker that took such a port from another one kept the server from coming
    back. Runs at the same time begin somewhere else.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = len(_PORTS) // _WORKERS_MAX
    first = os.getppid() * 97 + worker % _WORKERS_MAX * share
    taken = -1
    while taken != 0:
        taken = 0
        for number in range(share):
            port = _PORTS[(first + number) % len(_PORTS)]
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            taken += 1
            yield port


_free_ports = _ports()


def free_address() -> str:
    """Return a loopback address without a listener."""
    return f"127.0.0.1:{next(_free_ports)}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process is to run, and be reached: a node's addresses in a network."""

    addr: str = field(default_factory=free_address)
    status_addr: str = field(default_factory=free_address)
    peer_addr: str = field(default_factory=free_address)
    advertise_addr: str = ""
    advertise_peer_addr: str = ""
    prefix: tuple[str, ...] = ()
    """What starts a command there."""
    insecure: bool = False

    def options(self, command: str) -> dict[str, str]:
        """Return a server's options; those without a value are flags."""
        options = {"--addr": self.addr, "--status-addr": self.status_addr}
        if self.advertise_addr:
            options["--advertise-addr"] = self.advertise_addr
        if command == "store":
            options["--peer-addr"] = self.peer_addr
            if self.advertise_peer_addr:
                options["--advertise-peer-addr"] = self.advertise_peer_addr
        return options | ({"--insecure": ""} if self.insecure else {})


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How bad the way out of a node is."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Each delay is longer or shorter by up to this."""
    loss: float = 0.0
    """Share of what is sent that is lost on the way (and, as TCP sees to it, sent again)."""
    bytes_per_s: int = 0
    """How much gets out; 0: as much as wants to."""


FINE: Final = Weather()


class Network(Protocol):
    """What connects the nodes of a test. The caller closes it, after the processes in it."""

    def join(self, node: str) -> Place:
        """Make room for a process; a node that has joined keeps its place."""
        ...

    def on_started(self, node: str, pid: int) -> None:
        """Note that a node's process runs now."""
        ...

    def cut(self, sender: str, receiver: str) -> None:
        """Lose, from now on, all that `sender` says to `receiver`. Neither is told. Twice is fine."""
        ...

    def heal(self, sender: str, receiver: str) -> None:
        """Let through again what `cut` loses."""
        ...

    def weather(self, node: str, weather: Weather) -> None:
        """Make the way out of a node as bad as that; `FINE` ends it."""
        ...

    def close(self) -> None:
        """Take the network down."""
        ...


class Loopback:
    """No network to speak of, and nothing that could be harmed."""

    def join(self, node: str) -> Place:
        return Place()

    def on_started(self, node: str, pid: int) -> None:
        pass

    def cut(self, sender: str, receiver: str) -> None:
        raise NotImplementedError("loopback can't be cut")

    def heal(self, sender: str, receiver: str) -> None:
        raise NotImplementedError("loopback can't be cut")

    def weather(self, node: str, weather: Weather) -> None:
        raise NotImplementedError("there is no weather on loopback")

    def close(self) -> None:
        pass


class Cuts:
    """What a test has cut, so that all of it can be healed."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._cut: dict[tuple[str, str], None] = {}

    def one_way(self, sender: str, *receivers: str) -> None:
        for receiver in receivers:
            self._cut[sender, receiver] = None
            self._network.cut(sender, receiver)

    def both_ways(self, node: str, *others: str) -> None:
        for other in others:
            self.one_way(node, other)
            self.one_way(other, node)

    def heal(self, *nodes: str) -> None:
        """Heal what was cut between these nodes; without any, everything, the newest cuts first."""
        for sender, receiver in reversed(list(self._cut)):
            if not nodes or {sender, receiver} <= set(nodes):
                del self._cut[sender, receiver]
                self._network.heal(sender, receiver)


def can_have_namespaces() -> bool:
    """Return whether this machine lets us make network stacks and connect them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "tc", "unshare", "nsenter"))):
        return False
    trial = ("unshare", "--net", "ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b")
    bridge = ("unshare", "--net", "ip", "link", "add", "name", "a", "type", "bridge")
    return all(subprocess.run(run, capture_output=True, check=False).returncode == 0 for run in (trial, bridge))


@contextmanager
def network_for(*weathers: Weather) -> Iterator[Network]:
    """Make the most real network that this machine can have, and that can have such weathers."""
    from tests.process.namespaces import NamespaceNetwork, can_have
    from tests.process.proxy import ProxyNetwork

    real = can_have_namespaces() and all(map(can_have, weathers))
    network: Network = NamespaceNetwork() if real else ProxyNetwork()
    try:
        yield network
    finally:
        network.close()
