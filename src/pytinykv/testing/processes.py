"""A cluster of processes: `python -m pytinykv scheduler` and `… store`, with their data below a temporary directory.

Each ends with this process, also if that is killed (`lifecycle.children`), and keeps its ports for life.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytinykv.lifecycle import LifecycleError, OwnedChild, start_child
from pytinykv.lifecycle.ready_line import read_ready_line
from pytinykv.lifecycle.temporary import TemporaryDirectory
from pytinykv.testing.answers import Orders
from pytinykv.testing.backend import PREFIX, USUAL_SCHEDULER, ClusterConfig, ClusterError
from pytinykv.testing.fronts import Front
from pytinykv.testing.network import Cuts
from pytinykv.testing.ports import HOST, free_address
from pytinykv.transport.address import AddressError, check_can_bind, parse_address

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope

READY_S: Final = 40.0
"""A loaded machine is slow; a process that is broken has ended, which is noticed at once."""
STOP_S: Final = 10.0
FRONT_S: Final = 1.0
"""How long the ports of a store that has ended may take to be gone."""
_LOG_LINES: Final = 40
_SCHEDULER: Final = USUAL_SCHEDULER | {"tick_interval_s": 0.1}


class _Server:
    """One server, and where its log is. Started any number of times, one after the other."""

    def __init__(self, name: str, options: dict[str, str], log: Path, scope: Scope) -> None:
        self.name: Final = name
        self.log_path: Final = log
        self._options: Final = options
        self._scope: Final = scope
        self.facts: dict[str, str] = {}
        """What its last ready line told."""
        self._child: OwnedChild | None = None
        """The newest process."""
        self._is_paused = False
        """Whether the newest process was sent SIGSTOP, and no SIGCONT since."""

    @property
    def address(self) -> str:
        return self._options["--addr"]

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Return when it has said that it is ready. Raises ClusterError, in its own words."""
        assert not self.is_running, f"{self.name} runs already"
        command = self.name.partition("-")[0]
        argv = (sys.executable, "-m", "pytinykv", command, *(word for pair in self._options.items() for word in pair))
        env = {name: value for name, value in os.environ.items() if not name.startswith("TINYKV_")}
        self._is_paused = False
        with self.log_path.open("ab") as log:
            self._child = await start_child(
                self._scope, self.name, *argv, env=env, stdin=DEVNULL, stdout=PIPE, stderr=log, stop_deadline_s=STOP_S
            )
        stdout = self._child.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(READY_S):
                facts = await read_ready_line(stdout)
        except TimeoutError:
            raise ClusterError(f"{self.name} was not ready within {READY_S:.0f} s; {self.tail()}") from None
        if facts is None:
            raise ClusterError(f"{self.name} ended before it was ready; {self.tail()}")
        self.facts = facts

    async def stop(self) -> None:
        """Tell it to stop, and wait for that."""
        if self._child is not None and self.is_running:
            self.resume()
            await self._child.stop(STOP_S)

    async def kill(self) -> None:
        """End it with SIGKILL, which also ends one that is paused. Raises ClusterError: it is not allowed to."""
        if self._child is not None and self.is_running:
            self.begin_kill()
            await self._child.wait(STOP_S)

    def begin_kill(self) -> None:
        """Send it SIGKILL. Raises ClusterError: it is not allowed to."""
        if self.is_running:
            self._signal(signal.SIGKILL)

    def pause(self) -> None:
        if self.is_running and not self._is_paused:
            self._signal(signal.SIGSTOP)
            self._is_paused = True

    def resume(self) -> None:
        if self.is_running and self._is_paused:
            self._signal(signal.SIGCONT)
            self._is_paused = False

    def _signal(self, number: int) -> None:
        assert self._child is not None
        try:
            os.kill(self._child.pid, number)
        except ProcessLookupError:  # it has just ended
            pass
        except PermissionError as error:
            raise ClusterError(
                f"{self.name} (pid {self._child.pid}) can't be sent {signal.Signals(number).name}: {error}; processes can "
                "be harmed only where signals are allowed: use the cluster in this process (processes=False)"
            ) from error

    def tail(self) -> str:
        """Return the end of its log, for people."""
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            lines = []
        return "\n".join((f"{self.log_path.name} ends with", *lines))


