"""Commands as they travel: what is encoded without protobuf, read back with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytinykv.client import raw_commands
from pytinykv.client.commands import Command
from pytinykv.client.key_space import KeyRange
from pytinykv.client.raw_commands import (
    RawBatchDelete,
    RawBatchGet,
    RawBatchPut,
    RawDelete,
    RawDeleteRange,
    RawGet,
    RawPut,
    RawScan,
)
from pytinykv.client.route import Route
from pytinykv.client.txn import read_commands
from pytinykv.client.txn.read_commands import TxnBatchGet, TxnGet, TxnGetPair, TxnScan
from pytinykv.client.txn.records import SnapshotView
from pytinykv.model import Peer, PeerId, Region, RegionEpoch, RegionId, StoreId
from pytinykv.wire.encoding import member_head
from pytinykv.wire.pb import tikvpb_pb2

VIEWS = st.builds(SnapshotView, st.integers(1, 2**64 - 1))
IDS = st.integers(1, 2**63)
KEYS = st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from([b"k" * 127, b"k" * 128, b"k" * 8192]))
VALUES = st.one_of(st.binary(max_size=40), st.sampled_from([b"v" * 127, b"v" * 128, b"v" * 16_384]))
CFS = st.sampled_from(["", "lock", "write"])
TTLS = st.sampled_from([0, 0, 1, 2**63 - 1])
RANGES = st.builds(KeyRange, st.binary(max_size=5), st.just(b""))
COMMANDS: dict[type[Command[Any]], st.SearchStrategy[Command[Any]]] = {
    RawGet: st.builds(RawGet, KEYS, CFS),
    RawPut: st.builds(RawPut, KEYS, VALUES, TTLS, CFS),
    RawDelete: st.builds(RawDelete, KEYS, CFS),
    RawBatchGet: st.builds(RawBatchGet, st.lists(KEYS, min_size=1, max_size=3), CFS),
    RawBatchPut: st.builds(RawBatchPut, st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=3), TTLS, CFS),
    RawBatchDelete: st.builds(RawBatchDelete, st.lists(KEYS, min_size=1, max_size=3), CFS),
    RawScan: st.builds(RawScan, RANGES, limit=st.integers(1, 9), reverse=st.booleans(), key_only=st.booleans(), cf=CFS),
    RawDeleteRange: st.builds(RawDeleteRange, RANGES, CFS),
    TxnGet: st.builds(TxnGet, KEYS, VIEWS),
    TxnGetPair: st.builds(TxnGetPair, st.lists(KEYS, min_size=1, max_size=1), VIEWS),
    TxnBatchGet: st.builds(TxnBatchGet, st.lists(KEYS, min_size=1, max_size=3), VIEWS),
    TxnScan: st.builds(TxnScan, RANGES, VIEWS, limit=st.integers(1, 9), reverse=st.booleans(), key_only=st.booleans()),
}
ROUTES = st.builds(
    lambda region, conf_ver, version, peer, store: Route(
        Region(RegionId(region), b"", b"", RegionEpoch(conf_ver, version)), Peer(PeerId(peer), StoreId(store))
    ),
    *[IDS] * 5,
)


@given(st.lists(st.tuples(st.one_of(list(COMMANDS.values())), ROUTES), max_size=5))
def test_commands_in_a_frame(commands: list[tuple[Command[Any], Route]]) -> None:
    encoded, expected = b"", tikvpb_pb2.BatchCommandsRequest()
    for command, route in commands:
        request = command.encode(route)
        encoded += member_head(command.tag, len(request)) + request
        getattr(expected.requests.add(), command.field).CopyFrom(command.request(route))
        assert command.request(route).context.region_id == route.region.id  # type: ignore[attr-defined]
    assert tikvpb_pb2.BatchCommandsRequest.FromString(encoded) == expected


def test_all_commands_are_tested() -> None:
    modules = (raw_commands, read_commands)
    own = [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Command)
    ]
    assert {kind for kind in own if "field" in vars(kind) and kind.unary_path is None} == set(COMMANDS)


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_has_the_tag_of_its_field(kind: type[Command[Any]]) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest.FromString(member_head(kind.tag, 0))
    assert frame.requests[0].WhichOneof("cmd") == kind.field
