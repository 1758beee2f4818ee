"""A bank: many threads move money between accounts at the same time, and none is ever made or lost.

    python examples/bank.py [SCHEDULER]

`db.run` runs a transfer again whenever another one was first; every look at all accounts is of one moment.
"""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor  # noqa: TID251 - a user program: its threads end with its block
from functools import partial

import pytinykv

ACCOUNTS = 20
MONEY = 1000
THREADS = 4
TRANSFERS = 50


def account(number: int) -> bytes:
    return b"bank:%03d" % number


def open_accounts(db: pytinykv.Client) -> None:
    with db.transaction() as txn:
        for number in range(ACCOUNTS):
            txn.put(account(number), b"%d" % MONEY)


def transfer(txn: pytinykv.Transaction, source: bytes, target: bytes, amount: int) -> bool:
    """Move money; False if there is not enough. May run several times: it only reads and writes through `txn`."""
    balances = txn.get_many([source, target])
    left = int(balances[source]) - amount
    if left < 0:
        return False
    txn.put(source, b"%d" % left)
    txn.put(target, b"%d" % (int(balances[target]) + amount))
    return True


def total(db: pytinykv.Client) -> int:
    return sum(int(value) for _, value in db.snapshot().scan(prefix=b"bank:"))


def main(address: str) -> None:
    done: list[bool] = []
    totals: set[int] = set()
    with pytinykv.connect(address) as db:
        open_accounts(db)

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(TRANSFERS):
                source, target = map(account, rng.sample(range(ACCOUNTS), 2))
                amount = rng.randint(1, MONEY)
                done.append(db.run(partial(transfer, source=source, target=target, amount=amount)))
                totals.add(total(db))

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(work, range(THREADS)))
    print(f"{len(done)} transfers tried, {sum(done)} made; the sum of all accounts was always {sorted(totals)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2379")
