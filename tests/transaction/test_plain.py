"""Plain commits: what is written without an evaluation is what an evaluation writes."""

from __future__ import annotations

from random import Random

from tests.transaction.txn_store import LONG

from pytinykv.storage import MemoryEngine
from pytinykv.storage.changes import add_changes
from pytinykv.transaction import ConcurrencyManager, evaluate
from pytinykv.transaction.commands import Mutation, MutationOp, Prewrite
from pytinykv.transaction.plain import plain_commit
from pytinykv.transaction.results import PrewriteResult
from pytinykv.transaction.stored_keys import encode_bytes
from pytinykv.wire.timestamp import Timestamp

KEYS = [b"", b"a", b"b", b"long-key-that-takes-two-groups", b"12345678"]
VALUES = [b"", b"v", b"x" * 255, b"y" * 256, LONG, None]


def test_a_plain_commit_changes_what_an_evaluation_would() -> None:
    rng = Random(1)
    engine = MemoryEngine()
    now = 1
    for _ in range(300):
        start_ts, commit_ts = Timestamp(now + rng.randint(1, 1 << 20)), Timestamp(0)
        now = commit_ts = Timestamp(start_ts + rng.randint(1, 1 << 40))
        writes = [(key, rng.choice(VALUES)) for key in sorted(rng.sample(KEYS, rng.randint(1, len(KEYS))))]
        command = Prewrite(
            mutations=tuple(
                Mutation(MutationOp.DELETE if value is None else MutationOp.PUT, key, value or b"")
                for key, value in writes
            ),
            primary=writes[0][0],
            start_ts=start_ts,
            lock_ttl_ms=1 << 40,
            min_commit_ts=commit_ts,
            txn_size=len(writes),
            try_one_pc=True,
        )
        evaluation = evaluate(engine, command, ConcurrencyManager())
        plain = plain_commit([(encode_bytes(key), value) for key, value in writes], start_ts, commit_ts)
        assert evaluation.result == PrewriteResult(one_pc_commit_ts=commit_ts)
        assert sorted(plain) == sorted(evaluation.changes)
        batch = engine.write_batch()
        add_changes(batch, plain)
        engine.write(batch)
