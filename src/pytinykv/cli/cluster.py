"""`tinykv status`, `regions`, `stores`: the cluster as its scheduler knows it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from pytinykv.cli.options import option
from pytinykv.cli.session import Target, client_options, run_client
from pytinykv.cli.tables import Column, print_table, size
from pytinykv.cli.text import escaped, shorten

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient, SchedulerClient
    from pytinykv.wire.pb import metapb_pb2, pdpb_pb2

SILENT_S: Final = 5.0
"""A store sends a heartbeat every second; after so long without one, something is wrong."""
REGIONS_TIMEOUT_S: Final = 3.0
"""How long `status` and `stores` wait for regions, which a scheduler that has just started learns from heartbeats."""

json_option = option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.command()
@json_option
@client_options
def status(*, as_json: bool, target: Target) -> None:
    """Show how the cluster is: the scheduler, stores, regions, and what is wrong with them."""

    async def body(client: AsyncClient) -> None:
        facts = await describe_cluster(client.scheduler)
        if as_json:
            print_json(facts)
            return
        print(f"cluster    {facts['cluster_id']}")
        print(f"scheduler  {facts['scheduler']}")
        print(f"stores     {_count(facts['stores'], 'state')}")
        regions = facts["regions"]
        print(f"regions    {'unknown' if regions is None else _count(regions, 'state')}")
        for problem in facts["problems"]:
            print(f"problem    {problem}")
        if facts["stores"]:
            print()
            print_table(_STORE_COLUMNS, [_store_row(store) for store in facts["stores"]])

    sys.exit(run_client(target, body))


@click.command()
@json_option
@client_options
def stores(*, as_json: bool, target: Target) -> None:
    """List the stores: state, address, regions, disk, and when the scheduler last heard of each."""

    async def body(client: AsyncClient) -> None:
        facts = await describe_cluster(client.scheduler)
        if as_json:
            print_json(facts["stores"])
        else:
            print_table(_STORE_COLUMNS, [_store_row(store) for store in facts["stores"]])

    sys.exit(run_client(target, body))


@click.command()
@json_option
@client_options
def regions(*, as_json: bool, target: Target) -> None:
    """List the regions: range of keys, epoch (membership changes, splits), peers as PEER@STORE, leader."""

    async def body(client: AsyncClient) -> int:
        from pytinykv.wire.pb import pdpb_pb2

        if not await client.scheduler.is_bootstrapped():
            print("tinykv regions: there are none; the cluster gets its first with its first store", file=sys.stderr)
            return 1
        reply = await client.scheduler.call("ScanRegions", pdpb_pb2.ScanRegionsRequest(), pdpb_pb2.ScanRegionsResponse)
        found = [describe_region(region) for region in reply.regions]
        if as_json:
            print_json(found)
        else:
            print_table(_REGION_COLUMNS, [_region_row(region) for region in found])
        return 0

    sys.exit(run_client(target, body))


# --- asking -----------------------------------------------------------------------------------------------------


async def describe_cluster(scheduler: SchedulerClient) -> dict[str, Any]:
    """Return what the scheduler knows, as plain data: cluster_id, scheduler, stores, regions (None: unknown), problems."""
    from pytinykv.client import SchedulerError
    from pytinykv.wire.pb import pdpb_pb2

    bootstrapped = await scheduler.is_bootstrapped()
    found: list[dict[str, Any]] | None = [] if not bootstrapped else None
    failure = ""
    if bootstrapped:
        request = pdpb_pb2.ScanRegionsRequest()
        try:
            reply = await scheduler.call("ScanRegions", request, pdpb_pb2.ScanRegionsResponse, REGIONS_TIMEOUT_S)
            found = [describe_region(region) for region in reply.regions]
        except SchedulerError as error:
            failure = str(error)
    all_stores = [] if not bootstrapped else await _describe_stores(scheduler, found or [])
    mark_lost_quorums(all_stores, found or [])
    return {
        "cluster_id": scheduler.cluster_id,
        "scheduler": scheduler.leader_address,
        "bootstrapped": bootstrapped,
        "stores": all_stores,
        "regions": found,
        "problems": _problems(all_stores, found, failure, bootstrapped=bootstrapped),
    }


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


def describe_region(region: pdpb_pb2.Region) -> dict[str, Any]:
    """Return a region as plain data; its keys are hexadecimal."""
    meta = region.region
    down = sorted(one.peer.id for one in region.down_peers)
    pending = sorted(peer.id for peer in region.pending_peers)
    if not region.leader.id:
        state = "leaderless"
    elif down:
        state = "degraded"
    else:
        state = "pending" if pending else "healthy"
    return {
        "region": meta.id,
        "state": state,
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
        "down_peers": down,
        "pending_peers": pending,
    }


def mark_lost_quorums(stores: list[dict[str, Any]], regions: list[dict[str, Any]]) -> None:
    """Give regions whose voters are mostly on silent stores the state "no quorum": the last heard is out of date."""
    silent = {store["store"] for store in stores if store["state"] == "silent"}
    for region in regions:
        voters = [peer for peer in region["peers"] if "role" not in peer]
        answering = sum(peer["store"] not in silent for peer in voters)
        if answering * 2 <= len(voters):
            region["state"] = "no quorum"


def _problems(
    stores: list[dict[str, Any]], regions: list[dict[str, Any]] | None, failure: str, *, bootstrapped: bool
) -> list[str]:
    if not bootstrapped:
        return ["no store has joined yet; start one: tinykv store --data-dir DIR --addr HOST:PORT --scheduler …"]
    problems = [
        f"store {store['store']} at {store['address']} is silent: its last heartbeat was "
        + ("never" if (ago_s := store["last_heartbeat_ago_s"]) is None else f"{ago_s:.0f} s ago")
        for store in stores
        if store["state"] == "silent"
    ]
    if regions is None:
        problems.append(f"the regions are not all known: {failure}")
    for region in regions or []:
        on = {peer["peer"]: peer["store"] for peer in region["peers"]}
        name = f"region {region['region']}"
        if region["state"] == "no quorum":
            problems.append(f"{name} has no quorum: most of its peers are on stores that are silent; start those again")
        if region["leader"] is None:
            problems.append(f"{name} has no leader")
        problems.extend(f"{name}: peer {peer} on store {on.get(peer)} does not answer" for peer in region["down_peers"])
        problems.extend(f"{name}: peer {peer} on store {on.get(peer)} is behind" for peer in region["pending_peers"])
    return problems


# --- showing ----------------------------------------------------------------------------------------------------

_STORE_COLUMNS: Final = (
    Column("STORE", is_number=True),
    Column("STATE"),
    Column("ADDRESS"),
    Column("REGIONS", is_number=True),
    Column("LEADERS", is_number=True),
    Column("DISK_FREE", is_number=True),
    Column("DISK_SIZE", is_number=True),
    Column("HEARD"),
)
_REGION_COLUMNS: Final = (
    Column("REGION", is_number=True),
    Column("STATE"),
    Column("START"),
    Column("END"),
    Column("EPOCH"),
    Column("PEERS"),
    Column("LEADER"),
)


def _store_row(store: dict[str, Any]) -> list[str]:
    ago_s = store["last_heartbeat_ago_s"]
    return [
        str(store["store"]),
        store["state"],
        store["address"],
        str(store["regions"]),
        str(store["leaders"]),
        size(store["available_bytes"]),
        size(store["capacity_bytes"]),
        "never" if ago_s is None else f"{ago_s:.1f} s ago",
    ]


def _region_row(region: dict[str, Any]) -> list[str]:
    return [
        str(region["region"]),
        region["state"],
        _bound(region["start"]),
        _bound(region["end"]),
        f"{region['conf_ver']},{region['version']}",
        " ".join(f"{peer['peer']}@{peer['store']}" for peer in region["peers"]),
        "none" if region["leader"] is None else f"{region['leader']}@{region['leader_store']}",
    ]


def _bound(key: str) -> str:
    return shorten(escaped(bytes.fromhex(key)), 24)


def _count(rows: list[dict[str, Any]], key: str) -> str:
    """Return how many there are, and how many in each state."""
    states = [str(row[key]) for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    return f"{len(states)} ({counts})" if counts else "0"


def print_json(data: object) -> None:
    """Print plain data as JSON, for programs."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")
