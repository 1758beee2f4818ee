"""Requests that can't be right, to real servers: each gets an answer that says why, and the servers go on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.process.cluster import Cluster, running_cluster
from tests.process.raw_calls import PD, TIKV, Caller, caller, first_region, tell

import pytinykv
from pytinykv.wire.pb import kvrpcpb_pb2, metapb_pb2, pdpb_pb2, tikvpb_pb2

MIB = 1 << 20
LONG_KEY = b"k" * 8193
GARBAGE = [b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x08" * 7, bytes(random.Random(1).randbytes(300)) + b"\xff"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(autouse=True)
def still_serving(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does, afterwards every process runs and the cluster takes writes."""
    yield
    assert [process.exit_status for process in cluster.processes] == [None] * 4, cluster.tails()
    with pytinykv.connect(cluster.address) as db:
        db.raw.put(b"alive", b"yes")
        assert db.raw.get(b"alive") == b"yes"


@pytest.fixture
def leader(cluster: Cluster) -> Iterator[Caller]:
    with caller(cluster.leader(), first_region(cluster)) as made:
        yield made


@pytest.fixture
def pd(cluster: Cluster) -> Iterator[Caller]:
    with caller(cluster.scheduler, kvrpcpb_pb2.Context()) as made:
        yield made


def problem(response: Any) -> str:
    """Return what a response says is wrong, wherever it says it."""
    if response.HasField("region_error"):
        return str(response.region_error)
    pairs = getattr(response, "pairs", None) or getattr(response, "kvs", None) or ()
    if errors := [pair.error.abort for pair in pairs if pair.HasField("error")]:
        return str(errors[0])
    return str(getattr(response, "error", ""))


def pair(key: bytes, value: bytes = b"v") -> kvrpcpb_pb2.KvPair:
    return kvrpcpb_pb2.KvPair(key=key, value=value)


def span(start: bytes = b"", end: bytes = b"") -> kvrpcpb_pb2.KeyRange:
    return kvrpcpb_pb2.KeyRange(start_key=start, end_key=end)


def bad_keys(key: bytes) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("RawGet", {"key": key}),
        ("RawGetKeyTTL", {"key": key}),
        ("RawPut", {"key": key, "value": b"v"}),
        ("RawDelete", {"key": key}),
        ("RawCompareAndSwap", {"key": key, "value": b"v", "previous_not_exist": True}),
        ("RawBatchGet", {"keys": [b"good", key]}),
        ("RawBatchPut", {"pairs": [pair(b"good"), pair(key)]}),
        ("RawBatchDelete", {"keys": [b"good", key]}),
    ]


@pytest.mark.parametrize(("name", "fields"), bad_keys(b""))
def test_an_empty_key(leader: Caller, name: str, fields: dict[str, Any]) -> None:
    assert "key is empty" in problem(leader.raw(name, **fields))
    assert leader.raw("RawGet", key=b"good").not_found, "a refused batch must do nothing at all"


@pytest.mark.parametrize(("name", "fields"), bad_keys(LONG_KEY))
def test_a_key_that_is_too_long(leader: Caller, name: str, fields: dict[str, Any]) -> None:
    assert "key is too long: 8193 bytes, at most 8192 are allowed" in problem(leader.raw(name, **fields))
    assert leader.raw("RawGet", key=b"good").not_found, "a refused batch must do nothing at all"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RawScan", {"start_key": b"k" * 9000, "limit": 1}),
        ("RawScan", {"end_key": b"k" * 9000, "limit": 1}),
        ("RawBatchScan", {"ranges": [span(b"k" * 9000)], "each_limit": 1}),
        ("RawDeleteRange", {"start_key": b"a", "end_key": b"k" * 9000}),
        ("RawChecksum", {"ranges": [span(b"k" * 9000)]}),
    ],
)
def test_a_bound_that_is_too_long(leader: Caller, name: str, fields: dict[str, Any]) -> None:
    assert "bound is too long: 9000 bytes, at most 8193" in problem(leader.raw(name, **fields))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RawPut", {"key": b"large", "value": bytes(9 * MIB)}),
        ("RawCompareAndSwap", {"key": b"large", "value": bytes(9 * MIB), "previous_not_exist": True}),
        ("RawBatchPut", {"pairs": [pair(b"large", bytes(5 * MIB)), pair(b"larger", bytes(5 * MIB))]}),
        ("RawBatchDelete", {"keys": [b"%08000d" % number for number in range(1100)]}),
    ],
)
def test_a_write_that_is_too_large(leader: Caller, name: str, fields: dict[str, Any]) -> None:
    answer = leader.raw(name, **fields)
    assert answer.region_error.HasField("raft_entry_too_large"), problem(answer)
    assert answer.region_error.raft_entry_too_large.entry_size > 8 * MIB
    assert "too large" in answer.region_error.message
    assert leader.raw("RawGet", key=b"large").not_found


