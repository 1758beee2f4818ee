"""A cluster of real processes for tests: `python -m pytinykv scheduler` and `… store` on loopback ports.

Each process keeps its port for life, so that it comes back where its clients look for it. Ports are taken from below the
range that the kernel gives to outgoing connections: no process gets one by chance while its owner is down. In a `Network`
that can be harmed they have the addresses that it gives them. Standard output and error go to files; `Process.log` is what
it logged. All waits have deadlines and end with the process's own words.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.process.network import Loopback, Network

import pytinykv
from pytinykv.client.errors import ClientError

T = TypeVar("T")

READY_S: Final = 40.0
"""A loaded machine is slow; a broken process is dead at once, and that is noticed at once."""
CONVERGED_S: Final = 40.0
STOP_S: Final = 5.0
"""Every process that is told to stop exits within this."""
GONE_S: Final = 10.0
ATTEMPT_S: Final = 1.5
"""How long clients wait for an answer that may never come before they try again, or go on with something else."""
POLL_S: Final = 0.02
PAGE_S: Final = 1.0
CLEAN: Final = "stopped, nothing left behind"


def wait_until(condition: Callable[[], T | None], *, within_s: float, what: str | Callable[[], str]) -> T:
    """Return the first true answer of `condition`. Fails, saying `what` was waited for."""
    deadline = time.monotonic() + within_s
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what if isinstance(what, str) else what()}")
        time.sleep(POLL_S)


class Process:
    """One server, and where its output goes. Starts any number of times, one after the other."""

    def __init__(self, name: str, command: str, options: dict[str, str], directory: Path, network: Network) -> None:
        self.name = name
        self._network = network
        self.command = command
        self.options = options
        self.data_dir = Path(options["--data-dir"])
        self._log_path = directory / f"{name}.log"
        self._stdout_path = directory / f"{name}.out"
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._out_start = 0
        self.facts: dict[str, str] = {}
        """What its last ready line told."""

    @property
    def address(self) -> str:
        """Where others reach it."""
        return self.options.get("--advertise-addr", self.options["--addr"])

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_status(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return self._log_path.read_bytes()[self._log_start :].decode(errors="replace")

    def tail(self, lines: int = 40) -> str:
        shown = self.log.splitlines()[-lines:] if self._log_path.exists() else []
        return f"--- {self.name}, exit status {self.exit_status}, ends with\n" + "\n".join(shown)

    def start(self, **environment: str) -> None:
        """Start it; `wait_ready` waits for it."""
        assert not self.running, f"{self.name} runs already"
        argv = [*self._network.join(self.name).prefix, sys.executable, "-m", "pytinykv", self.command]
        for option, value in self.options.items():
            argv += [option, value] if value else [option]
        env = {name: value for name, value in os.environ.items() if not name.startswith("TINYKV_")}
        env |= {"TINYKV_PARENT_PID": str(os.getpid()), **environment}
        with self._log_path.open("ab") as log, self._stdout_path.open("ab") as out:
            self._log_start, self._out_start = log.tell(), out.tell()
            self._popen = subprocess.Popen(argv, stdout=out, stderr=log, env=env, start_new_session=True)
        self._network.on_started(self.name, self._popen.pid)

    def wait_ready(self, within_s: float = READY_S) -> dict[str, str]:
        """Return what its ready line tells."""

        def ready() -> dict[str, str] | None:
            printed = self._stdout_path.read_bytes()[self._out_start :].decode()
            for line in printed.splitlines(keepends=True):
                if line.startswith("ready ") and line.endswith("\n"):
                    self.facts = dict(word.split("=", 1) for word in line.split()[1:])
                    return self.facts
            assert self.running, f"{self.name} ended before it was ready\n{self.tail()}"
            return None

        return wait_until(ready, within_s=within_s, what=lambda: f"{self.name} is ready\n{self.tail()}")

    def wait_exit(self, within_s: float = GONE_S) -> int:
        """Return its exit status."""
        assert self._popen is not None
        try:
            return self._popen.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within_s} s\n{self.tail()}") from None

    def send(self, number: int) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL; nothing if it does not run."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(GONE_S)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Tell it to stop, and check that it does so in time and leaves nothing behind."""
        self.send(number)
        self.check_stopped()

    def check_stopped(self) -> None:
        status = self.wait_exit(STOP_S)
        assert status == 0, self.tail()
        assert CLEAN in self.log, self.tail()

    def page(self, path: str) -> bytes | None:
        """Return a page of its status port, None if it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.options['--status-addr']}{path}", timeout=PAGE_S) as response:
                content: bytes = response.read()
                return content
        except OSError:
            return None

    def regions(self) -> list[dict[str, Any]]:
        """Return a store's regions, as its status port shows them; none if it does not answer."""
        page = self.page("/debug/store")
        return json.loads(page).get("regions", []) if page else []

    @property
    def leads(self) -> bool:
        """Whether the store says that it leads the first region."""
        return any(region["is_leader"] for region in self.regions()[:1])


