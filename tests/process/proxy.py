"""A network of relays, for machines where a test may not make network namespaces: all of it on loopback.

Each node listens where only its relays know, and is told to advertise the relays' addresses. They run in a process of
their own. What differs from a real network: a connection is accepted also while it is cut, the buffers of both sides fill
before a sender feels anything, and loss is only a delay.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tests.process.network import Place, Weather, free_address


class ProxyNetwork:
    """A `Network` made of relays."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        argv = (sys.executable, "-m", "tests.process.relays")
        root = Path(__file__).parents[2]
        self._relays = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0, cwd=root
        )

    def join(self, node: str) -> Place:
        """Give a node addresses, and open the relays that lead to them."""
        if node not in self._places:
            place = Place(advertise_addr=free_address(), advertise_peer_addr=free_address())
            self._order("open", node, place.advertise_addr, place.addr)
            self._order("open", node, place.advertise_peer_addr, place.peer_addr)
            self._places[node] = place
        return self._places[node]

    def on_started(self, node: str, pid: int) -> None:
        self._order("pid", node, pid)

    def cut(self, sender: str, receiver: str) -> None:
        self._order("way", sender, receiver, False)

    def heal(self, sender: str, receiver: str) -> None:
        self._order("way", sender, receiver, True)

    def weather(self, node: str, weather: Weather) -> None:
        self._order("weather", node, asdict(weather))

    def close(self) -> None:
        self._relays.kill()
        with self._relays:
            pass

    def _order(self, *words: object) -> None:
        assert self._relays.stdin is not None
        assert self._relays.stdout is not None
        self._relays.stdin.write(json.dumps(words).encode() + b"\n")
        assert self._relays.stdout.readline() == b"done\n", words
