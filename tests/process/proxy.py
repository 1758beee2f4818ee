"""A network of relays, for machines where a test may not make network namespaces: all of it on loopback, in this process.

Each node listens where only its relays know, and is told to tell everybody the relays' addresses. A relay finds out which
node has connected (by whose descriptor the other end of the connection is) and passes on what the directions between the
two let through. A cut direction holds everything up, the end of a connection too, and lets it through once it is healed:
what TCP's repetitions amount to. What differs from a real network: a connection is accepted also while it is cut, the
buffers of both sides fill before a sender feels anything, and loss is only a delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from tests.process.network import CLIENT, FINE, Place, Weather, free_address

_CHUNK_BYTES: Final = 64 * 1024
_CHUNKS_MAX: Final = 64
"""How many chunks a direction holds up before it takes no more."""
_REPEAT_S: Final = 0.2
"""What a lost packet costs at least: TCP's shortest wait for an acknowledgement."""
_CALL_S: Final = 10.0


class ProxyNetwork:
    """A `Network` made of relays, which run in a thread."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._pids: dict[str, int] = {}
        self._open_ways: dict[tuple[str, str], asyncio.Event] = {}
        self._weathers: dict[str, Weather] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._rng = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays")
        self._thread.start()

    def join(self, node: str) -> Place:
        """Give a node addresses, and open the relays that lead to them."""
        if node not in self._places:
            place = Place(advertise_addr=free_address(), advertise_peer_addr=free_address())
            self._call(self._open(node, place.advertise_addr, place.addr))
            self._call(self._open(node, place.advertise_peer_addr, place.peer_addr))
            self._places[node] = place
        return self._places[node]

    def on_started(self, node: str, pid: int) -> None:
        self._pids[node] = pid

    def cut(self, sender: str, receiver: str) -> None:
        self._call(self._set(sender, receiver, is_open=False))

    def heal(self, sender: str, receiver: str) -> None:
        self._call(self._set(sender, receiver, is_open=True))

    def weather(self, node: str, weather: Weather) -> None:
        self._weathers[node] = weather

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    # --- in the thread ------------------------------------------------------------------------------------------

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_S)

    async def _set(self, sender: str, receiver: str, *, is_open: bool) -> None:
        way = self._way(sender, receiver)
        (way.set if is_open else way.clear)()

    def _way(self, sender: str, receiver: str) -> asyncio.Event:
        """Return what is set while that direction lets through."""
        if (sender, receiver) not in self._open_ways:
            self._open_ways[sender, receiver] = asyncio.Event()
            self._open_ways[sender, receiver].set()
        return self._open_ways[sender, receiver]

    async def _open(self, node: str, address: str, target: str) -> None:
        host, port = _tuple(address)

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with contextlib.suppress(OSError):
                    await self._relay(node, target, reader, writer)
            except asyncio.CancelledError:  # only `close` does that, and asyncio's streams would make a fuss about it
                pass
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        self._servers.append(await asyncio.start_server(relay, host, port))

    async def _relay(
        self, receiver: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        sender = self._who(writer.get_extra_info("peername")[1], writer.get_extra_info("sockname")[1])
        there, back = self._way(sender, receiver), self._way(receiver, sender)
        await there.wait()
        await back.wait()
        far_reader, far_writer = await asyncio.open_connection(*_tuple(target))
        try:
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

    def _who(self, port: int, relay_port: int) -> str:
        """Return the node whose connection from `port` to a relay's it is; whoever is none of ours is a client."""
        inode = _inode(port, relay_port)
        for node, pid in self._pids.items():
            for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) == f"socket:[{inode}]":
                        return node
        return CLIENT

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn


def _tuple(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _inode(local_port: int, remote_port: int) -> str:
    """Return the number of the socket at the near end of a loopback connection; it may be of either family."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[1].endswith(f":{local_port:04X}") and words[2].endswith(f":{remote_port:04X}"):
                return words[9]
    return ""
