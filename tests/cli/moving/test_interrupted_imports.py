"""An import that does not come to its end says what is in, and the next one goes on there."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.processes import TINYKV, environment, tinykv_here

import pytinykv
from pytinykv.cli.moving.export_file import ExportWriter, Header, RawRows, TransactionRows
from pytinykv.cli.moving.importing import BLOCKS_AT_ONCE, Counts, Import, ImportStoppedError, check, read_journal
from pytinykv.cli.progress import Progress
from pytinykv.client import ClientError, DeadlineExceededError, UndeterminedError
from pytinykv.embedded.async_database import AsyncDatabase
from pytinykv.lifecycle import Scope

HEADER = Header(bytes(16), "a test", "pytinykv", 0, 1 << 18, ("default",), b"", b"")
BLOCKS = 2 * BLOCKS_AT_ONCE + 3
LARGE_BLOCKS = 100


def keys_of(block: int) -> list[bytes]:
    return [b"%03d-%d" % (block, number) for number in range(3)]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    with ExportWriter(path) as writer:
        writer.write(HEADER)
        for block in range(BLOCKS - 1):
            writer.write(TransactionRows([(key, b"v") for key in keys_of(block)]))
        writer.write(RawRows("default", [(b"raw", b"v", 0), (b"over", b"v", 1)]))
        writer.finish()
    return path


class Failing(AsyncDatabase):
    """A database in memory whose transactions fail from some call on."""

    def __init__(self, error: BaseException, good_calls: int) -> None:
        super().__init__(None, durability="full", history_s=60.0, config=pytinykv.ClientConfig())
        self.error = error
        self.good_calls = good_calls
        self.calls = 0

    async def run(self, function: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
        self.calls += 1
        if self.calls > self.good_calls:
            raise self.error
        return await super().run(function, **options)


async def run_import(client: AsyncDatabase, path: Path, first_block: int = 0) -> Counts:
    counts = Counts()
    async with Scope("import") as scope:
        one = Import(scope, client, path, await check(path), "here", Progress(is_shown=False), counts)
        await one.run(first_block)
    return counts


async def contents(client: AsyncDatabase) -> list[bytes]:
    async with client.snapshot() as snapshot:
        return [key async for key, _ in snapshot.scan(key_only=True)]


async def test_an_error_in_the_second_round(export: Path) -> None:
    error = DeadlineExceededError("no answer")
    async with Failing(error, BLOCKS_AT_ONCE + 2) as client:
        with pytest.raises(ImportStoppedError) as stopped:
            await run_import(client, export)
        assert stopped.value.why is error
        assert str(stopped.value) == (
            "imported: 8 of 19 blocks, the last with transactional keys up to 007-2; and perhaps some blocks with "
            "transactional keys from 008-0 to transactional 015-2. The same command goes on from there; what is in is "
            "visible until it is deleted"
        )
        assert await contents(client) == [key for block in range(10) for key in keys_of(block)], "as the message says"
        journal = read_journal(export)
        assert journal is not None
        assert (journal.target, journal.blocks) == ("here", BLOCKS_AT_ONCE)

        client.good_calls = 1 << 30
        counts = await run_import(client, export, journal.blocks)
        assert await contents(client) == [key for block in range(BLOCKS - 1) for key in keys_of(block)]
        assert await client.raw.get(b"raw") == b"v"
        assert await client.raw.get(b"over") is None
        assert (counts.raw_rows, counts.expired) == (1, 1)
        assert read_journal(export) is None


async def test_an_error_at_once_leaves_nothing_but_what_it_names(export: Path) -> None:
    async with Failing(ClientError("refused"), 0) as client:
        with pytest.raises(
            ImportStoppedError, match="imported: nothing of earlier blocks; and perhaps some blocks with"
        ):
            await run_import(client, export)
        assert await contents(client) == []
        assert read_journal(export) is None


async def test_a_block_of_unknown_fate_is_written_again(export: Path) -> None:
    class Doubtful(Failing):
        async def run(self, function: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
            is_doubtful = self.calls % 2 == 0
            result = await super().run(function, **options)
            if is_doubtful:
                raise UndeterminedError("the answer was lost")
            return result

    async with Doubtful(ClientError(), 1 << 30) as client:
        await run_import(client, export)
        assert await contents(client) == [key for block in range(BLOCKS - 1) for key in keys_of(block)]
        assert client.calls > BLOCKS - 1


async def test_cancelled_it_says_what_is_in_and_leaves_no_task(export: Path) -> None:
    class Stuck(Failing):
        async def run(self, function: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
            if self.calls >= BLOCKS_AT_ONCE:
                await asyncio.get_running_loop().create_future()
            return await super().run(function, **options)

    async with Stuck(ClientError(), 1 << 30) as client, Scope("test") as scope:
        task = scope.start("import", run_import, client, export)
        while read_journal(export) is None:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(ImportStoppedError, match="imported: 8 of 19 blocks") as stopped:
            await task.wait()
        assert isinstance(stopped.value.why, asyncio.CancelledError)


# --- killed -----------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, dict[bytes, bytes]]:
    rows = {b"%06d" % number: random.Random(number).randbytes(400) for number in range(30_000)}
    path = tmp_path / "large"
    keys = sorted(rows)
    rows_each = len(keys) // LARGE_BLOCKS
    with ExportWriter(path) as writer:
        writer.write(HEADER)
        for start in range(0, len(keys), rows_each):
            writer.write(TransactionRows([(key, rows[key]) for key in keys[start : start + rows_each]]))
        writer.finish()
    return path, rows


def test_killed_at_any_moment_it_goes_on_until_everything_is_in(
    large: tuple[Path, dict[bytes, bytes]], tmp_path: Path, more: int
) -> None:
    path, rows = large
    rng = random.Random(more)
    kills = 0
    for round_ in range(more):
        data = tmp_path / f"data-{round_}"
        for _ in range(2):
            journal = read_journal(path)
            blocks = 0 if journal is None else journal.blocks
            kills += kill_after_blocks(path, data, rng.randrange(blocks, LARGE_BLOCKS), rng)
        done = tinykv_here("import", path, "--data", data, "--overwrite")
        assert done.returncode == 0, done.stderr
        with pytinykv.open(data) as db, db.snapshot() as snapshot:
            assert dict(snapshot.scan()) == rows
        shutil.rmtree(data)
    print(f"killed {kills} times")  # noqa: T201 - with `pytest -s`


def kill_after_blocks(path: Path, data: Path, blocks: int, rng: random.Random) -> bool:
    """Kill an import once its journal tells of more than `blocks` blocks, or a little later; return whether it was killed."""
    command = [*TINYKV, "import", str(path), "--data", str(data), "--overwrite"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    try:
        while process.poll() is None:
            journal = read_journal(path)
            if journal is not None and journal.blocks > blocks:
                time.sleep(rng.uniform(0, 0.03))
                break
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    return process.returncode == -signal.SIGKILL
