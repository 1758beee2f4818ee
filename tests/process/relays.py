"""The program of a `ProxyNetwork`: relays between its nodes, each direction of which can be cut and slowed.

A relay finds out which node has connected, by whose descriptor the other end of the connection is, and passes on what the
directions between the two let through. A cut direction holds everything up, the end of a connection too, until it is
healed: what TCP's repetitions amount to.

Each line of standard input is an order, a JSON list; each is answered with a line when it is carried out. It ends with its
standard input.

    ["open", NODE, ADDRESS, TARGET]    what connects to ADDRESS is connected to NODE, which listens at TARGET
    ["pid", NODE, PID]                 NODE is that process from now on
    ["way", SENDER, RECEIVER, OPEN]    let that direction through, or not
    ["weather", NODE, WEATHER]         what NODE says finds such conditions
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import sys
from pathlib import Path
from typing import Any, Final

from tests.process.network import CLIENT, FINE, Weather
from tests.process.talker import pair

_CHUNK_BYTES: Final = 64 * 1024
_CHUNKS_MAX: Final = 64
"""How many chunks a direction holds up before it takes no more."""
_REPEAT_S: Final = 0.2
"""What a lost packet costs at least: TCP's shortest wait for an acknowledgement."""


class Relays:
    """All relays of a network."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._ways: dict[tuple[str, str], asyncio.Event] = {}
        self._weathers: dict[str, Weather] = {}
        self._rng = random.Random(1)

    async def obey(self, order: list[Any]) -> None:
        match order:
            case ["open", node, address, target]:
                await self._open(node, address, target)
            case ["pid", node, pid]:
                self._pids[node] = pid
            case ["way", sender, receiver, is_open]:
                way = self._way(sender, receiver)
                (way.set if is_open else way.clear)()
            case ["weather", node, weather]:
                self._weathers[node] = Weather(**weather)
            case _:
                raise ValueError(order)

    def _way(self, sender: str, receiver: str) -> asyncio.Event:
        """Return what is set while that direction lets through."""
        if (sender, receiver) not in self._ways:
            self._ways[sender, receiver] = asyncio.Event()
            self._ways[sender, receiver].set()
        return self._ways[sender, receiver]

    async def _open(self, node: str, address: str, target: str) -> None:
        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(OSError):
                    await self._relay(node, target, reader, writer)
            finally:
                writer.transport.abort()

        await asyncio.start_server(relay, *pair(address))

    async def _relay(
        self, receiver: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection(*pair(target))  # refused at once without a listener
        try:
            ports = writer.get_extra_info("peername")[1], writer.get_extra_info("sockname")[1]
            sender = await asyncio.to_thread(_who, dict(self._pids), *ports)  # takes the system some 20 ms
            there, back = self._way(sender, receiver), self._way(receiver, sender)
            await there.wait()
            await back.wait()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(sender, there, reader, far_writer))
                group.create_task(self._pass_on(receiver, back, far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _pass_on(
        self, sender: str, way: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass on what comes, each chunk when it is due, and then the end."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_MAX)

        async def take() -> None:
            data, due = b".", 0.0
            while data:
                try:
                    data = await reader.read(_CHUNK_BYTES)
                except OSError:
                    data = b""
                due = max(due, loop.time() + self._delay_s(sender))
                await chunks.put((due, data))

        async def give() -> None:
            while True:
                due, data = await chunks.get()
                await asyncio.sleep(due - loop.time())
                if rate := self._weathers.get(sender, FINE).bytes_per_s:
                    await asyncio.sleep(len(data) / rate)
                await way.wait()
                with contextlib.suppress(OSError):
                    if not data:
                        writer.close()
                        return
                    writer.write(data)
                    await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(give())

    def _delay_s(self, sender: str) -> float:
        weather = self._weathers.get(sender, FINE)
        delay_s = weather.delay_s + self._rng.uniform(-1, 1) * weather.jitter_s
        while self._rng.random() < weather.loss:
            delay_s += _REPEAT_S
        return delay_s


def _who(pids: dict[str, int], port: int, relay_port: int) -> str:
    """Return the node whose connection from `port` to a relay's it is; a connection of none of ours is a client's."""
    inode = _inode(port, relay_port)
    for node, pid in pids.items():
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    if descriptor.stat().st_ino == inode:
                        return node
    return CLIENT


def _inode(local_port: int, remote_port: int) -> int:
    """Return the number of the socket at the near end of a loopback connection; it may be of either family."""
    connection = re.compile(rf"^ *\d+: \w+:{local_port:04X} \w+:{remote_port:04X} (.*)$", re.MULTILINE)
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if found := connection.search(Path(table).read_text()):
            return int(found[1].split()[6])
    return 0


async def main() -> None:
    relays, loop = Relays(), asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        await relays.obey(json.loads(line))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
