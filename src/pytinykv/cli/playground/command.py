"""`tinykv playground`: the order of things from start to report."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from click.core import ParameterSource

from pytinykv.cli.config_file import NamedPath, config_file, config_option
from pytinykv.cli.logs import log_options
from pytinykv.cli.options import ListenAddress, option
from pytinykv.cli.output import drop_output
from pytinykv.cli.playground.cluster import STOP_S, LocalCluster, last_lines
from pytinykv.cli.playground.home import Home, PlaygroundError
from pytinykv.cli.playground.lines import cluster_ready_line, death_line, intro, report_lines, say
from pytinykv.cli.playground.observe import INTERVAL_S, Observer
from pytinykv.cli.playground.parent import end_with_parent
from pytinykv.cli.serving import check_addresses, check_ports
from pytinykv.cli.thresholds import SCHEDULER, STORE, threshold_options, with_thresholds
from pytinykv.lifecycle import EXIT_ERROR, EXIT_FORCED, LifecycleError, Scope, StopReport, run_process
from pytinykv.lifecycle.census import child_pids

PLAYGROUND_STOP_DEADLINE_S: Final = 2 * STOP_S + 2
"""Stores and scheduler, one after the other, and a moment for the rest."""
SERVING_S: Final = 30.0
"""How long the first region may take to have its replicas and a leader."""
STORES: Final = 3


@click.command()
@option("--stores", type=click.IntRange(1, 99), default=None, help="How many.  [default: 3, or as many as DIR has]")
@option(
    "--scheduler-addr",
    type=ListenAddress("127.0.0.1:2379"),
    default="127.0.0.1:2379",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the scheduler listens; port 0 picks a free one.",
)
@option(
    "--data-dir",
    type=NamedPath(file_okay=False),
    default=None,
    metavar="DIR",
    help="Keep the data here.  [default: a temporary directory, deleted at the end]",
)
@option(
    "--exit-with-parent",
    is_flag=True,
    help="Stop when the process that started it ends, however it does: for tests, which may be killed.",
)
@option(
    "--quick",
    is_flag=True,
    help="In this one process and in memory, on a free port, ended with its parent: for tests in any language.",
)
@threshold_options(SCHEDULER, STORE)
@log_options("error")
@config_option
@click.pass_context
def playground(
    context: click.Context,
    /,
    *,
    stores: int | None,
    scheduler_addr: str,
    data_dir: Path | None,
    exit_with_parent: bool,
    quick: bool,
    **thresholds: Any,
) -> None:
    """Run a whole cluster on this machine, and watch it: a scheduler, and stores on free ports.

    On a terminal it shows live who leads what. Elsewhere it prints lines, `ready scheduler=HOST:PORT stores=…` among them
    once every replica is there. Ctrl-C and SIGTERM stop it, a second one at once. Started by a test, give it
    --exit-with-parent: it stops by itself when the test is killed. With less than three stores, regions have as many
    replicas.

    Exit status: 0 all stopped in good order; 1 a process failed, or something is left; 2 bad usage; 3 a process had to be
    killed.
    """
    parent = os.getppid() if exit_with_parent or quick else None
    check_addresses(insecure=False, scheduler_addr=scheduler_addr)
    if quick:
        if data_dir is not None:
            raise click.UsageError("--quick keeps all data in memory: leave --data-dir out, or --quick")
        is_chosen = context.get_parameter_source("scheduler_addr") is not ParameterSource.DEFAULT
        file = config_file(context)
        tables = (
            {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
        )  # it was read before, so it is sound
        settings = {
            "scheduler": with_thresholds(tables.get("scheduler", {}).get("settings", {}), SCHEDULER, thresholds),
            "raftstore": with_thresholds(tables.get("store", {}).get("raftstore", {}), STORE, thresholds),
        }
        from pytinykv.cli.playground.quick import run_quick

        sys.exit(run_quick(stores, scheduler_addr if is_chosen else "127.0.0.1:0", settings))
    sys.exit(Playground(data_dir, stores, scheduler_addr, config_file(context), thresholds, parent=parent).run())


class Playground:
    """One run."""

    def __init__(
        self,
        data_dir: Path | None,
        stores: int | None,
        scheduler_addr: str,
        config: Path | None,
        thresholds: Mapping[str, Any],
        *,
        parent: int | None = None,
    ) -> None:
        """Make a run.

        `thresholds`: options for the servers, see there. `parent`: the pid of the process whose end ends this
        one, if that is so.
        """
        self._parent: Final = parent
        self._data_dir: Final = data_dir
        self._wanted: Final = stores
        self._scheduler_addr: Final = scheduler_addr
        self._config: Final = config
        self._thresholds: Final = thresholds
        self._home: Home | None = None
        """None until the data directory is held."""
        self._cluster: LocalCluster | None = None
        """None until its programs are being started; there is none without `_home`."""
        self._inherited: Final = frozenset(child_pids())
        """Children that are none of ours: of a shell that has replaced itself by this program."""
        self._status = 0
        """The exit status that the stop's report asks for; 0 until the report says otherwise."""
        self._refused = ""
        """Why it could not start or go on, if so."""

    def run(self) -> int:
        """Play until told to stop; return the exit status."""
        ended = run_process(
            self._main, name="playground", stop_deadline_s=PLAYGROUND_STOP_DEADLINE_S, on_report=self._print_report
        )
        if self._refused:  # last, where people look
            print(self._refused, file=sys.stderr, flush=True)
        return self._status or ended

    async def _main(self, scope: Scope) -> int:
        started = time.monotonic()
        if self._parent is not None:
            scope.start("watch-parent", end_with_parent, self._parent)
        try:
            check_ports(scheduler_addr=self._scheduler_addr)
            self._home = Home.open(self._data_dir)
            self._cluster = LocalCluster(scope, self._home, config=self._config, thresholds=self._thresholds)
            scope.on_stop("let go of the data directory", self._home.close, 2.0)
            await self._start(scope, self._cluster, self._home)
            await self._play(scope, self._cluster, self._home, time.monotonic() - started)
        except (PlaygroundError, LifecycleError, OSError) as error:
            if scope.stopping:  # told to stop in the middle of it, and that is why
                return 0
            self._refused = f"tinykv playground: {error}"
            return EXIT_ERROR
        return 0

    async def _start(self, scope: Scope, cluster: LocalCluster, home: Home) -> None:
        stores = self._wanted or home.stores or STORES
        if stores < home.stores:
            raise PlaygroundError(
                f"{home.path} has the data of {home.stores} stores; leave --stores out, or give at least {home.stores}"
            )
        say(f"starting a scheduler and {stores} store{'s' if stores > 1 else ''} …")
        await cluster.launch(stores, self._scheduler_addr)
        # For `wait_serving`, while the servers load their code, and not in the loop: it takes a second on a busy machine.
        loading = scope.start_thread("load-client", importlib.import_module, "pytinykv.aio")
        await cluster.wait_ready()
        await loading.wait()
        await wait_serving(cluster)

    async def _play(self, scope: Scope, cluster: LocalCluster, home: Home, took_s: float) -> None:
        for line in intro(cluster, home):
            say(line)
        observer = Observer(cluster, scope)
        if sys.stdout.isatty():
            say(f"Serving after {took_s:.1f} s.\n")
            await observer.wait_first()
            await _show(scope, cluster, observer)
        else:
            say(cluster_ready_line(cluster.scheduler.addr, [store.addr for store in cluster.stores]))
            cluster.on_death = lambda process: say(death_line(process))
            await _tell(observer)

    def _print_report(self, report: StopReport) -> None:
        if self._home is None or self._cluster is None:
            return
        if report.forced and self._refused:  # the process ends with this report
            print(self._refused, file=sys.stderr, flush=True)
        orphans = {pid: command for pid, command in child_pids().items() if pid not in self._inherited}
        for line in report_lines(self._cluster, self._home, report, orphans):
            say(line)
        processes = self._cluster.processes
        if any(process.child.killed for process in processes):
            self._status = EXIT_FORCED
        elif orphans or not self._home.is_gone or any(process.crashed for process in processes):
            self._status = EXIT_ERROR


