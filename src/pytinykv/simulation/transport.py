"""Store to store traffic over the virtual network (`raftstore.ports.Transport`).

Frames go as datagrams, so they may be lost, doubled and overtaken: more than a TCP stream would do, and Raft has to bear
it. A snapshot goes chunk by chunk, each acknowledged by time only; a cut, a refusal or a death on the way ends the
transfer, and the sender hears of it, or concludes it, a while later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pytinykv.model import StoreId, encode
from pytinykv.raftstore.incoming_snapshots import SnapshotRefusedError
from pytinykv.raftstore.records import RaftEnvelope, SnapshotHeader, SnapshotManifest
from pytinykv.simulation.network import Network
from pytinykv.simulation.process import Process

if TYPE_CHECKING:
    from pytinykv.raftstore.incoming_snapshots import SnapshotReceiver
    from pytinykv.raftstore.store import Store

BYTES_PER_S: Final = 50e6


class Directory(Protocol):
    """Finds stores by id."""

    loses: Callable[[RaftEnvelope], bool] | None
    """Which messages between stores get lost, beside those that the network's faults choose by chance."""

    def host_of_store(self, store_id: int) -> str | None:
        """Return the host a store lives on, running or not; None for an unknown one."""
        ...

    def running_store(self, host: str) -> tuple[Process, Store] | None:
        """Return the process and the store that run on a host now."""
        ...

    def is_disk_full(self, host: str) -> bool:
        """Say whether a host's disk takes no more files."""
        ...

    def observe(self, envelope: RaftEnvelope) -> None:
        """See a message that a store sends; for checkers."""
        ...


class SimTransport:
    """The sending side in one store's process."""

    def __init__(self, network: Network, directory: Directory, process: Process) -> None:
        self._network = network
        self._directory = directory
        self._process = process

    def send(self, store_id: StoreId, envelopes: list[RaftEnvelope]) -> None:
        if not self._process.alive:
            return
        for envelope in envelopes:
            self._directory.observe(envelope)
        if (loses := self._directory.loses) is not None:
            envelopes = [envelope for envelope in envelopes if not loses(envelope)]
        host = self._directory.host_of_store(store_id)
        if host is not None:
            self._network.post(self._process, host, encode(envelopes), lambda frame: self._deliver(host, frame))

    def _deliver(self, host: str, frame: bytes) -> None:
        if (running := self._directory.running_store(host)) is not None:
            process, store = running
            process.post(store.receive, frame)

    def send_snapshot(
        self,
        envelope: RaftEnvelope,
        manifest: SnapshotManifest,
        directory: Path,
        on_done: Callable[[bool], None],
    ) -> None:
        if not self._process.alive:
            return
        self._directory.observe(envelope)
        data = b"".join((directory / file.name).read_bytes() for file in manifest.files)
        host = self._directory.host_of_store(envelope.receiver.store_id)
        transfer = _Transfer(
            self._network,
            self._process,
            host or "",
            SnapshotHeader(envelope, manifest),
            data,
            on_done,
            is_full=lambda: host is not None and self._directory.is_disk_full(host),
        )
        running = None if host is None else self._directory.running_store(host)
        transfer.start(running)

    def stop(self) -> None:
        """Nothing is held open here; transfers under way end by themselves when their process is gone."""


