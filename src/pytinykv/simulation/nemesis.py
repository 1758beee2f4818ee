"""Fault makers that deal with whole programs: kill, stop, stall, restart, and order changes that nobody needs.

Like those of `faults`, each is a task of the world that runs until `stop` is set, and then leaves every program running.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from random import Random
from typing import TYPE_CHECKING, Any

from pytinykv.client.errors import ClientError
from pytinykv.raft import (
    AppendEntries,
    AppendResponse,
    ConfChangeKind,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    PeerId,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from pytinykv.raftstore import MembershipChange, RaftEnvelope, RegionId
from pytinykv.raftstore.errors import FormatError
from pytinykv.raftstore.records import Peer, PeerRole, StoreId
from pytinykv.simulation.disk import DiskTiming, SimDisk
from pytinykv.simulation.errors import Violation
from pytinykv.simulation.faults import pause, random_link_trouble, random_partitions
from pytinykv.simulation.network import LinkConditions
from pytinykv.simulation.nodes import STOP_BOUND_S, Node, ProcessDied
from pytinykv.storage import EngineError, Faults

if TYPE_CHECKING:
    from pytinykv.simulation.cluster import Cluster
    from pytinykv.simulation.process import Process

Nemesis = Callable[["Cluster", Random, asyncio.Event], Awaitable[None]]
START_AGAIN_S = 0.5
LOUD_END_BOUND_S = STOP_BOUND_S + 2.0
"""Virtual seconds within which a program whose disk has failed is gone."""


async def start_until_up(node: Node) -> None:
    """Start a program, again and again if need be, as a supervisor does: without a scheduler a store gives up.

    Returns at once when it runs, or when somebody else is starting it.
    """
    while not node.running:
        try:
            await node.start()
        except ProcessDied:
            await node.crash()
        except ClientError:
            await give_up_start(node)
        except (EngineError, FormatError, OSError):
            if not node.disk.hurt:
                raise
            await give_up_start(node)
        else:
            return
        await asyncio.sleep(START_AGAIN_S)


async def give_up_start(node: Node) -> None:
    """End a program whose start has failed, in good order."""
    with suppress(ProcessDied):  # somebody killed it meanwhile
        await node.stop()


async def partitions(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Cut the stores into two groups, again and again."""
    await random_partitions(cluster.network, cluster.store_hosts, rng, stop, every_s=0.2 + 2.0 * rng.random())


