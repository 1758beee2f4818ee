"""The asynchronous face of an embedded database: shared syncs, cancelled waits, closing, and what does not open."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import pytinykv
from pytinykv import aio
from pytinykv.client import ClientClosedError, DatabaseInUseError, DatabaseMismatchError, LockTimeoutError
from pytinykv.embedded import async_database
from pytinykv.embedded.async_database import AsyncDatabase
from pytinykv.embedded.background import Background
from pytinykv.embedded.database import Database
from pytinykv.embedded.opening import open_parts


def database(db: aio.AsyncDatabase) -> Database:
    return db._opened().database


async def test_tasks_that_commit_together_share_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with aio.open(tmp_path) as db:
        syncs: list[None] = []
        inner = database(db)._sync

        def sync() -> None:
            syncs.append(None)
            inner()

        monkeypatch.setattr(database(db), "_sync", sync)

        async def commit(number: int) -> None:
            async with db.transaction() as txn:
                await txn.put(b"%d" % number, b"v")

        await asyncio.gather(*(commit(number) for number in range(100)))
        assert len([pair async for pair in (await db.snapshot()).scan()]) == 100
        assert len(syncs) < 50


async def test_a_cancelled_wait_for_a_lock_leaves_nothing_in_line() -> None:
    async with aio.open(None) as db:
        holder, waiter = await db.transaction(pessimistic=True), await db.transaction(pessimistic=True)
        await holder.put(b"k", b"1")
        waiting = asyncio.ensure_future(waiter.put(b"k", b"2"))
        while not len(database(db).executor.waits):
            await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(database(db).executor.waits) == 0
        await holder.rollback()
        assert database(db).port.reader.locks == {}
        await waiter.put(b"k", b"3")  # it goes on
        await waiter.commit()
        assert await (await db.snapshot()).get(b"k") == b"3"


async def test_a_cancelled_commit_is_whole_or_not_there(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as db:
        for number in range(20):
            txn = await db.transaction()
            await txn.put(b"a", b"%d" % number)
            await txn.put(b"b", b"%d" % number)
            committing = asyncio.ensure_future(txn.commit())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
            if txn.is_active:
                await txn.rollback()  # the commit had not begun
            await db.raw.put(b"r", b"")  # after it, in the order of groups
            values = await (await db.snapshot()).get_many([b"a", b"b"])
            assert values in ({}, {b"a": values.get(b"a"), b"b": values.get(b"a")})


async def test_a_lock_timeout_is_short_and_says_who(tmp_path: Path) -> None:
    async with aio.open(tmp_path) as db:
        holder, waiter = await db.transaction(pessimistic=True), await db.transaction(pessimistic=True)
        await holder.put(b"k", b"1")
        with pytest.raises(LockTimeoutError) as late:
            await waiter.put(b"k", b"2", timeout=0.05)
        assert late.value.holder_ts == holder.start_ts
        await holder.rollback()
        await waiter.rollback()


async def test_closing_ends_who_waits() -> None:
    db = await aio.open(None)
    holder, waiter = await db.transaction(pessimistic=True), await db.transaction(pessimistic=True)
    await holder.put(b"k", b"1")
    waiting = asyncio.ensure_future(waiter.put(b"k", b"2"))
    while not len(database(db).executor.waits):
        await asyncio.sleep(0.001)
    with pytest.warns(ResourceWarning, match="1 transaction"):
        report = await db.close()
    assert report.ok, report.render()
    with pytest.raises(ClientClosedError):
        await waiting
    assert (await db.close()).ok
    with pytest.raises(ClientClosedError):
        await db.timestamp()


async def test_what_does_not_open_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("file")
    with pytest.raises(DatabaseMismatchError):
        async with aio.open(tmp_path):
            raise AssertionError("it is not ours")
    db = aio.open(None)
    with pytest.raises(ClientClosedError, match="not open"):
        db.transaction()
    await db.close()
    with pytest.raises(ClientClosedError):
        await db


@pytest.mark.parametrize("is_open", [False, True], ids=["before the engine is open", "afterwards"])
async def test_an_opening_that_is_cancelled_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    is_there, go_on = threading.Event(), threading.Event()

    def open_slowly(*args: Any, **kwargs: Any) -> tuple[Database, Background]:
        opened = open_parts(*args, **kwargs) if is_open else None
        is_there.set()
        assert go_on.wait(20)
        return opened or open_parts(*args, **kwargs)

    monkeypatch.setattr(async_database, "open_parts", open_slowly)
    db = aio.open(tmp_path)
    opening = asyncio.ensure_future(db.open())
    while not is_there.is_set():
        await asyncio.sleep(0.001)
    opening.cancel()
    await asyncio.sleep(0.001)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (await db.close()).ok
    monkeypatch.undo()
    async with aio.open(tmp_path) as again:
        await again.raw.put(b"k", b"v")


@pytest.mark.parametrize("is_open", [False, True], ids=["while it opens", "as soon as it is open"])
async def test_closing_what_is_being_opened_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    db = aio.open(tmp_path)
    opening = asyncio.ensure_future(db.open())
    await asyncio.sleep(0)
    if is_open:
        while db._opening is None or db._opening._parts is None:
            time.sleep(0.001)  # noqa: ASYNC251 - so that the task does not hear of it
    closing = asyncio.ensure_future(db.close())
    with pytest.raises(ClientClosedError):
        await opening
    assert (await closing).ok
    async with aio.open(tmp_path):
        pass


async def test_a_forgotten_database_warns_and_lets_go_of_its_directory(tmp_path: Path) -> None:
    db = await aio.open(tmp_path)
    async with db.transaction() as txn:
        await txn.put(b"k", b"v")
    del txn
    with pytest.warns(ResourceWarning, match=f"{tmp_path}.*never closed"):
        del db
    async with asyncio.timeout(20):
        while True:
            try:
                async with aio.open(tmp_path) as again:
                    assert await (await again.snapshot()).get(b"k") == b"v"
                break
            except DatabaseInUseError:
                await asyncio.sleep(0.01)


async def test_a_commit_under_way_of_a_forgotten_database_ends(tmp_path: Path) -> None:
    db = await aio.open(tmp_path)
    txn = await db.transaction()
    await txn.put(b"k", b"v")
    committing = asyncio.ensure_future(txn.commit())
    await asyncio.sleep(0)
    with pytest.warns(ResourceWarning, match="never closed"):
        del db
    async with asyncio.timeout(20):
        outcome = (await asyncio.gather(committing, return_exceptions=True))[0]
    assert isinstance(outcome, int | ClientClosedError), outcome


def test_a_database_that_is_forgotten_with_its_loop_lets_go_of_its_directory(tmp_path: Path) -> None:
    databases: list[AsyncDatabase] = []

    async def forget() -> None:
        databases.append(await aio.open(tmp_path))

    asyncio.run(forget())
    with pytest.warns(ResourceWarning, match="never closed"):
        databases.clear()
    deadline = time.monotonic() + 20
    while True:
        try:
            pytinykv.open(tmp_path).close()
            break
        except DatabaseInUseError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
