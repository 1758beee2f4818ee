"""`tinykv ctl …`: what an administrator asks the scheduler for.

Each command says what it asked for, waits until that has happened, and says how it went. An interrupt ends the waiting only:
what was asked for goes on, and `tinykv ctl operators` shows it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from pytinykv.cli.options import SuggestingGroup, json_option, option
from pytinykv.cli.output import print_json
from pytinykv.cli.session import NOT_DONE, Target, client_options, run_client
from pytinykv.cli.tables import Column, print_table, size
from pytinykv.cli.text import from_text

if TYPE_CHECKING:
    from pytinykv.client import AsyncClient, SchedulerClient
    from pytinykv.wire.pb import adminpb_pb2

POLL_S: Final = 0.5
"""How often the scheduler is asked how far something is."""


@click.group(cls=SuggestingGroup)
def ctl() -> None:
    """Ask the scheduler to split regions, to move leaders and peers, to remove stores."""


@ctl.group(cls=SuggestingGroup)
def store() -> None:
    """Take stores out of service."""


@store.command()
@click.argument("store_id", type=click.IntRange(min=1), metavar="ID")
@option("--wait/--no-wait", default=True, show_default=True, help="Wait until the store holds nothing any more.")
@client_options
def remove(*, store_id: int, wait: bool, target: Target) -> None:
    """Take a store out of service: its peers move to other stores, then it is gone for good.

    Refused while the store is alive and the others can't take over. `tinykv ctl store restore ID` takes it back.
    """

    async def body(client: AsyncClient) -> None:
        from pytinykv.wire.pb import metapb_pb2

        told = ""
        while True:
            removal = await client.scheduler.remove_store(store_id)
            if removal.state == metapb_pb2.StoreState.Tombstone:
                print(f"store {store_id} is removed", flush=True)
                return
            text = f"store {store_id}: {removal.regions_left} regions left ({size(removal.bytes_left)})"
            if removal.obstacle:
                text += f"; {removal.obstacle}"
            if text != told:
                print(text, flush=True)
            told = text
            if not wait:
                return
            await asyncio.sleep(POLL_S)

    sys.exit(run_client(target, body))


@store.command()
@click.argument("store_id", type=click.IntRange(min=1), metavar="ID")
@client_options
def restore(*, store_id: int, target: Target) -> None:
    """Take the removal of a store back, as long as it has not ended."""

    async def body(client: AsyncClient) -> None:
        await client.scheduler.restore_store(store_id)
        print(f"store {store_id} stays")

    sys.exit(run_client(target, body))


@ctl.command("transfer-leader")
@click.argument("region_id", type=click.IntRange(min=1), metavar="REGION")
@click.argument("store_id", type=click.IntRange(min=1), metavar="STORE")
@client_options
def transfer_leader(*, region_id: int, store_id: int, target: Target) -> None:
    """Let the peer on a store lead a region."""

    async def body(client: AsyncClient) -> int:
        if not await client.scheduler.transfer_leader(region_id, store_id):
            print(f"store {store_id} leads region {region_id} already")
            return 0
        failure = await _wait_for_operator(client.scheduler, region_id, "transfer leader", target.timeout_s)
        if failure:
            print(f"tinykv {target.command}: region {region_id}: {failure}", file=sys.stderr)
            return NOT_DONE
        print(f"store {store_id} leads region {region_id}")
        return 0

    sys.exit(run_client(target, body))


@ctl.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@option("--hex", "is_hex", is_flag=True, help="KEYs are hexadecimal.")
@client_options
def split(*, keys: tuple[str, ...], is_hex: bool, target: Target) -> None:
    """Split regions, so that one begins at each KEY."""
    wanted = [from_text(key, "KEY", is_hex=is_hex) for key in keys]

    async def body(client: AsyncClient) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + target.timeout_s
        while True:
            done = await client.scheduler.split_regions(wanted, max(deadline - loop.time(), 0.1))
            if done.finished_percentage == 100:
                print(f"regions {', '.join(map(str, done.regions_id))} begin there")
                return 0
            if loop.time() >= deadline:
                print(
                    f"tinykv {target.command}: {done.finished_percentage} % after {target.timeout_s:g} s: regions begin at"
                    f" {len(done.regions_id)} of the keys; ask again to wait on",
                    file=sys.stderr,
                )
                return NOT_DONE

    sys.exit(run_client(target, body))


@ctl.command()
@click.argument("region_ids", nargs=-1, type=click.IntRange(min=1), metavar="[REGION…]")
@client_options
def scatter(*, region_ids: tuple[int, ...], target: Target) -> None:
    """Spread the peers and leaders of regions evenly over all stores; without REGION, of all regions."""

    async def body(client: AsyncClient) -> int:
        ids = list(region_ids)
        if not ids:
            ids = [info.region.id for info in await client.scheduler.scan_regions()]
        failed = await client.scheduler.scatter_regions(ids)
        print(f"{len(set(ids)) - len(failed)} regions are spread; `tinykv ctl operators` shows how far that is")
        for region_id in failed:
            print(
                f"tinykv {target.command}: region {region_id} can't be moved now: it has no leader, a peer that is behind or"
                " silent, or another request is carried out",
                file=sys.stderr,
            )
        return NOT_DONE if failed else 0

    sys.exit(run_client(target, body))


@ctl.command()
@json_option
@client_options
def operators(*, as_json: bool, target: Target) -> None:
    """List what the scheduler is doing, and what it has done last, one line a region."""

    async def body(client: AsyncClient) -> None:
        found = [describe_operator(one) for one in await client.scheduler.list_operators()]
        if as_json:
            print_json(found)
        else:
            print_table(_COLUMNS, [_row(one) for one in found])

    sys.exit(run_client(target, body))


async def _wait_for_operator(scheduler: SchedulerClient, region_id: int, description: str, timeout_s: float) -> str:
    """Wait until a region's operator has ended; return why it has failed, if it has."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        found = [one for one in await scheduler.list_operators() if one.region_id == region_id]
        operator = next((describe_operator(one) for one in found if one.description == description), None)
        if operator is None:
            return ""  # it has ended, and another one since
        if operator["status"] != "running":
            why = operator["reason"] or operator["status"]
            return "" if operator["status"] == "success" else f"{description}: {why}"
        if loop.time() >= deadline:
            return f"{description} has not ended within {timeout_s:g} s, and goes on"
        await asyncio.sleep(POLL_S / 10)