async def link_trouble(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Cut, clog and slow single links, the scheduler's and the clients' too."""
    hosts = [*cluster.store_hosts, "scheduler", *(client.host for client in cluster.clients[:2])]
    await random_link_trouble(cluster.network, hosts, rng, stop, every_s=2.0)


async def crashes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill one store after the other, now and then all at once; some die again while they start."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        victims = cluster.stores if rng.random() < 0.1 else [rng.choice(cluster.stores)]
        for victim in victims:
            await victim.crash()
        await pause(stop, 2.0 * rng.random())
        for victim in victims:
            if rng.random() < 0.2:
                cluster.world.loop.call_later(0.02 * rng.random(), cluster.in_background, victim.crash())
            await start_until_up(victim)
    for store in cluster.stores:
        if not store.running:
            await start_until_up(store)


async def restarts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Stop stores in good order, in the middle of everything, and start them again."""
    while not stop.is_set():
        await pause(stop, 4.0 * rng.random())
        victim = rng.choice(cluster.stores)
        if not victim.is_up:
            continue
        try:
            await victim.stop()
        except ProcessDied:
            continue
        await pause(stop, rng.random())
        await start_until_up(victim)


async def stalls(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Hold single stores for a while, as SIGSTOP or a swapping machine does."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        process = rng.choice(cluster.stores).process
        if process is not None:
            cluster.world.trace.record("stall", process.host)
            process.stall()
            await pause(stop, 3.0 * rng.random())
            cluster.world.trace.record("resume", process.host)
            process.resume()


async def scheduler_outages(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill the scheduler and leave the cluster without one for seconds."""
    while not stop.is_set():
        await pause(stop, 4.0 * rng.random())
        await cluster.scheduler.crash()
        if rng.random() < 0.5:
            by_ms = rng.choice([-60_000, -3000, 3000])
            cluster.world.trace.record("clock", "scheduler", by_ms)
            cluster.scheduler.clock.step_wall(by_ms)
        await pause(stop, 4.0 * rng.random())
        await start_until_up(cluster.scheduler)


async def leader_changes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Order leaders to hand over to somebody else."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        leader = cluster.leader()
        serving = None if leader is None else leader.serving
        if serving is not None:
            process, store = serving
            for peer in list(store.peers.values()):
                if peer.is_leader:
                    target = rng.choice(peer.region.peers)
                    _order(cluster, process, store.transfer_leader, peer.region.id, target.id)


def _order(cluster: Cluster, process: Process, order: Callable[..., object], *args: Any) -> None:
    """Have a store take an order that nobody needs."""
    cluster.world.trace.record("order", process.host, order.__name__)
    process.post(order, *args)


async def member_changes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Remove members behind the scheduler's back; its replica checker brings others in."""
    while not stop.is_set():
        await pause(stop, 4.0 * rng.random())
        leader = cluster.leader()
        serving = None if leader is None else leader.serving
        if serving is not None:
            process, store = serving
            for peer in list(store.peers.values()):
                if peer.is_leader and len(peer.region.peers) > len(cluster.stores) // 2 + 1:
                    change = MembershipChange(ConfChangeKind.REMOVE, rng.choice(peer.region.peers))
                    _order(cluster, process, store.change_membership, RegionId(peer.region.id), change)


async def split_brains(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Leave the leader alone with some clients, and the rest of the world with the others."""
    while not stop.is_set():
        await pause(stop, 1.0 + rng.random())
        leader = cluster.leader()
        if leader is None:
            continue
        near, far = [leader.host], ["scheduler"]
        others = [store.host for store in cluster.stores if store is not leader]
        rng.shuffle(others)
        minority = (len(cluster.stores) - 1) // 2
        near += others[: rng.randrange(minority)]
        far += [host for host in others if host not in near]
        for client in cluster.clients:
            (near if rng.random() < 0.5 else far).append(client.host)
        cluster.network.partition(near, far)
        await pause(stop, 1.0 + 3.0 * rng.random())
        cluster.network.heal()


async def slow_links(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let half of all messages between stores take long: elections meet, and old news arrives late."""
    conditions = LinkConditions(straggle=0.5, straggle_max_s=rng.choice([0.1, 0.3, 0.5]))
    for source in cluster.store_hosts:
        for target in cluster.store_hosts:
            if source != target:
                cluster.network.set_conditions(source, target, conditions)
    await stop.wait()


async def leader_stalls(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Hold whoever leads until somebody else must have taken over."""
    config = cluster.options.raftstore
    election_s = config.tick_s * config.election_ticks
    while not stop.is_set():
        await pause(stop, election_s * rng.random())
        leader = cluster.leader()
        process = None if leader is None else leader.process
        if process is not None:
            cluster.world.trace.record("stall", process.host)
            process.stall()
            await pause(stop, election_s * (1 + 2 * rng.random()))
            cluster.world.trace.record("resume", process.host)
            process.resume()


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


async def failing_writes(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let writes of a store's disk, or the scheduler's, fail."""
    await _hurt_disks(cluster, rng, stop, lambda _disk: {"faults": Faults(write_error=EngineError("I/O error"))})


async def failing_syncs(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let syncs of a disk fail: what they should have covered is lost."""
    await _hurt_disks(cluster, rng, stop, lambda _disk: {"faults": Faults(sync_error=EngineError("fsync: I/O error"))})


async def full_disks(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let disks run full."""

    def fill(disk: SimDisk) -> dict[str, Any]:
        return {"faults": Faults(capacity_bytes=disk.used_bytes + rng.randrange(5000))}

    await _hurt_disks(cluster, rng, stop, fill)


async def corrupted_reads(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let reads of a disk find damage, some or all of them."""
    await _hurt_disks(cluster, rng, stop, lambda _disk: {"bad_reads": rng.choice([0.01, 0.1, 1.0])})


async def _hurt_disks(
    cluster: Cluster, rng: Random, stop: asyncio.Event, fault: Callable[[SimDisk], dict[str, Any]]
) -> None:
    """Hurt one disk after the other, watch that whoever has met a failed write ends, repair, start again."""
    while not stop.is_set():
        await pause(stop, 3.0 * rng.random())
        victim = cluster.scheduler if rng.random() < 0.2 else rng.choice(cluster.stores)
        cluster.world.trace.record("hurts", victim.host)
        victim.disk.hurt_by(**fault(victim.disk))
        await pause(stop, 4.0 * rng.random())
        await _expect_end(cluster, victim)
        victim.disk.repair()
        await victim.wait_ended()
        await start_until_up(victim)


async def _expect_end(cluster: Cluster, victim: Node) -> None:
    """A program whose disk has refused a write or a sync ends within the bound. Raises `Violation`."""
    process, engine = victim.process, victim.disk.peek()
    if process is None or engine is None or engine.failure is None:
        return
    deadline = cluster.world.loop.time() + LOUD_END_BOUND_S
    while process.alive:
        if cluster.world.loop.time() > deadline and not process.stalled:
            raise Violation("disk failure", f"{process} goes on {LOUD_END_BOUND_S} s after: {engine.failure}")
        await asyncio.sleep(0.1)


async def power_cuts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Kill stores in the middle of a turn: between two writes, before a sync, between the files of a snapshot."""
    while not stop.is_set():
        victim = rng.choice(cluster.stores)
        victim.cut_power_after(rng.choice([1, 2, rng.randrange(1, 50)]))
        await pause(stop, 1.0 + rng.random())
        victim.disk.power_cut = None
        await victim.wait_ended()
        if not victim.running and rng.random() < 0.3:
            victim.cut_power_after(rng.randrange(1, 6))
        await start_until_up(victim)


async def stale_scheduler(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Give a store a new peer while the scheduler hears of nothing, and leave that peer alone with the scheduler."""
    while not stop.is_set():
        await pause(stop, 0.3 + rng.random())
        number = await _alloc_id(cluster)
        leader = cluster.leader()
        serving = None if leader is None else leader.serving
        target = rng.choice(cluster.stores)
        if number is None or serving is None or target is leader or not target.is_up:
            continue
        others = [store.host for store in cluster.stores if store is not target]
        for host in others:
            cluster.network.block(host, "scheduler")
        process, store = serving
        for peer in [peer for peer in store.peers.values() if peer.is_leader]:
            region_id = RegionId(peer.region.id)
            old = peer.region.peer_on(StoreId(target.store_id))
            if old is None or len(peer.region.conf_state().voters) < len(cluster.stores):
                continue  # the scheduler is about to give this store a peer; that one's id would be older than ours
            _order(cluster, process, store.change_membership, region_id, MembershipChange(ConfChangeKind.REMOVE, old))
            await pause(stop, 0.3)
            new = Peer(PeerId(number), StoreId(target.store_id), PeerRole.LEARNER)
            _order(
                cluster, process, store.change_membership, region_id, MembershipChange(ConfChangeKind.ADD_LEARNER, new)
            )
            await pause(stop, 0.1 + 0.5 * rng.random())
        cluster.network.partition([target.host], others)
        await pause(stop, 2.5 * cluster.options.raftstore.leader_missing_s)
        cluster.network.heal()


async def lost_receipts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let senders of snapshots not hear that they have arrived: they send them again, over what is newer by then."""
    while not stop.is_set():
        cluster.network.lost_receipts = rng.choice([0.3, 0.8, 1.0])  # a nemesis that heals takes it back meanwhile
        await pause(stop, 0.2)
    cluster.network.lost_receipts = 0.0


async def stale_reports(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let a leader's reports, and its orders, travel for seconds, while members change and others lead."""
    slow = LinkConditions(straggle=1.0, straggle_max_s=4.0)
    while not stop.is_set():
        await pause(stop, 0.5 * rng.random())
        first = cluster.leader()
        serving = None if first is None else first.serving
        if first is None or serving is None:
            continue
        cluster.network.set_conditions(first.host, "scheduler", slow)
        cluster.network.set_conditions("scheduler", first.host, slow)
        await pause(stop, cluster.options.raftstore.region_heartbeat_s)
        process, store = first.serving or serving
        for peer in [peer for peer in store.peers.values() if peer.is_leader]:
            _order(cluster, process, store.transfer_leader, peer.region.id, rng.choice(peer.region.peers).id)
        await pause(stop, 0.5)
        second = cluster.leader()
        if second is not None and second.serving is not None:
            process, store = second.serving
            for peer in [peer for peer in store.peers.values() if peer.is_leader and len(peer.region.peers) > 2]:
                change = MembershipChange(ConfChangeKind.REMOVE, rng.choice(peer.region.peers))
                _order(cluster, process, store.change_membership, RegionId(peer.region.id), change)
        await pause(stop, 3.0 * rng.random())
        cluster.network.heal()


async def _alloc_id(cluster: Cluster) -> int | None:
    """Ask the scheduler for an id; a peer's has to be newer than those of all peers before it."""
    client = cluster.clients[0]
    assert client.client is not None
    try:
        return await client.spawn("id", client.client.scheduler.alloc_id(1.0))
    except ClientError:
        return None


async def blackouts(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Take the power from all stores at one moment, in the middle of everything."""
    while not stop.is_set():
        await pause(stop, 2.0 * rng.random())
        for store in cluster.stores:
            await store.crash()
        await pause(stop, 0.2 * rng.random())
        for store in cluster.stores:
            await start_until_up(store)


async def full_buffers(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let streams take no message, often or always."""
    while not stop.is_set():
        cluster.network.full_buffers = rng.choice([0.2, 0.9, 1.0])
        await pause(stop, 2.0 * rng.random())
        cluster.network.full_buffers = 0.0
        await pause(stop, 2.0 * rng.random())


async def lonely_appends(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Leave the leader with one follower for a moment, kill it, and so on: logs part, term after term (Raft figure 8)."""
    while not stop.is_set():
        leader = cluster.leader()
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


async def slow_disks(cluster: Cluster, rng: Random, stop: asyncio.Event) -> None:
    """Let disks take long for everything, or stand still for seconds, and then be quick again."""
    before = {node.host: node.disk.timing for node in cluster.stores}
    while not stop.is_set():
        victims = rng.sample(cluster.stores, rng.randint(1, len(cluster.stores)))
        for victim in victims:
            cluster.world.trace.record("slows", victim.host)
            victim.disk.timing = DiskTiming(work_min_s=rng.choice([0.05, 0.3, 2.0]), stall=0.1, stall_max_s=3.0)
        await pause(stop, 3.0 * rng.random())
        for victim in victims:
            victim.disk.timing = before[victim.host]
        await pause(stop, 2.0 * rng.random())


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

NEMESES: dict[str, Nemesis] = {
    "partitions": partitions,
    "link trouble": link_trouble,
    "crashes": crashes,
    "restarts": restarts,
    "stalls": stalls,
    "scheduler outages": scheduler_outages,
    "split brains": split_brains,
    "deaths on sending": deaths_on_sending,
    "deaths of voters": deaths_of_voters,
    "slow links": slow_links,
    "leader stalls": leader_stalls,
    "leader changes": leader_changes,
    "member changes": member_changes,
    "failing writes": failing_writes,
    "failing syncs": failing_syncs,
    "full disks": full_disks,
    "corrupted reads": corrupted_reads,
    "slow disks": slow_disks,
    "power cuts": power_cuts,
    "blackouts": blackouts,
    "stale scheduler": stale_scheduler,
    "stale reports": stale_reports,
    "lost receipts": lost_receipts,
    "full buffers": full_buffers,
    "lonely appends": lonely_appends,
    "short reigns": short_reigns,
}
"""All of them by name; swarm testing draws some for each seed."""
