"""Raw reads of an embedded database beside raw writes that are on their way to the disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

import pytinykv
from pytinykv import aio
from pytinykv.embedded.raw_runner import Pending, RawRunner


class BusyWriter(Pending):
    """The pending writes of a writer that has the next one written whenever a sync ends."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0
        self.add(None)

    def wait(self, timeout_s: float) -> bool:
        self.waited += 1
        assert self.waited < 10, "the read waits again and again"
        return True


READS: list[Callable[[pytinykv.Client], object]] = [
    lambda db: db.raw.get(b"k") == b"v",
    lambda db: db.raw.batch_get([b"k"]) == {b"k": b"v"},
    lambda db: list(db.raw.scan()) == [(b"k", b"v")],
    lambda db: db.raw.ttl(b"k"),
    lambda db: db.raw.checksum().total_kvs == 1,
]


@pytest.mark.parametrize("read", READS, ids=["get", "batch_get", "scan", "ttl", "checksum"])
def test_a_read_ends_beside_a_writer_that_does_not_pause(read: Callable[[pytinykv.Client], object]) -> None:
    with pytinykv.open(None) as db:
        db.raw.put(b"k", b"v")
        runner = db._core.client.runner  # type: ignore[attr-defined]
        runner.pending = writer = BusyWriter()
        assert read(db)
        assert 0 < writer.waited <= 2, "once a page"


def test_what_comes_while_a_sync_is_waited_for_is_not_waited_for() -> None:
    pending = Pending()
    pending.add([b"k"])
    outcome: list[bool] = []
    reader = threading.Thread(target=lambda: outcome.append(pending.wait(20)))
    reader.start()
    while pending._is_empty._waiting is None:
        reader.join(0.001)
    pending.clear()
    pending.add([b"k"])
    reader.join(20)
    assert outcome == [True]


async def test_a_read_in_a_loop_that_meets_a_write_does_not_block_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aio.open(None) as db:
        await db.raw.put(b"k", b"v")
        database = db._opened().database
        runner: RawRunner = db.raw._executor  # type: ignore[assignment]
        get = database.engine.get

        def get_while_it_is_written(*args: object) -> bytes | None:
            if threading.current_thread() is threading.main_thread():
                runner.pending.add([b"rk", b"k", b"dk"])
                runner.pending.add(None)
            return get(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(database.engine, "get", get_while_it_is_written)
        reading = asyncio.ensure_future(db.raw.get(b"k", timeout=20))
        await asyncio.sleep(0.01)
        assert not reading.done()
        runner.pending.clear()
        assert await reading == b"v"
