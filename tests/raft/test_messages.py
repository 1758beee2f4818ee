"""The records on the wire and on the disk: golden bytes, and what garbage does."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.raft import (
    AppendEntries,
    AppendRejection,
    AppendResponse,
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    LogIndex,
    Message,
    PeerId,
    PreVoteRequest,
    PreVoteResponse,
    SnapshotMeta,
    StaleTerm,
    Term,
    TimeoutNow,
    TransferRequest,
    VoteRequest,
    VoteResponse,
)

TO, SENDER, TERM, INDEX = PeerId(1), PeerId(2), Term(3), LogIndex(4)
ENTRY = Entry(INDEX, TERM, EntryKind.NORMAL, b"d")
META = SnapshotMeta(INDEX, TERM, ConfState((TO,), (SENDER,)))
GOLDEN: list[tuple[Message, str]] = [
    (
        AppendEntries(TO, SENDER, TERM, INDEX, TERM, INDEX, 0.5, (ENTRY,)),
        "9901010203040304cb3fe00000000000009194040300c40164",
    ),
    (AppendResponse(TO, SENDER, TERM, INDEX, 0.5), "960201020304cb3fe0000000000000"),
    (AppendRejection(TO, SENDER, TERM, INDEX, INDEX, TERM, 0.5), "9803010203040403cb3fe0000000000000"),
    (Heartbeat(TO, SENDER, TERM, INDEX, 5, 0.5), "97040102030405cb3fe0000000000000"),
    (HeartbeatResponse(TO, SENDER, TERM, 5, 0.5), "960501020305cb3fe0000000000000"),
    (VoteRequest(TO, SENDER, TERM, INDEX, TERM, 0.5), "97060102030403cb3fe0000000000000"),
    (VoteResponse(TO, SENDER, TERM, granted=True), "9707010203c30000"),
    (PreVoteRequest(TO, SENDER, TERM, INDEX, TERM), "96080102030403"),
    (PreVoteResponse(TO, SENDER, TERM, granted=False), "9709010203c20000"),
    (InstallSnapshot(TO, SENDER, TERM, META, 0.5), "960a0102039304039291019102cb3fe0000000000000"),
    (TimeoutNow(TO, SENDER, TERM, 0.5), "950b010203cb3fe0000000000000"),
    (TransferRequest(TO, SENDER, TERM, PeerId(9)), "950c01020309"),
    (StaleTerm(TO, SENDER, TERM), "940d010203"),
]
DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda it: type(it).__name__)
def test_every_message_has_its_bytes_for_ever(message: Message, golden: str) -> None:
    assert msgspec.msgpack.encode(message).hex() == golden
    assert DECODER.decode(bytes.fromhex(golden)) == message


def test_records_on_the_disk_have_their_bytes_for_ever() -> None:
    encode = msgspec.msgpack.encode
    assert encode(HardState(TERM, TO, INDEX)).hex() == "93030104"
    assert encode(ENTRY).hex() == "94040300c40164"
    assert encode(ConfChange(ConfChangeKind.ADD_LEARNER, TO, b"c")).hex() == "930201c40163"
    assert encode(META).hex() == "9304039291019102"


@given(st.binary(max_size=64))
def test_garbage_raises_only_the_decode_error(garbage: bytes) -> None:
    try:
        DECODER.decode(garbage)
    except msgspec.DecodeError:
        return
