"""Commands that are taken apart by hand: what is found is what protobuf finds, or nothing is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pytinykv.wire.frames import EncodedCommands, encode_commands, key_and_value, lone_key, split
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import tikvpb_pb2

Request = tikvpb_pb2.BatchCommandsRequest.Request

sizes = st.sampled_from([0, 1, 2, 50, 126, 127, 128, 129, 300, 16_383, 16_384, 20_000])
blobs = st.one_of(st.binary(max_size=40), sizes.map(bytes))
contexts = st.builds(
    pb.Context,
    region_id=st.integers(0, 2**64 - 1),
    term=st.integers(0, 300),
    resource_group_tag=st.one_of(st.just(b""), blobs),
)
puts = st.builds(
    pb.RawPutRequest,
    context=contexts,
    key=blobs,
    value=blobs,
    cf=st.sampled_from(["", "lock"]),
    ttl=st.integers(0, 200),
)
deletes = st.builds(pb.RawDeleteRequest, context=contexts, key=blobs, cf=st.sampled_from(["", "lock"]))
gets = st.builds(pb.GetRequest, context=contexts, key=blobs)
commands = st.one_of(
    puts.map(lambda put: Request(RawPut=put)),
    deletes.map(lambda delete: Request(RawDelete=delete)),
    gets.map(lambda get: Request(Get=get)),
    st.just(Request(Empty=tikvpb_pb2.BatchCommandsEmptyRequest(test_id=1))),
)


def member_of(command: Request) -> tuple[int, bytes]:
    """Return the tag of the command's member, and its encoded request."""
    name = command.WhichOneof("cmd")
    assert name is not None
    return Request.DESCRIPTOR.fields_by_name[name].number << 3 | 2, getattr(command, name).SerializeToString()


@given(commands)
def test_what_is_found_in_a_command_is_what_protobuf_finds(command: Request) -> None:
    encoded = command.SerializeToString()
    found = split(encoded)
    if found is None:
        return
    tag, context, start, at = found
    assert (tag, encoded[start:]) == member_of(command)
    request = getattr(command, command.WhichOneof("cmd") or "")
    assert context == request.context.SerializeToString()
    rest = type(request).FromString(encoded[at:])
    assert not rest.HasField("context")
    rest.context.CopyFrom(request.context)
    assert rest == request


@given(puts)
def test_a_put_of_the_commonest_form_is_read_and_no_other(put: pb.RawPutRequest) -> None:
    encoded = Request(RawPut=put).SerializeToString()
    found = split(encoded)
    pair = None if found is None else key_and_value(encoded, found[3])
    is_short = len(put.key) < 128 and len(put.value) < 16_000 and len(put.context.SerializeToString()) < 128
    if put.key and put.value and not put.cf and not put.ttl and put.HasField("context") and is_short:
        assert pair == (put.key, put.value)
    elif pair is not None:
        assert pair == (put.key, put.value)
        assert not put.cf
        assert not put.ttl


@given(deletes)
def test_a_delete_of_the_commonest_form_is_read_and_no_other(delete: pb.RawDeleteRequest) -> None:
    encoded = Request(RawDelete=delete).SerializeToString()
    found = split(encoded)
    key = None if found is None else lone_key(encoded, found[3])
    if delete.key and len(delete.key) < 128 and not delete.cf and len(delete.context.SerializeToString()) < 128:
        assert key == delete.key
    else:
        assert key is None or (key == delete.key and not delete.cf)


@given(commands, st.data())
def test_bytes_that_are_cut_or_changed_are_found_as_protobuf_finds_them_or_not_at_all(
    command: Request, data: st.DataObject
) -> None:
    encoded = bytearray(command.SerializeToString())
    if data.draw(st.booleans()):
        del encoded[data.draw(st.integers(0, len(encoded))) :]
    elif encoded:
        encoded[data.draw(st.integers(0, min(len(encoded), 200) - 1))] = data.draw(st.integers(0, 255))
    found = split(bytes(encoded))
    if found is None:
        return
    _tag, context, start, at = found
    assert encoded[start:at].endswith(context)
    for fields in (key_and_value(bytes(encoded), at), lone_key(bytes(encoded), at)):
        if fields is None:
            continue
        request = pb.RawPutRequest.FromString(bytes(encoded[at:]))
        assert fields == ((request.key, request.value) if isinstance(fields, tuple) else request.key)
        assert not request.HasField("context")
        assert (request.cf, request.ttl) == ("", 0)


def test_a_frame_is_read_with_its_commands_encoded() -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(
        request_ids=[7, 8], requests=[Request(RawPut=pb.RawPutRequest(key=b"k"))] * 2
    )
    encoded = encode_commands(frame)
    assert list(encoded.request_ids) == [7, 8]
    assert [Request.FromString(command) for command in encoded.requests] == list(frame.requests)
    assert isinstance(encoded, EncodedCommands)
    assert encoded.SerializeToString() == frame.SerializeToString()
