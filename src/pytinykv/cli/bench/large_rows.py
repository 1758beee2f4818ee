"""What requests of much data do to others: a client reads one small key all the time, beside one large request after another.

```
this process      get ─ get ─ get ─ get ─ get ─ get ─ get ─ get ─►     its longest wait is the figure
a child process   ── batch_get ─ scan ─ scan of keys ─ checksum ─►     one read at a time, named in `READS`
```

The large reads run in a process of their own: one that decodes a hundred megabytes would hold up its own event loop.
Some are made as our client makes them, in pages; the others ask for everything in one call, as clients of TiKV may.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from pytinykv import aio
from pytinykv.cli.bench.bench_table import bench_table
from pytinykv.cli.bench.targets import leader_of
from pytinykv.cli.bench.workload import Latencies
from pytinykv.client import ClientError
from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.lifecycle import start_child
from pytinykv.lifecycle.signals import run_process
from pytinykv.wire import BATCH_COMMANDS, RpcError
from pytinykv.wire.limits import RAW_SCAN_LIMIT_MAX
from pytinykv.wire.pb import kvrpcpb_pb2, pdpb_pb2, tikvpb_pb2

if TYPE_CHECKING:
    from pytinykv.aio import AsyncClient
    from pytinykv.cli.playground.cluster import LocalCluster
    from pytinykv.lifecycle import Scope
    from pytinykv.wire import BidiStream

LONGEST_WAIT_S_MAX: Final = 0.05
"""The bystander's longest wait in a run that is as it should be."""
VALUE_BYTES: Final = 7 * 1024 * 1024
SMALL_ROWS: Final = 20_000
EXPIRED_ROWS: Final = 50_000
IN_ONE_REGION: Final = {"region_max_size": 1 << 40, "region_split_size": 1 << 39}
"""Thresholds of the cluster: what is asked for in one call lies in one region."""
TINY_VALUES_A_ROW: Final = 7_500
"""Tiny values that are written in one call, for each large row; 300,000 beside 40 large ones."""
READ_S_MAX: Final = 60.0
_BYSTANDER: Final = b"bench-bystander"
_LARGE: Final = b"bench-large-"
_SMALL: Final = b"bench-small-"
_EXPIRED: Final = b"bench-expired-"
_TINY: Final = b"bench-tiny-"
_TTL_S: Final = 1
_BATCH: Final = 5_000
_PAUSE_S: Final = 0.001
_NOTHING_S: Final = 1.0
_BETWEEN_S: Final = 0.2
"""From one read to the next: the memory of the one before is given back."""


@dataclass(frozen=True)
class ReadFigures:
    """One large read, and what the bystander saw of it."""

    name: str
    outcome: str
    """How many rows came, or why none."""
    seconds: float
    waits: Latencies
    """Of the bystander's gets."""
    leader_bytes_max: int
    """Most resident memory of the leader meanwhile."""
    failed: bool = False
    """Whether it did not do what it was to do, so that the waits say nothing."""


class LargeRowFigures:
    """All reads of one run."""

    def __init__(self) -> None:
        self.reads: list[ReadFigures] = []
        """One for each kind of read, in the order they were made. Only grows."""

    def problems(self) -> list[str]:
        """Return what is not as it should be, one line each."""
        failed = [f"{read.name}: {read.outcome}" for read in self.reads if read.failed]
        return failed + [
            f"{read.name}: another client's get waited {longest_ms:.0f} ms, more than {LONGEST_WAIT_S_MAX * 1000:.0f}"
            for read in self.reads
            if (longest_ms := read.waits.percentiles_ms(1.0)[0]) > LONGEST_WAIT_S_MAX * 1000
        ]

    def table(self) -> Table:
        title = "requests of much data, and another client's gets meanwhile"
        headings = ("read", "outcome", "s", "gets", "p50 ms", "p99 ms", "max ms", "leader MiB")
        texts = frozenset({"read", "outcome"})
        table = bench_table(title, *headings, left=texts, folded=texts)
        for read in self.reads:
            table.add_row(
                read.name,
                read.outcome,
                f"{read.seconds:.2f}",
                str(read.waits.count),
                *(f"{wait:.1f}" for wait in read.waits.percentiles_ms(0.5, 0.99, 1.0)),
                f"{read.leader_bytes_max >> 20}",
            )
        return table

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "read": read.name,
                "outcome": read.outcome,
                "seconds": round(read.seconds, 3),
                "gets": read.waits.count,
                "wait_ms": dict(zip(("p50", "p99", "max"), read.waits.percentiles_ms(0.5, 0.99, 1.0), strict=True)),
                "leader_bytes_max": read.leader_bytes_max,
                "failed": read.failed,
            }
            for read in self.reads
        ]


