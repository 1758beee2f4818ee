"""Calls as no well-behaved client makes them: any bytes for any method, any context, any frame."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from tests.process.cluster import Cluster, Process

from pytinykv.wire import service_methods
from pytinykv.wire.pb import kvrpcpb_pb2, pdpb_pb2, tikvpb_pb2

CALL_S: Final = 20.0
TIKV: Final = service_methods("tikvpb.Tikv")
PD: Final = service_methods("pdpb.PD")


class Caller:
    """Calls one server; `context` is what a request for the first region needs to be taken."""

    def __init__(self, channel: grpc.Channel, context: kvrpcpb_pb2.Context) -> None:
        self._channel = channel
        self.context = context

    def raw(self, name: str, *, context: kvrpcpb_pb2.Context | None = None, **fields: Any) -> Any:
        """Call `/tikvpb.Tikv/<name>` and return the response."""
        spec = TIKV[f"/tikvpb.Tikv/{name}"]
        request: Any = spec.request_type(**fields)
        request.context.CopyFrom(self.context if context is None else context)
        return spec.response_type.FromString(self.bytes(spec.path, request.SerializeToString()))

    def frame(self, *requests: tikvpb_pb2.BatchCommandsRequest) -> list[tikvpb_pb2.BatchCommandsResponse]:
        """Send frames on a stream of their own and return all that comes back."""
        answers = self.stream("/tikvpb.Tikv/BatchCommands", *(request.SerializeToString() for request in requests))
        return [tikvpb_pb2.BatchCommandsResponse.FromString(answer) for answer in answers]

    def bytes(self, path: str, data: bytes) -> bytes:
        answer: bytes = self._channel.unary_unary(path)(data, timeout=CALL_S)
        return answer

    def stream(self, path: str, *data: bytes) -> list[bytes]:
        return list(self._channel.stream_stream(path)(iter(data), timeout=CALL_S))

    def to_stream(self, path: str, data: bytes) -> list[bytes]:
        return list(self._channel.unary_stream(path)(data, timeout=CALL_S))


@contextmanager
def caller(process: Process, context: kvrpcpb_pb2.Context) -> Iterator[Caller]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(process.address, options=options) as channel:
        yield Caller(channel, context)


def first_region(cluster: Cluster) -> kvrpcpb_pb2.Context:
    """Return the context of requests to the leader of the first region, as the scheduler tells it."""
    request = pdpb_pb2.GetRegionRequest(header={"cluster_id": int(cluster.scheduler.facts["cluster"])})
    with caller(cluster.scheduler, kvrpcpb_pb2.Context()) as pd:
        answer = pdpb_pb2.GetRegionResponse.FromString(pd.bytes("/pdpb.PD/GetRegion", request.SerializeToString()))
    return kvrpcpb_pb2.Context(region_id=answer.region.id, region_epoch=answer.region.region_epoch, peer=answer.leader)


def tell(address: str, data: bytes) -> bytes:
    """Connect, send bytes, and return what comes back until the other side closes, or for a second."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), CALL_S) as connection:
        connection.settimeout(1.0)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        except OSError:  # closed in the middle of it, or nothing more comes
            return b""
        return answer
