"""Runs transactions against a cluster until told to stop: lists that are appended to, and a bank. Prints what it saw.

A program of its own, one for each client, for tikv-client or ours: all do the same transactions on the same keys. Usage:

    PROGRAM SCHEDULER tikv-client|ours NUMBER SEED           ends when a line arrives on standard input

It prints JSON documents, one a line, for `isolation_history` to read:

    ["began", name, [["read", key, [values]], ["append", key, value], …]]    before it commits
    ["ended", name, "committed" | "aborted" | "unknown", error]
    ["bank", sum of all accounts at one moment, accounts]

What was begun and not ended is of unknown outcome. So is each commit of tikv-client that failed: it has one class for all
errors and does not say whether the transaction may be committed. Only a write conflict of an optimistic transaction says
that: it is found while locking, before anything is committed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from typing import Any, Final, Protocol

LISTS: Final = 6
ACCOUNTS: Final = tuple(b"iso/acct-%d" % number for number in range(6))
MONEY: Final = 100
AGE_S: Final = 4.0
"""How long a generation of lists is appended to, before they get too long."""
TASKS: Final = 3
"""Transactions of one program that are under way at a time."""
CALL_S: Final = 6.0
"""A transaction that takes longer is given up."""
CONFLICTS: Final = ("WriteConflict", "write_conflict", "conflict: Some", "already_exist")


class UnknownOutcomeError(Exception):
    """The transaction may be committed."""


class Transaction(Protocol):
    """What both clients can do."""

    async def get(self, key: bytes) -> bytes | None: ...
    async def get_for_update(self, key: bytes) -> bytes | None: ...
    async def scan(self, start: bytes, end: bytes) -> dict[bytes, bytes]: ...
    async def put(self, key: bytes, value: bytes) -> None: ...
    async def commit(self) -> None: ...
    async def rollback(self) -> None: ...


class TikvTransaction:
    """One of tikv-client."""

    def __init__(self, inner: Any, *, is_pessimistic: bool) -> None:
        self._inner = inner
        self._is_pessimistic = is_pessimistic

    async def get(self, key: bytes) -> bytes | None:
        return await self._inner.get(key)  # type: ignore[no-any-return]

    async def get_for_update(self, key: bytes) -> bytes | None:
        return await self._inner.get_for_update(key)  # type: ignore[no-any-return]

    async def scan(self, start: bytes, end: bytes) -> dict[bytes, bytes]:
        return dict(await self._inner.scan(start, end, limit=1000))

    async def put(self, key: bytes, value: bytes) -> None:
        await self._inner.put(key, value)

    async def commit(self) -> None:
        try:
            await self._inner.commit()
        except Exception as error:
            if not self._is_pessimistic and any(word in str(error) for word in CONFLICTS):
                raise
            raise UnknownOutcomeError(str(error)) from error

    async def rollback(self) -> None:
        await self._inner.rollback()


class OurTransaction:
    """One of ours."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.get = inner.get
        self.get_for_update = inner.get_for_update
        self.put = inner.put

    async def scan(self, start: bytes, end: bytes) -> dict[bytes, bytes]:
        return {key: value async for key, value in self._inner.scan(start, end)}

    async def commit(self) -> None:
        try:
            await self._inner.commit()
        except Exception as error:
            if getattr(error, "undetermined", True):
                raise UnknownOutcomeError(str(error)) from error
            raise

    async def rollback(self) -> None:
        if self._inner.is_active:
            await self._inner.rollback()


