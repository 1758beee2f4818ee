"""A queue that hands each job out once, to any number of workers, and gives it to another if its worker dies.

    python examples/job_queue.py [SCHEDULER]

    job:waiting:<id>            what is to be done, in order
    job:taken:<id>              who does it, until when

A worker takes a job by moving its key in one transaction: of two that want the same one, one is first, and the other looks
again. A job whose time is up goes back to those that wait. (So it may be begun twice, and what it does must bear that; it is
reported done once.)
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor  # noqa: TID251 - a user program: its threads end with its block
from functools import partial

import pytinykv

WAITING, TAKEN, DONE = b"job:waiting:", b"job:taken:", b"job:done:"
WORKERS = 4
JOBS = 40


def add(db: pytinykv.Client, number: int, what: str) -> None:
    def insert(txn: pytinykv.Transaction) -> None:
        txn.insert(WAITING + b"%06d" % number, what.encode())

    db.run(insert)


def take(txn: pytinykv.Transaction, worker: str, seconds: float) -> tuple[bytes, str] | None:
    """Take the first job that waits; None if there is none."""
    for key, what in txn.scan(prefix=WAITING, limit=1):
        job = key.removeprefix(WAITING)
        txn.delete(key)
        note = {"worker": worker, "until": time.time() + seconds, "what": what.decode()}
        txn.put(TAKEN + job, json.dumps(note).encode())
        return job, what.decode()
    return None


def finish(txn: pytinykv.Transaction, job: bytes, worker: str) -> bool:
    """Report a job done; False if it was taken away, because it took too long."""
    note = txn.get(TAKEN + job)
    if note is None or json.loads(note)["worker"] != worker:
        return False
    txn.delete(TAKEN + job)
    txn.insert(DONE + job, worker.encode())
    return True


def give_back(txn: pytinykv.Transaction, now: float) -> int:
    """Let jobs whose time is up wait again; return how many."""
    late = [(key, json.loads(note)) for key, note in txn.scan(prefix=TAKEN)]
    late = [(key, note) for key, note in late if note["until"] < now]
    for key, note in late:
        txn.delete(key)
        txn.put(WAITING + key.removeprefix(TAKEN), note["what"].encode())
    return len(late)


def main(address: str) -> None:
    done: list[bytes] = []
    with pytinykv.connect(address) as db:
        with db.transaction() as txn:
            for key, _ in txn.scan(prefix=b"job:", key_only=True):
                txn.delete(key)
        for number in range(JOBS):
            add(db, number, f"task {number}")
        db.run(lambda txn: take(txn, "one that dies", seconds=0))
        print(f"{db.run(lambda txn: give_back(txn, time.time() + 1))} job came back from a worker that died")

        def work(name: str) -> None:
            while (taken := db.run(partial(take, worker=name, seconds=60))) is not None:
                job, _ = taken
                if db.run(partial(finish, job=job, worker=name)):
                    done.append(job)

        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(work, [f"worker-{number}" for number in range(WORKERS)]))
        left = list(db.snapshot().scan(prefix=WAITING)) + list(db.snapshot().scan(prefix=TAKEN))
    print(f"{len(done)} jobs done by {WORKERS} workers, {len(set(done))} of them different, {len(left)} left")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2379")
