"""Protobuf by hand, read back with protobuf; whole frames are tested at their two ends, in `client` and `server.kv`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.wire.encoding import member_head, varint
from pytinykv.wire.pb import tikvpb_pb2


@given(st.integers(0, 2**64 - 1))
def test_varints(number: int) -> None:
    message = tikvpb_pb2.BatchCommandsEmptyResponse.FromString(b"\x08" + varint(number))
    assert message.test_id == number


@given(st.one_of(st.integers(0, 300), st.sampled_from([127, 128, 16_383, 16_384, 70_000])))
def test_what_comes_before_a_member(size: int) -> None:
    value = b"v" * size
    body = b"\x1a" + varint(size) + value
    frame = tikvpb_pb2.BatchCommandsRequest.FromString(member_head(b"\x7a", len(body)) + body)
    assert [request.RawPut.value for request in frame.requests] == [value]
