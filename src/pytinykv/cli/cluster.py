"""`tinykv status`, `regions`, `stores`: the cluster as its scheduler knows it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from pytinykv.cli.cluster_facts import describe_cluster
from pytinykv.cli.options import json_option
from pytinykv.cli.output import print_json
from pytinykv.cli.session import NOT_DONE, Target, client_options, run_client
from pytinykv.cli.tables import Column, print_table, size
from pytinykv.cli.text import escaped, shorten

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient


@click.command()
@json_option
@client_options
def status(*, as_json: bool, target: Target) -> None:
    """Show how the cluster is: the scheduler, stores, regions, and what is wrong with them.

    Exit status 1 if anything is: a store that is silent, a region without quorum, leader, or all its replicas, a disk that is
    fuller than 85 %.
    """

    async def body(client: AsyncClient) -> int:
        facts = await describe_cluster(client.scheduler)
        if as_json:
            print_json({"ok": not facts["problems"], **facts})
        else:
            print_status(facts)
        return int(bool(facts["problems"]))

    sys.exit(run_client(target, body))


def print_status(facts: dict[str, Any]) -> None:
    """Print what `describe_cluster` returned: the problems first, as they are what is looked for."""
    for problem in facts["problems"]:
        print(f"problem    {problem}")
    for note in facts["notes"]:
        print(f"note       {note}")
    if not facts["problems"]:
        print("well       all stores are heard, and every region has all its replicas and a leader")
    print(f"cluster    {facts['cluster_id']}")
    print(f"scheduler  {facts['scheduler']}")
    print(f"stores     {_count(facts['stores'], 'state')}")
    regions = facts["regions"]
    print(f"regions    {'unknown' if regions is None else _count(regions, 'state')}")
    if facts["stores"]:
        print()
        print_table(_STORE_COLUMNS, [_store_row(store) for store in facts["stores"]])


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
    """List the regions: range of keys, epoch (membership changes, splits), size, peers as PEER@STORE, leader.

    The size is what one replica takes on its store's disk, roughly, as its leader reported last.

    States: healthy; pending (a replica is behind); under-replicated; leaderless; no quorum.
    """

    async def body(client: AsyncClient) -> int:
        facts = await describe_cluster(client.scheduler)
        found = facts["regions"]
        if found is None:
            print(f"tinykv regions: {facts['problems'][-1]}", file=sys.stderr)
            return NOT_DONE
        if as_json:
            print_json(found)
        elif found:
            print_table(_REGION_COLUMNS, [_region_row(region) for region in found])
        else:
            print("tinykv regions: there are none; the cluster gets its first with its first store", file=sys.stderr)
        return int(not found)

    sys.exit(run_client(target, body))


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
    Column("SIZE", is_number=True),
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
        "-" if region["approximate_size_bytes"] is None else size(region["approximate_size_bytes"]),
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
