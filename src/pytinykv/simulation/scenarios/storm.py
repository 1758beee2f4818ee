"""Swarm testing: each seed draws which faults are on, and settings small enough to make rare paths common.

A run with everything on at once hides as much as it shows (the crash that would have needed a quiet minute never gets
it), so each seed takes a part of the faults (Groce et al., "Swarm testing", 2012).

What is drawn are *kinds of faults*: nemeses, bad conditions (`CONDITIONS`), tiny settings (`SETTINGS`). A history can be told
again with some of them left out, the rest as before: each has its own branch of the seed. That is how failures are shrunk.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from pytinykv.client.config import ClientConfig
from pytinykv.raftstore.config import RaftStoreConfig
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.disk import DiskTiming
from pytinykv.simulation.faults import UNRELIABLE
from pytinykv.simulation.nemeses import NEMESES
from pytinykv.simulation.nemeses.streams import check_half_closes
from pytinykv.simulation.nodes import ClientNode
from pytinykv.simulation.observers import newest_regions
from pytinykv.simulation.scenario import scenario
from pytinykv.simulation.scenarios.generic import finish
from pytinykv.simulation.side_workloads import (
    BatchWorkload,
    ExpiryWorkload,
    ImpatientWorkload,
    RecurringWorkload,
    SchedulerWorkload,
    TtlWorkload,
    watch_scheduler,
)
from pytinykv.simulation.workloads import AppendWorkload, RegisterWorkload, Session, Workload, until_done

STORM_S = 10.0
APPENDERS = 2
CLIENTS = 6
CALM = RaftStoreConfig(region_heartbeat_s=1.0)
SHORT_LOG = RaftStoreConfig(region_heartbeat_s=1.0, log_keep_entries=5, log_gc_bytes=1, log_gc_bytes_force=2)
IMPATIENT = RaftStoreConfig(region_heartbeat_s=1.0, tick_s=0.03, leader_missing_s=0.6)
TALKATIVE = RaftStoreConfig(region_heartbeat_s=0.1, tick_s=0.03)
NERVOUS = RaftStoreConfig(region_heartbeat_s=1.0, tick_s=0.03)
SWEEPING = RaftStoreConfig(region_heartbeat_s=1.0, expiry_pause_s=0.1)
RIVALLING = RaftStoreConfig(region_heartbeat_s=1.0, tick_s=0.05, election_ticks=3, heartbeat_ticks=1)
"""So few ticks to draw from that peers often campaign in the same term."""
PIECEMEAL = RaftStoreConfig(region_heartbeat_s=1.0, tick_s=0.03, append_bytes_max=1)
"""Each command is an entry of its own, so that several are applied in a run."""
PAIRED = RaftStoreConfig(region_heartbeat_s=1.0, tick_s=0.05, election_ticks=2, heartbeat_ticks=1)
ONE_BY_ONE = RaftStoreConfig(region_heartbeat_s=1.0, append_bytes_max=1, inflight_appends_max=1, tick_s=0.02)
CLOCK_RATE_ERROR_MAX = 0.02
"""Well within `RaftStoreConfig.clock_drift_max`, which both ends of a lease share."""
CLOCK_ERROR_S = 1.0
"""How far such a clock is off at most at the end of a story."""
MAD_CLOCK_RATE_MAX = 2.0
"""Far beyond it: a lease would be worth nothing, so `mad clocks` come without. All other guarantees have to hold."""

SLEEPY: Final = "sleepy regions"
SETTINGS: Final[dict[str, Callable[[Random], dict[str, Any]]]] = {
    "short log": lambda rng: {"log_keep_entries": rng.choice([5, 20, 64]), "log_gc_bytes": 1, "log_gc_bytes_force": 2},
    "no lease": lambda _rng: {"lease_reads": False},
    "tiny appends": lambda rng: {
        "append_bytes_max": rng.choice([1, 200]),
        "inflight_appends_max": rng.choice([1, 4]),
        "log_cache_bytes": rng.choice([1, 500]),
    },
    "tiny queues": lambda rng: {
        "queued_bytes_max": rng.choice([50, 500]),
        "entry_bytes_max": 1000,
        "uncommitted_bytes_max": 1000,
        "snapshots_max": 1,
    },
    "tiny timeouts": lambda rng: {
        "tick_s": rng.choice([0.02, 0.05]),
        "peer_down_s": 0.5,
        "promotion_silence_s": 0.1,
        "leader_missing_s": 0.6,
        "snapshot_keep_s": 1.0,
    },
    "quick to give up": lambda _rng: {"undetermined_after_s": 1.0},
    "tiny apply runs": lambda rng: {"apply_bytes_max": rng.choice([1, 100])},
    "eager sweep": lambda rng: {"expiry_pause_s": rng.choice([0.0, 0.3])},
    SLEEPY: lambda rng: {"hibernate_after_s": rng.choice([0.3, 1.0])},
}
"""Small settings of the stores."""
RIVALS: Final[dict[str, Callable[[Session, Random, float], Workload]]] = {
    "register": lambda session, rng, think_s: RegisterWorkload(session, rng, keys=3, think_s=think_s),
    "batch": lambda session, rng, think_s: BatchWorkload(session, rng, keys=4, think_s=think_s),
    "ttl": lambda session, rng, think_s: TtlWorkload(session, rng, keys=3, think_s=think_s),
    "recurring": lambda session, rng, think_s: RecurringWorkload(session, rng, think_s=think_s),
}
"""What clients may quarrel over."""
CONDITIONS: Final = (
    "bad network",
    "wrong clocks",
    "mad clocks",
    "slow machines",
    "small pieces",
    "tiny frames",
    "impatient client",
    "short deadlines",
)
"""What else a seed may draw."""


PAIRS: Final = tuple(Random(1).sample(pairs := list(itertools.combinations(sorted(NEMESES), 2)), len(pairs)))
"""All pairs of nemeses, in an order that has nothing to do with their names."""
KINDS: Final = frozenset({*NEMESES, *CONDITIONS, *SETTINGS})
"""All kinds of faults, conditions and settings that may be left out or put in."""


def pair_for(seed: int) -> tuple[str, str]:
    """Return the pair of nemeses whose turn it is: by chance most of them meet in one of 250 storms only."""
    return PAIRS[seed % len(PAIRS)]


def draw_options(rng: Random) -> ClusterOptions:
    """Draw the shape of a cluster, and which of `SETTINGS` and `CONDITIONS` are on."""
    drawn = sorted(name for name in SETTINGS if name != SLEEPY and rng.random() < 0.4)
    drawn += sorted(name for name in CONDITIONS if rng.random() < 0.4)
    drawn += sorted(rng.sample(sorted(NEMESES), rng.randint(1, 4)))
    stores, think_s = rng.choice([3, 5, 5]), rng.choice([0.02, 0.05, 0.1])
    if rng.random() < 0.3:
        drawn.append(SLEEPY)
    return ClusterOptions(
        stores=stores,
        clients=CLIENTS,
        raftstore=RaftStoreConfig(region_heartbeat_s=1.0, leader_missing_s=3.0),
        think_s=think_s,
        success_within_s=120.0,
        drawn=tuple(drawn),
    )


def with_settings(options: ClusterOptions, rng_for: Callable[[str], Random]) -> ClusterOptions:
    """Put the drawn settings into the programs' configurations."""
    settings: dict[str, Any] = {}
    for name in options.drawn:
        if name in SETTINGS:
            settings |= SETTINGS[name](rng_for(f"setting/{name}"))
    if "mad clocks" in options.drawn:
        settings["lease_reads"] = False
    changes: dict[str, Any] = {"raftstore": RaftStoreConfig(**{**vars(options.raftstore), **settings})}
    if "tiny frames" in options.drawn:
        changes["client"] = ClientConfig(frame_commands_max=2, in_flight_max=3, scan_page_rows_max=3)
    if "short deadlines" in options.drawn:
        changes["attempt_timeout_s"] = rng_for("setting/short deadlines").choice([0.3, 1.0])
    return msgspec.structs.replace(options, **changes)


