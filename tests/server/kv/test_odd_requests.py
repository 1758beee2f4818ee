"""Requests that no client means: fields at their extremes, values of enumerations that nobody knows. Each gets an answer.

An exception in one command would break off the stream, and with it all other commands that are under way there.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.server.kv.txn_harness import TxnDesk

from pytinykv.lifecycle import Scope
from pytinykv.server.kv.commands import MEMBERS
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import tikvpb_pb2
from pytinykv.wire.timestamp import MAX_TIMESTAMP

NUMBERS = (0, 1, 2, 7, 1 << 31, (1 << 63) - 1, (1 << 64) - 1)
KEYS = (b"", b"k", b"a", b"\0", b"\xff\xfe" * 3, b"v" * 300, b"k" * 9000)
UNKNOWN = 77
"""In no enumeration."""
REQUESTS = 200


@pytest.fixture
def desk(tmp_path: Path, scope: Scope) -> TxnDesk:
    return TxnDesk(tmp_path, scope)


def fill(rng: random.Random, message: Any, depth: int = 0) -> None:
    """Fill a message with odd values."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "context" or rng.random() < 0.4 or depth > 2:
            continue
        target = getattr(message, field.name)
        is_repeated = hasattr(target, "extend")
        for _ in range(rng.randrange(3) if is_repeated else 1):
            if field.cpp_type == field.CPPTYPE_MESSAGE:
                fill(rng, target.add() if is_repeated else target, depth + 1)
                continue
            value = odd_value(rng, field)
            if is_repeated:
                target.append(value)
            else:
                setattr(message, field.name, value)


def odd_value(rng: random.Random, field: Any) -> Any:
    if field.type == field.TYPE_BYTES:
        return rng.choice(KEYS)
    if field.type == field.TYPE_STRING:
        return rng.choice(("", "default", "lock", "no such family"))
    if field.type == field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == field.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, UNKNOWN))
    bits = {field.TYPE_INT32: 31, field.TYPE_UINT32: 32, field.TYPE_INT64: 63}.get(field.type, 64)
    return rng.choice([number for number in NUMBERS if number < 1 << bits])


@pytest.mark.parametrize("seed", range(2))
async def test_odd_requests_are_answered_and_harm_no_other(desk: TxnDesk, seed: int, more: int) -> None:
    rng = random.Random(seed)
    for _ in range(REQUESTS * more):
        member = rng.choice(sorted(MEMBERS))
        request = getattr(tikvpb_pb2.BatchCommandsRequest.Request(), member)
        fill(rng, request)
        if hasattr(request, "context"):
            request.context.CopyFrom(desk.context())
            request.context.isolation_level = rng.choice((0, 0, 0, 1, 2, UNKNOWN))
            request.context.resolved_locks.extend(rng.choices(NUMBERS, k=rng.randrange(2)))
        if member == "PessimisticLock":
            request.wait_timeout = -1
        await desk.batch((member, request))
    for key in filter(None, KEYS[:-1]):
        assert not (await desk.get(key, 1)).HasField("region_error")
        assert not (await desk.get(key, 1 << 60)).error.abort, "what is stored can be read"
    await desk.put(3 << 40, (3 << 40) + 1, {b"of its own": b"1"})
    assert (await desk.get(b"of its own", 1 << 60)).value == b"1"


def prewrite(*, op: int = pb.Op.Put, assertion: int = 0, **fields: Any) -> dict[str, Any]:
    mutation = pb.Mutation(key=b"k", value=b"v")
    mutation.op, mutation.assertion = op, assertion  # type: ignore[assignment]  # any number
    return {"mutations": [mutation], "primary_lock": b"k", "start_version": 10, **fields}


def lock(**fields: Any) -> dict[str, Any]:
    return {**prewrite(op=pb.Op.PessimisticLock), "for_update_ts": 10, "wait_timeout": -1, **fields}


@pytest.mark.parametrize(
    ("name", "member", "fields"),
    [
        ("KvGet", "Get", {"key": b"k", "isolation": UNKNOWN}),
        ("KvPrewrite", "Prewrite", prewrite(op=UNKNOWN)),
        ("KvPrewrite", "Prewrite", prewrite(assertion=UNKNOWN)),
        ("KvPrewrite", "Prewrite", prewrite(pessimistic_actions=[UNKNOWN])),
        ("KvPrewrite", "Prewrite", prewrite(assertion_level=UNKNOWN)),
        ("KvPrewrite", "Prewrite", prewrite(start_version=0)),
        ("KvPrewrite", "Prewrite", prewrite(start_version=MAX_TIMESTAMP)),
        ("KvPrewrite", "Prewrite", prewrite(min_commit_ts=MAX_TIMESTAMP, try_one_pc=True)),
        ("KvPrewrite", "Prewrite", prewrite(primary_lock=b"k" * 9000)),
        ("KvPessimisticLock", "PessimisticLock", lock(**prewrite(op=UNKNOWN))),
        ("KvPessimisticLock", "PessimisticLock", lock(primary_lock=b"")),
        ("KvPessimisticLock", "PessimisticLock", lock(for_update_ts=MAX_TIMESTAMP)),
        ("KvBatchRollback", "BatchRollback", {"keys": [b"k"], "start_version": 0}),
        ("KvBatchRollback", "BatchRollback", {"keys": [b"k"], "start_version": MAX_TIMESTAMP}),
        ("KvCheckSecondaryLocks", "CheckSecondaryLocks", {"keys": [b"k"], "start_version": 0}),
        ("KvCommit", "Commit", {"keys": [b"k"], "start_version": 10, "commit_version": MAX_TIMESTAMP}),
    ],
)
async def test_what_can_not_be_meant_is_refused_and_the_rest_of_the_frame_is_served(
    desk: TxnDesk, name: str, member: str, fields: dict[str, Any]
) -> None:
    fields = dict(fields)
    context = desk.context(isolation_level=fields.pop("isolation", 0))
    put = pb.RawPutRequest(context=desk.context(), key=b"other", value=b"v")
    refused, other = await desk.batch((member, desk.request(name, context=context, **fields)), ("RawPut", put))
    assert other == pb.RawPutResponse()
    error = refused.errors[0] if "errors" in refused.DESCRIPTOR.fields_by_name else refused.error
    assert error.abort
    assert (await desk.call("KvScanLock", max_version=1 << 60)) == pb.ScanLockResponse(), "nothing is locked"
