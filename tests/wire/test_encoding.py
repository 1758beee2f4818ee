"""Protobuf by hand, read back with protobuf; whole frames are tested at their two ends, in `client` and `server.kv`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.wire.encoding import member_head, varint, varint_at
from pytinykv.wire.pb import tikvpb_pb2


@given(st.integers(0, 2**64 - 1))
def test_varints(number: int) -> None:
    message = tikvpb_pb2.BatchCommandsEmptyResponse.FromString(b"\x08" + varint(number))
    assert message.test_id == number


@given(st.integers(0, 2**64 - 1), st.integers(0, 63), st.binary(max_size=10), st.binary(max_size=10))
def test_a_varint_among_other_bytes(number: int, shift: int, before: bytes, behind: bytes) -> None:
    number >>= shift
    data = before + varint(number)
    assert varint_at(data + behind, len(before)) == (number, len(data))
    assert varint_at(data[:-1], len(before)) == (-1, len(before))


@given(st.lists(st.sampled_from([0x80, 0xFF, 0x01, 0x7F, 0x00]), max_size=12).map(bytes), st.integers(0, 13))
def test_bytes_that_may_be_no_varint(data: bytes, at: int) -> None:
    end = next((index + 1 for index, byte in enumerate(data[at : at + 10], at) if byte < 0x80), 0)
    number = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(data[at:end]))
    assert varint_at(data, at) == ((number, end) if end and number < 1 << 64 else (-1, at))


@given(st.one_of(st.integers(0, 300), st.sampled_from([127, 128, 16_383, 16_384, 70_000])))
def test_what_comes_before_a_member(size: int) -> None:
    value = b"v" * size
    body = b"\x1a" + varint(size) + value
    frame = tikvpb_pb2.BatchCommandsRequest.FromString(member_head(b"\x7a", len(body)) + body)
    assert [request.RawPut.value for request in frame.requests] == [value]
