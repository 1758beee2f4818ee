"""Three etcd members on this machine, and a grpc.aio client for them: what pytinykv is compared with.

Only what a comparison needs: `Put` and linearizable `Range` of one key, and `Txn` to put one that is as it was. The requests
are so small that they are written by hand here, rather than carrying etcd's protocol files along.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytinykv.cli.bench.processors import Processes, ProcessRole
from pytinykv.cli.bench.workload import OperationKind, key_of
from pytinykv.lifecycle.children import start_child
from pytinykv.transport import RpcError
from pytinykv.transport.rpc import RpcChannel
from pytinykv.wire.encoding import varint

if TYPE_CHECKING:
    from pytinykv.cli.bench.workload import Call
    from pytinykv.lifecycle import Scope

_PUT = "/etcdserverpb.KV/Put"
_RANGE = "/etcdserverpb.KV/Range"
_TXN = "/etcdserverpb.KV/Txn"
_PUTS_PER_TXN = 100
CALL_TIMEOUT_S = 10.0
_DYING_WITH_US = (
    sys.executable,
    "-c",
    (
        "import os, sys; from pytinykv.lifecycle.children import die_with_parent; die_with_parent(); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    ),
)
"""Starts another program so that the kernel ends it with us (a death signal outlives exec)."""
READY_S = 20.0


def etcd_binary() -> str | None:
    """Return etcd's path, None where it is not installed."""
    return shutil.which("etcd")


def _field(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field."""
    length, head = len(value), bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + value


def _number(number: int, value: int) -> bytes:
    """Return a varint protobuf field."""
    return bytes([number << 3]) + varint(value)


def _same(data: bytes) -> bytes:
    return data


class EtcdTarget:
    """Three members; all calls go to the leader, as ours do."""

    name = "etcd"

    def __init__(self, scope: Scope, directory: Path) -> None:
        self._scope = scope
        self._directory = directory
        self._channel: RpcChannel
        """To the leader; from `start` on."""
        self._processes: Processes
        """The pids, by role; from `start` on."""
        self._is_filled = False
        """Whether the counters are there."""

    async def start(self) -> None:
        """Start the members and find the leader. Raises ChildStartError, TimeoutError."""
        binary = etcd_binary()
        assert binary is not None
        ports = _free_ports(6)
        clients, peers = ports[:3], ports[3:]
        cluster = ",".join(f"m{index}=http://127.0.0.1:{port}" for index, port in enumerate(peers))
        pids: dict[int, int] = {}
        for index, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            with (self._directory / f"etcd-{index}.log").open("wb") as log:
                child = await start_child(
                    self._scope,
                    f"etcd-{index}",
                    *_DYING_WITH_US,
                    binary,
                    f"--name=m{index}",
                    f"--data-dir={self._directory / f'etcd-{index}'}",
                    f"--listen-client-urls=http://127.0.0.1:{client}",
                    f"--advertise-client-urls=http://127.0.0.1:{client}",
                    f"--listen-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-cluster={cluster}",
                    "--initial-cluster-state=new",
                    stdout=log,
                    stderr=log,
                )
            pids[client] = child.pid
        async with asyncio.timeout(READY_S):
            leader, self._channel = await self._find_leader(clients)
        leader_pid = pids.pop(leader)
        self._processes = {
            ProcessRole.CLIENT: [os.getpid()],
            ProcessRole.LEADER: [leader_pid],
            ProcessRole.FOLLOWERS: list(pids.values()),
        }

    async def _find_leader(self, ports: list[int]) -> tuple[int, RpcChannel]:
        """Return the client port of the leader, and a channel to it."""
        while True:
            for port in ports:
                channel = RpcChannel(self._scope, f"127.0.0.1:{port}")
                try:
                    status = await channel.unary(
                        "/etcdserverpb.Maintenance/Status", b"", serialize=_same, deserialize=_same, timeout_s=1.0
                    )
                except RpcError:
                    status = b""
                if status and _is_leader(status):
                    return port, channel
                await channel.close()
            await asyncio.sleep(0.2)

    async def put(self, key: bytes, value: bytes) -> None:
        await self._channel.unary(
            _PUT, _field(1, key) + _field(2, value), serialize=_same, deserialize=_same, timeout_s=CALL_TIMEOUT_S
        )

    async def get(self, key: bytes) -> bytes | None:
        return await self._channel.unary(
            _RANGE, _field(1, key), serialize=_same, deserialize=_same, timeout_s=CALL_TIMEOUT_S
        )

    async def prepare(self, operation: OperationKind, keys: int) -> Call | None:
        """Offer read-modify-write: get, then put if the key is as it was."""
        if operation is not OperationKind.MODIFY:
            return None
        if not self._is_filled:
            for start in range(0, keys, _PUTS_PER_TXN):
                numbers = range(start, min(start + _PUTS_PER_TXN, keys))
                puts = [_field(2, _field(2, _field(1, key_of(each)) + _field(2, b"1000"))) for each in numbers]
                await self._txn(b"".join(puts))
            self._is_filled = True
        return self._modify

    async def _txn(self, request: bytes) -> bytes:
        return await self._channel.unary(_TXN, request, serialize=_same, deserialize=_same, timeout_s=CALL_TIMEOUT_S)

    async def _modify(self, key: bytes) -> None:
        while True:
            found = await self.get(key)
            assert found is not None
            pair = _varints(found)[2]
            assert isinstance(pair, bytes)
            fields = _varints(pair)
            value, revision = fields[5], fields[3]
            assert isinstance(value, bytes)
            assert isinstance(revision, int)
            compare = _number(2, 2) + _field(3, key) + _number(6, revision)  # equal, mod_revision
            put = _field(2, _field(1, key) + _field(2, b"%d" % (int(value) + 1)))
            answer = await self._txn(_field(1, compare) + _field(2, put))
            if _varints(answer).get(2):
                return

    async def processes(self) -> Processes:
        """Return the members, and which of them led when it began: etcd's leader seldom changes."""
        return self._processes


def _is_leader(status: bytes) -> bool:
    """Tell from a StatusResponse whether the member that answered leads: header.member_id (1.2) equals leader (4)."""
    top = _varints(status)
    header = top.get(1)
    return isinstance(header, bytes) and 4 in top and _varints(header).get(2) == top[4]


def _varints(message: bytes) -> dict[int, int | bytes]:
    """Return the fields of a message of varints and byte strings."""
    fields: dict[int, int | bytes] = {}
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while position < len(message):
        tag = varint()
        if tag & 7 == 0:
            fields[tag >> 3] = varint()
        else:
            length = varint()
            fields[tag >> 3] = message[position : position + length]
            position += length
    return fields


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now; held open together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