class _Transfer:
    """One snapshot on its way. Steps alternate between the network's time and the receiver's context."""

    def __init__(
        self,
        network: Network,
        sender: Process,
        host: str,
        header: SnapshotHeader,
        data: bytes,
        on_done: Callable[[bool], None],
        *,
        is_full: Callable[[], bool],
    ) -> None:
        self._network = network
        self._sender = sender
        self._host = host
        self._header = header
        self._data = data
        self._on_done = on_done
        self._is_full = is_full
        self._receiver: Process | None = None
        """The process that takes the snapshot, once it does."""
        self._sink: SnapshotReceiver | None = None
        """The receiver's side; None until the header has arrived and was accepted."""
        self._told = False
        """Whether the sender has been told, or will be."""

    def start(self, running: tuple[Process, Store] | None) -> None:
        self._network.count("snapshots started")
        self._network.trace.record("snapshot", self._sender.host, self._host, len(self._data))
        if running is None:
            self._conclude(arrived=False)
            return
        self._receiver, store = running
        self._receiver.on_death.append(self._break)
        self._after_latency(0, lambda: self._in_receiver(self._begin, store))

    def _begin(self, store: Store) -> None:
        try:
            self._sink = store.receive_snapshot(self._header)
        except SnapshotRefusedError:
            self._refuse()
            return
        self._next_chunk(0)

    def _refuse(self) -> None:
        self._network.count("snapshots refused")
        self._conclude(arrived=False)

    def _next_chunk(self, offset: int) -> None:
        chunk = self._data[offset : offset + self._network.snapshot_piece_bytes]
        if chunk:
            self._after_latency(len(chunk), lambda: self._in_receiver(self._write, chunk, offset + len(chunk)))
        else:
            self._after_latency(0, lambda: self._in_receiver(self._finish))

    def _write(self, chunk: bytes, offset: int) -> None:
        assert self._sink is not None
        if self._is_full():
            self._sink.abort()
            self._conclude(arrived=False)
            return

        def on_end(error: BaseException | None) -> None:
            if error is None:
                self._next_chunk(offset)
            else:
                self._conclude(arrived=False)

        self._sink.write(chunk, on_end)

    def _finish(self) -> None:
        assert self._sink is not None

        def on_end(error: BaseException | None) -> None:
            if isinstance(error, SnapshotRefusedError):
                self._refuse()
            elif error is not None:
                self._conclude(arrived=False)
            else:
                self._arrived()

        self._sink.finish(on_end)

    def _arrived(self) -> None:
        network = self._network
        network.count("snapshots arrived")
        is_lost = bool(network.lost_receipts) and network.rng.random() < network.lost_receipts
        if is_lost:
            network.count("receipts lost")
        self._conclude(arrived=not is_lost and not network.is_blocked(self._host, self._sender.host))

    def _after_latency(self, size_bytes: int, step: Callable[[], None]) -> None:
        link = (self._sender.host, self._host)
        conditions = self._network.conditions_of(*link)
        delay = self._network.delay_s(conditions) + size_bytes / BYTES_PER_S
        if conditions.loss and self._network.rng.random() < conditions.loss:
            delay += conditions.retransmit_s
        self._network.call_later(delay, self._arrive, link, step)

    def _arrive(self, link: tuple[str, str], step: Callable[[], None]) -> None:
        if not self._sender.alive or self._network.is_blocked(*link):
            self._break()
        else:
            step()

    def _in_receiver(self, step: Callable[..., None], *args: object) -> None:
        assert self._receiver is not None
        if self._receiver.alive:
            self._receiver.post(step, *args)
        else:
            self._break()

    def _break(self) -> None:
        if self._told:
            return
        self._network.count("snapshots broken")
        if self._sink is not None and self._receiver is not None and self._receiver.alive:
            self._receiver.post(self._sink.abort)
        self._conclude(arrived=False)

    def _conclude(self, *, arrived: bool) -> None:
        """Tell the sender, after a way back or the keepalive timeout."""
        if self._told:
            return
        self._told = True
        if self._receiver is not None and self._break in self._receiver.on_death:
            self._receiver.on_death.remove(self._break)
        conditions = self._network.conditions
        delay = self._network.delay_s(conditions)
        if not arrived:
            delay += self._network.rng.uniform(conditions.notice_min_s, conditions.notice_max_s)
        self._network.call_later(delay, self._tell, arrived)

    def _tell(self, arrived: bool) -> None:  # noqa: FBT001 - the callback's own signature
        if self._sender.alive:
            self._sender.post(self._on_done, arrived)
