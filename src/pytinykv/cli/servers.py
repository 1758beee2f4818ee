"""`tinykv scheduler` and `tinykv store`: one server in the foreground, until a signal comes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from pytinykv.cli.options import component_settings, option, server_options
from pytinykv.client.errors import ClientError
from pytinykv.lifecycle import LifecycleError
from pytinykv.lifecycle.signals import leave_process, run_process
from pytinykv.raftstore import RaftStoreConfig
from pytinykv.raftstore.errors import RaftStoreError
from pytinykv.scheduler import SchedulerConfig, SchedulerError
from pytinykv.server.scheduler_process import SchedulerProcessConfig, run_scheduler
from pytinykv.server.store_process import StoreProcessConfig, run_store
from pytinykv.storage import EngineError

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope, StopReport

T = TypeVar("T")

_EXPLAINED = (ClientError, EngineError, LifecycleError, RaftStoreError, SchedulerError, OSError, ValueError)
"""Errors whose message tells a user enough; any other is a bug and shows its traceback."""


@click.command()
@server_options
@option(
    "--max-store-down-time",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="SECONDS",
    help="Replace the peers of a store that is silent for this long, if there is a spare.  [default: 1800]",
)
@click.pass_context
def scheduler(
    context: click.Context,
    data_dir: Path,
    addr: str,
    advertise_addr: str,
    status_addr: str,
    insecure: bool,  # noqa: FBT001 - how click passes a flag
    max_store_down_time: float | None,
) -> None:
    """Run the scheduler: timestamps, ids, and where everything is."""
    settings = component_settings(context, "scheduler")
    if max_store_down_time is not None:
        settings["max_store_down_time_s"] = max_store_down_time
        settings.setdefault("store_disconnect_time_s", min(20.0, max_store_down_time))
    config = SchedulerProcessConfig(
        data_dir=data_dir,
        addr=addr,
        advertise_addr=advertise_addr,
        status_addr=status_addr,
        insecure=insecure,
        scheduler=_component(SchedulerConfig, settings, "scheduler"),
    )
    _serve("scheduler", lambda scope: run_scheduler(config, scope, _print_ready))


@click.command()
@server_options
@option("--scheduler", required=True, metavar="HOST:PORT[,…]", help="Where the scheduler is.")
@option(
    "--peer-addr",
    default="",
    metavar="HOST:PORT",
    help="Where other stores' messages arrive.  [default: host of --addr, a free port]",
)
@click.pass_context
def store(
    context: click.Context,
    data_dir: Path,
    addr: str,
    advertise_addr: str,
    status_addr: str,
    insecure: bool,  # noqa: FBT001 - how click passes a flag
    scheduler: str,
    peer_addr: str,
) -> None:
    """Run a store: replicas of regions, served to clients."""
    config = StoreProcessConfig(
        data_dir=data_dir,
        addr=addr,
        advertise_addr=advertise_addr,
        peer_addr=peer_addr,
        status_addr=status_addr,
        insecure=insecure,
        scheduler=tuple(part.strip() for part in scheduler.split(",")),
        raftstore=_component(RaftStoreConfig, component_settings(context, "raftstore"), "store.raftstore"),
    )
    _serve("store", lambda scope: run_store(config, scope, _print_ready))


def _component(kind: type[T], settings: dict[str, Any], table: str) -> T:
    """Make a component's configuration. Raises UsageError that names what is wrong."""
    known = getattr(kind, "__struct_fields__", None) or tuple(getattr(kind, "__dataclass_fields__", ()))
    for name in settings:
        if name not in known:
            raise click.UsageError(f"[{table}] has no setting {name!r}; it has {', '.join(known)}")
    try:
        config = msgspec.convert(settings, kind)
        config.validate()  # type: ignore[attr-defined]  # every component's configuration has it
    except (msgspec.ValidationError, ValueError) as error:
        raise click.UsageError(f"[{table}] {error}") from error
    return config


def _serve(name: str, start: Callable[[Scope], Awaitable[None]]) -> None:
    """Start a server, serve until told to stop, and leave with the right status."""

    async def main(scope: Scope) -> int:
        try:
            await start(scope)
        except _EXPLAINED as error:
            print(f"tinykv {name}: {error}", file=sys.stderr, flush=True)
            return 1
        await asyncio.Event().wait()
        return 0

    leave_process(run_process(main, name=name, on_report=_print_report))


def _print_ready(facts: dict[str, object]) -> None:
    print("ready", *(f"{key}={value}" for key, value in facts.items() if value != ""), flush=True)


def _print_report(report: StopReport) -> None:
    print(report.render(), file=sys.stderr, flush=True)