@scenario("storm", draw_options, prepare=with_settings)
async def storm(cluster: Cluster) -> None:
    """A random part of all faults, with random settings; then everything has to come to rest."""
    rivals = cluster.world.rng_for("rivals").choice(["register", "register", *sorted(RIVALS)])
    if "mad clocks" in cluster.options.drawn and rivals == "ttl":
        rivals = "register"  # when a value ends is told by these clocks
    await weather(cluster, [name for name in cluster.options.drawn if name in NEMESES], rivals)


@scenario("batches", ClusterOptions(stores=3, clients=5, raftstore=CALM, think_s=0.1))
async def batches(cluster: Cluster) -> None:
    """Clients write, read and delete several keys at once, and whole ranges, while leaders change."""
    await weather(cluster, ["leader changes"], "batch")


@scenario("ttl", ClusterOptions(stores=3, clients=6, raftstore=SWEEPING, think_s=0.05, success_within_s=60.0))
async def ttl(cluster: Cluster) -> None:
    """Values are read, renewed and swapped about the second in which they end, beside an eager sweep."""
    await weather(cluster, ["leader changes"], "ttl")


@scenario("replays", ClusterOptions(stores=3, clients=10, raftstore=PIECEMEAL, think_s=0.01, success_within_s=120.0))
async def replays(cluster: Cluster) -> None:
    """Stores die between two steps on their disks while values that come back are swapped: nothing is applied twice."""
    for store in cluster.stores:
        store.disk.timing = DiskTiming(work_extra_mean_s=0.05)
    cluster.observer.watched = (b"d" + RecurringWorkload.KEY,)
    await weather(cluster, ["cuts within turns"], "recurring")


