"""Export and import ask a cluster for nothing but what TiKV serves: the calls that docs/operations.md lists."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from pytinykv import testing
from pytinykv.cli.moving.export_file import ExportWriter
from pytinykv.cli.moving.exporting import Wanted, export, header_for
from pytinykv.cli.moving.importing import Counts, Import, check, check_free
from pytinykv.cli.progress import Progress
from pytinykv.client import AsyncClient
from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.lifecycle import Scope
from pytinykv.wire import BATCH_COMMANDS, RpcError, StatusCode
from pytinykv.wire.pb import tikvpb_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pytinykv.wire import BidiStream

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
ROWS = {b"key-%03d" % number: b"v" * (1 + number % 400) for number in range(600)}


def listed() -> set[str]:
    """Return the calls that the page says are made."""
    table = PAGE.read_text(encoding="utf-8").partition("| asked of | calls |\n")[2].partition("\n\n")[0]
    return set(re.findall(r"`(\w+)`", table))


class Refusing:
    """A `wire.Connector` that reaches methods and commands of some names only, and notes which."""

    def __init__(self, inner: GrpcConnector, allowed: set[str]) -> None:
        self._inner = inner
        self._allowed = allowed
        self.used: set[str] = set()

    def take(self, name: str) -> None:
        if name not in self._allowed:
            raise RpcError(StatusCode.UNIMPLEMENTED, f"{name} is nothing that TiKV is asked for")
        self.used.add(name)

    async def unary(self, address: str, path: str, request: Message, *, timeout_s: float) -> Message:
        self.take(name_of(path))
        return await self._inner.unary(address, path, request, timeout_s=timeout_s)

    def stream(self, address: str, path: str) -> BidiStream:
        self.take(name_of(path))
        stream = self._inner.stream(address, path)
        return Frames(stream, self.take) if path == BATCH_COMMANDS else stream

    async def close(self) -> None:
        await self._inner.close()


def name_of(path: str) -> str:
    package, _, method = path.lstrip("/").partition("/")
    return method if package in ("tikvpb.Tikv", "pdpb.PD") else path


class Frames:
    """A stream of frames of commands."""

    def __init__(self, inner: BidiStream, take: Callable[[str], None]) -> None:
        self._inner = inner
        self._take = take

    def send_nowait(self, message: Message | bytes) -> None:
        frame = tikvpb_pb2.BatchCommandsRequest.FromString(
            message if isinstance(message, bytes) else message.SerializeToString()
        )
        for request in frame.requests:
            self._take(request.WhichOneof("cmd") or "")
        self._inner.send_nowait(message)

    def is_drained(self, otherwise: Callable[[], object]) -> bool:
        return self._inner.is_drained(otherwise)

    async def receive(self) -> Message:
        return await self._inner.receive()

    def close(self) -> None:
        self._inner.close()


async def test_nothing_is_asked_for_that_tikv_does_not_serve(tmp_path: Path) -> None:
    path = tmp_path / "export"
    async with testing.aio.cluster(stores=1) as cluster:
        await cluster.split(b"key-300")
        db = await cluster.client()
        async with db.transaction() as txn:
            for key, value in ROWS.items():
                await txn.put(key, value)
        await db.raw.batch_put(ROWS)
        await db.raw.put(b"vanishes", b"v", ttl=3600)
        used = await used_by(cluster.address, exporting, path)
        assert {"Tso", "UpdateServiceGCSafePoint", "Scan", "RawScan", "RawGetKeyTTL"} <= used
    async with testing.aio.cluster(stores=1) as cluster:
        used = await used_by(cluster.address, importing, path)
        assert {"Tso", "Scan", "Prewrite", "RawScan", "RawBatchPut"} <= used


async def used_by(address: str, work: Callable[[AsyncClient, Scope, Path], Awaitable[None]], path: Path) -> set[str]:
    """Return what a client that may ask for the listed calls only has asked for."""
    async with Scope("test") as scope:
        connector = Refusing(GrpcConnector(scope), listed())
        async with AsyncClient(address, connector=connector, rng=Random(0), scope=scope.child("client")) as client:
            await work(client, scope, path)
    return connector.used


async def exporting(client: AsyncClient, _: Scope, path: Path) -> None:
    wanted = Wanted(b"", b"", transactions=True, families=("default",), ttls=True)
    with ExportWriter(path) as writer:
        header = header_for(wanted, "here", await client.timestamp())
        await export(client, writer, header, None, Progress(is_shown=False), ttls=True)
        writer.finish()


async def importing(client: AsyncClient, scope: Scope, path: Path) -> None:
    survey = await check(path)
    await check_free(client, survey)
    counts = Counts()
    await Import(scope, client, path, survey, "here", Progress(is_shown=False), counts).run(0)
    assert (counts.transaction_rows, counts.raw_rows) == (len(ROWS), len(ROWS) + 1)
