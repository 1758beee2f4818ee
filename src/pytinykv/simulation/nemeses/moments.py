"""Fault makers that watch what stores send, and strike at the moment that hurts: after a vote, between two appends."""

from __future__ import annotations

import asyncio
from contextvars import Context
from random import Random
from typing import TYPE_CHECKING

from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from pytinykv.raftstore import RaftEnvelope
from pytinykv.simulation.faults import pause
from pytinykv.simulation.nodes import Node, start_until_up

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster


_MESSAGE_KINDS: list[type] = [
    AppendEntries,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PreVoteResponse,
    VoteRequest,
    VoteResponse,
    TimeoutNow,
]


async def deaths_on_sending(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill stores right after they have sent a message of some kind, and start them again at once."""
    await _kill_senders(cluster, rng, stop, rng.sample(_MESSAGE_KINDS, 2), rng.choice([0.02, 0.1, 0.3]))


async def deaths_of_voters(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill stores right after they have voted."""
    await _kill_senders(cluster, rng, stop, [VoteResponse], 0.8)


async def _kill_senders(cluster: Cluster, rng: Random, stop: asyncio.Event, kinds: list[type], chance: float) -> None:
    condemned: list[Node] = []

    def hook(envelope: RaftEnvelope) -> None:
        if isinstance(envelope.message, tuple(kinds)) and not condemned and rng.random() < chance:
            sender = cluster.node_of_store(envelope.sender.store_id)
            if sender is not None:
                condemned.append(sender)

    cluster.message_hooks.append(hook)
    while not stop.is_set():
        await asyncio.sleep(0.001)
        if condemned:
            victim = condemned[0]
            await victim.crash()
            await start_until_up(victim)
            await pause(stop, 0.3 * rng.random())
            condemned.clear()
    cluster.message_hooks.remove(hook)


async def lonely_appends(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Leave the leader with one follower for a moment, kill it, and so on: logs part, term after term (Raft figure 8)."""
    while not stop.is_set():
        leader = cluster.draw_leader(rng)
        if leader is None:
            await pause(stop, 0.05)
            continue
        others = [store.host for store in cluster.stores if store is not leader]
        friend = rng.choice([*others, ""])
        for host in others:
            if host != friend:
                cluster.network.block(leader.host, host)
        await pause(stop, 0.3 * rng.random())
        await leader.crash()
        cluster.network.heal()
        if rng.random() < 0.7:
            await start_until_up(leader)
        await pause(stop, 2.5 * rng.random())
        for store in cluster.stores:
            if not store.running and (rng.random() < 0.7 or store is leader):
                await start_until_up(store)


async def short_reigns(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let each leader send so many appends and then nothing any more: what it has begun is on some disks only."""
    left: dict[tuple[int, int], int] = {}
    fallen: list[Node] = []

    def hook(envelope: RaftEnvelope) -> None:
        message = envelope.message
        if not isinstance(message, AppendEntries) or not message.entries:
            return
        reign = (envelope.region_id, message.term)
        left[reign] = left.get(reign, rng.randint(1, rng.choice([4, 10, 60]))) - 1
        sender = cluster.node_of_store(envelope.sender.store_id)
        if left[reign] == 0 and sender is not None and sender not in fallen:
            cluster.world.loop.call_soon(cut_off, sender, context=Context())
            fallen.append(sender)

    def cut_off(sender: Node) -> None:
        cluster.network.partition([sender.host], [host for host in cluster.store_hosts if host != sender.host])

    cluster.message_hooks.append(hook)
    while not stop.is_set():
        await pause(stop, 0.02)
        if fallen:
            await pause(stop, 0.1 * rng.random())
            await fallen[0].crash()
            await pause(stop, rng.choice([0.0, 0.5]) * rng.random())
            for host in cluster.store_hosts:
                cluster.network.unblock(fallen[0].host, host)
                cluster.network.unblock(host, fallen[0].host)
            await start_until_up(fallen[0])
            fallen.pop(0)
    cluster.message_hooks.remove(hook)
