"""What is stored and sent, byte by byte; garbage raises FormatError and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.model import FormatError, Peer, PeerRole, Region, RegionEpoch, RegionId, StoreId, encode, raw_values
from pytinykv.raft import (
    ConfChange,
    ConfChangeKind,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    LogIndex,
    PeerId,
    SnapshotMeta,
    Term,
)
from pytinykv.raftstore import keys, membership, records
from pytinykv.raftstore.operations import COMPACT_LOG, COMPARE_AND_SWAP, Operation, decode_operations, encode_operations
from pytinykv.raftstore.records import (
    ApplyState,
    PeerState,
    RaftEnvelope,
    RaftLocalState,
    RegionLocalState,
    SnapshotFile,
    SnapshotHeader,
    SnapshotManifest,
    StoreIdent,
)
from pytinykv.storage import ColumnFamily
from pytinykv.storage.changes import DELETE, DELETE_RANGE, PUT

VOTER, LEARNER = Peer(PeerId(5), StoreId(6)), Peer(PeerId(7), StoreId(8), PeerRole.LEARNER)
REGION = Region(RegionId(2), b"a", b"b", RegionEpoch(3, 4), (VOTER, LEARNER))
META = SnapshotMeta(LogIndex(9), Term(2), ConfState((PeerId(5),), (PeerId(7),)))
MANIFEST = SnapshotManifest(REGION, META, (SnapshotFile("raw", "3_raw.sst", 10, 0xDEADBEEF),))
ENVELOPE = RaftEnvelope(
    REGION.id, VOTER, LEARNER, REGION.epoch, Heartbeat(PeerId(7), PeerId(5), Term(2), LogIndex(9), 1, 0.5)
)

HEAD = "019199029305060093070801920304c0c2c400c400"
"""An envelope without a message, up to its note."""
NOTES: list[tuple[records.Note, str]] = [
    (records.StoreBeat(7), "920107"),
    (records.SleepRequest(Term(2), LogIndex(9), 1), "9402020901"),
    (records.SleepConsent(Term(2), 1), "93030201"),
    (records.WakeUp(), "9104"),
    (records.SleepCheck(Term(2)), "920502"),
]

GOLDEN: list[tuple[Any, Callable[[bytes], Any], str]] = [
    (StoreIdent(7, StoreId(3)), records.decode_store_ident, "01920703"),
    (REGION, records.decode_region, "019502c40161c40162920304929305060093070801"),
    (membership.ChangeContext(PeerId(5), StoreId(6), PeerRole.VOTER), membership.decode_context, "0194050600c0"),
    (
        RegionLocalState(PeerState.APPLYING, REGION, PeerId(5), "2_3_4"),
        records.decode_region_state,
        "0196019502c40161c4016292030492930506009307080105a5325f335f340000",
    ),
    (
        RaftLocalState(HardState(Term(1), PeerId(2), LogIndex(3)), LogIndex(4)),
        records.decode_raft_state,
        "01929301020304",
    ),
    (ApplyState(LogIndex(4), Term(3), LogIndex(2), Term(1)), records.decode_apply_state, "019404030201"),
    (Entry(LogIndex(9), Term(2), EntryKind.NORMAL, b"x"), records.decode_entry, "0194090200c40178"),
    (
        MANIFEST,
        records.decode_manifest,
        "01939502c40161c4016292030492930506009307080193090292910591079194a3726177a9335f7261772e7373740acedeadbeef",
    ),
    (
        [ENVELOPE],
        records.decode_envelopes,
        "01919902930506009307080192030497040705020901cb3fe0000000000000c2c400c400c0",
    ),
    *(
        ([msgspec.structs.replace(ENVELOPE, message=None, note=note)], records.decode_envelopes, f"{HEAD}{tail}")
        for note, tail in NOTES
    ),
]


@pytest.mark.parametrize(("record", "decode", "stored"), GOLDEN, ids=[type(row[0]).__name__ for row in GOLDEN])
def test_stored_form(record: Any, decode: Callable[[bytes], Any], stored: str) -> None:
    assert encode(record).hex() == stored
    assert decode(bytes.fromhex(stored)) == record


def test_envelopes_are_understood_by_a_version_without_notes_and_the_other_way_round() -> None:
    """Their last field came later: an older store reads eight fields and skips what follows, a newer one finds no note."""
    older = "01919802930506009307080192030497040705020901cb3fe0000000000000c2c400c400"
    assert records.decode_envelopes(bytes.fromhex(older)) == [ENVELOPE]
    beat = msgspec.structs.replace(ENVELOPE, message=None, note=records.StoreBeat(7))
    eight_fields = msgspec.defstruct(
        "OlderEnvelope", [(field, Any) for field in RaftEnvelope.__struct_fields__[:8]], array_like=True
    )
    [seen] = msgspec.msgpack.Decoder(list[eight_fields]).decode(encode([beat])[1:])
    assert seen.message is None
    assert not seen.is_tombstone


def test_a_tombstone_of_the_first_format_is_read() -> None:
    """Fields were added behind `snapshot`; what was stored without them has their defaults."""
    old = RegionLocalState(PeerState.TOMBSTONE, REGION, PeerId(5))
    stored = b"\x01" + msgspec.msgpack.encode([2, REGION, 5, ""])
    assert records.decode_region_state(stored) == old


@pytest.mark.parametrize("decode", [row[1] for row in GOLDEN], ids=[type(row[0]).__name__ for row in GOLDEN])
@given(data=st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x01" + tail))
def test_garbage_is_a_format_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode(data)


@pytest.mark.parametrize("stored", [b"", b"\x00", b"\x02\x92\x07\x03"])
def test_another_format_version_is_named(stored: bytes) -> None:
    with pytest.raises(FormatError, match="store identity: format version"):
        records.decode_store_ident(stored)


@given(position=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_header_is_another_header_or_a_format_error(position: int, value: int) -> None:
    data = bytearray(encode(SnapshotHeader(ENVELOPE, MANIFEST)))
    data[position % len(data)] = value
    with contextlib.suppress(FormatError):
        records.decode_snapshot_header(bytes(data))


# --- operations

OPERATIONS: list[Operation] = [
    (PUT, 4, b"dk", b"\0v"),
    (DELETE, 4, b"dk"),
    (DELETE_RANGE, 4, b"da", b"db"),
    (COMPARE_AND_SWAP, 4, b"dk", None, b"\0w", 12),
    (COMPACT_LOG, 7, 2),
]


def test_stored_form_of_operations() -> None:
    stored = "01920495940104c402646bc4020076930204c402646b940304c4026461c4026462960404c402646bc0c40200770c930a0702"
    assert encode_operations(4, OPERATIONS).hex() == stored
    version, operations = decode_operations(bytes.fromhex(stored))
    assert (version, operations) == (4, OPERATIONS)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x01" + tail))
def test_garbled_operations_are_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        decode_operations(data)


def test_a_membership_change_that_names_no_epoch_is_read() -> None:
    """As versions before wrote it."""
    change = ConfChange(ConfChangeKind.ADD_LEARNER, PeerId(7), bytes.fromhex("0193070800"))
    read, epoch = membership.MembershipChange.from_raft(change)
    assert read == membership.MembershipChange(ConfChangeKind.ADD_LEARNER, Peer(PeerId(7), StoreId(8)))
    assert epoch is None


@given(st.binary(max_size=30))
def test_a_garbled_membership_change_is_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        membership.MembershipChange.from_raft(membership.decode_change(data))


def test_a_text_that_is_none_and_a_nest_without_end_are_format_errors() -> None:
    for tail in (b"\x92\x04\x91\x91\xa1\x80", b"\x92\x04" + b"\x91" * 100_000):
        with pytest.raises(FormatError):
            decode_operations(b"\x01" + tail)


# --- raw values


def test_stored_form_of_raw_values() -> None:
    assert raw_values.encode_raw_value(b"v") == b"\x00v"
    assert raw_values.encode_raw_value(b"") == b"\x00"
    assert raw_values.encode_raw_value(b"v", 258) == b"\x01" + bytes(6) + b"\x01\x02v"


def test_a_value_lives_until_the_second_in_which_it_expires() -> None:
    stored = raw_values.encode_raw_value(b"v", 100)
    assert raw_values.live_value(stored, 99) == b"v"
    assert raw_values.remaining_ttl_s(stored, 99) == 1
    assert raw_values.live_value(stored, 100) is None
    assert raw_values.live_value(raw_values.encode_raw_value(b""), 100) == b""
    assert raw_values.remaining_ttl_s(raw_values.encode_raw_value(b"v"), 100) == 0
    assert raw_values.live_value(None, 0) is None


@pytest.mark.parametrize("stored", [b"", b"\x02v", b"\x01short"])
def test_a_damaged_raw_value_is_a_format_error(stored: bytes) -> None:
    with pytest.raises(FormatError):
        raw_values.live_value(stored, 0)


# --- keys


def test_where_things_are() -> None:
    assert keys.region_state_key(1).hex() == "03" + "00" * 7 + "01"
    assert keys.raft_state_key(1).hex() == "04" + "00" * 7 + "01"
    assert keys.apply_state_key(1).hex() == "05" + "00" * 7 + "01"
    assert keys.entry_key(1, 258).hex() == "06" + "00" * 7 + "01" + "00" * 6 + "0102"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_entries_of_a_region_lie_together_in_the_order_of_their_indexes(region: int, one: int, two: int) -> None:
    assert (keys.entry_key(region, one) < keys.entry_key(region, two)) == (one < two)
    assert keys.entry_key(region, one).startswith(keys.entry_prefix(region))


@given(st.binary(max_size=4), st.binary(max_size=4), st.binary(min_size=1, max_size=6))
def test_every_raw_key_of_a_region_and_no_other_is_in_its_ranges(start: bytes, end: bytes, key: bytes) -> None:
    region = Region(RegionId(1), start, end)
    for tag in keys.RAW_TAGS.values():
        found = [
            cf for cf, low, high in keys.data_ranges(start, end) if cf is ColumnFamily.RAW and low <= tag + key < high
        ]
        assert (found == [ColumnFamily.RAW]) == region.contains(key)