class Program:
    """The transactions of one client."""

    def __init__(self, client: Any, kind: str, number: str, seed: int) -> None:
        self._client = client
        self._kind = kind
        self._name = f"{kind}-{number}"
        self._rng = random.Random(f"{seed}/{number}")
        self._count = 0
        self.stop = asyncio.Event()

    async def _begin(self, *, pessimistic: bool) -> Transaction:
        if self._kind == "ours":
            return OurTransaction(await self._client.transaction(pessimistic=pessimistic, timeout=CALL_S))
        inner = await self._client.begin(pessimistic=pessimistic)
        return TikvTransaction(inner, is_pessimistic=pessimistic)

    async def run(self) -> None:
        while not self.stop.is_set():
            await (self._append if self._rng.random() < 0.5 else self._bank)()
            await asyncio.sleep(0.01 * self._rng.random())

    async def _append(self) -> None:
        rng, self._count = self._rng, self._count + 1
        name = f"{self._name}/{self._count}"
        is_pessimistic = rng.random() < 0.3
        operations: list[Any] = []
        keys = [b"iso/list-%06d-%d" % (int(time.time() / AGE_S), number) for number in range(LISTS)]
        wanted, written = rng.sample(keys, rng.randint(1, 3)), rng.sample(keys, rng.randint(0, 3))

        async def work(txn: Transaction) -> None:
            operations.extend([("read", key.decode(), values_of(await txn.get(key))) for key in wanted])
            for key in written:
                read = txn.get_for_update if is_pessimistic else txn.get
                before = values_of(await read(key))
                if not is_pessimistic:
                    operations.append(("read", key.decode(), before))
                await txn.put(key, json.dumps([*before, name]).encode())
                operations.append(("append", key.decode(), name))
            # A pessimistic one writes on top of what is newer than its snapshot, so that it has read at several timestamps.
            show("began", name, [one for one in operations if not is_pessimistic or one[0] == "append"])

        outcome, error = await self._outcome(work, is_pessimistic=is_pessimistic)
        show("ended", name, outcome, error)

    async def _bank(self) -> None:
        rng = self._rng
        source, target = rng.sample(ACCOUNTS, 2)
        amount, is_pessimistic, is_look = rng.randint(1, 10), rng.random() < 0.3, rng.random() < 0.3
        seen: dict[bytes, bytes] = {}

        async def look(txn: Transaction) -> None:
            seen.update(await txn.scan(b"iso/acct-", b"iso/acct."))

        async def move(txn: Transaction) -> None:
            read = txn.get_for_update if is_pessimistic else txn.get
            balances = {key: int(await read(key) or b"0") for key in sorted((source, target))}
            await txn.put(source, b"%d" % (balances[source] - amount))
            await txn.put(target, b"%d" % (balances[target] + amount))

        if is_look:
            outcome, _ = await self._outcome(look, is_pessimistic=False)
            if outcome == "committed":
                show("bank", sum(map(int, seen.values())), {key.decode(): int(value) for key, value in seen.items()})
        else:
            await self._outcome(move, is_pessimistic=is_pessimistic)

    async def _outcome(self, work: Any, *, is_pessimistic: bool) -> tuple[str, str]:
        """Run a transaction; return what its client knows of it, and the error."""
        txn: Transaction | None = None
        is_committing = False
        try:
            async with asyncio.timeout(CALL_S):
                txn = await self._begin(pessimistic=is_pessimistic)
                await work(txn)
                is_committing = True
                await txn.commit()
                return "committed", ""
        except Exception as error:  # noqa: BLE001 - tikv-client has no narrower class
            is_unknown = isinstance(error, UnknownOutcomeError) or (is_committing and isinstance(error, TimeoutError))
            if txn is not None:
                await give_up(txn)
            return "unknown" if is_unknown else "aborted", f"{type(error).__name__}: {error}"[:300]


async def give_up(txn: Transaction) -> None:
    """Roll back what is left; what can't be is resolved by those who meet it."""
    try:
        async with asyncio.timeout(CALL_S):
            await txn.rollback()
    except Exception:  # noqa: BLE001, S110 - as above
        pass


def values_of(stored: bytes | None) -> list[str]:
    return json.loads(stored) if stored else []


def show(*told: Any) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


async def main() -> None:
    _, scheduler, kind, number, seed = sys.argv
    if kind == "ours":
        import pytinykv

        client: Any = pytinykv.aio.connect(scheduler)
    else:
        from tikv_client.asynchronous import TransactionClient

        client = await TransactionClient.connect([scheduler])
    program = Program(client, kind, number, int(seed))
    show("started")
    tasks = [asyncio.ensure_future(program.run()) for _ in range(TASKS)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    program.stop.set()
    await asyncio.gather(*tasks)
    if kind == "ours":
        await client.close()
    show("done")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # a thread of tikv-client can abort an interpreter that is ending
