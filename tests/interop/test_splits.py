"""Foreign clients and ours go on while regions split under them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import tikv
from tests.interop.test_tikv_client import run
from tests.process.cluster import wait_until

import pytinykv
from pytinykv import testing
from pytinykv.wire.pb import kvrpcpb_pb2 as pb
from pytinykv.wire.pb import metapb_pb2, pdpb_pb2

CALL_S = 20.0
KEYS = 60
SPLITS = [b"k%03d" % number for number in range(5, KEYS, 10)]


@pytest.fixture
def cluster() -> Iterator[testing.Cluster]:
    with testing.cluster(stores=3) as made:
        yield made


class Splitter:
    """Splits the region of a key, as any client of TiKV may."""

    def __init__(self, cluster: testing.Cluster) -> None:
        self._channel = grpc.insecure_channel(cluster.address)
        self._header = pdpb_pb2.RequestHeader()
        members = self._call("/pdpb.PD/GetMembers", pdpb_pb2.GetMembersRequest(), pdpb_pb2.GetMembersResponse)
        self._header.cluster_id = members.header.cluster_id
        self._stores: dict[int, grpc.Channel] = {}

    def _call(self, path: str, request: Any, response_type: Any, channel: grpc.Channel | None = None) -> Any:
        call = (channel or self._channel).unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=response_type.FromString
        )
        return call(request, timeout=CALL_S)

    def split(self, *keys: bytes) -> bool:
        """Split the region of these keys; return whether that was done."""
        asked = pdpb_pb2.GetRegionRequest(header=self._header, region_key=keys[0])
        found = self._call("/pdpb.PD/GetRegion", asked, pdpb_pb2.GetRegionResponse)
        if not found.leader.id:
            return False
        context = pb.Context(region_id=found.region.id, region_epoch=found.region.region_epoch, peer=found.leader)
        request = pb.SplitRegionRequest(context=context, split_keys=keys, is_raw_kv=True)
        store = self._store(found.leader)
        response = self._call("/tikvpb.Tikv/SplitRegion", request, pb.SplitRegionResponse, store)
        return not response.HasField("region_error") and len(response.regions) == len(keys) + 1

    def _store(self, leader: metapb_pb2.Peer) -> grpc.Channel:
        if leader.store_id not in self._stores:
            asked = pdpb_pb2.GetStoreRequest(header=self._header, store_id=leader.store_id)
            store = self._call("/pdpb.PD/GetStore", asked, pdpb_pb2.GetStoreResponse).store
            self._stores[leader.store_id] = grpc.insecure_channel(store.address)
        return self._stores[leader.store_id]

    def close(self) -> None:
        for channel in (self._channel, *self._stores.values()):
            channel.close()


@pytest.fixture
def splitter(cluster: testing.Cluster) -> Iterator[Splitter]:
    made = Splitter(cluster)
    yield made
    made.close()


def split_at(splitter: Splitter, key: bytes) -> None:
    wait_until(lambda: splitter.split(key) or None, within_s=CALL_S, what=f"a split at {key!r}")


def test_tikv_python_and_ours_go_on_while_regions_split(cluster: testing.Cluster, splitter: Splitter) -> None:
    ended = threading.Event()
    with tikv.RawClient([cluster.address]) as theirs, pytinykv.connect(cluster.address) as ours:
        pairs = {b"k%03d" % number: b"0" for number in range(KEYS)}
        ours.raw.batch_put(pairs)
        assert theirs.get_many(list(pairs)) == pairs  # both have seen the one region

        def work(put: Any, get: Any, scan: Any, name: bytes) -> int:
            rounds = 0
            while not ended.is_set() or not rounds:
                for number in range(0, KEYS, 7):
                    key = b"k%03d/%b" % (number, name)
                    put(key, b"%d" % rounds)
                    assert get(key) == b"%d" % rounds
                assert [key for key, _value in scan() if b"/" not in key] == sorted(pairs)
                rounds += 1
            return rounds

        with ThreadPoolExecutor(2) as pool:
            try:
                working = [
                    pool.submit(work, theirs.put, theirs.get, lambda: theirs.scan(prefix=b"k"), b"theirs"),
                    pool.submit(work, ours.raw.put, ours.raw.get, lambda: ours.raw.scan(b"k", b"l"), b"ours"),
                ]
                for key in SPLITS:
                    split_at(splitter, key)
            finally:
                ended.set()
            assert all(one.result(CALL_S) for one in working)
        assert theirs.get_many(list(pairs)) == ours.raw.batch_get(pairs) == pairs


def test_tikv_client_finds_all_in_many_regions(cluster: testing.Cluster, splitter: Splitter, tmp_path: Path) -> None:
    """Its raw scan ignores region errors and sends the same range to each region."""
    pytest.importorskip("tikv_client", reason="its last wheels are for CPython 3.11")
    for key in SPLITS:
        split_at(splitter, key)
    shown = run(cluster, "split", tmp_path)
    assert shown["scanned"] == shown["got"] == [f"k{number:03d}" for number in range(KEYS)]


def test_tikv_client_goes_on_while_regions_split(cluster: testing.Cluster, splitter: Splitter, tmp_path: Path) -> None:
    pytest.importorskip("tikv_client", reason="its last wheels are for CPython 3.11")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, cluster, "splitting", tmp_path)
        for key in SPLITS:
            split_at(splitter, key)
        shown = running.result(CALL_S)
    assert shown["errors"] == []
    assert shown["got"] == shown["put"] > 0