async def measure_large_rows(
    cluster: LocalCluster, client: AsyncClient, scope: Scope, rows: int, on_progress: Callable[[int], None]
) -> LargeRowFigures:
    """Load `rows` large rows and many small ones, and go through `READS`. Raises ClientError."""
    await _load(client, rows)
    leader = (await leader_of(cluster, client)).child.pid
    program = (sys.executable, "-m", __name__, cluster.scheduler.addr, str(rows))
    child = await start_child(scope, "reader", *program, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    figures = LargeRowFigures()
    for number in range(1, len(READS) + 1):
        figures.reads.append(await _watch(child.stdout, client, scope, leader))
        on_progress(number)
    await child.wait(READ_S_MAX)
    return figures


async def _load(client: AsyncClient, rows: int) -> None:
    raw = client.raw
    await raw.put(_BYSTANDER, b"small")
    for prefix, count, ttl in ((_SMALL, SMALL_ROWS, None), (_EXPIRED, EXPIRED_ROWS, _TTL_S)):
        for first in range(0, count, _BATCH):
            pairs = {b"%b%06d" % (prefix, number): b"small" for number in range(first, min(count, first + _BATCH))}
            await raw.batch_put(pairs, ttl=ttl)
    value = os.urandom(VALUE_BYTES)
    for number in range(rows):
        await raw.put(_large_key(number), value, timeout=READ_S_MAX)
    await asyncio.sleep(_TTL_S)


def _large_key(number: int) -> bytes:
    return b"%b%06d" % (_LARGE, number)


def _tiny_keys(count: int) -> Iterator[bytes]:
    return (b"%b%06d" % (_TINY, number) for number in range(count))


async def _watch(stdout: asyncio.StreamReader, client: AsyncClient, scope: Scope, leader_pid: int) -> ReadFigures:
    """Read a small key all the time until the next large read is over."""
    name = (await stdout.readline()).decode().strip()  # the reader begins with it
    reply = scope.start("reply", stdout.readline)
    waits, most = Latencies(), 0
    while not reply.done:
        begun = time.perf_counter()
        await client.raw.get(_BYSTANDER)
        waits.add(time.perf_counter() - begun)
        most = max(most, _resident_bytes(leader_pid))
        await asyncio.sleep(_PAUSE_S)
    told = json.loads(await reply.wait() or b'{"outcome": "the reader died", "seconds": 0, "failed": true}')
    return ReadFigures(name, told["outcome"], told["seconds"], waits, most, told["failed"])


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as stream:  # noqa: PTH123 - not a file worth a path
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the child process ------------------------------------------------------------------------------------------------


class LargeReads:
    """The large reads, each a method."""

    def __init__(self, client: AsyncClient, connector: GrpcConnector, rows: int) -> None:
        self._client = client
        self._raw = client.raw
        self._connector = connector
        self._keys = [_large_key(number) for number in range(rows)]
        self._tiny = TINY_VALUES_A_ROW * rows
        """How many tiny values there are."""
        self._context = kvrpcpb_pb2.Context()
        self._address = ""
        """Of the store that leads the region of the rows; empty until `find_leader` has looked it up."""

    async def find_leader(self) -> None:
        """Find where calls go that are not made by our client. Before each read: on a busy machine leadership moves."""
        reply = await self._client.scheduler.call(
            "GetRegion", pdpb_pb2.GetRegionRequest(region_key=_LARGE), pdpb_pb2.GetRegionResponse
        )
        self._context.region_id = reply.region.id
        self._context.region_epoch.CopyFrom(reply.region.region_epoch)
        self._context.peer.CopyFrom(reply.leader)
        self._address = (await self._client.scheduler.get_store(reply.leader.store_id)).address

    async def nothing(self) -> int:
        await asyncio.sleep(_NOTHING_S)
        return 0

    async def our_batch_get(self) -> int:
        return len(await self._raw.batch_get(self._keys, timeout=READ_S_MAX))

    async def our_scan(self) -> int:
        return await self._count(key_only=False)

    async def our_scan_of_keys(self) -> int:
        return await self._count(key_only=True)

    async def _count(self, *, key_only: bool) -> int:
        count = 0
        async for _pair in self._raw.scan(prefix=_LARGE, key_only=key_only, timeout=READ_S_MAX):
            count += 1
        return count

    async def some_in_one_call(self) -> int:
        return await self._batch_get(self._keys[:8])

    async def all_in_one_call(self) -> int:
        return await self._batch_get(self._keys)

    async def _batch_get(self, keys: list[bytes]) -> int:
        request = kvrpcpb_pb2.RawBatchGetRequest(context=self._context, keys=keys)
        return _count_pairs(await self._call("RawBatchGet", request), "pairs")

    async def scan_in_one_call(self) -> int:
        return await self._scan(_LARGE, limit=8)

    async def keys_in_one_call(self) -> int:
        return await self._scan(_LARGE, limit=RAW_SCAN_LIMIT_MAX, key_only=True)

    async def small_rows_in_one_call(self) -> int:
        return await self._scan(_SMALL, limit=RAW_SCAN_LIMIT_MAX)

    async def expired_rows(self) -> int:
        return await self._scan(_EXPIRED, limit=RAW_SCAN_LIMIT_MAX)

    async def _scan(self, prefix: bytes, *, limit: int, key_only: bool = False) -> int:
        request = kvrpcpb_pb2.RawScanRequest(
            context=self._context, start_key=prefix, end_key=prefix + b"\xff", limit=limit, key_only=key_only
        )
        return _count_pairs(await self._call("RawScan", request), "kvs")

    async def checksum(self) -> int:
        request = kvrpcpb_pb2.RawChecksumRequest(context=self._context, ranges=[kvrpcpb_pb2.KeyRange()])
        response = await self._call("RawChecksum", request)
        _raise_error(response)
        return int(response.total_kvs)

    async def tiny_values_in_one_call(self) -> int:
        pairs = [kvrpcpb_pb2.KvPair(key=key, value=b"v") for key in _tiny_keys(self._tiny)]
        request = kvrpcpb_pb2.RawBatchPutRequest(context=self._context, pairs=pairs)
        return await self._write("RawBatchPut", request)

    async def deletes_in_one_call(self) -> int:
        request = kvrpcpb_pb2.RawBatchDeleteRequest(context=self._context, keys=list(_tiny_keys(self._tiny)))
        return await self._write("RawBatchDelete", request)

    async def delete_range(self) -> int:
        """Delete a range that is deleted already, key by key."""
        request = kvrpcpb_pb2.RawDeleteRangeRequest(context=self._context, start_key=_TINY, end_key=_TINY + b"\xff")
        return await self._write("RawDeleteRange", request)

    async def _write(self, method: str, request: Any) -> int:
        response = await self._call(method, request)
        _raise_error(response)
        if response.error:
            raise ClientError(response.error)
        return self._tiny

    async def gets_in_one_frame(self) -> int:
        """Ask for all rows by one frame of gets; the answers come in frames of their own."""
        request = tikvpb_pb2.BatchCommandsRequest()
        for number, key in enumerate(self._keys):
            request.request_ids.append(number)
            get = request.requests.add().RawGet
            get.context.CopyFrom(self._context)
            get.key = key
        stream: BidiStream = self._connector.stream(self._address, BATCH_COMMANDS)
        answered = found = 0
        try:
            stream.send_nowait(request)
            async with asyncio.timeout(READ_S_MAX):
                while answered < len(self._keys):
                    frame: Any = await stream.receive()
                    answered += len(frame.request_ids)
                    for response in frame.responses:
                        _raise_error(response.RawGet)
                    found += sum(len(response.RawGet.value) > 0 for response in frame.responses)
        finally:
            stream.close()
        return found

    async def _call(self, method: str, request: Any) -> Any:
        return await self._connector.unary(self._address, f"/tikvpb.Tikv/{method}", request, timeout_s=READ_S_MAX)


READS: Final[dict[str, Callable[[LargeReads], Awaitable[int]]]] = {
    "nothing": LargeReads.nothing,
    "batch_get": LargeReads.our_batch_get,
    "scan": LargeReads.our_scan,
    "scan, keys only": LargeReads.our_scan_of_keys,
    "RawBatchGet of 8 rows": LargeReads.some_in_one_call,
    "RawBatchGet of all rows": LargeReads.all_in_one_call,
    "RawScan of 8 rows": LargeReads.scan_in_one_call,
    "RawScan of all keys": LargeReads.keys_in_one_call,
    "RawScan of 10,240 small rows": LargeReads.small_rows_in_one_call,
    "RawScan over 50,000 expired rows": LargeReads.expired_rows,
    "RawChecksum of everything": LargeReads.checksum,
    "RawGets of all rows in a frame": LargeReads.gets_in_one_frame,
    "RawBatchPut of tiny values": LargeReads.tiny_values_in_one_call,
    "RawBatchDelete of their keys": LargeReads.deletes_in_one_call,
    "RawDeleteRange over the deleted keys": LargeReads.delete_range,
}
"""By name; the first one shows what the machine itself makes the bystander wait."""
MAY_BE_REFUSED: Final = frozenset({"RawBatchGet of all rows"})
"""Reads that ask for more than one answer may hold, if there are enough rows."""


def _count_pairs(response: Any, field: str) -> int:
    _raise_error(response)
    pairs = getattr(response, field)
    for pair in pairs:
        if pair.HasField("error"):
            raise ClientError(pair.error.abort or pair.error.retryable)
    return len(pairs)


def _raise_error(response: Any) -> None:
    if response.HasField("region_error"):
        raise ClientError(response.region_error.message)


async def _read_all(scope: Scope, address: str, rows: int) -> int:
    connector = GrpcConnector(scope)
    async with aio.connect(address) as client:
        reader = LargeReads(client, connector, rows)
        for name, read in READS.items():
            await reader.find_leader()
            print(name, flush=True)
            begun, failed = time.perf_counter(), False
            try:
                outcome = f"{await read(reader):,} rows"
            except (ClientError, RpcError, TimeoutError) as error:
                outcome, failed = f"{type(error).__name__}: {error}", name not in MAY_BE_REFUSED
            seconds = time.perf_counter() - begun
            print(json.dumps({"outcome": outcome, "seconds": seconds, "failed": failed}), flush=True)
            await asyncio.sleep(_BETWEEN_S)
    await connector.close()
    return 0


if __name__ == "__main__":
    _address, _rows = sys.argv[1:]
    sys.exit(run_process(lambda scope: _read_all(scope, _address, int(_rows)), name="reader"))