def test_a_message_larger_than_any(leader: Caller) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        leader.raw("RawPut", key=b"k", value=bytes(129 * MIB))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in refused.value.details()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RawScan", {"limit": 10_241}),
        ("RawScan", {"limit": 2**32 - 1}),  # what -1 looks like on the wire
        ("RawScan", {"limit": 2**32 - 1, "reverse": True, "start_key": b"z"}),
        ("RawBatchScan", {"ranges": [span()], "each_limit": 2**32 - 1}),
        ("RawBatchScan", {"ranges": [span()] * 11, "each_limit": 1000}),
    ],
)
def test_a_limit_that_is_too_large(leader: Caller, name: str, fields: dict[str, Any]) -> None:
    said = problem(leader.raw(name, **fields))
    assert "limit" in said
    assert "at most 10240" in said


def test_a_limit_of_nothing_gives_nothing(leader: Caller) -> None:
    assert not leader.raw("RawScan", limit=0).kvs
    assert not leader.raw("RawBatchScan", ranges=[span()], each_limit=0).kvs
    assert not leader.raw("RawBatchScan", each_limit=10).kvs
    assert not leader.raw("RawBatchGet").pairs
    assert problem(leader.raw("RawBatchPut")) == problem(leader.raw("RawBatchDelete")) == ""


def test_a_range_the_wrong_way_round_is_empty(leader: Caller) -> None:
    assert not leader.raw("RawScan", start_key=b"z", end_key=b"a", limit=10).kvs
    assert not leader.raw("RawScan", start_key=b"a", end_key=b"z", limit=10, reverse=True).kvs
    assert leader.raw("RawChecksum", ranges=[span(b"z", b"a")]).total_kvs == 0
    leader.raw("RawPut", key=b"m", value=b"v")
    assert problem(leader.raw("RawDeleteRange", start_key=b"z", end_key=b"a")) == ""
    assert leader.raw("RawGet", key=b"m").value == b"v"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("RawGet", {"key": b"k"}),
        ("RawPut", {"key": b"k", "value": b"v"}),
        ("RawBatchGet", {"keys": [b"k"]}),
        ("RawBatchPut", {"pairs": [pair(b"k")]}),
        ("RawDelete", {"key": b"k"}),
        ("RawBatchDelete", {"keys": [b"k"]}),
        ("RawScan", {"limit": 1}),
        ("RawBatchScan", {"ranges": [span()], "each_limit": 1}),
        ("RawDeleteRange", {"start_key": b"a", "end_key": b"b"}),
        ("RawGetKeyTTL", {"key": b"k"}),
        ("RawCompareAndSwap", {"key": b"k", "value": b"v", "previous_not_exist": True}),
    ],
)
def test_a_column_family_that_does_not_exist(leader: Caller, name: str, fields: dict[str, Any]) -> None:
    said = problem(leader.raw(name, cf="nonsense", **fields))
    assert "nonsense" in said
    assert "default" in said, "it says which there are"


def test_numbers_that_mean_nothing(leader: Caller) -> None:
    assert "ttl is too long" in problem(leader.raw("RawPut", key=b"k", value=b"v", ttl=2**63))
    assert "ttls has 2 entries for 1 pairs" in problem(leader.raw("RawBatchPut", pairs=[pair(b"k")], ttls=[1, 2]))
    assert "algorithm 7 is unknown" in problem(leader.raw("RawChecksum", algorithm=7, ranges=[span()]))


# --- where a request belongs ----------------------------------------------------------------------------------------


def changed(context: kvrpcpb_pb2.Context, **fields: Any) -> kvrpcpb_pb2.Context:
    copy = kvrpcpb_pb2.Context()
    copy.CopyFrom(context)
    copy.MergeFrom(kvrpcpb_pb2.Context(**fields))
    return copy


def test_another_cluster(leader: Caller, pd: Caller, cluster: Cluster) -> None:
    mine = cluster.scheduler.facts["cluster"]
    with pytest.raises(grpc.RpcError) as refused:
        leader.raw("RawGet", key=b"k", context=changed(leader.context, cluster_id=42))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert mine in refused.value.details()
    assert "42" in refused.value.details()
    request = pdpb_pb2.AllocIDRequest(header={"cluster_id": 42})
    with pytest.raises(grpc.RpcError) as refused:
        pd.bytes("/pdpb.PD/AllocID", request.SerializeToString())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert mine in refused.value.details()


