"""What every server process has: its data directory and engine, its gRPC port, its status port.

All of it but the engine and the directory belongs to a scope of its own, below the process's, and so stops first:

    process's scope ── last: close the engine → let go of the data directory
         └── server's scope ── stages: not serving any more (health) → the server's own, in the order of registration
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.server.host.health import HealthService
from pytinykv.server.host.metrics import OwnerMetrics
from pytinykv.server.host.startup_gate import StartupGate
from pytinykv.server.host.status import StatusServer
from pytinykv.storage import DataDirectory, DataDirectoryMismatchError, DataKind, RocksEngine
from pytinykv.transport.address import check_can_bind, check_may_listen, parse_address
from pytinykv.transport.rpc import RpcServer
from pytinykv.wire.limits import MESSAGE_BYTES_MAX

if TYPE_CHECKING:
    from pytinykv.lifecycle import Scope
    from pytinykv.server.host.status import Pages
    from pytinykv.wire import Service


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What every server process is started with; addresses are host:port, port 0 picks a free one."""

    data_dir: Path
    addr: str
    advertise_addr: str = ""
    """How others reach it; empty: as `addr`, with the real port."""
    status_addr: str = ""
    """Where the status port listens; empty: nowhere."""
    insecure: bool = False
    """Allow addresses that other machines can reach, unencrypted and without authentication."""

    @property
    def listening(self) -> tuple[str, ...]:
        """All addresses at which the process will listen."""
        return tuple(address for address in (self.addr, self.status_addr) if address)


class ServerBase:
    """Made first by a server process, which then calls `listen`, `open_status`, and `serve` once it can."""

    def __init__(self, config: ServerConfig, process: Scope, *, kind: DataKind, services: tuple[str, ...]) -> None:
        """Open data directory and engine; `services` are the gRPC services that will be served, the main one first.

        The ports are tried first, so that a start which is refused for one leaves no new directory behind.

        Raises AddressError, DataDirectoryError, EngineError, each saying what and what to do.
        """
        for address in map(parse_address, config.listening):
            check_may_listen(address, insecure=config.insecure)
            check_can_bind(address)
        self._config = config
        self._process = process
        self.directory = DataDirectory.open(config.data_dir, kind=kind)
        process.on_stopped("let go of the data directory", self.directory.close)
        _check_engine_is_there(self.directory)
        self.engine = RocksEngine.open(self.directory.engine_path)
        process.on_stopped("close the engine", self.engine.close)
        self.scope = process.child(kind.value)
        """The server's own."""
        self._health, self._gate = HealthService(services), StartupGate(*services)
        self.scope.on_stop("tell that it does not serve any more", self._health.begin_stop)
        self.grpc = RpcServer(self.scope, "grpc", options=[("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)])
        bind_service(self.grpc, self._gate)
        bind_service(self.grpc, self._health)
        self.registry = CollectorRegistry()
        self.registry.register(OwnerMetrics(process))

    async def listen(self) -> str:
        """Open the gRPC port, which answers UNAVAILABLE until `serve`; return how others reach it. Raises AddressError."""
        advertised = self._config.advertise_addr and str(parse_address(self._config.advertise_addr))
        port = await self.grpc.start(self._config.addr, insecure=self._config.insecure)
        return advertised or str(parse_address(self._config.addr).with_port(port))

    def open_status(self, problem: Callable[[], str] = lambda: "", pages: Pages | None = None) -> str:
        """Open the status port, if one is wanted; return its address. Raises AddressError.

        `problem` says why the server does not serve; empty if it does. That it is stopping need not be said.
        """
        if not self._config.status_addr:
            return ""
        status = StatusServer(
            self.scope,
            registry=self.registry,
            health=lambda: "stopping" if self._process.stopping else problem() or self._loop_problem(),
            pages=pages,
        )
        return status.start(self._config.status_addr, insecure=self._config.insecure)

    def _loop_problem(self) -> str:
        blocked_s = self._process.root.loop_blocked_s()
        return f"the event loop has not turned for {blocked_s:.1f} s" if blocked_s else ""

    def serve(self, service: Service) -> None:
        """Let calls through from now on."""
        self._gate.open(service)
        self._health.set_all_serving()


def _check_engine_is_there(directory: DataDirectory) -> None:
    """Refuse an identity without its engine: a store that lost its votes must not vote again under its old id."""
    identity = directory.identity
    if not identity.cluster_id or (directory.engine_path / "CURRENT").exists():
        return
    name = f"{identity.kind.value} {identity.store_id or ''}".strip()
    advice = (
        "give this store an empty data directory: it joins as a new one, and the cluster replaces what the old one had"
        if identity.kind is DataKind.STORE
        else "restore the data directory from a backup"
    )
    raise DataDirectoryMismatchError(
        f"{directory.path} is that of {name} of cluster {identity.cluster_id}, but {directory.engine_path} is missing or "
        f"empty: put it back; if it is lost, {advice}"
    )