async def wait_serving(cluster: LocalCluster) -> None:
    """Return when every region has its replicas and a leader, as the scheduler tells clients. Raises PlaygroundError."""
    from pytinykv import aio
    from pytinykv.client import ClientError
    from pytinykv.wire.pb import pdpb_pb2

    deadline = time.monotonic() + SERVING_S
    failure = "no region is known"
    async with aio.connect(cluster.scheduler.addr, timeout=SERVING_S) as client:
        call = client.scheduler.call
        while time.monotonic() < deadline:
            if dead := [process for process in cluster.processes if not process.is_running]:
                raise PlaygroundError(f"{death_line(dead[0])}, which ends with\n{last_lines(dead[0].log)}")
            try:
                config = await call(
                    "GetClusterConfig", pdpb_pb2.GetClusterConfigRequest(), pdpb_pb2.GetClusterConfigResponse
                )
                reply = await call("ScanRegions", pdpb_pb2.ScanRegionsRequest(), pdpb_pb2.ScanRegionsResponse, 1.0)
            except ClientError as error:
                failure = str(error)
            else:
                replicas = min(len(cluster.stores), config.cluster.max_peer_count)
                failure = _why_not_serving(list(reply.regions), replicas)
                if not failure:
                    return
            await asyncio.sleep(0.05)
    raise PlaygroundError(
        f"the cluster does not serve after {SERVING_S:.0f} s: {failure}; see the logs in {cluster.scheduler.log.parent}"
    )


