"""What is put together by hand, read back with protobuf."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.server.kv.answers import AnswerBatch, AnswerBudget, Answers
from pytinykv.server.kv.commands import COMMANDS, MEMBERS
from pytinykv.server.kv.encoding import COPIED_BYTES_MAX, PairWriter, close_answer, close_frame, open_answer
from pytinykv.server.kv.kinds import CommandKind
from pytinykv.wire.encoding import field_tag
from pytinykv.wire.pb import errorpb_pb2, tikvpb_pb2
from pytinykv.wire.pb import kvrpcpb_pb2 as pb

IDS = st.integers(0, 2**64 - 1)
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([127, 128, 16_383, 16_384, 70_000]))
MEMBER_NAMES = sorted(MEMBERS)


def parsed(batch: AnswerBatch) -> tikvpb_pb2.BatchCommandsResponse:
    return tikvpb_pb2.BatchCommandsResponse.FromString(batch.encode())


def expected(answers: list[tuple[int, str, Message]]) -> tikvpb_pb2.BatchCommandsResponse:
    frame = tikvpb_pb2.BatchCommandsResponse()
    for request_id, member, response in answers:
        frame.request_ids.append(request_id)
        getattr(frame.responses.add(), member).CopyFrom(response)
    return frame


@given(st.lists(st.tuples(IDS, st.sampled_from(MEMBER_NAMES), SIZES, st.booleans()), max_size=20))
def test_any_answers_of_a_frame(answers: list[tuple[int, str, int, bool]]) -> None:
    batch = AnswerBatch(is_framed=True)
    wanted = []
    for request_id, member, size, is_empty in answers:
        command = MEMBERS[member]
        response = command.response_type()
        if is_empty:
            batch.add_answer(request_id, command.empty_answer)
        else:
            if "region_error" in response.DESCRIPTOR.fields_by_name:
                response = command.response_type(region_error=errorpb_pb2.Error(message="x" * size))
            batch.add(request_id, command, response.SerializeToString())
        wanted.append((request_id, member, response))
    assert parsed(batch) == expected(wanted)


@given(st.lists(st.tuples(st.sampled_from(["small", "whole"]), IDS), max_size=12))
def test_batches_that_leave_together_keep_their_ids(kinds: list[tuple[str, int]]) -> None:
    """A whole frame among small ones: its id must not be taken for that of another answer."""

    async def run() -> list[bytes]:
        answers = Answers(AnswerBudget())
        for kind, request_id in kinds:
            response = pb.RawGetResponse(value=b"%d" % request_id)
            batch = answers.batch()
            if kind == "small":
                batch.add(request_id, MEMBERS["RawGet"], response.SerializeToString())
            else:
                out = open_answer(MEMBERS["RawGet"].tag, request_id)
                out.write(response.SerializeToString())
                frame = close_frame(out, MEMBERS["RawGet"].tag, request_id)
                batch = AnswerBatch(is_framed=True, parts=[frame])
            answers.send(batch)
        answers.end()
        return [frame async for frame in answers.frames()]

    found = []
    for frame in map(tikvpb_pb2.BatchCommandsResponse.FromString, asyncio.run(run())):
        for request_id, response in zip(frame.request_ids, frame.responses, strict=True):
            assert response.RawGet.value == b"%d" % request_id
            found.append(request_id)
    assert found == [request_id for _kind, request_id in kinds]


@given(st.lists(st.tuples(st.binary(max_size=40), SIZES), max_size=8), st.sampled_from(["RawScan", "RawBatchGet"]), IDS)
def test_pairs_written_one_by_one(pairs: list[tuple[bytes, int]], member: str, request_id: int) -> None:
    command = MEMBERS[member]
    field = "kvs" if member == "RawScan" else "pairs"
    out = open_answer(command.tag, request_id)
    writer = PairWriter(out, field_tag(command.response_type, field))
    for key, size in pairs:
        writer.add(key, b"v" * size)
    batch = AnswerBatch(is_framed=True)
    batch.add_answer(request_id, close_answer(out, command.tag, request_id))
    response = command.response_type(**{field: [pb.KvPair(key=key, value=b"v" * size) for key, size in pairs]})
    assert parsed(batch) == expected([(request_id, member, response)])


def test_pairs_of_one_shape_after_another() -> None:
    """What is before a pair is kept for the next one only while both lengths are the same."""
    out = BytesIO()
    pairs = PairWriter(out, field_tag(pb.RawScanResponse, "kvs"))
    wanted = [
        pb.KvPair(key=b"k" * key_bytes, value=b"v" * value_bytes)
        for key_bytes in (1, 1, 127, 128, 128, 0)
        for value_bytes in (0, 127, 127, 128, COPIED_BYTES_MAX - 1, COPIED_BYTES_MAX, COPIED_BYTES_MAX, 128)
    ]
    for pair in wanted:
        pairs.add(pair.key, memoryview(pair.value) if len(pair.value) == COPIED_BYTES_MAX else pair.value)
    assert list(pb.RawScanResponse.FromString(out.getvalue()).kvs) == wanted


def test_the_answer_to_a_unary_call_is_the_response() -> None:
    batch = AnswerBatch(is_framed=False)
    response = pb.RawGetResponse(value=b"v")
    batch.add(0, MEMBERS["RawGet"], response.SerializeToString())
    assert pb.RawGetResponse.FromString(batch.encode()) == response


def test_nothing_is_written_behind_a_large_value() -> None:
    """It would be moved to a larger place, which takes twenty times as long as all the rest, and the event loop waits."""
    command, value = MEMBERS["RawScan"], b"v" * 100_000
    out = open_answer(command.tag, 7)
    PairWriter(out, field_tag(command.response_type, "kvs")).add(b"k", value)
    frame = close_frame(out, command.tag, 7)
    assert frame.endswith(value)
    response = pb.RawScanResponse(kvs=[pb.KvPair(key=b"k", value=value)])
    assert tikvpb_pb2.BatchCommandsResponse.FromString(frame) == expected([(7, "RawScan", response)])


def test_a_large_answer_is_not_copied() -> None:
    out = BytesIO()
    out.write(b"x" * 100_000)
    answer = out.getvalue()
    batch = AnswerBatch(is_framed=False)
    batch.add_answer(0, answer)
    assert batch.encode() is answer


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_can_say_what_is_wrong(command: CommandKind) -> None:
    if command.name == "Empty":
        return  # nothing can be wrong with it
    assert b"too bad" in command.final_error("too bad")
    error: Any = command.response_type.FromString(command.region_error(errorpb_pb2.Error(message="not here")))
    assert error.region_error.message == "not here"


def test_a_prewrite_will_tell_its_errors_key_by_key() -> None:
    response = pb.PrewriteResponse.FromString(MEMBERS["Prewrite"].final_error("too bad"))
    assert [error.abort for error in response.errors] == ["too bad"]
