"""`tinykv playground --quick`: a whole cluster in this one process, in memory, for tests in any language."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from pytinykv.cli.playground.lines import cluster_ready_line, say
from pytinykv.cli.playground.parent import end_with_parent
from pytinykv.cli.serving import check_ports
from pytinykv.lifecycle import EXIT_ERROR, Scope, run_process
from pytinykv.testing.backend import ClusterConfig, ClusterError
from pytinykv.testing.core import CLOSE_S, ClusterCore
from pytinykv.testing.in_process import InProcess  # now, not in the loop: it takes a second on a busy machine
from pytinykv.testing.ports import HOST
from pytinykv.transport.address import AddressError, parse_address

STORES: Final = 1
"""Unless told otherwise: enough for most tests, and the quickest to start."""
STORES_MAX: Final = 9


def run_quick(stores: int | None, scheduler_addr: str, settings: Mapping[str, dict[str, Any]]) -> int:
    """Serve until told to stop, or until this process's parent has ended; return the exit status. Raises click.UsageError."""
    parent = os.getppid()
    address = parse_address(scheduler_addr)
    if address.host not in (HOST, "localhost"):
        raise click.UsageError(f"--scheduler-addr: --quick serves at {HOST} only, not at {address.host}")
    try:
        replicas = int(settings["scheduler"].pop("max_replicas", 0))
        config = ClusterConfig(stores=stores or STORES, port=address.port, replicas=replicas, settings=dict(settings))
        config.validate()
    except ValueError as error:
        raise click.UsageError(f"--quick: {error}") from error
    refused = ""

    async def main(scope: Scope) -> int:
        nonlocal refused
        scope.start("watch-parent", end_with_parent, parent)
        try:
            check_ports(scheduler_addr=scheduler_addr)
        except AddressError as error:
            refused = f"tinykv playground: {error}"
            return EXIT_ERROR
        core = ClusterCore(config, InProcess(config, scope), scope)
        try:
            await core.start()
        except ClusterError as error:
            refused = f"tinykv playground: {error}"
            return EXIT_ERROR
        stores = (core.backend.store_address(number) for number in range(1, config.stores + 1))
        say(cluster_ready_line(core.backend.address, stores))
        await asyncio.Event().wait()
        return 0

    status = run_process(main, name="playground", stop_deadline_s=CLOSE_S)
    if refused:
        print(refused, file=sys.stderr, flush=True)
    return status
