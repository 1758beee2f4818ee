from __future__ import annotations

import pytest

from pytinykv.wire import MethodSpec, service_methods
from pytinykv.wire.frames import EncodedCommands
from pytinykv.wire.pb import kvrpcpb_pb2, tikvpb_pb2


def test_methods_come_from_the_service_definition() -> None:
    methods = service_methods("tikvpb.Tikv", only=["RawGet", "BatchCommands"])
    assert methods == {
        "/tikvpb.Tikv/RawGet": MethodSpec(
            path="/tikvpb.Tikv/RawGet",
            request_type=kvrpcpb_pb2.RawGetRequest,
            response_type=kvrpcpb_pb2.RawGetResponse,
            request_streaming=False,
            response_streaming=False,
        ),
        "/tikvpb.Tikv/BatchCommands": MethodSpec(
            path="/tikvpb.Tikv/BatchCommands",
            request_type=EncodedCommands,
            response_type=tikvpb_pb2.BatchCommandsResponse,
            request_streaming=True,
            response_streaming=True,
        ),
    }
    spec = methods["/tikvpb.Tikv/RawGet"]
    assert (spec.service_name, spec.method_name) == ("tikvpb.Tikv", "RawGet")


def test_all_methods_of_a_service_are_found() -> None:
    assert "/pdpb.PD/Tso" in service_methods("pdpb.PD")
    assert len(service_methods("pdpb.PD")) > 30


def test_a_misspelt_method_or_service_is_an_error() -> None:
    with pytest.raises(KeyError, match="RawGot"):
        service_methods("tikvpb.Tikv", only=["RawGot"])
    with pytest.raises(KeyError):
        service_methods("tikvpb.TiKV")