class Cluster:
    """A scheduler and stores with their data below `directory`. The caller closes it."""

    def __init__(self, directory: Path, network: Network | None = None, **scheduler_options: str) -> None:
        self.directory = directory
        self.network: Network = network or Loopback()
        directory.mkdir(parents=True, exist_ok=True)
        self.stores: list[Process] = []
        settings = directory / "scheduler.toml"
        settings.write_text("[scheduler.settings]\ntick_interval_s = 0.1\n")  # the region grows as soon as stores join
        self.scheduler = self.make("scheduler", "scheduler", **{"config": str(settings)} | scheduler_options)

    def make(self, name: str, command: str, **options: str) -> Process:
        """Make a process of this cluster that does not run yet; `max_store_down_time="3"` gives it that option."""
        return Process(
            name,
            command,
            {"--data-dir": str(self.directory / name)}
            | self.network.join(name).options(command)
            | {f"--{option.replace('_', '-')}": value for option, value in options.items()},
            self.directory,
            self.network,
        )

    @property
    def address(self) -> str:
        """Where clients find the cluster."""
        return self.scheduler.address

    @property
    def processes(self) -> list[Process]:
        return [self.scheduler, *self.stores]

    def pids(self) -> set[int]:
        return {process.pid for process in self.processes if process.running}

    def start(self, stores: int = 3, **store_options: str) -> None:
        """Start everything; return when the first region has a replica on each store (at most three) and a leader."""
        self.scheduler.start()
        added = [self.add_store(**store_options) for _ in range(stores)]  # they wait for the scheduler
        self.scheduler.wait_ready()
        for store in added:
            store.wait_ready()
        if added:
            self.wait_replicated(min(stores, 3))

    def add_store(self, **options: str) -> Process:
        """Make and start another store; the caller waits for it."""
        store = self.make_store(**options)
        self.stores.append(store)
        store.start()
        return store

    def make_store(self, **options: str) -> Process:
        """Make a store that does not run, and that the cluster does not count among its own."""
        options = {"scheduler": self.address} | options
        return self.make(f"store-{len(self.stores) + 1}", "store", **options)

    def leader(self, within_s: float = CONVERGED_S) -> Process:
        """Return the store that leads the first region, once one that runs says so, in the highest term."""

        def find() -> Process | None:
            claims = [
                (region["term"], index)
                for index, store in enumerate(self.stores)
                if store.running
                for region in store.regions()[:1]
                if region["is_leader"]
            ]
            return self.stores[max(claims)[1]] if claims else None

        return wait_until(find, within_s=within_s, what=lambda: f"a store leads\n{self.tails()}")

    def leader_besides(self, *others: Process, within_s: float = CONVERGED_S) -> Process:
        """Return a store that leads the first region and is none of `others`, once there is one."""

        def find() -> Process | None:
            return next((store for store in self.stores if store not in others and store.leads), None)

        return wait_until(find, within_s=within_s, what=lambda: f"another store leads\n{self.tails()}")

    def followers(self) -> list[Process]:
        leader = self.leader()
        return [store for store in self.stores if store is not leader and store.running]

    def wait_replicated(self, count: int, stores: list[Process] | None = None, within_s: float = CONVERGED_S) -> None:
        """Wait until the first region has exactly `count` voters, all caught up, on the running (or these) stores."""

        def replicated() -> bool:
            shown = [store.regions()[:1] for store in (stores or self.stores) if store.running]
            regions = [region[0] for region in shown if region and region[0]["stores"]]
            members = {tuple(sorted(region["voters"])) for region in regions}
            return (
                len(members) == 1
                and all(len(region["stores"]) == count for region in regions)
                and len(next(iter(members))) == count
                and len(regions) >= count
                and sum(region["is_leader"] for region in regions) == 1
                and len({region["applied"] for region in regions}) == 1
            )

        wait_until(replicated, within_s=within_s, what=lambda: f"{count} replicas that agree\n{self.tails()}")

    def tails(self) -> str:
        return "\n".join(process.tail() for process in self.processes)

    def stop(self) -> None:
        """Stop everything that runs, and check that each process stops as it should."""
        stopping = [store for store in self.stores if store.running]
        for store in stopping:
            store.send(signal.SIGTERM)
        for store in stopping:
            store.check_stopped()
        if self.scheduler.running:
            self.scheduler.stop()

    def close(self) -> None:
        """Kill whatever still runs, also what is paused."""
        for process in self.processes:
            process.kill()


def put_until_acknowledged(db: pytinykv.Client, key: bytes, value: bytes, *, within_s: float) -> None:
    """Repeat a put whose outcome is unknown, which the client does not: no other client may write the key meanwhile."""

    def acknowledged() -> bool:
        try:
            db.raw.put(key, value, timeout=ATTEMPT_S)
        except ClientError:
            return False
        return True

    wait_until(acknowledged, within_s=within_s, what="a put is acknowledged")


@contextmanager
def running_cluster(directory: Path, stores: int = 3) -> Iterator[Cluster]:
    """Run a scheduler and stores; at the end each has to stop as it should. Logs are shown if a test fails."""
    cluster = Cluster(directory)
    try:
        cluster.start(stores)
        yield cluster
        cluster.stop()
    finally:
        cluster.close()
        print(cluster.tails())  # noqa: T201 - pytest shows it beside a failure