@scenario("removals", ClusterOptions(stores=5, clients=3, raftstore=IMPATIENT, think_s=0.1, success_within_s=120.0))
async def removals(cluster: Cluster) -> None:
    """Members are removed while old messages to them and of them are still on slow links: a removed peer stays gone."""
    await weather(cluster, ["member changes", "slow links"])


@scenario("rolling", ClusterOptions(stores=3, clients=4, raftstore=CALM, think_s=0.05, success_within_s=60.0))
async def rolling(cluster: Cluster) -> None:
    """Programs are stopped in good order and started again one by one, the scheduler too, and clients half-close streams."""
    await weather(cluster, ["rolling restarts", "half-closed streams"])


@scenario("moves", ClusterOptions(stores=3, clients=4, raftstore=CALM, think_s=0.05, success_within_s=60.0))
async def moves(cluster: Cluster) -> None:
    """Stores are stopped and come back at another address; clients and the other stores find them."""
    await weather(cluster, ["moved stores"])


@scenario("scheduler-stalls", ClusterOptions(stores=3, clients=3, raftstore=CALM, think_s=0.1, success_within_s=60.0))
async def scheduler_stalls(cluster: Cluster) -> None:
    """The scheduler is held again and again; afterwards every client gets timestamps and ids at once."""
    await weather(cluster, ["scheduler stalls"])


@scenario("split-brain", ClusterOptions(clients=CLIENTS, raftstore=CALM, think_s=0.04, attempt_timeout_s=0.3))
async def split_brain(cluster: Cluster) -> None:
    """The leader is left alone with some of the clients, again and again."""
    await weather(cluster, ["split brains"])


@scenario(
    "elections",
    ClusterOptions(clients=3, raftstore=RIVALLING, think_s=0.1, attempt_timeout_s=0.3, success_within_s=120.0),
)
async def elections(cluster: Cluster) -> None:
    """Elections that meet each other on slow links, while voters die."""
    await weather(cluster, ["deaths of voters", "leader stalls", "slow links"])


@scenario(
    "rivals",
    ClusterOptions(stores=3, clients=1, raftstore=PAIRED, think_s=0.1, attempt_timeout_s=0.3, success_within_s=120.0),
)
async def rivals(cluster: Cluster) -> None:
    """Elections of three stores, in which two often campaign for the vote of the third, which dies after giving it."""
    await weather(cluster, ["deaths of voters", "leader stalls", "slow links"])


@scenario(
    "figure-8",
    ClusterOptions(clients=3, raftstore=ONE_BY_ONE, think_s=0.03, attempt_timeout_s=0.3, success_within_s=120.0),
)
async def figure_eight(cluster: Cluster) -> None:
    """Leaders die after writing to few: entries of old terms lie about, and may be overwritten or not, but never both."""
    await weather(cluster, ["short reigns"])


@scenario("disks", ClusterOptions(stores=3, clients=4, raftstore=SHORT_LOG, think_s=0.05, success_within_s=120.0))
async def disks(cluster: Cluster) -> None:
    """Disks fail in every way while stores die: programs that notice end in time, and nothing acknowledged is lost."""
    kinds = ["failing writes", "failing syncs", "full disks", "corrupted reads", "slow disks"]
    await weather(cluster, [*sorted(cluster.rng.sample(kinds, 2)), "crashes"])


