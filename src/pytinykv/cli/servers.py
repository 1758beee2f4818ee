"""`tinykv scheduler` and `tinykv store`: one server in the foreground, until a signal comes."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pytinykv.cli.config_file import CONFIG_EPILOG, component_settings
from pytinykv.cli.options import ON_STDIN, ListenAddress, Number, option, scheduler_option
from pytinykv.cli.serving import check_addresses, check_ports, component, print_ready, serve, server_options
from pytinykv.cli.thresholds import SCHEDULER, STORE, threshold_options, with_thresholds

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope


@click.command(epilog=CONFIG_EPILOG)
@server_options(2379)
@threshold_options(SCHEDULER)
@click.pass_context
def scheduler(
    context: click.Context,
    /,
    *,
    data_dir: Path,
    addr: str,
    advertise_addr: str,
    status_addr: str,
    insecure: bool,
    **thresholds: Any,
) -> None:
    """Run the scheduler: timestamps, ids, and where everything is.

    Prints one line, `ready addr=HOST:PORT …`, when it serves. Stops on Ctrl-C and SIGTERM.

    Exit status: 0 stopped in good order; 1 it could not start, has failed, or left something open; 2 bad usage; 3 the exit
    had to be forced.
    """
    from pytinykv.scheduler import Refusal, SchedulerConfig
    from pytinykv.server.host.scheduler_process import SchedulerProcessConfig, run_scheduler

    advertise = {"advertise_addr": advertise_addr}
    check_addresses(insecure=insecure, advertise=advertise, addr=addr, status_addr=status_addr)
    settings = with_thresholds(component_settings(context, "settings"), SCHEDULER, thresholds)
    config = SchedulerProcessConfig(
        data_dir=data_dir,
        addr=addr,
        advertise_addr=advertise_addr,
        status_addr=status_addr,
        insecure=insecure,
        scheduler=component(SchedulerConfig, settings, "scheduler.settings"),
    )

    async def run(scope: Scope) -> None:
        check_ports(addr=addr, status_addr=status_addr)
        await run_scheduler(config, scope, print_ready)
        await asyncio.Event().wait()  # until it is told to stop

    sys.exit(serve("scheduler", run, Refusal))


@click.command(epilog=CONFIG_EPILOG)
@server_options(20160)
@option(
    "--peer-addr",
    type=ListenAddress(),
    default="",
    metavar="HOST:PORT",
    help="Where other stores' messages arrive.  [default: the host of --addr, any free port]",
)
@option(
    "--advertise-peer-addr",
    type=ListenAddress(),
    default="",
    metavar="HOST:PORT",
    help="Where other stores find that port, if not at the host of --advertise-addr or --addr.",
)
@scheduler_option(required=True, later=True)
@option(
    "--scheduler-patience",
    type=Number(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up the start when no scheduler answers for this long.",
)
@threshold_options(STORE)
@click.pass_context
def store(
    context: click.Context,
    /,
    *,
    data_dir: Path,
    addr: str,
    advertise_addr: str,
    status_addr: str,
    insecure: bool,
    peer_addr: str,
    advertise_peer_addr: str,
    scheduler: tuple[str, ...],
    scheduler_patience: float,
    **thresholds: Any,
) -> None:
    """Run a store: replicas of regions, served to clients.

    Prints one line, `ready addr=HOST:PORT …`, when it serves. Stops on Ctrl-C and SIGTERM, and when the store has been
    removed from the cluster (`tinykv ctl store remove ID`).

    Exit status: 0 stopped in good order; 1 it could not start, has failed, or left something open; 2 bad usage; 3 the exit
    had to be forced.
    """
    from pytinykv.client.errors import ClientError
    from pytinykv.model import FormatError
    from pytinykv.raftstore import RaftStoreConfig
    from pytinykv.raftstore.errors import RaftStoreError
    from pytinykv.server.host.store_process import StoreProcessConfig, run_store

    check_addresses(
        insecure=insecure,
        advertise={"advertise_addr": advertise_addr, "advertise_peer_addr": advertise_peer_addr},
        addr=addr,
        status_addr=status_addr,
        peer_addr=peer_addr,
    )
    settings = with_thresholds(component_settings(context, "raftstore"), STORE, thresholds)
    config = StoreProcessConfig(
        data_dir=data_dir,
        addr=addr,
        advertise_addr=advertise_addr,
        status_addr=status_addr,
        insecure=insecure,
        peer_addr=peer_addr,
        advertise_peer_addr=advertise_peer_addr,
        scheduler=scheduler,
        scheduler_patience_s=scheduler_patience,
        raftstore=component(RaftStoreConfig, settings, "store.raftstore"),
    )

    async def run(scope: Scope) -> None:
        check_ports(addr=addr, status_addr=status_addr, peer_addr=peer_addr)
        addresses = await _scheduler_on_stdin() if scheduler == ON_STDIN else scheduler
        await run_store(replace(config, scheduler=addresses), scope, print_ready)

    sys.exit(serve("store", run, ClientError, FormatError, RaftStoreError))


async def _scheduler_on_stdin() -> tuple[str, ...]:
    """Read the scheduler's addresses, for which a process is started before they are known. Raises ValueError."""
    from pytinykv.client.addresses import parse_addresses
    from pytinykv.client.errors import InvalidArgumentError

    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        line = await reader.readline()
    finally:
        transport.close()
    if not line.strip():
        raise ValueError("--scheduler is `-`, and standard input ended before it said where the scheduler is")
    try:
        return parse_addresses(line.decode(errors="replace").strip())
    except InvalidArgumentError as error:
        raise ValueError(f"--scheduler is `-`, and on standard input the {error}") from error