def test_another_store(leader: Caller) -> None:
    context = changed(leader.context, peer=metapb_pb2.Peer(store_id=999))
    error = leader.raw("RawGet", key=b"k", context=context).region_error
    assert error.store_not_match.request_store_id == 999
    assert error.store_not_match.actual_store_id == leader.context.peer.store_id
    assert error.message


def test_another_peer_of_the_store(leader: Caller) -> None:
    context = changed(leader.context, peer=metapb_pb2.Peer(id=999))
    assert (
        leader.raw("RawPut", key=b"k", value=b"v", context=context).region_error.mismatch_peer_id.request_peer_id == 999
    )


def test_a_region_that_is_not_here(leader: Caller) -> None:
    for context in (changed(leader.context, region_id=999), kvrpcpb_pb2.Context()):
        error = leader.raw("RawPut", key=b"k", value=b"v", context=context).region_error
        assert error.region_not_found.region_id == context.region_id
        assert error.message


@pytest.mark.parametrize("step", [-1, 1])
def test_another_version_of_the_region(leader: Caller, step: int) -> None:
    epoch = metapb_pb2.RegionEpoch(version=leader.context.region_epoch.version + step)
    if epoch.version == 0:
        epoch.version = 2**60
    for name, fields in (("RawGet", {}), ("RawPut", {"value": b"v"})):
        context = changed(leader.context, region_epoch=epoch)
        error = leader.raw(name, key=b"k", context=context, **fields).region_error
        assert [region.id for region in error.epoch_not_match.current_regions] == [leader.context.region_id]
        assert error.message


def test_an_older_membership_is_fine(leader: Caller) -> None:
    context = changed(leader.context, region_epoch=metapb_pb2.RegionEpoch(conf_ver=1))
    assert problem(leader.raw("RawPut", key=b"k", value=b"v", context=context)) == ""


def test_a_follower_names_the_leader(cluster: Cluster) -> None:
    context = first_region(cluster)
    leader = kvrpcpb_pb2.Context()
    leader.CopyFrom(context)
    context.ClearField("peer")
    with caller(cluster.followers()[0], context) as follower:
        for name, fields in (("RawGet", {}), ("RawPut", {"value": b"v"})):
            error = follower.raw(name, key=b"k", **fields).region_error
            assert error.not_leader.leader == leader.peer
            assert error.message


# --- frames ---------------------------------------------------------------------------------------------------------


def command(leader: Caller, name: str, **fields: Any) -> tikvpb_pb2.BatchCommandsRequest.Request:
    made = tikvpb_pb2.BatchCommandsRequest.Request()
    request = getattr(made, name)
    request.SetInParent()
    request.MergeFrom(type(request)(context=leader.context, **fields))
    return made


def test_bad_commands_in_a_frame_harm_no_others(leader: Caller) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(
        request_ids=[1, 2, 3, 4, 5, 6],
        requests=[
            command(leader, "RawPut", key=b"frame", value=b"v"),
            command(leader, "RawPut", key=b"", value=b"v"),
            command(leader, "RawPut", key=b"frame", value=b"v", cf="nonsense"),
            command(leader, "RawScan", limit=2**32 - 1),
            command(leader, "Coprocessor"),
            command(leader, "RawGet", key=LONG_KEY),
        ],
    )
    answers = {
        request_id: response
        for answer in leader.frame(frame)
        for request_id, response in zip(answer.request_ids, answer.responses, strict=True)
    }
    assert sorted(answers) == [1, 2, 3, 4, 5, 6]
    assert problem(answers[1].RawPut) == ""
    assert "key is empty" in problem(answers[2].RawPut)
    assert "nonsense" in problem(answers[3].RawPut)
    assert "at most 10240" in problem(answers[4].RawScan)
    assert "not supported" in str(answers[5])
    assert "too long" in problem(answers[6].RawGet)
    assert leader.raw("RawGet", key=b"frame").value == b"v"


def test_a_write_too_large_for_its_frame_harms_no_others(leader: Caller) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(
        request_ids=[1, 2, 3],
        requests=[
            command(leader, "RawPut", key=b"small", value=b"before"),
            command(leader, "RawPut", key=b"large", value=bytes(9 * MIB)),
            command(leader, "RawPut", key=b"small too", value=b"after"),
        ],
    )
    answers = {
        request_id: response
        for answer in leader.frame(frame)
        for request_id, response in zip(answer.request_ids, answer.responses, strict=True)
    }
    assert answers[2].RawPut.region_error.HasField("raft_entry_too_large")
    assert problem(answers[1].RawPut) == problem(answers[3].RawPut) == ""
    assert leader.raw("RawGet", key=b"small too").value == b"after"


