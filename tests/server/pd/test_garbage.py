"""Random requests to every method of `pdpb.PD`: an answer or a status, never anything else, and never a broken scheduler."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from tests.helpers import ManualClock

from pytinykv.lifecycle import Scope
from pytinykv.scheduler import Scheduler, SchedulerConfig
from pytinykv.server.pd.service import PdService
from pytinykv.storage import MemoryEngine
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2

LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 9),
}


def random_value(rng: random.Random, field: FieldDescriptor) -> Any:
    low, high = LIMITS.get(field.cpp_type, (0, 1))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice([b"", b"a", b"m", rng.randbytes(rng.randint(0, 40)), b"\xff" * 9000])
        return rng.choice(["", "a:1", "127.0.0.1:20001", "é" * 300])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return rng.random()
    return rng.choice(
        [0, 1, 2, 3, 10, 10001, low, high, rng.randint(low, high), min(high, max(low, rng.getrandbits(20)))]
    )


def fill(rng: random.Random, message: Any, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name == "header" or rng.random() < 0.3:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        repeated = isinstance(getattr(message, field.name), (list,)) or hasattr(getattr(message, field.name), "append")
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if depth < 4:
                targets = [getattr(message, field.name)] if not repeated else []
                if repeated:
                    targets = [getattr(message, field.name).add() for _ in range(rng.randint(0, 3))]
                for target in targets:
                    if not repeated:
                        target.SetInParent()
                    fill(rng, target, depth + 1)
        elif repeated and not isinstance(getattr(message, field.name), (bytes, str)):
            getattr(message, field.name).extend(random_value(rng, field) for _ in range(rng.randint(0, 3)))
        else:
            setattr(message, field.name, random_value(rng, field))


async def some(*requests: Message) -> AsyncIterator[Message]:
    for request in requests:
        yield request


async def is_alive(service: PdService, scheduler: Scheduler) -> None:
    """The scheduler still does what it is for."""
    header = pdpb_pb2.RequestHeader(cluster_id=scheduler.cluster_id)
    first = await scheduler.allocate_ids()
    assert await scheduler.allocate_ids() == first + 1
    await scheduler.allocate_timestamps()
    response: Any = await service.unary("/pdpb.PD/GetStore", pdpb_pb2.GetStoreRequest(header=header, store_id=1))
    assert response.store.id == 1


@pytest.mark.parametrize("seed", range(12))
async def test_random_requests_get_an_answer_or_a_status(seed: int) -> None:
    rng, scope, clock = random.Random(seed), Scope("test"), ManualClock()
    scheduler = Scheduler.open(
        MemoryEngine(),
        clock,
        SchedulerConfig(tso_wait_max_s=0.01, split_wait_s=0.001, plain_split_s=0.001),
        scope=scope,
        rng=rng,
    )
    service = PdService(scheduler, scope, client_url="http://h:1")
    meta = metapb_pb2.Region(id=10, peers=[metapb_pb2.Peer(id=11, store_id=1)])
    request: Any = pdpb_pb2.BootstrapRequest(store=metapb_pb2.Store(id=1, address="s:1"), region=meta)
    request.header.cluster_id = scheduler.cluster_id
    await service.unary("/pdpb.PD/Bootstrap", request)
    answered, refusals = 0, list[RpcError]()
    for _ in range(40):
        for path, spec in service.methods.items():
            request = spec.request_type()
            fill(rng, request)
            if hasattr(request, "header"):
                request.header.cluster_id = scheduler.cluster_id
            clock.advance(0.01)
            try:
                if spec.request_streaming:
                    async for response in service.stream(path, some(request)):
                        assert isinstance(response, spec.response_type)
                else:
                    assert isinstance(await service.unary(path, request), spec.response_type)
                answered += 1
            except RpcError as error:
                refusals.append(error)
        scheduler.tick()
    assert all(error.message and error.code is not StatusCode.INTERNAL for error in refusals)
    assert answered > 200, "the requests make too little sense to test anything"
    assert len(refusals) > 200
    await is_alive(service, scheduler)
    list(scheduler.cluster.regions)
    await scheduler.stop()
    report = await scope.stop()
    assert report.ok, report.render()