@scenario("power-cuts", ClusterOptions(stores=5, clients=4, raftstore=SHORT_LOG, think_s=0.05, success_within_s=120.0))
async def power_cuts(cluster: Cluster) -> None:
    """Stores die between two steps on their disks, in the middle of turns and of snapshots, on bad links."""
    await weather(cluster, ["link trouble", "power cuts"])


@scenario(
    "stale-scheduler", ClusterOptions(stores=3, clients=3, raftstore=IMPATIENT, think_s=0.1, success_within_s=120.0)
)
async def stale_scheduler(cluster: Cluster) -> None:
    """Members change behind the scheduler's back, and the new ones ask it whether they are members."""
    await weather(cluster, ["stale scheduler"])


@scenario("scheduler-outages", ClusterOptions(stores=3, clients=3, raftstore=CALM, think_s=0.1, success_within_s=60.0))
async def scheduler_outages(cluster: Cluster) -> None:
    """The scheduler dies and comes back with its clock set wrong: timestamps only ever grow, ids come once."""
    await weather(cluster, ["scheduler outages"])


@scenario(
    "stale-reports", ClusterOptions(stores=3, clients=3, raftstore=TALKATIVE, think_s=0.1, success_within_s=120.0)
)
async def stale_reports(cluster: Cluster) -> None:
    """What a leader has told the scheduler arrives after the news of its successor."""
    await weather(cluster, ["stale reports"])


@scenario(
    "blackouts",
    ClusterOptions(clients=CLIENTS, raftstore=NERVOUS, think_s=0.05, attempt_timeout_s=0.5, success_within_s=120.0),
)
async def blackouts(cluster: Cluster) -> None:
    """All stores lose their power at one moment, again and again: what was acknowledged is on the disks of a majority."""
    for store in cluster.stores:
        store.disk.timing = DiskTiming(work_extra_mean_s=0.01)
    await weather(cluster, ["blackouts"])


@scenario("expiry", ClusterOptions(stores=3, clients=3, raftstore=SWEEPING, success_within_s=60.0))
async def expiry(cluster: Cluster) -> None:
    """Values expire and are swept away, and others are put in their place at that very moment, on slow disks."""
    stop = asyncio.Event()
    work = []
    for store in cluster.stores:
        store.disk.timing = DiskTiming(work_min_s=0.02, work_extra_mean_s=0.03)
    for client in cluster.clients:
        workload = ExpiryWorkload(
            cluster.session(client),
            lambda key, value, ttl, client=client: client.put(key, value, timeout_s=1.0, ttl=ttl),  # type: ignore[misc] # bound
            cluster.world.rng_for(f"{client.host}/workload"),
            keys=10,
            sweep_s=0.3,
            success_within_s=cluster.options.success_within_s,
        )
        work.append(client.spawn("workload", workload.run(stop)))
    await asyncio.sleep(STORM_S * cluster.options.length)
    stop.set()
    await finish(work)


async def weather(cluster: Cluster, chosen: list[str], rivals: str = "register") -> None:
    """Let clients work under the chosen nemeses and the drawn conditions, heal, and check.

    `rivals`: what the clients do that have no keys of their own, one of `RIVALS`.
    """
    drawn = [*(name for name in cluster.options.drawn if name not in NEMESES), *chosen]
    drawn += [name for name in cluster.options.added if name in NEMESES and name not in drawn]
    drawn = [name for name in drawn if cluster.may(name)]
    cluster.world.trace.record("nemeses", *drawn)
    cluster.notes.extend(drawn)
    cluster.begin_trouble(drawn)
    set_up_machines(cluster, drawn)
    stop_clients, stop_trouble = asyncio.Event(), asyncio.Event()
    scheduler_work = SchedulerWorkload()
    appenders, work = start_clients(cluster, stop_clients, scheduler_work, rivals)
    trouble = [
        cluster.world.loop.create_task(_run(cluster, name, stop_trouble), name=f"nemesis:{name}")
        for name in drawn
        if name in NEMESES
    ]
    trouble.append(cluster.world.loop.create_task(watch_scheduler(cluster, stop_trouble), name="watch scheduler"))
    await asyncio.sleep(STORM_S * cluster.options.length)
    stop_trouble.set()
    await finish(trouble)
    cluster.heal()
    await cluster.heal_programs()
    await check_recovers(cluster, scheduler_work)
    if "half-closed streams" in drawn:
        await check_half_closes(cluster)
    stop_clients.set()
    await finish(work)
    await finish(
        [
            client.spawn("clean-up", appender.clean_up())
            for client, appender in zip(cluster.clients, appenders, strict=False)
        ]
    )


