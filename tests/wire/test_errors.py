from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.wire import errors
from pytinykv.wire.errors import RegionError, UnknownRegionError
from pytinykv.wire.pb import errorpb_pb2, metapb_pb2

REGION = metapb_pb2.Region(
    id=1,
    start_key=b"\x00",
    end_key=b"\x01",
    region_epoch=metapb_pb2.RegionEpoch(conf_ver=2, version=3),
    peers=[metapb_pb2.Peer(id=4, store_id=5)],
)
LEADER = metapb_pb2.Peer(id=4, store_id=5)
EXAMPLES = [
    errors.NotLeader(region_id=1),
    errors.NotLeader(region_id=1, leader=LEADER),
    errors.EpochNotMatch(current_regions=[REGION]),
    errors.EpochNotMatch(),
    errors.RegionNotFound(region_id=1),
    errors.KeyNotInRegion(key=b"\x02", region_id=1, start_key=b"\x00", end_key=b"\x01"),
    errors.KeyNotInRegion(key=b"\x02", region_id=1, start_key=b"\x03", end_key=b""),
    errors.StoreNotMatch(request_store_id=1, actual_store_id=2),
    errors.MismatchPeerId(request_peer_id=1, store_peer_id=2),
    errors.RegionNotInitialized(region_id=1),
    errors.StaleCommand(),
    errors.ServerIsBusy(reason="too many proposals", backoff_ms=50),
    errors.DiskFull(store_id=[1, 2], reason="5 MB left"),
    errors.ReadIndexNotReady(region_id=1, reason="nothing committed in this term"),
    errors.DataIsNotReady(region_id=1, peer_id=4, safe_ts=7),
    errors.MaxTimestampNotSynced(),
    errors.ProposalInMergingMode(region_id=1),
    errors.RecoveryInProgress(region_id=1),
    errors.IsWitness(region_id=1),
    errors.BucketVersionNotMatch(version=3, keys=[b"a", b"b"]),
    errors.FlashbackInProgress(region_id=1, flashback_start_ts=2),
    errors.FlashbackNotPrepared(region_id=1),
    errors.RaftEntryTooLarge(region_id=1, entry_size=9_000_000),
    errors.UndeterminedResult(),
]


def name(error: RegionError) -> str:
    return type(error).__name__


def test_every_kind_on_the_wire_has_an_exception_and_an_example_here() -> None:
    kinds = {field.name for field in errorpb_pb2.Error.DESCRIPTOR.fields} - {"message"}
    assert {error.kind for error in EXAMPLES} == kinds
    assert set(errors._BY_KIND) == kinds


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_an_error_survives_the_wire(error: RegionError) -> None:
    received = RegionError.from_pb(errorpb_pb2.Error.FromString(error.to_pb().SerializeToString()))
    assert type(received) is type(error)
    assert received.to_pb() == error.to_pb()
    assert {part: getattr(received, part) for part in error.parts} == {
        part: getattr(error, part) for part in error.parts
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_exactly_one_kind_is_set_even_when_its_message_is_empty(error: RegionError) -> None:
    assert [field.name for field, _ in error.to_pb().ListFields()] == ["message", error.kind]


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_the_message_is_never_empty_and_may_be_replaced(error: RegionError) -> None:
    assert error.message
    assert str(error) == error.message
    described = copy.deepcopy(error.to_pb())
    described.message = "said by a server"
    assert RegionError.from_pb(described).message == "said by a server"
    described.message = ""
    assert RegionError.from_pb(described).message


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_an_error_can_be_pickled(error: RegionError) -> None:
    assert pickle.loads(pickle.dumps(error)).to_pb() == error.to_pb()  # noqa: S301  # bytes of our own


@pytest.mark.parametrize("error", EXAMPLES, ids=name)
def test_what_may_have_been_applied_is_never_called_retryable(error: RegionError) -> None:
    assert not (error.undetermined and error.retryable)


@pytest.mark.tinykv("TestRaftstoreErrToPbError")
def test_contents_reach_the_fields_that_clients_read() -> None:
    assert errors.NotLeader(region_id=1).to_pb().not_leader.region_id == 1
    assert not errors.NotLeader(region_id=1).to_pb().not_leader.HasField("leader")
    assert errors.NotLeader(region_id=1, leader=LEADER).to_pb().not_leader.leader == LEADER
    assert errors.RegionNotFound(region_id=1).to_pb().region_not_found.region_id == 1
    outside = errors.KeyNotInRegion(key=b"\x02", region_id=1, start_key=b"\x00", end_key=b"\x01").to_pb()
    assert outside.key_not_in_region == errorpb_pb2.KeyNotInRegion(
        key=b"\x02", region_id=1, start_key=b"\x00", end_key=b"\x01"
    )
    assert list(errors.EpochNotMatch(current_regions=[REGION]).to_pb().epoch_not_match.current_regions) == [REGION]
    assert errors.StaleCommand().to_pb().HasField("stale_command")
    moved = errors.StoreNotMatch(request_store_id=1, actual_store_id=2).to_pb().store_not_match
    assert (moved.request_store_id, moved.actual_store_id) == (1, 2)


@pytest.mark.tinykv("TestRaftstoreErrToPbError")
def test_an_error_without_a_kind_travels_as_its_message() -> None:
    assert UnknownRegionError("the disk is on fire").to_pb() == errorpb_pb2.Error(message="the disk is on fire")


def test_a_kind_from_the_future_is_retryable_and_says_what_it_can() -> None:
    field_99 = b"\x9a\x06\x00"
    error = RegionError.from_pb(errorpb_pb2.Error.FromString(field_99))
    assert isinstance(error, UnknownRegionError)
    assert error.retryable
    assert error.message


def test_an_empty_leader_means_that_the_leader_is_not_known() -> None:
    wire = errorpb_pb2.Error(not_leader=errorpb_pb2.NotLeader(region_id=1, leader=metapb_pb2.Peer()))
    error = RegionError.from_pb(wire)
    assert isinstance(error, errors.NotLeader)
    assert error.leader is None


@given(data=st.binary(max_size=60))
def test_whatever_parses_as_an_error_becomes_an_exception(data: bytes) -> None:
    wire = errorpb_pb2.Error()
    try:
        wire.ParseFromString(data)
    except Exception:  # noqa: BLE001  # protobuf's DecodeError, whose class depends on the implementation
        return
    assert RegionError.from_pb(wire).message
