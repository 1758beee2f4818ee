"""A program that commits, collects garbage and compacts until it is killed; what it was told is durable it says on stdout.

Each transaction moves an amount between two of the accounts of its thread, and notes its number: what an audit finds must be
whole transactions, and all that were acknowledged.

A file in shared memory says what is under way, until the very moment of the kill: a byte for each of `MOMENTS`.
"""

from __future__ import annotations

import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytinykv
from pytinykv.embedded import garbage as garbage_module

ACCOUNTS = 8
START = 1000
MOMENTS = ("commit", "garbage", "flush", "compaction")
"""What the program may be in the middle of: a commit of its first thread, a pass of the garbage collector, …"""


def account(thread: int, number: int) -> bytes:
    return b"account/%d/%d" % (thread, number)


class UnderWay:
    """The shared bytes."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), len(MOMENTS))

    def set(self, moment: str, *, is_on: bool) -> None:
        self._bytes[MOMENTS.index(moment)] = is_on

    @contextmanager
    def during(self, moment: str) -> Iterator[None]:
        self.set(moment, is_on=True)
        yield
        self.set(moment, is_on=False)


def main(path: str, threads: int, state: str) -> None:
    saying = threading.Lock()
    under_way = UnderWay(state)

    def say(text: str) -> None:
        with saying:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def work(db: pytinykv.Client, thread: int) -> None:
        done = int(db.snapshot().get(b"done/%d" % thread) or b"0")
        while True:
            done += 1
            source, target = done % ACCOUNTS, (done * 3 + 1) % ACCOUNTS
            txn = db.transaction(pessimistic=done % 5 == 0)
            one = int(txn.get(account(thread, source)) or START)
            txn.put(account(thread, source), b"%d" % (one - 1))
            two = int(txn.get(account(thread, target)) or START)
            txn.put(account(thread, target), b"%d" % (two + 1))
            txn.put(b"done/%d" % thread, b"%d" % done)
            txn.put(b"filler/%d/%d" % (thread, done % 50), b"f" * 3000)
            if thread == 0:
                with under_way.during("commit"):
                    txn.commit()
            else:
                txn.commit()
            db.raw.put(b"raw/%d" % thread, b"%d" % done)
            say(f"{thread} {done}")

    garbage_module.SHARE_MAX = 0.5  # type: ignore[misc]  # or it would pause for a second after each pass
    sys.setswitchinterval(0.0005)  # so that compactions are looked for while others work
    db = pytinykv.open(path, history_s=0.02)
    garbage = db._core.background.garbage  # type: ignore[attr-defined]
    collect = garbage.collect

    async def collect_and_say() -> None:
        with under_way.during("garbage"):
            await collect()

    garbage.collect = collect_and_say
    columns = list(db._core.database.engine._columns.values())  # type: ignore[attr-defined]

    def look_for_compactions() -> None:
        while True:
            running = any(column.property_int_value("rocksdb.num-running-compactions") for column in columns)
            under_way.set("compaction", is_on=running)
            workers[-1].join(0.0005)

    workers = [threading.Thread(target=work, args=(db, thread), daemon=True) for thread in range(threads)]
    for worker in workers:
        worker.start()
    threading.Thread(target=look_for_compactions, daemon=True).start()
    while True:
        for column in columns:
            with under_way.during("flush"):
                column.flush()
            workers[0].join(0.005)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
