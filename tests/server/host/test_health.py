from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from pytinykv.lifecycle import Scope
from pytinykv.server.host.grpc_binding import bind_service
from pytinykv.server.host.health import HealthService
from pytinykv.transport import RpcError, StatusCode, StreamEndedError
from pytinykv.transport.rpc import RpcChannel, RpcServer, RpcStream
from pytinykv.wire.pb import healthpb_pb2

KV = "tikvpb.Tikv"
PD = "pdpb.PD"
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class Port:
    """A port with two services' health on it, asked with gRPC's own messages."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.health = HealthService([KV, PD])
        self.server = RpcServer(scope, "port")
        bind_service(self.server, self.health)

    async def start(self) -> None:
        self.channel = RpcChannel(self.scope, f"127.0.0.1:{await self.server.start('127.0.0.1:0')}")

    async def check(self, service: str) -> int:
        response = await self.channel.unary(
            "/grpc.health.v1.Health/Check",
            HealthCheckRequest(service=service),
            serialize=HealthCheckRequest.SerializeToString,
            deserialize=HealthCheckResponse.FromString,
            timeout_s=5.0,
        )
        return response.status


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    scope = Scope("test")
    port = Port(scope)
    await port.start()
    yield port
    report = await scope.stop()
    assert report.ok, report.render()


async def test_nothing_serves_until_it_says_so(port: Port) -> None:
    assert [await port.check(name) for name in ("", KV, PD)] == [NOT_SERVING] * 3


async def test_the_port_serves_as_a_whole_once_every_service_does(port: Port) -> None:
    port.health.set_serving(KV, serving=True)
    assert [await port.check(name) for name in ("", KV, PD)] == [NOT_SERVING, SERVING, NOT_SERVING]
    port.health.set_all_serving()
    assert [await port.check(name) for name in ("", KV, PD)] == [SERVING] * 3


async def test_an_unknown_service_is_not_found(port: Port) -> None:
    with pytest.raises(RpcError, match=r"does not serve 'etcdserverpb.KV'") as raised:
        await port.check("etcdserverpb.KV")
    assert raised.value.code == StatusCode.NOT_FOUND


async def test_once_the_stop_has_begun_nothing_serves_any_more(port: Port) -> None:
    port.health.set_all_serving()
    port.health.begin_stop()
    port.health.begin_stop()
    port.health.set_all_serving()
    assert [await port.check(name) for name in ("", KV)] == [NOT_SERVING] * 2


async def test_all_statuses_can_be_listed(port: Port) -> None:
    port.health.set_serving(KV, serving=True)
    listed = await port.channel.unary(
        "/grpc.health.v1.Health/List",
        health_pb2.HealthListRequest(),
        serialize=health_pb2.HealthListRequest.SerializeToString,
        deserialize=health_pb2.HealthListResponse.FromString,
        timeout_s=5.0,
    )
    assert {name: status.status for name, status in listed.statuses.items()} == {
        "": NOT_SERVING,
        KV: SERVING,
        PD: NOT_SERVING,
    }


async def watch(port: Port, service: str) -> RpcStream[HealthCheckRequest, HealthCheckResponse]:
    stream = port.channel.stream_stream(
        "/grpc.health.v1.Health/Watch",
        serialize=HealthCheckRequest.SerializeToString,
        deserialize=HealthCheckResponse.FromString,
        timeout_s=5.0,
    )
    stream.send_nowait(HealthCheckRequest(service=service))
    stream.finish_sending()
    return stream


async def test_a_watcher_is_told_the_status_now_and_each_change(port: Port) -> None:
    stream = await watch(port, KV)
    assert (await stream.receive()).status == NOT_SERVING
    port.health.set_serving(PD, serving=True)
    port.health.set_serving(KV, serving=True)
    assert (await stream.receive()).status == SERVING
    port.health.set_serving(KV, serving=False)
    assert (await stream.receive()).status == NOT_SERVING
    stream.close()


async def test_a_watcher_of_an_unknown_service_is_told_so(port: Port) -> None:
    stream = await watch(port, "no.Such")
    assert (await stream.receive()).status == UNKNOWN
    stream.close()


async def test_the_stop_tells_watchers_and_ends_their_streams(port: Port) -> None:
    port.health.set_all_serving()
    stream = await watch(port, "")
    assert (await stream.receive()).status == SERVING
    port.health.begin_stop()
    assert (await stream.receive()).status == NOT_SERVING
    with pytest.raises(StreamEndedError):
        await stream.receive()


async def test_a_stop_while_a_watcher_is_being_told_something_else_is_not_missed() -> None:
    async def requests() -> AsyncIterator[Message]:
        yield healthpb_pb2.HealthCheckRequest(service="")

    health = HealthService([KV])
    told = health.stream("/grpc.health.v1.Health/Watch", requests())
    await anext(told)
    health.begin_stop()
    health.begin_stop()
    assert [response async for response in told] == []
    health = HealthService([KV])
    health.set_all_serving()
    told = health.stream("/grpc.health.v1.Health/Watch", requests())
    assert await anext(told) == healthpb_pb2.HealthCheckResponse(status=SERVING)
    health.begin_stop()
    assert [response async for response in told] == [healthpb_pb2.HealthCheckResponse(status=NOT_SERVING)]
