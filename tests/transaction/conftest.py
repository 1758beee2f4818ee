from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.transaction.txn_store import TxnStore


@pytest.fixture
def store() -> Iterator[TxnStore]:
    store = TxnStore()
    yield store
    assert len(store.manager) == 0, "a lock is left in memory"
    store.engine.close()
