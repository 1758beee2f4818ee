"""The cluster as its scheduler knows it, as plain data, and what is wrong with it: for `status`, `stores` and `regions`.

`describe_cluster` asks; the rest is pure. The state of a region, the worst that holds:

    no quorum          half of its voters or more are on stores that are silent: it takes no writes
    leaderless         it has peers enough, and no leader at the moment
    under-replicated   fewer voters that answer than the cluster keeps of a region (`max_replicas`)
    pending            a voter is behind its leader
    healthy

A *problem* needs an administrator to do something, or makes the next failure worse; `status` exits 1 for one. A *note* tells
what is on its way to where it should be: a store that is being removed, a learner that is filled.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from pytinykv.cli.tables import size

if TYPE_CHECKING:
    from pytinykv.client import SchedulerClient
    from pytinykv.wire.pb import metapb_pb2, pdpb_pb2

SILENT_S: Final = 5.0
"""A store sends a heartbeat every second; after so long without one, something is wrong."""
REGIONS_TIMEOUT_S: Final = 3.0
"""How long `status` and `stores` wait for regions, which a scheduler that has just started learns from heartbeats."""
DISK_USED_MAX: Final = 0.85
"""A disk that is fuller than this is a problem; at 80 % its store gets no new peers."""
NAMED_MAX: Final = 5
"""So many regions are named in a problem; `tinykv regions` lists them all."""


async def describe_cluster(scheduler: SchedulerClient) -> dict[str, Any]:
    """Return what the scheduler knows.

    cluster_id, scheduler, bootstrapped, max_replicas, stores, regions (None: unknown), problems, notes.
    """
    from pytinykv.client import SchedulerError
    from pytinykv.wire.pb import pdpb_pb2

    bootstrapped = await scheduler.is_bootstrapped()
    found: list[dict[str, Any]] | None = [] if not bootstrapped else None
    failure, max_replicas = "", 0
    if bootstrapped:
        request = pdpb_pb2.ScanRegionsRequest()
        config = await scheduler.call(
            "GetClusterConfig", pdpb_pb2.GetClusterConfigRequest(), pdpb_pb2.GetClusterConfigResponse
        )
        max_replicas = config.cluster.max_peer_count
        try:
            reply = await scheduler.call("ScanRegions", request, pdpb_pb2.ScanRegionsResponse, REGIONS_TIMEOUT_S)
            sizes = await _region_sizes(scheduler)
            found = [describe_region(region, sizes.get(region.region.id)) for region in reply.regions]
        except SchedulerError as error:
            failure = str(error)
    all_stores = [] if not bootstrapped else await _describe_stores(scheduler, found or [])
    judge_regions(all_stores, found or [], max_replicas)
    return {
        "cluster_id": scheduler.cluster_id,
        "scheduler": scheduler.leader_address,
        "bootstrapped": bootstrapped,
        "max_replicas": max_replicas,
        "stores": all_stores,
        "regions": found,
        "problems": problems(all_stores, found, failure, bootstrapped=bootstrapped, max_replicas=max_replicas),
        "notes": notes(all_stores, found or []),
    }


async def _region_sizes(scheduler: SchedulerClient) -> dict[int, int]:
    """Return the regions' sizes; none where the scheduler does not tell them, as PD does not."""
    from pytinykv.client import SchedulerError, SchedulerUnavailableError

    try:
        return await scheduler.list_region_sizes(REGIONS_TIMEOUT_S)
    except SchedulerUnavailableError:
        raise
    except SchedulerError:
        return {}


