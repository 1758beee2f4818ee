"""A network of network namespaces: each node has a stack of its own, and one bridge, also in a namespace, connects all.

    client (this process) ── tkvN ─┐
    store-1 ── eth0 ───────────────┤ bridge        198.18.N.0/24 for the cluster, 198.19.N.0/24 for status ports
    store-2 ── eth0 ───────────────┘

A direction is cut by telling the sender that the receiver has a hardware address that no machine has: its packets go out and
vanish, without an error and without a filter in the kernel. All neighbours of the cluster's net are told, never asked for,
so nothing corrects that by itself. Status ports have a net of their own, in which nothing is ever cut.

A namespace lives as long as a process in it that ends with its standard input. So whatever happens to the test, nothing of
all this outlives it: not the namespaces, and not the client's end, which goes with its other end.
"""

from __future__ import annotations

import functools
import os
import subprocess
from typing import Final

from tests.process.network import CLIENT, FINE, Place, Weather

_SLOTS: Final = 250
_PORT: Final = 20_160
_PEER_PORT: Final = 20_170
_STATUS_PORT: Final = 20_180
_NO_MACHINE: Final = "02:00:00:00:ff:ff"
_BURST_BYTES: Final = 16 * 1024
_QUEUE_S: Final = 2.0
"""What would have to wait longer for a slow way out is dropped."""


class _Namespace:
    """A network namespace, and the process that keeps it."""

    def __init__(self) -> None:
        argv = ("unshare", "--net", "sh", "-c", "echo; exec cat")
        self._keeper = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.read(1) == b"\n", "no namespace"  # until then it would be this process's own
        self.pid = self._keeper.pid
        self.prefix = ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def close(self) -> None:
        with self._keeper:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()


def _run(*argv: str, lines: str = "") -> None:
    done = subprocess.run(argv, input=lines.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {done.stderr.decode()}\n{lines}")


class NamespaceNetwork:
    """A `Network` whose packets really vanish. Needs root."""

    def __init__(self) -> None:
        self._bridge = _Namespace()
        self._namespaces: dict[str, _Namespace] = {}
        self._places: dict[str, Place] = {}
        self._numbers: dict[str, int] = {CLIENT: 1}
        _run(*self._bridge.prefix, "ip", "-batch", "-", lines="link add name hub type bridge\nlink set hub up\n")
        self._slot = self._take_slot()
        self._attach(CLIENT)

    def join(self, node: str) -> Place:
        """Make a namespace with the node's addresses, connected to all others."""
        if node not in self._places:
            self._numbers[node] = len(self._numbers) + 1
            self._namespaces[node] = namespace = _Namespace()
            own = f"link add name eth0 type veth peer name port{self._numbers[node]} netns {self._bridge.pid}"
            _run(*namespace.prefix, "ip", "-batch", "-", lines=f"{own}\nlink set lo up\n")
            self._attach(node)
            host, status_host = self._ip(node), self._ip(node, net=19)
            self._places[node] = Place(
                addr=f"{host}:{_PORT}",
                peer_addr=f"{host}:{_PEER_PORT}",
                status_addr=f"{status_host}:{_STATUS_PORT}",
                prefix=namespace.prefix,
                insecure=True,
            )
        return self._places[node]

    def on_started(self, node: str, pid: int) -> None:
        pass

    def cut(self, sender: str, receiver: str) -> None:
        self._tell(sender, {receiver: _NO_MACHINE})

    def heal(self, sender: str, receiver: str) -> None:
        self._tell(sender, {receiver: self._hardware(receiver)})

    def weather(self, node: str, weather: Weather) -> None:
        device = self._device(node)
        if weather == FINE:
            subprocess.run(
                [*self._prefix(node), *_QDISC, "del", "dev", device, "root"], capture_output=True, check=False
            )
        else:
            _run(*self._prefix(node), *_QDISC, "replace", "dev", device, "root", *_discipline(weather))

    def close(self) -> None:
        for namespace in (*self._namespaces.values(), self._bridge):
            namespace.close()

    def _take_slot(self) -> int:
        """Make the client's end under a name that is unused on this machine; the addresses follow from it."""
        for number in range(_SLOTS):
            slot = (os.getpid() + number) % _SLOTS
            device = f"tkv{slot}"
            argv = ("ip", "link", "add", "name", device, "type", "veth", "peer", "name", "port1", "netns")
            if subprocess.run([*argv, str(self._bridge.pid)], capture_output=True, check=False).returncode == 0:
                return slot
        raise OSError("no name left for a network device")

    def _attach(self, node: str) -> None:
        device, number = self._device(node), self._numbers[node]
        _run(
            *self._prefix(node),
            *("ip", "-batch", "-"),
            lines=f"link set {device} address {self._hardware(node)} up\n"
            f"addr add {self._ip(node)}/24 dev {device}\naddr add {self._ip(node, net=19)}/24 dev {device}\n",
        )
        _run(*self._bridge.prefix, "ip", "link", "set", f"port{number}", "master", "hub", "up")
        others = [other for other in self._numbers if other != node]
        self._tell(node, {other: self._hardware(other) for other in others})
        for other in others:
            self._tell(other, {node: self._hardware(node)})

    def _tell(self, node: str, neighbours: dict[str, str]) -> None:
        """Tell a node's kernel who has which hardware address."""
        device = self._device(node)
        lines = "".join(
            f"neigh replace {self._ip(other)} lladdr {hardware} dev {device} nud permanent\n"
            for other, hardware in neighbours.items()
        )
        _run(*self._prefix(node), "ip", "-batch", "-", lines=lines)

    def _prefix(self, node: str) -> tuple[str, ...]:
        return () if node == CLIENT else self._namespaces[node].prefix

    def _device(self, node: str) -> str:
        return f"tkv{self._slot}" if node == CLIENT else "eth0"

    def _ip(self, node: str, net: int = 18) -> str:
        return f"198.{net}.{self._slot}.{self._numbers[node]}"  # RFC 2544: for tests of networks, never routed

    def _hardware(self, node: str) -> str:
        return f"02:00:00:00:{self._slot:02x}:{self._numbers[node]:02x}"


_QDISC: Final = ("tc", "qdisc")


def _discipline(weather: Weather) -> list[str]:
    """Return what `tc` calls such a weather. Its times are milliseconds, its rates bits."""
    rate = f"{weather.bytes_per_s * 8}bit"
    if not weather.delay_s and not weather.loss:
        return ["tbf", "rate", rate, "burst", str(_BURST_BYTES), "latency", f"{_QUEUE_S * 1000:.0f}ms"]
    words = ["netem", "delay", f"{weather.delay_s * 1000:.0f}ms", f"{weather.jitter_s * 1000:.0f}ms"]
    words += ["loss", f"{weather.loss:.2%}"]
    return words + (["rate", rate] if weather.bytes_per_s else [])


@functools.cache
def can_have(weather: Weather) -> bool:
    """Return whether the kernel has what such a weather takes; `netem` is often left out."""
    if weather == FINE:
        return True
    argv = ["unshare", "--net", *_QDISC, "add", "dev", "lo", "root", *_discipline(weather)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
