"""pytinykv: TinyKV in Python, a distributed, replicated key-value store that always stops.

    with pytinykv.connect("127.0.0.1:2379") as db:          # async with pytinykv.aio.connect(...) as db: await …
        with db.transaction() as txn:                       # or db.raw.put(b"k", b"v"), without transactions
            txn.put(b"k", b"v")

`connect`, `aio` and the errors of the client are here; the rest is in the packages (docs/architecture.md). They are loaded
at their first use, so that a program which needs one layer does not pay for the others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytinykv import aio
    from pytinykv.client.config import ClientConfig
    from pytinykv.client.errors import (
        ClientClosedError,
        ClientError,
        ClientForkedError,
        ConcurrentUseError,
        DatabaseCorruptError,
        DatabaseError,
        DatabaseFullError,
        DatabaseInUseError,
        DatabaseMismatchError,
        DeadlineExceededError,
        DeadlockError,
        InvalidArgumentError,
        KeyExistsError,
        LockTimeoutError,
        SchedulerError,
        SchedulerUnavailableError,
        SnapshotTooOldError,
        StoreError,
        TransactionAbortedError,
        TransactionClosedError,
        TransactionError,
        TransactionRefusedError,
        TransactionTooLargeError,
        UndeterminedError,
        WriteConflictError,
        WrongEventLoopError,
    )
    from pytinykv.client.sync_client import Client, RawClient, connect
    from pytinykv.client.sync_scan import Scan
    from pytinykv.client.txn.sync import Snapshot, Transaction
    from pytinykv.embedded import open_database as open  # noqa: A004 - as in dbm and shelve: always with the package's name

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ClientClosedError",
    "ClientConfig",
    "ClientError",
    "ClientForkedError",
    "ConcurrentUseError",
    "DatabaseCorruptError",
    "DatabaseError",
    "DatabaseFullError",
    "DatabaseInUseError",
    "DatabaseMismatchError",
    "DeadlineExceededError",
    "DeadlockError",
    "InvalidArgumentError",
    "KeyExistsError",
    "LockTimeoutError",
    "RawClient",
    "Scan",
    "SchedulerError",
    "SchedulerUnavailableError",
    "Snapshot",
    "SnapshotTooOldError",
    "StoreError",
    "Transaction",
    "TransactionAbortedError",
    "TransactionClosedError",
    "TransactionError",
    "TransactionRefusedError",
    "TransactionTooLargeError",
    "UndeterminedError",
    "WriteConflictError",
    "WrongEventLoopError",
    "__version__",
    "aio",
    "connect",
    "open",
]


def __getattr__(name: str) -> Any:
    if name == "open":
        return importlib.import_module("pytinykv.embedded").open_database
    if name == "aio":
        return importlib.import_module("pytinykv.aio")
    if name in __all__:
        return getattr(importlib.import_module("pytinykv.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