def test_many_writes_that_are_large_together_are_taken(leader: Caller) -> None:
    frame = tikvpb_pb2.BatchCommandsRequest(
        request_ids=range(12),
        requests=[command(leader, "RawPut", key=b"mib/%d" % number, value=bytes(MIB)) for number in range(12)],
    )
    answers = {request_id for answer in leader.frame(frame) for request_id in answer.request_ids}
    assert answers == set(range(12))
    assert len(leader.raw("RawScan", start_key=b"mib/", end_key=b"mib0", limit=100, key_only=True).kvs) == 12
    leader.raw("RawDeleteRange", start_key=b"mib/", end_key=b"mib0")


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (tikvpb_pb2.BatchCommandsRequest(request_ids=[1, 2]), "0 commands and 2 ids"),
        (
            tikvpb_pb2.BatchCommandsRequest(request_ids=[1], requests=[tikvpb_pb2.BatchCommandsRequest.Request()]),
            "empty or unknown",
        ),
    ],
)
def test_a_frame_that_makes_no_sense_ends_its_stream(
    leader: Caller, frame: tikvpb_pb2.BatchCommandsRequest, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        leader.frame(frame)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in refused.value.details()


# --- bytes that are no messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_instead_of_a_message(leader: Caller, pd: Caller, garbage: bytes) -> None:
    calls = {(True, True): Caller.stream, (False, True): Caller.to_stream, (False, False): Caller.bytes}
    for who, methods in ((leader, TIKV), (pd, PD)):
        for path, spec in methods.items():
            if spec.request_streaming and not spec.response_streaming:
                continue
            with pytest.raises(grpc.RpcError) as refused:
                calls[spec.request_streaming, spec.response_streaming](who, path, garbage)
            code = refused.value.code()
            assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}, (path, code)
            assert code is grpc.StatusCode.UNIMPLEMENTED or path in refused.value.details()


def test_a_method_that_does_not_exist(leader: Caller) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        leader.bytes("/tikvpb.Tikv/Nonsense", b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("port", ["--addr", "--peer-addr", "--status-addr"])
@pytest.mark.parametrize(
    "garbage", [*GARBAGE, b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99]
)
def test_garbage_on_every_port(cluster: Cluster, port: str, garbage: bytes) -> None:
    for process in cluster.processes:
        if port in process.options:
            tell(process.options[port], garbage)


def greeting(cluster_id: int, store_id: int) -> bytes:
    return framed(cluster_id.to_bytes(8, "big") + store_id.to_bytes(8, "big"))


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def test_messages_of_unknown_peers_on_the_peer_port(cluster: Cluster) -> None:
    mine, store = int(cluster.scheduler.facts["cluster"]), cluster.leader()
    store_id = int(store.facts["store"])
    address = store.options["--peer-addr"]
    for data, said in (
        (greeting(mine + 1, store_id), f"not store {store_id} of cluster {mine + 1}"),
        (greeting(mine, 999), "not store 999"),
        (framed(b"hello?"), "does not begin with a greeting"),
        ((1 << 31).to_bytes(4, "big") + b"x", "sends a frame of 2147483648 bytes"),
        (greeting(mine, store_id) + framed(b"\xff" * 20), "could not be handled"),
        (greeting(mine, store_id) + framed(b"\x91\x98\x01\x02\x03\x04\x05\x06\x07\x08"), "could not be handled"),
    ):
        tell(address, data)
        assert said in store.log
    tell(address, greeting(mine, store_id) + framed(b"\x90") + b"\x00\x00")


def test_a_snapshot_of_an_unknown_peer(cluster: Cluster) -> None:
    mine, store = int(cluster.scheduler.facts["cluster"]), cluster.stores[0]
    hello = greeting(mine, int(store.facts["store"]))[4:]
    path = "/pytinykv.StoreTransport/Snapshot"
    with grpc.insecure_channel(store.address) as channel:
        for chunks, code in (
            ([b"hello?"], grpc.StatusCode.FAILED_PRECONDITION),
            ([greeting(mine + 1, 1)[4:]], grpc.StatusCode.FAILED_PRECONDITION),
            ([hello], grpc.StatusCode.INVALID_ARGUMENT),
            ([hello, b"\xff" * 30], grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                channel.stream_unary(path)(iter(chunks), timeout=20.0)
            assert refused.value.code() is code
            assert refused.value.details()


def test_pages_that_do_not_exist(cluster: Cluster) -> None:
    assert cluster.stores[0].page("/nonsense") is None
    assert b"ok" in (cluster.stores[0].page("/healthz") or b"")
