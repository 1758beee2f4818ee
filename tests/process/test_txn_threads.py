"""Transactions from threads: the blocking client, shared, left open, and closed."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator

import pytest
from tests.cli.processes import Running, started

import pytinykv


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("cluster")
    with started(directory, "playground", "--stores", 1, "--scheduler-addr", "127.0.0.1:0") as playground:
        playground.ready()
        yield playground
        assert playground.stop() == 0, playground.output + playground.errors


@pytest.fixture
def db(cluster: Running) -> Iterator[pytinykv.Client]:
    with pytinykv.connect(cluster.ready()["scheduler"]) as db:
        yield db


def in_threads(count: int, work: object) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("pessimistic", [False, True], ids=["optimistic", "pessimistic"])
def test_counting_in_threads_loses_nothing(db: pytinykv.Client, *, pessimistic: bool) -> None:
    key = b"count-%d" % pessimistic

    def add(txn: pytinykv.Transaction) -> None:
        value = txn.get_for_update(key) if pessimistic else txn.get(key)
        txn.put(key, b"%d" % (int(value or b"0") + 1))

    def work() -> None:
        for _ in range(10):
            db.run(add, pessimistic=pessimistic, timeout=30)

    in_threads(4, work)
    assert db.snapshot().get(key) == b"40"


def test_threads_may_share_a_transaction_until_its_end(db: pytinykv.Client) -> None:
    with db.transaction() as txn:
        numbers = iter(range(100))
        in_threads(4, lambda: [txn.put(b"shared-%03d" % number, b"v") for number in numbers])
        assert len(list(txn.scan(prefix=b"shared-"))) == 100
    refused: list[Exception] = []

    def late() -> None:
        try:
            txn.put(b"shared-late", b"v")
        except pytinykv.TransactionClosedError as error:
            refused.append(error)

    in_threads(2, late)
    assert len(refused) == 2
    assert len(list(db.snapshot().scan(prefix=b"shared-", key_only=True))) == 100


def test_the_blocking_face_raises_what_the_other_does(db: pytinykv.Client) -> None:
    with db.transaction() as txn:
        txn.put(b"face-a", b"1")
    first = db.transaction()
    first.put(b"face-a", b"2")
    first.insert(b"face-b", b"2")
    with db.transaction(pessimistic=True) as other:
        other.put(b"face-a", b"3")
    with pytest.raises(pytinykv.WriteConflictError):
        first.commit()
    first.rollback()
    with pytest.raises(pytinykv.KeyExistsError), db.transaction(pessimistic=True) as txn:
        txn.insert(b"face-a", b"4")
    with pytest.raises(pytinykv.InvalidArgumentError):
        db.transaction().put("face-a", b"1")  # type: ignore[arg-type]
    with pytest.raises(pytinykv.InvalidArgumentError):
        db.snapshot(-1)
    snapshot = db.snapshot()
    assert list(snapshot.scan(prefix=b"face-", reverse=True)) == [(b"face-a", b"3")]
    assert snapshot.get_many([b"face-a", b"face-b"]) == {b"face-a": b"3"}


def test_a_transaction_that_is_forgotten_warns(db: pytinykv.Client) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        txn = db.transaction()
        txn.put(b"forgotten", b"v")
        del txn
        gc.collect()
    (warning,) = [warning for warning in caught if warning.category is ResourceWarning]
    assert "was never committed nor rolled back" in str(warning.message)
    assert db.snapshot().get(b"forgotten") is None


def test_a_client_that_is_closed_ends_its_transactions(cluster: Running) -> None:
    db = pytinykv.connect(cluster.ready()["scheduler"])
    txn = db.transaction(pessimistic=True)
    txn.put(b"open", b"v")
    with pytest.warns(ResourceWarning, match=r"1 transaction\(s\) with writes or locks were open"):
        db.close()
    with pytest.raises(pytinykv.ClientClosedError):
        txn.get(b"open")
    with pytest.raises(pytinykv.ClientClosedError):
        db.transaction()
    with pytinykv.connect(cluster.ready()["scheduler"]) as again, again.transaction() as other:
        other.put(b"open", b"w")