def describe_operator(operator: adminpb_pb2.Operator) -> dict[str, Any]:
    """Return an operator as plain data."""
    from pytinykv.wire.pb import pdpb_pb2

    is_running = operator.status == pdpb_pb2.OperatorStatus.RUNNING
    return {
        "region": operator.region_id,
        "kind": operator.kind,
        "description": operator.description,
        "status": pdpb_pb2.OperatorStatus.Name(operator.status).lower(),
        "reason": operator.reason,
        "steps": list(operator.steps),
        "done_steps": operator.done_steps,
        "duration_s": operator.duration_ms / 1000,
        "ended_ago_s": None if is_running else operator.ended_ago_ms / 1000,
    }


_COLUMNS: Final = (
    Column("REGION", is_number=True),
    Column("STATUS"),
    Column("KIND"),
    Column("WHAT"),
    Column("STEP"),
    Column("TOOK", is_number=True),
    Column("ENDED"),
)


def _row(operator: dict[str, Any]) -> list[str]:
    steps, done, ago_s = operator["steps"], operator["done_steps"], operator["ended_ago_s"]
    step = f"{done}/{len(steps)}" + (f" {steps[done]}" if done < len(steps) else "")
    what = operator["description"] + (f" ({operator['reason']})" if operator["reason"] else "")
    return [
        str(operator["region"]),
        operator["status"],
        operator["kind"],
        what,
        step,
        f"{operator['duration_s']:.1f} s",
        "" if ago_s is None else f"{ago_s:.1f} s ago",
    ]
