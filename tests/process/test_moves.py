"""Real stores that hand over, are drained, and swap their places."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

import pytest
from tests.process.cluster import CONVERGED_S, Cluster, wait_until

import pytinykv
from pytinykv.client.errors import ClientError, SchedulerError
from pytinykv.client.pd.scheduler_client import SchedulerClient

REGIONS = 100
KEYS = [b"%04d" % number for number in range(REGIONS)]


T = TypeVar("T")


def ask(db: pytinykv.Client, call: Callable[[SchedulerClient], Awaitable[T]]) -> T:
    """Ask the scheduler what the synchronous face has no method for."""
    return db._core.run(lambda client: call(client.scheduler), 10.0)


def split(cluster: Cluster, within_s: float = CONVERGED_S) -> None:
    """Split until a region begins at each of the keys but the first."""
    with pytinykv.connect(cluster.address) as db:

        def is_split() -> bool:
            return ask(db, lambda pd: pd.split_regions(KEYS[1:])).finished_percentage == 100

        wait_until(is_split, within_s=within_s, what=cluster.tails)


class Puts:
    """One client that puts into all regions, one key after the other, and notes what goes wrong."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.errors: list[ClientError] = []
        self.count = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with pytinykv.connect(self._address) as db:
            while not self._stop.is_set():
                try:
                    db.raw.put(KEYS[self.count * 37 % REGIONS], b"%d" % self.count)
                except ClientError as error:
                    self.errors.append(error)
                self.count += 1
                self._stop.wait(0.002)


def test_a_rolling_restart_costs_no_client_an_error_and_each_store_hands_over_all_it_leads(cluster: Cluster) -> None:
    split(cluster)
    with Puts(cluster.address) as puts:
        for store in cluster.stores:
            before = puts.count
            wait_until(lambda: puts.count > before + 100, within_s=CONVERGED_S, what=cluster.tails)  # noqa: B023 - at once
            led = sum(region["is_leader"] for region in store.regions())
            store.stop()
            store.check_stopped()
            said = re.findall(r"handed over (\d+) leaderships, kept (\d+)", store.log)
            assert [int(kept) for _, kept in said] == [0], f"it led {led}\n{store.tail()}"
            store.start()
            store.wait_ready()
    assert puts.errors == []


def test_a_store_that_is_drained_ends_in_good_order_and_does_not_come_back(
    new_cluster: Callable[..., Cluster],
) -> None:
    cluster = new_cluster()
    cluster.start(stores=3)
    cluster.wait_replicated(3)
    drained = cluster.leader()
    store_id = int(drained.facts["store"])
    with pytinykv.connect(cluster.address) as db:
        db.raw.put(b"k", b"v")
        with pytest.raises(SchedulerError, match=r"without store .* start another store first"):
            ask(db, lambda pd: pd.remove_store(store_id))
        cluster.add_store().wait_ready()
        wait_until(lambda: asked_to_go(db, store_id), within_s=CONVERGED_S, what=cluster.tails)
        assert drained.wait_exit(CONVERGED_S) == 0, drained.tail()
        assert "was removed from the cluster and holds nothing any more: this process ends" in drained.log
        assert "Traceback" not in drained.log
        assert db.raw.get(b"k") == b"v"
    drained.start()
    assert drained.wait_exit() == 1
    assert f"store {store_id} is tombstone: it was removed from the cluster" in drained.log
    assert "start with an empty data directory" in drained.log
    assert "Traceback" not in drained.log


def asked_to_go(db: pytinykv.Client, store_id: int) -> bool:
    """Whether the scheduler lets the store go: it has heard of the new one by now."""
    try:
        ask(db, lambda pd: pd.remove_store(store_id))
    except SchedulerError:
        return False
    return True


def test_three_stopped_stores_swap_their_addresses(new_cluster: Callable[..., Cluster]) -> None:
    cluster = new_cluster()
    cluster.start(stores=3)
    cluster.wait_replicated(3)
    with pytinykv.connect(cluster.address) as db:
        db.raw.put(b"k", b"v")
    for store in cluster.stores:
        store.stop()
        store.check_stopped()
    addresses = [store.options["--addr"] for store in cluster.stores]
    for store, address in zip(cluster.stores, [*addresses[1:], addresses[0]], strict=True):
        store.options["--addr"] = address
    for store in cluster.stores:
        store.start()
    for store in cluster.stores:
        store.wait_ready()
        assert store.facts["addr"] == store.options["--addr"]
    with pytinykv.connect(cluster.address) as db:
        assert wait_until(lambda: db.raw.get(b"k"), within_s=CONVERGED_S, what=cluster.tails) == b"v"
