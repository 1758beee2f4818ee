"""The asynchronous face: `async with pytinykv.aio.connect("127.0.0.1:2379") as db: await db.raw.put(b"k", b"v")`."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from pytinykv.client.arguments import checked_timeout
from pytinykv.client.async_client import AsyncClient
from pytinykv.client.config import ClientConfig
from pytinykv.client.grpc_connector import GrpcConnector
from pytinykv.client.raw import AsyncRawClient, AsyncScan
from pytinykv.client.txn.snapshot import AsyncSnapshot
from pytinykv.client.txn.transaction import AsyncTransaction
from pytinykv.embedded.async_database import AsyncDatabase
from pytinykv.embedded.async_database import open_async as open  # noqa: A004 - as `pytinykv.open`
from pytinykv.lifecycle import Scope

__all__ = [
    "AsyncClient",
    "AsyncDatabase",
    "AsyncRawClient",
    "AsyncScan",
    "AsyncSnapshot",
    "AsyncTransaction",
    "ClientConfig",
    "connect",
    "open",
]


def connect(
    addresses: str | Iterable[str], *, timeout: float | None = None, config: ClientConfig | None = None
) -> AsyncClient:
    """Return a client of the cluster whose scheduler is at `addresses` ("host:port", several separated by commas).

    Use it in `async with`, or await it and close it later; either finds the scheduler first and raises
    `SchedulerUnavailableError` if it can't. `timeout` is the default deadline in seconds of every operation (10 s).

    Raises `InvalidArgumentError`, `WrongEventLoopError` without a running event loop, and `ClientForkedError` in a child of a
    process that had connected before it forked.
    """
    config = config or ClientConfig()
    if (timeout := checked_timeout(timeout)) is not None:
        config = config.with_timeout(timeout)
    config.validate()
    scope = Scope("client")
    return AsyncClient(addresses, connector=GrpcConnector(scope), rng=Random(), scope=scope, config=config)