def _why_not_serving(regions: list, replicas: int) -> str:  # type: ignore[type-arg]  # of pdpb_pb2.Region, loaded late
    if not regions:
        return "no region is known"
    for region in regions:
        behind = {peer.id for peer in region.pending_peers} | {down.peer.id for down in region.down_peers}
        ready = sum(1 for peer in region.region.peers if not peer.role and peer.id not in behind)  # role 0: a voter
        if not region.leader.id:
            return f"region {region.region.id} has no leader"
        if ready < replicas:
            return f"region {region.region.id} has {ready} of {replicas} replicas"
    return ""


async def _show(scope: Scope, cluster: LocalCluster, observer: Observer) -> None:
    """Draw the live picture, and obey keys, until cancelled; a terminal that is closed ends nothing."""
    try:
        await _draw(scope, cluster, observer)
    except OSError:  # by the end of the picture, too, which would hide that this was cancelled
        drop_output()
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        await asyncio.Event().wait()
    raise asyncio.CancelledError


async def _draw(scope: Scope, cluster: LocalCluster, observer: Observer) -> NoReturn:
    from rich.console import Console
    from rich.live import Live

    from pytinykv.cli.playground.keys import Keys, keyboard
    from pytinykv.cli.playground.view import Picture

    console = Console(highlight=False)
    touched = asyncio.Event()
    keys = Keys(cluster, scope, touched.set)
    picture = Picture(cluster, observer, console, keys)
    with (
        keyboard(keys),
        Live(picture.draw(), console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(touched.wait(), INTERVAL_S)
            touched.clear()
            live.update(picture.draw(), refresh=True)


async def _tell(observer: Observer) -> None:
    """Print a line whenever a region has another leader, until cancelled."""
    known: dict[int, tuple[int, int]] = {}
    while True:
        for region in observer.regions():
            now = (region.leader or 0, region.term)
            if region.leader is not None and known.get(region.region) != now:
                known[region.region] = now
                say(f"region {region.region} is led by store {region.leader} in term {region.term}")
        await asyncio.sleep(INTERVAL_S)
