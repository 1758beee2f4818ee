"""What `tinykv import` does: check the whole file, look whether the keys are free, write block by block.

Each block is one transaction, or one batch of raw keys; writing it twice does no harm. Several are under way at once, in
rounds; after each round a small journal beside the file remembers how many blocks are in: the same command goes on there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import msgspec

from pytinykv.cli.moving.export_file import (
    Block,
    End,
    ExportFileError,
    Header,
    RawRows,
    Survey,
    Surveyor,
    TransactionRows,
    read_blocks,
)
from pytinykv.cli.moving.parallel import in_parallel
from pytinykv.cli.text import escaped, shorten
from pytinykv.lifecycle import Scope
from pytinykv.storage import write_atomically
from pytinykv.wire.keys import next_key

if TYPE_CHECKING:
    from pytinykv.cli.progress import Progress
    from pytinykv.client.async_base import AsyncBase
    from pytinykv.client.txn.transaction import AsyncTransaction

Rows: TypeAlias = TransactionRows | RawRows
"""The records of a file that an import writes."""

BLOCKS_AT_ONCE: Final = 8
CHECKS_AT_ONCE: Final = 64
"""Blocks that are checked before the event loop gets its turn."""
REPEATS: Final = 5
"""How often a block is written whose fate is unknown."""
JOURNAL: Final = ".import"


class Journal(msgspec.Struct, frozen=True):
    """How far the import of a file is; beside it, as JSON."""

    export_id: str
    target: str
    blocks: int
    """Blocks of rows that are in for certain."""


class Counts:
    """What an import has done in this run."""

    def __init__(self) -> None:
        self.transaction_rows = 0
        """Rows that were written as transactions. Only grows, as those below."""
        self.raw_rows = 0
        """Rows that were written into the raw column families."""
        self.expired = 0
        """Raw rows whose time was over; not in `raw_rows`."""


def journal_path(path: Path) -> Path:
    """Return where the journal of an export is."""
    return path.with_name(path.name + JOURNAL)


def read_journal(path: Path) -> Journal | None:
    """Return the journal of an export, None if there is none. Raises `ExportFileError` for one that can't be read."""
    file = journal_path(path)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Journal)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ExportFileError(f"{file}, which says how far the import is, can't be read: {error}; remove it") from error


async def check(path: Path) -> Survey:
    """Read the whole file and return what is in it. Raises `ExportFileError`, OSError."""
    surveyor = Surveyor(path)
    for number, _ in enumerate(surveyor.steps()):
        if number % CHECKS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return surveyor.survey()


async def check_free(client: AsyncBase, survey: Survey) -> None:
    """Refuse if the target has a key within what is to be imported. Raises `ExportFileError`."""
    for family, (first, last) in survey.spans.items():
        found = None
        if family is None:
            async with client.snapshot() as snapshot:
                async for key, _ in snapshot.scan(first, next_key(last), limit=1, key_only=True):
                    found = key
        else:
            async for key, _ in client.raw.scan(first, next_key(last), limit=1, key_only=True, cf=family):
                found = key
        if found is not None:
            kind = "transactional" if family is None else "raw"
            raise ExportFileError(
                f"the target has {kind} keys between {_name(first)} and {_name(last)} already, {_name(found)} to begin with; "
                "--overwrite lets them be replaced. Nothing was imported"
            )


class Import(NamedTuple):
    """One import."""

    scope: Scope
    client: AsyncBase
    path: Path
    survey: Survey
    target: str
    progress: Progress
    counts: Counts

    async def run(self, first_block: int) -> None:
        """Write all blocks of rows from `first_block` on. Raises ClientError, OSError, `ImportStoppedError`."""
        done = first_block
        last: tuple[Rows, bytes] | None = None
        with self.path.open("rb") as file:
            records = islice(_row_records(read_blocks(file, str(self.path))), first_block, None)
            while several := list(islice(records, BLOCKS_AT_ONCE)):
                try:
                    await in_parallel(self.scope, "block", self._write, several)
                    self._remember(done + len(several))
                except BaseException as error:
                    raise ImportStoppedError(self._where(done, last, several), error) from error
                done += len(several)
                last = (several[-1], several[-1].rows[-1][0])
                self.progress.add_many(last[1], sum(len(record.rows) for record in several))
        journal_path(self.path).unlink(missing_ok=True)

    def _remember(self, blocks: int) -> None:
        journal = Journal(self.survey.header.export_id.hex(), self.target, blocks)
        write_atomically(journal_path(self.path), msgspec.json.encode(journal) + b"\n")

    def _where(self, done: int, last: tuple[Rows, bytes] | None, several: list[Rows]) -> str:
        """Return what is visible in the target after an import that did not come to its end."""
        until = (
            "nothing of earlier blocks" if last is None and not done else f"{done} of {self.survey.row_blocks} blocks"
        )
        at = "" if last is None else f", the last with {_kind(last[0])} keys up to {_name(last[1])}"
        return (
            f"imported: {until}{at}; and perhaps some blocks with {_kind(several[0])} keys from "
            f"{_name(several[0].rows[0][0])} to {_kind(several[-1])} {_name(several[-1].rows[-1][0])}. The same command "
            "goes on from there; what is in is visible until it is deleted"
        )

    async def _write(self, record: Rows) -> None:
        from pytinykv.client import UndeterminedError

        for attempt in range(REPEATS):
            try:
                if isinstance(record, TransactionRows):
                    await self._write_transactional(record)
                else:
                    await self._write_raw(record)
            except UndeterminedError:  # the same rows again: whichever way it went, they are in afterwards
                if attempt == REPEATS - 1:
                    raise
            else:
                return

    async def _write_transactional(self, record: TransactionRows) -> None:
        async def put_all(txn: AsyncTransaction) -> None:
            for key, value in record.rows:
                await txn.put(key, value)

        await self.client.run(put_all)
        self.counts.transaction_rows += len(record.rows)

    async def _write_raw(self, record: RawRows) -> None:
        now = time.time()
        by_ttl: dict[int | None, list[tuple[bytes, bytes]]] = {}
        expired = 0
        for key, value, expires_s in record.rows:
            if expires_s and expires_s <= now:
                expired += 1
            else:
                by_ttl.setdefault(int(expires_s - now) + 1 if expires_s else None, []).append((key, value))
        for ttl, pairs in by_ttl.items():
            await self.client.raw.batch_put(pairs, ttl=ttl, cf=record.family)
        self.counts.raw_rows += len(record.rows) - expired
        self.counts.expired += expired


class ImportStoppedError(Exception):
    """An import did not come to its end; the message says what is visible."""

    def __init__(self, message: str, why: BaseException) -> None:
        super().__init__(message)
        self.why: Final = why


def _row_records(blocks: Iterator[Block]) -> Iterator[Rows]:
    for block in blocks:
        if not isinstance(block.record, Header | End) and block.record.rows:
            yield block.record


def _kind(record: Rows) -> str:
    return "transactional" if isinstance(record, TransactionRows) else "raw"


def _name(key: bytes) -> str:
    return shorten(escaped(key), 40)