async def _run(cluster: Cluster, name: str, stop: asyncio.Event) -> None:
    await NEMESES[name](cluster, cluster.world.rng_for(f"nemesis/{name}"), stop)


async def check_recovers(cluster: Cluster, scheduler_work: SchedulerWorkload) -> None:
    """Liveness: with nothing wrong any more each client can read in each region, and gets a timestamp and an id, in time."""
    limit_s = recovery_bound_s(cluster)
    keys = {region.start_key or b"\0" for region in newest_regions(cluster.engines())} | {b"register 0"}

    async def read(client: ClientNode, key: bytes) -> None:
        await until_done(
            lambda: client.get(key, timeout_s=limit_s), limit_s=limit_s, what=f"a read of {key!r} by {client.host}"
        )

    async def check(client: ClientNode) -> None:
        assert client.client is not None
        await finish([client.spawn("recovers", read(client, key)) for key in sorted(keys)])
        await scheduler_work.check_alive(client.client, limit_s)

    await finish([client.spawn("recovers", check(client)) for client in cluster.clients])


def recovery_bound_s(cluster: Cluster) -> float:
    """Return how long a read may take after healing: one election, which takes up to twice its timeout, and one attempt."""
    config = cluster.options.raftstore
    return 2 * config.tick_s * config.election_ticks + ClientConfig().read_attempt_timeout_s


def set_up_machines(cluster: Cluster, drawn: list[str]) -> None:
    """Give machines clocks that run wrong, within the bound, and slow disks, and the network its quality."""
    if "bad network" in drawn:
        cluster.make_unreliable(UNRELIABLE)
    if "small pieces" in drawn:
        cluster.network.snapshot_piece_bytes = cluster.world.rng_for("small pieces").choice([64, 700])
    clocks, machines = cluster.world.rng_for("wrong clocks"), cluster.world.rng_for("slow machines")
    mad = cluster.world.rng_for("mad clocks")
    for store in cluster.stores:
        if "wrong clocks" in drawn:
            cluster.history.clock_error_s = CLOCK_ERROR_S
        if "wrong clocks" in drawn and clocks.random() < 0.7:
            rate = 1 + CLOCK_RATE_ERROR_MAX * (2 * clocks.random() - 1)
            cluster.world.trace.record("clock", store.host, f"runs at {rate:.4f}")
            store.clock.set_rate(rate)
        if "mad clocks" in drawn:
            rate, step_ms = MAD_CLOCK_RATE_MAX ** mad.uniform(-1, 1), mad.choice([-3_600_000, 0, 3_600_000])
            cluster.world.trace.record("clock", store.host, f"runs at {rate:.4f}, stepped by {step_ms} ms")
            store.clock.set_rate(rate)
            store.clock.step_wall(step_ms)
        if "slow machines" in drawn and machines.random() < 0.5:
            cluster.world.trace.record("slows", store.host)
            store.disk.timing = DiskTiming(work_extra_mean_s=0.01, stall=0.05)


def start_clients(
    cluster: Cluster, stop: asyncio.Event, scheduler_work: SchedulerWorkload, rivals: str
) -> tuple[list[AppendWorkload], list[asyncio.Task[None]]]:
    """Start all clients' work; return the appenders, which have something to check later, and the tasks."""
    options = cluster.options
    appenders: list[AppendWorkload] = []
    work: list[asyncio.Task[None]] = []
    for number, client in enumerate(cluster.clients):
        rng = cluster.world.rng_for(f"{client.host}/workload")
        session = cluster.session(client)
        if number < APPENDERS:
            appender = AppendWorkload(session, rng, think_s=options.think_s, success_within_s=options.success_within_s)
            appenders.append(appender)
            work.append(client.spawn("workload", appender.run(stop)))
        elif number == APPENDERS and "impatient client" in cluster.notes:
            impatient = ImpatientWorkload(session, rng, keys=3, think_s=options.think_s)
            work.append(client.spawn("workload", impatient.run(stop)))
        else:
            rival = RIVALS[rivals](session, rng, options.think_s)
            work.append(client.spawn("workload", rival.run(stop)))
    for client in cluster.clients[-2:]:
        assert client.client is not None
        rng = cluster.world.rng_for(f"{client.host}/timestamps")
        asking = scheduler_work.run(client.client, rng, stop, think_s=0.1)
        work.append(client.spawn("timestamps", asking))
    return appenders, work
