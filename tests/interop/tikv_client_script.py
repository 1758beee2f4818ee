"""Runs tikv-client's operations against a cluster and prints what they returned, one JSON document a line.

A program of its own, so that it can end without the interpreter's usual end, in which this client's threads sometimes abort
the process. Usage: PROGRAM SCHEDULER SCENARIO
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tikv_client.asynchronous import RawClient, TransactionClient

TIMEOUT_S = 30.0


def show(name: str, value: Any) -> None:
    sys.stdout.write(json.dumps([name, plain(value)]) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


async def failure(call: Awaitable[Any]) -> str:
    try:
        await call
    except Exception as error:  # noqa: BLE001 - the client has no narrower class
        return str(error)
    return ""


async def operations(client: RawClient) -> None:
    show("missing", await client.get(b"rs/none"))
    await client.put(b"rs/a", b"1")
    show("get", await client.get(b"rs/a"))
    await client.batch_put({b"rs/b": b"2", b"rs/c": b"3", b"rs/empty": b"", b"rs/\xff\x00": b"\x00"})
    show("batch_get", sorted(await client.batch_get([b"rs/a", b"rs/c", b"rs/none", b"rs/\xff\x00"])))
    show("empty", await client.get(b"rs/empty"))
    show("scan", await client.scan(b"rs/", b"rs0", 10))
    show("scan limit", await client.scan(b"rs/", b"rs0", 2))
    show("scan from beyond", await client.scan(b"rs/b", b"rs0", 10, include_start=False))
    show("scan to the end", await client.scan(b"rs/a", b"rs/c", 10, include_end=True))
    show("scan nothing", await client.scan(b"rs/x", b"rs/y", 10))
    show("scan_keys", await client.scan_keys(b"rs/", b"rs0", 10))
    await client.delete(b"rs/a")
    await client.batch_delete([b"rs/b", b"rs/none"])
    show("after deletes", await client.scan_keys(b"rs/", b"rs0", 10))
    await client.delete_range(b"rs/c", b"rs/d")
    show("after delete_range", await client.scan_keys(b"rs/", b"rs0", 10))
    await client.put(b"rs/cf", b"in lock", cf="lock")
    show("other cf", [await client.get(b"rs/cf"), await client.get(b"rs/cf", cf="lock")])
    await client.delete(b"rs/cf", cf="lock")


async def many(client: RawClient) -> None:
    pairs = {b"rm/%06d" % number: b"%d" % number for number in range(5000)}
    await client.batch_put(pairs)
    show("scan", len(await client.scan(b"rm/", b"rm0", 10_240)))
    show("batch_get", len(await client.batch_get(list(pairs))))
    await client.delete_range(b"rm/", b"rm0")
    show("after delete_range", await client.scan_keys(b"rm/", b"rm0", 10))


async def large(client: RawClient) -> None:
    """More than 4 MiB in one request (this client splits no batch), and each value back."""
    pairs = {b"rl/%d" % number: bytes([65 + number]) * (1 << 20) for number in range(6)}
    await client.batch_put(pairs)
    show("values", [await client.get(key) == value for key, value in pairs.items()])
    await client.put(b"rl/one", b"z" * (5 << 20))
    show("too long", await failure(client.put(b"rl/x", b"z" * (9 << 20))))
    await client.delete_range(b"rl/", b"rl0")


async def refusals(client: RawClient) -> None:
    show("long key", await failure(client.put(b"k" * 8193, b"v")))
    show("empty key", await failure(client.get(b"")))
    show("unknown cf", await failure(client.put(b"re/a", b"v", cf="nonsense")))
    show("limit", await failure(client.scan(b"re/", b"re0", 10_241)))
    await client.put(b"re/a", b"v")
    show("goes on", await client.get(b"re/a"))


async def shared(client: RawClient) -> None:
    """Read what others wrote, and write what others read."""
    show("sees", await client.scan(b"shared/", b"shared0", 10))
    await client.put(b"shared/tikv-client", b"from tikv-client")


async def steady(client: RawClient) -> None:
    """Put key after key until a line arrives on standard input; say which were acknowledged, and what failed.

    It has started once it has written: this client never finds another store when it can't connect to the first one it is
    sent to ("transport error", for ever), as it forgets a region only after an answer or a connection that broke.
    """
    acknowledged = 0
    failures: list[str] = []
    await client.put(b"steady/first", b"v")
    show("started", None)
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    while not told.done():
        problem = await failure(client.put(b"steady/%06d" % acknowledged, b"%d" % acknowledged))
        if problem:
            failures.append(problem)
        else:
            acknowledged += 1
    show("acknowledged", acknowledged)
    show("failures", failures)
    await asyncio.wait_for(until_it_works(lambda: client.put(b"steady/last", b"v")), TIMEOUT_S)
    show("missing", [n for n in range(acknowledged) if await client.get(b"steady/%06d" % n) != b"%d" % n])


async def split(client: RawClient) -> None:
    """Fill many regions, and find everything."""
    pairs = {b"k%03d" % number: b"v" for number in range(60)}
    await client.batch_put(pairs)
    show("scanned", await client.scan_keys(b"k", b"l", 1000))
    show("got", sorted(key for key, _value in await client.batch_get(list(pairs))))


async def splitting(client: RawClient) -> None:
    """Put and get for some time, while others split the regions."""
    put: dict[bytes, bytes] = {}
    errors: list[str] = []
    ends_at = time.monotonic() + 5.0
    while time.monotonic() < ends_at:
        key = b"k%03d" % (len(put) * 7 % 60) + b"/%d" % len(put)
        if problem := await failure(client.put(key, b"v")):
            errors.append(problem)
            continue
        put[key] = b"v"
        if await client.get(key) != b"v":
            errors.append(f"{key!r} is gone")
    show("errors", errors)
    show("put", len(put))
    show("got", len(await client.batch_get(list(put))))


async def until_it_works(call: Callable[[], Awaitable[Any]]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while problem := await failure(call()):
        assert time.monotonic() < deadline, problem


async def optimistic(client: TransactionClient) -> None:
    first = await client.begin(pessimistic=False)
    await first.put(b"to/a", b"1")
    await first.put(b"to/b", b"2" * 300)
    show("own write", await first.get(b"to/a"))
    await first.commit()
    second, third = await client.begin(pessimistic=False), await client.begin(pessimistic=False)
    show("batch_get", sorted((key, len(value)) for key, value in await second.batch_get([b"to/a", b"to/b", b"to/x"])))
    show("scan", [key for key, _ in await second.scan(b"to/", b"to0", limit=10)])
    await second.delete(b"to/a")
    await third.put(b"to/a", b"3")
    await second.commit()
    show("conflict", "conflict" in await failure(third.commit()))
    await third.rollback()
    last = await client.begin(pessimistic=False)
    show("after the delete", await last.get(b"to/a"))
    show("insert of what is there", "already_exist" in await insert_fails(client, b"to/b"))
    await last.rollback()


async def insert_fails(client: TransactionClient, key: bytes) -> str:
    transaction = await client.begin(pessimistic=False)
    await transaction.insert(key, b"")
    told = await failure(transaction.commit())
    await transaction.rollback()
    return told


async def pessimistic(client: TransactionClient) -> None:
    first, second = await client.begin(pessimistic=True), await client.begin(pessimistic=True)
    await first.put(b"tp/a", b"1")
    await second.put(b"tp/b", b"1")
    waiting = asyncio.ensure_future(failure(first.put(b"tp/b", b"2")))
    await asyncio.sleep(0.2)
    show("deadlock", "Deadlock" in await failure(second.put(b"tp/a", b"2")))
    await second.rollback()
    show("the other", await waiting)
    await first.commit()
    third = await client.begin(pessimistic=True)
    show("get_for_update", await third.get_for_update(b"tp/b"))
    await third.rollback()


async def plain_bounds(client: TransactionClient) -> None:
    """Write and read on a cluster whose regions begin at raw keys."""
    first = await client.begin(pessimistic=False)
    for key in (b"a", b"k07", b"z"):
        await first.put(key, b"1")
    show("optimistic", await failure(first.commit()))
    second = await client.begin(pessimistic=True)
    show("pessimistic", await failure(second.put(b"k07", b"1")))
    await failure(second.rollback())
    third = await client.begin(pessimistic=False)
    show("read", await failure(third.get(b"k07")))
    await failure(third.rollback())


async def main() -> None:
    scenario = globals()[sys.argv[2]]
    kind = TransactionClient if scenario in (optimistic, pessimistic, plain_bounds) else RawClient
    await scenario(await kind.connect([sys.argv[1]]))
    show("done", None)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # a thread of this client can abort an interpreter that is ending
