"""What `tinykv export` reads, in the order in which the file has it.

    timestamp, held against garbage collection ─▶ header ─▶ transactional rows ─▶ raw rows, family by family ─▶ end

A run that was interrupted is carried on at its own timestamp, behind the last key that the file has.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from pytinykv import __version__
from pytinykv.cli.moving.export_file import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    ExportFileError,
    ExportWriter,
    Header,
    Left,
    RawRows,
    TransactionRows,
)
from pytinykv.cli.moving.parallel import in_parallel
from pytinykv.lifecycle import Scope
from pytinykv.wire.keys import next_key

if TYPE_CHECKING:
    from pytinykv.cli.progress import Progress
    from pytinykv.client.async_base import AsyncBase

FAMILIES: Final = ("default", "lock", "write")
HOLD_S: Final = 3600
"""How long the cluster keeps the versions of an export that is interrupted: within it, it can be carried on."""
HOLD_AGAIN_S: Final = 60.0
TTLS_AT_ONCE: Final = 256

Pair = tuple[bytes, bytes]


class Wanted(NamedTuple):
    """What to export."""

    start: bytes
    end: bytes
    """Empty: no bound."""
    transactions: bool
    families: tuple[str, ...]
    """Column families of raw data."""
    ttls: bool
    """Whether to ask when each raw key vanishes: a call for each."""


def header_for(wanted: Wanted, source: str, ts: int) -> Header:
    """Return the header of a new export."""
    return Header(
        export_id=os.urandom(16),
        source=source,
        program=f"pytinykv {__version__}",
        created_s=int(time.time()),
        ts=ts,
        families=wanted.families,
        start=wanted.start,
        end=wanted.end,
    )


def check_same(left: Left, wanted: Wanted, source: str, part: object) -> None:
    """Refuse to carry on what is another export. Raises `ExportFileError`."""
    header = left.header
    is_same = (header.source, header.start, header.end, header.families, header.ts != 0) == (
        source,
        wanted.start,
        wanted.end,
        wanted.families,
        wanted.transactions,
    )
    if not is_same:
        raise ExportFileError(
            f"{part} holds the beginning of another export (of {header.source}, or of other keys); remove it, or name "
            "another file"
        )


async def export(
    client: AsyncBase, writer: ExportWriter, header: Header, left: Left | None, progress: Progress, *, ttls: bool
) -> None:
    """Write all rows behind those of `left`, and the header if there is no `left`. Raises ClientError, OSError."""
    if left is None:
        writer.write(header)
    async with _held(client, header):
        is_past_transactions = left is not None and left.family is not None
        if header.ts and not is_past_transactions:
            start = header.start if left is None or left.last_key is None else next_key(left.last_key)
            await _export_transactions(client, writer, header, start, progress)
    families = header.families
    resumed = left.family if left is not None else None
    if resumed is not None:
        families = families[families.index(resumed) :]
    for family in families:
        start = header.start
        if family == resumed and left is not None and left.last_key is not None:
            start = next_key(left.last_key)
        await _export_raw(client, writer, family, start, header.end, progress, ttls=ttls)


async def _export_transactions(
    client: AsyncBase, writer: ExportWriter, header: Header, start: bytes, progress: Progress
) -> None:
    if header.end and start >= header.end:
        return
    async with client.snapshot(header.ts) as snapshot:
        held_at = time.monotonic()
        async for rows in in_blocks(snapshot.scan(start, header.end or None)):
            writer.write(TransactionRows(rows))
            progress.add_many(rows[-1][0], len(rows))
            if time.monotonic() - held_at > HOLD_AGAIN_S:
                held_at = time.monotonic()
                await _hold(client, header)


async def _export_raw(
    client: AsyncBase,
    writer: ExportWriter,
    family: str,
    start: bytes,
    end: bytes,
    progress: Progress,
    *,
    ttls: bool,
) -> None:
    if end and start >= end:
        return
    async with Scope("export") as scope:
        async for pairs in in_blocks(client.raw.scan(start, end or None, cf=family)):
            expiries: list[int | None] = [0] * len(pairs)
            if ttls:
                expiries = await _expiries(scope, client, [key for key, _ in pairs], family)
            rows = [
                (key, value, expires_s)
                for (key, value), expires_s in zip(pairs, expiries, strict=True)
                if expires_s is not None
            ]
            if rows:
                writer.write(RawRows(family, rows))
            progress.add_many(pairs[-1][0], len(pairs))


async def in_blocks(pairs: AsyncIterable[Pair]) -> AsyncIterator[list[Pair]]:
    """Group pairs into blocks of a bounded size."""
    block: list[Pair] = []
    size = 0
    async for pair in pairs:
        block.append(pair)
        size += len(pair[0]) + len(pair[1])
        if size >= BLOCK_BYTES or len(block) >= BLOCK_ROWS:
            yield block
            block, size = [], 0
    if block:
        yield block


async def _expiries(scope: Scope, client: AsyncBase, keys: Sequence[bytes], family: str) -> list[int | None]:
    """Return when each key vanishes, seconds since 1970: 0 for never, None if it has vanished meanwhile."""

    async def expiries(part: Sequence[bytes]) -> list[int | None]:
        return [_expiry(await client.raw.ttl(key, cf=family)) for key in part]

    parts = [keys[number::TTLS_AT_ONCE] for number in range(min(TTLS_AT_ONCE, len(keys)))]
    found: list[int | None] = [None] * len(keys)
    for number, part in enumerate(await in_parallel(scope, "ttls", expiries, parts)):
        found[number::TTLS_AT_ONCE] = part
    return found


def _expiry(ttl_s: float | None) -> int | None:
    if ttl_s is None:
        return None
    return 0 if math.isinf(ttl_s) else math.ceil(time.time() + ttl_s)


# --- against garbage collection ---------------------------------------------------------------------------------


def _service(header: Header) -> str:
    return f"tinykv-export-{header.export_id.hex()}"


async def _hold(client: AsyncBase, header: Header, ttl_s: int = HOLD_S) -> None:
    """Have a cluster keep the versions that the export reads; an embedded database does so for its open snapshots."""
    from pytinykv.client import AsyncClient

    if isinstance(client, AsyncClient):
        await client.inspector.hold(_service(header), header.ts, ttl_s)


@asynccontextmanager
async def _held(client: AsyncBase, header: Header) -> AsyncIterator[None]:
    """Keep the versions that the export reads; after an error they are kept on, so that it can be carried on."""
    if header.ts:
        await _hold(client, header)
    yield
    if header.ts:
        await _hold(client, header, ttl_s=0)