class Processes:
    """A `Backend` of processes."""

    def __init__(self, config: ClusterConfig, scope: Scope) -> None:
        self._config = config
        self._scope = scope
        self.orders = Orders()
        self._cuts = Cuts()
        self._fronts: dict[int, Scope] = {}
        """By number: the scope of the front of each store that runs."""
        self._places: dict[int, tuple[tuple[str, str], tuple[str, str]]] = {}
        """By number: where others are told that a store is, for clients and stores; and where it is itself."""
        self._directory: TemporaryDirectory | None = None
        """All data and logs; from the start to the end."""
        self._scheduler: _Server | None = None
        """Made by the start; stays."""
        self._stores: dict[int, _Server] = {}
        """By number."""

    @property
    def address(self) -> str:
        return "" if self._scheduler is None else self._scheduler.address

    async def start(self) -> None:
        address = f"{HOST}:{self._config.port}" if self._config.port else free_address()
        try:
            check_can_bind(parse_address(address))
            self._directory = TemporaryDirectory.make(PREFIX)
            path = self._directory.path
            config = path / "config.toml"
            config.write_text(self._toml(), encoding="utf-8")
        except (AddressError, OSError) as error:
            raise ClusterError(f"the cluster could not start: {error}") from error
        common = {"--config": str(config), "--status-addr": ""}
        self._scheduler = self._make("scheduler", path, common | {"--addr": address, "--advertise-addr": ""})
        for number in range(1, self._config.stores + 1):
            told, own = self._places[number] = _two_addresses(), _two_addresses()
            options = {
                "--addr": own[0],
                "--advertise-addr": told[0],
                "--peer-addr": own[1],
                "--advertise-peer-addr": told[1],
                "--scheduler": address,
            }
            self._stores[number] = self._make(f"store-{number}", path, common | options)
        starting = [self._scope.start("start-scheduler", self._scheduler.start)]  # stores wait for it by themselves
        starting += [self._scope.start(f"start-store-{number}", self.start_store, number) for number in self._stores]
        try:
            for task in starting:
                await task.wait()
        except LifecycleError as error:
            raise ClusterError(f"the cluster could not start: {error}") from error

    def _make(self, name: str, path: Path, options: dict[str, str]) -> _Server:
        return _Server(name, {"--data-dir": str(path / name)} | options, path / f"{name}.log", self._scope)

    def _toml(self) -> str:
        settings = self._config.settings
        scheduler = _SCHEDULER | {"max_replicas": self._config.peers} | settings.get("scheduler", {})
        return _table("scheduler.settings", scheduler) + _table("store.raftstore", settings.get("raftstore", {}))

    async def close(self) -> None:
        """Kill everything: the data go with it."""
        servers = [*self._stores.values(), *((self._scheduler,) if self._scheduler is not None else ())]
        for server in servers:
            server.begin_kill()
        for server in servers:
            await server.kill()
        for number in list(self._fronts):
            await self._end_front(number)
        if self._directory is not None:
            self._directory.close()

    def store_id(self, number: int) -> int:
        return int(self._stores[number].facts.get("store", 0))

    def store_address(self, number: int) -> str:
        return self._places[number][0][0]

    def is_running(self, number: int) -> bool:
        return self._stores[number].is_running

    def log(self) -> str:
        servers = [*((self._scheduler,) if self._scheduler is not None else ()), *self._stores.values()]
        return "\n".join(server.tail() for server in servers)

    async def start_store(self, number: int) -> None:
        if self._stores[number].is_running:
            raise ClusterError(f"store {number} runs already")
        await self._end_front(number)  # that of a process that has ended by itself
        told, own = self._places[number]
        scope = self._fronts[number] = self._scope.child(f"front-{number}")
        try:
            await Front(number, to=own, orders=self.orders, cuts=self._cuts, scope=scope).start(told)
        except AddressError as error:
            raise ClusterError(f"store {number} could not start: {error}") from error
        await self._stores[number].start()
        self._cuts.name(self.store_id(number), number)

    async def stop_store(self, number: int) -> None:
        await self._stores[number].stop()
        await self._end_front(number)

    async def kill_store(self, number: int) -> None:
        self._stores[number].begin_kill()
        await self._end_front(number)
        await self._stores[number].kill()

    async def _end_front(self, number: int) -> None:
        front = self._fronts.pop(number, None)
        if front is not None:
            await front.stop(FRONT_S)

    async def pause_store(self, number: int) -> None:
        self._stores[number].pause()

    async def resume_store(self, number: int) -> None:
        self._stores[number].resume()

    def cut(self, sender: int, receiver: int) -> None:
        self._cuts.cut(sender, receiver)

    def heal(self, *numbers: int) -> None:
        self._cuts.heal(*numbers)


def _two_addresses() -> tuple[str, str]:
    return free_address(), free_address()


def _table(name: str, settings: dict[str, Any]) -> str:
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in settings.items()
    ]
    return "\n".join((f"[{name}]", *lines, ""))