async def _describe_stores(scheduler: SchedulerClient, regions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from pytinykv.client import StoreNotFoundError
    from pytinykv.wire.pb import pdpb_pb2

    described = []
    for store in await scheduler.get_all_stores(exclude_tombstone=True):
        request = pdpb_pb2.GetStoreRequest(store_id=store.id)
        try:
            reply = await scheduler.call("GetStore", request, pdpb_pb2.GetStoreResponse)
        except StoreNotFoundError:
            continue  # removed since the list was made
        leaders = sum(region["leader_store"] == store.id for region in regions)
        described.append(describe_store(reply.store, reply.stats, leaders=leaders, now_s=time.time()))
    return sorted(described, key=lambda one: int(one["store"]))


def describe_store(
    store: metapb_pb2.Store, stats: pdpb_pb2.StoreStats, *, leaders: int, now_s: float
) -> dict[str, Any]:
    """Return a store as plain data. Its state is the scheduler's, but "silent" for one that should be up and is not heard."""
    from pytinykv.wire.pb import metapb_pb2 as metapb

    heard_s = store.last_heartbeat / 1e9
    silence_s = max(0.0, now_s - heard_s) if heard_s else None
    state = metapb.StoreState.Name(store.state).lower()
    if state == "up" and (silence_s is None or silence_s > SILENT_S):
        state = "silent"
    return {
        "store": store.id,
        "state": state,
        "address": store.address,
        "status_address": store.status_address,
        "regions": stats.region_count,
        "leaders": leaders,
        "capacity_bytes": stats.capacity,
        "available_bytes": stats.available,
        "last_heartbeat_ago_s": None if silence_s is None else round(silence_s, 3),
        "version": store.version,
    }


def describe_region(region: pdpb_pb2.Region, size_bytes: int | None = None) -> dict[str, Any]:
    """Return a region as plain data; its keys are hexadecimal. Its state is "healthy" until `judge_regions`.

    `size_bytes`: what it holds on one store, roughly; None: not known.
    """
    meta = region.region
    return {
        "region": meta.id,
        "state": "healthy",
        "start": meta.start_key.hex(),
        "end": meta.end_key.hex(),
        "conf_ver": meta.region_epoch.conf_ver,
        "version": meta.region_epoch.version,
        "peers": [
            {"peer": peer.id, "store": peer.store_id, **({"role": "learner"} if peer.role else {})}
            for peer in meta.peers
        ],
        "leader": region.leader.id or None,
        "leader_store": region.leader.store_id or None,
        "approximate_size_bytes": size_bytes,
        "down_peers": sorted(one.peer.id for one in region.down_peers),
        "pending_peers": sorted(peer.id for peer in region.pending_peers),
    }


def judge_regions(stores: list[dict[str, Any]], regions: list[dict[str, Any]], max_replicas: int) -> None:
    """Give each region its state, and `replicas`: its voters that answer, as far as is known.

    What a leader said last is out of date once its store is silent, so silent stores count first.
    """
    silent = _silent(stores)
    for region in regions:
        voters = [peer for peer in region["peers"] if "role" not in peer]
        heard = [peer for peer in voters if peer["store"] not in silent]
        working = [peer for peer in heard if peer["peer"] not in region["down_peers"]]
        region["replicas"] = len(working)
        if len(heard) * 2 <= len(voters):
            region["state"] = "no quorum"
        elif region["leader"] is None:
            region["state"] = "leaderless"
        elif len(working) < max_replicas:
            region["state"] = "under-replicated"
        elif any(peer["peer"] in region["pending_peers"] for peer in voters):
            region["state"] = "pending"
        else:
            region["state"] = "healthy"


def problems(
    stores: list[dict[str, Any]],
    regions: list[dict[str, Any]] | None,
    failure: str,
    *,
    bootstrapped: bool,
    max_replicas: int,
) -> list[str]:
    """Return what is wrong, the worst first, each with what to do where that is not plain."""
    if not bootstrapped:
        return ["no store has joined yet; start one: tinykv store --data-dir DIR --addr HOST:PORT --scheduler …"]
    found = [_silence(store, regions) for store in stores if store["state"] == "silent"]
    if regions is None:
        found.append(f"the regions are not all known: {failure}")
    by_state: dict[str, list[dict[str, Any]]] = {}
    for region in regions or []:
        by_state.setdefault(region["state"], []).append(region)
    if lost := by_state.get("no quorum"):
        found.append(f"{_named(lost)} no quorum: half of the peers or more are on silent stores; start those again")
    if leaderless := by_state.get("leaderless"):
        found.append(f"{_named(leaderless)} no leader")
    if few := by_state.get("under-replicated"):
        found.append(f"{_named(few)} {_replica_counts(few, max_replicas)}{_too_few(stores, max_replicas)}")
    if behind := by_state.get("pending"):
        found.append(f"{_named(behind)} a replica that is behind its leader")
    found.extend(
        f"store {store['store']} at {store['address']}: its disk is {_used(store):.0%} full, "
        f"{size(store['available_bytes'])} free of {size(store['capacity_bytes'])}; "
        "give it a larger one, or add a store"
        for store in stores
        if store["state"] != "silent" and _used(store) > DISK_USED_MAX
    )
    return found


def notes(stores: list[dict[str, Any]], regions: list[dict[str, Any]]) -> list[str]:
    """Return what is going on that is no problem."""
    found = [
        f"store {store['store']} at {store['address']} is being removed, {_peers_on(store, regions)} left"
        for store in stores
        if store["state"] == "offline"
    ]
    filled = [region for region in regions if any("role" in peer for peer in region["peers"])]
    if filled:
        found.append(f"{_named(filled)} a new peer that is being filled")
    return found


def _silent(stores: list[dict[str, Any]]) -> set[int]:
    return {store["store"] for store in stores if store["state"] == "silent"}


def _silence(store: dict[str, Any], regions: list[dict[str, Any]] | None) -> str:
    ago_s = store["last_heartbeat_ago_s"]
    heard = "not heard of since the scheduler began" if ago_s is None else f"last heard of {ago_s:.0f} s ago"
    told = f"store {store['store']} at {store['address'] or 'no address'} is silent, {heard}"
    if regions is None:
        return told
    held = sum(any(peer["store"] == store["store"] for peer in region["peers"]) for region in regions)
    return f"{told}; it has {_plural(held, 'peer')}"


def _peers_on(store: dict[str, Any], regions: list[dict[str, Any]]) -> str:
    return _plural(sum(peer["store"] == store["store"] for region in regions for peer in region["peers"]), "peer")


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _named(regions: list[dict[str, Any]]) -> str:
    """Return "region 4 has", or "12 regions (4, 5, …) have"."""
    if len(regions) == 1:
        return f"region {regions[0]['region']} has"
    names = ", ".join(str(region["region"]) for region in regions[:NAMED_MAX])
    return f"{len(regions)} regions ({names}{', …' * (len(regions) > NAMED_MAX)}) have"


def _replica_counts(regions: Iterable[dict[str, Any]], max_replicas: int) -> str:
    counts = sorted({region["replicas"] for region in regions})
    return f"{' or '.join(map(str, counts))} of {max_replicas} replicas"


def _too_few(stores: list[dict[str, Any]], max_replicas: int) -> str:
    """Say so if there can't be enough replicas, whatever the scheduler does."""
    able = sum(store["state"] == "up" for store in stores)
    missing = max_replicas - able
    if missing <= 0:
        return ""
    return f"; only {_plural(able, 'store')} can hold one: start {missing} more, or give the scheduler --max-replicas {able}"


def _used(store: dict[str, Any]) -> float:
    capacity = store["capacity_bytes"]
    return 1 - store["available_bytes"] / capacity if capacity else 0.0
