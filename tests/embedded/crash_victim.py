"""A program that commits, collects garbage and compacts until it is killed; what it was told is durable it says on stdout.

Each transaction moves an amount between two of the accounts of its thread, and notes its number: what an audit finds must be
whole transactions, and all that were acknowledged.
"""

from __future__ import annotations

import sys
import threading

import pytinykv

ACCOUNTS = 8
START = 1000


def account(thread: int, number: int) -> bytes:
    return b"account/%d/%d" % (thread, number)


def main(path: str, threads: int) -> None:
    saying = threading.Lock()

    def say(text: str) -> None:
        with saying:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def work(db: pytinykv.Client, thread: int) -> None:
        done = int(db.snapshot().get(b"done/%d" % thread) or b"0")
        while True:
            done += 1
            source, target = done % ACCOUNTS, (done * 3 + 1) % ACCOUNTS
            with db.transaction(pessimistic=done % 5 == 0) as txn:
                one = int(txn.get(account(thread, source)) or START)
                txn.put(account(thread, source), b"%d" % (one - 1))
                two = int(txn.get(account(thread, target)) or START)
                txn.put(account(thread, target), b"%d" % (two + 1))
                txn.put(b"done/%d" % thread, b"%d" % done)
                txn.put(b"filler/%d/%d" % (thread, done % 50), b"f" * 3000)
            db.raw.put(b"raw/%d" % thread, b"%d" % done)
            say(f"{thread} {done}")

    db = pytinykv.open(path, history_s=0.02)
    workers = [threading.Thread(target=work, args=(db, thread), daemon=True) for thread in range(threads)]
    for worker in workers:
        worker.start()
    while True:
        db._core.database.engine._database.flush()  # type: ignore[attr-defined]
        workers[0].join(0.02)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
