"""Where the other stores are, while the scheduler answers and while it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pytinykv.client.errors import SchedulerUnavailableError, StoreNotFoundError
from pytinykv.lifecycle import Scope
from pytinykv.server.host.address_book import AddressBook
from pytinykv.wire.pb import metapb_pb2


class Scheduler:
    """Knows stores by their addresses, unless it is away."""

    cluster_id = 7

    def __init__(self) -> None:
        self.addresses = {1: "127.0.0.1:1", 2: "127.0.0.1:2"}
        self.is_away = False

    async def get_store(self, store_id: int, _timeout_s: float | None = None) -> metapb_pb2.Store:
        if store_id not in self._known():
            raise StoreNotFoundError(f"no store {store_id}")
        return metapb_pb2.Store(id=store_id, address=self.addresses[store_id])

    async def get_all_stores(self, **_: Any) -> list[metapb_pb2.Store]:
        return [metapb_pb2.Store(id=store_id, address=address) for store_id, address in self._known().items()]

    def _known(self) -> dict[int, str]:
        if self.is_away:
            raise SchedulerUnavailableError("away")
        return self.addresses


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
async def book(scheduler: Scheduler) -> AsyncIterator[AddressBook]:
    scope = Scope("book")
    book: Any = scheduler
    book = AddressBook(book, scope)
    await asyncio.sleep(0)  # the first round of asking
    yield book
    report = await scope.stop()
    assert report.ok, report.render()


async def test_a_store_that_moved_is_found_where_it_is_now(book: AddressBook, scheduler: Scheduler) -> None:
    assert (await book.get_store(1)).address == "127.0.0.1:1"
    scheduler.addresses[1] = "127.0.0.1:11"
    assert (await book.get_store(1)).address == "127.0.0.1:11"


async def test_a_store_not_asked_for_before_is_found_without_a_scheduler(
    book: AddressBook, scheduler: Scheduler
) -> None:
    scheduler.is_away = True
    assert (await book.get_store(2)).address == "127.0.0.1:2"


async def test_the_newest_address_is_the_one_that_is_kept(book: AddressBook, scheduler: Scheduler) -> None:
    scheduler.addresses[1] = "127.0.0.1:11"
    await book.get_store(1)
    scheduler.is_away = True
    assert (await book.get_store(1)).address == "127.0.0.1:11"


async def test_a_store_that_was_never_known_is_an_error(book: AddressBook, scheduler: Scheduler) -> None:
    with pytest.raises(StoreNotFoundError):
        await book.get_store(3)
    scheduler.is_away = True
    with pytest.raises(SchedulerUnavailableError):
        await book.get_store(3)
