"""Percolator's transactions over one engine: what a command reads and what it changes. Pure: no loop, clock, network or log.

    records         locks and commit records, in TiKV's bytes     stored_keys   where they stand
    errors          why a transaction can't do what it wants to   commands      what clients ask
    results         what they are answered                        concurrency   reads that were served, locks in memory

    reader          one key at a timestamp                        scan          ranges of keys
    prewrite        lock and write down                           commit        make visible
    rollback        take back, for good                           status        what became of a transaction
    resolve         commit or roll back what others left          pessimistic   lock before writing
    changes         what a command is going to change             evaluate      all of these behind one function
    plain           a commit that nothing is in the way of
    gc              delete what no snapshot can see any more     history       all that is stored for a key, for people

    latches         which command goes first, by key              lock_waits    who waits for a lock
    deadlock        who waits for whom, and the cycle

The life of a transaction that writes keys a (its primary) and b:

    start_ts 10    prewrite a, b      lock a: primary a, value         lock b: primary a, value
    commit_ts 15   commit a           write a@15 → 10, no lock         lock b: primary a, value        committed from here on
                   commit b           write a@15 → 10                  write b@15 → 10

A reader that meets the lock on b asks a what became of 10 (`status`), and has b committed or rolled back (`resolve`).
(Percolator, OSDI 2010, section 2.2; async commit, one-phase commit and pessimistic locks are TiKV's.)

Who uses it: takes latches on a command's keys, evaluates it on the newest state, replicates the changes, answers when they
are applied, and gives the latches back. Left out: protobuf, which comes with the server; timestamps, which come from clients;
locks that several transactions share.
"""

from __future__ import annotations

from pytinykv.transaction.commands import ReadView, WriteCommand, latch_keys
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import TxnError, TxnErrorRaised
from pytinykv.transaction.evaluate import evaluate, evaluate_in
from pytinykv.transaction.reader import MvccReader
from pytinykv.transaction.results import Evaluation, Failure
from pytinykv.transaction.scan import scan

__all__ = [
    "ConcurrencyManager",
    "Evaluation",
    "Failure",
    "MvccReader",
    "ReadView",
    "TxnError",
    "TxnErrorRaised",
    "WriteCommand",
    "evaluate",
    "evaluate_in",
    "latch_keys",
    "scan",
]
