"""What stories and nemeses share of the faults in a network: cuts and clogs that come and go by chance.

Each is a task of the world, not of any process, and runs until its `stop` event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import msgspec

from pytinykv.simulation.network import LinkConditions, Network

UNRELIABLE = LinkConditions(loss=0.1, duplicate=0.05, straggle=0.1, straggle_max_s=0.05)
"""A bad network: a tenth of the datagrams vanishes, some come twice, some late."""


async def random_partitions(
    network: Network, hosts: Sequence[str], rng: Random, stop: asyncio.Event, *, every_s: float
) -> None:
    """Split the hosts into two random groups again and again; a group may be empty. Clients reach all of them."""
    while not stop.is_set():
        sides: tuple[list[str], list[str]] = ([], [])
        for host in hosts:
            sides[rng.randrange(2)].append(host)
        network.heal()
        network.partition(*sides)
        await pause(stop, every_s + rng.random() * 0.2)


async def random_link_trouble(
    network: Network, hosts: Sequence[str], rng: Random, stop: asyncio.Event, *, every_s: float
) -> None:
    """Cut single directions, clog some links, slow others; a new draw each time, links freed in another order."""
    while not stop.is_set():
        links = [(a, b) for a in hosts for b in hosts if a != b]
        rng.shuffle(links)
        for link in links[:2]:
            network.block(*link)
        for link in links[2:4]:
            network.clog(*link)
        for link in links[4:7]:
            network.set_conditions(*link, msgspec.structs.replace(network.conditions, straggle=1.0, straggle_max_s=0.3))
        await pause(stop, every_s * rng.random())
        rng.shuffle(links)
        for link in links:
            network.unblock(*link)
            network.unclog(*link)
        await pause(stop, every_s * rng.random())
    network.heal()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not past `stop`."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
