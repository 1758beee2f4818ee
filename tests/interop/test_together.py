"""Several clients on one cluster see each other's writes; and what is particular to gRPC clients in general."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest
import tikv
from tests.interop.test_tikv_client import run
from tests.process.cluster import Cluster

import pytinykv
from pytinykv.client.errors import EntryTooLargeError, InvalidArgumentError, TransactionRefusedError
from pytinykv.wire.pb import pdpb_pb2

MIB: Final = 1 << 20
CALL_S: Final = 20.0


def test_tikv_python_and_ours_see_each_other(cluster: Cluster) -> None:
    with tikv.RawClient([cluster.address]) as theirs, pytinykv.connect(cluster.address) as ours:
        ours.raw.put(b"both/ours", b"from ours", ttl=3600)
        theirs.put(b"both/theirs", b"from theirs")
        assert ours.raw.get(b"both/theirs") == b"from theirs"
        assert theirs.get(b"both/ours") == b"from ours"
        assert 3500 < (theirs.ttl(b"both/ours") or 0) <= 3600
        pairs = [(b"both/ours", b"from ours"), (b"both/theirs", b"from theirs")]
        assert list(ours.raw.scan(b"both/", b"both0")) == list(theirs.scan(prefix=b"both/")) == pairs
        assert tuple(theirs.checksum(prefix=b"both/"))[1] == 2


def test_they_swap_against_each_other(cluster: Cluster) -> None:
    with tikv.RawClient([cluster.address], atomic=True) as theirs, pytinykv.connect(cluster.address) as ours:
        assert ours.raw.compare_and_swap(b"cas", None, b"0").swapped
        for number in range(0, 100, 2):
            assert theirs.compare_and_swap(b"cas", b"%d" % number, b"%d" % (number + 1)).swapped
            assert ours.raw.compare_and_swap(b"cas", b"%d" % (number + 1), b"%d" % (number + 2)).swapped
        assert not theirs.compare_and_swap(b"cas", b"0", b"1").swapped
        assert ours.raw.get(b"cas") == b"100"


def test_tikv_client_and_the_others_see_each_other(cluster: Cluster, tmp_path: Path) -> None:
    pytest.importorskip("tikv_client", reason="its last wheels are for CPython 3.11")
    with tikv.RawClient([cluster.address]) as theirs, pytinykv.connect(cluster.address) as ours:
        ours.raw.put(b"shared/ours", b"from ours")
        theirs.put(b"shared/tikv-python", b"from tikv-python")
        shown = run(cluster, "shared", tmp_path)
        assert shown["sees"] == [["shared/ours", "from ours"], ["shared/tikv-python", "from tikv-python"]]
        assert ours.raw.get(b"shared/tikv-client") == theirs.get(b"shared/tikv-client") == b"from tikv-client"


def test_values_of_more_than_4_mib(cluster: Cluster) -> None:
    value = bytes(range(256)) * (5 * MIB // 256)
    with tikv.RawClient([cluster.address]) as theirs, pytinykv.connect(cluster.address) as ours:
        theirs.put(b"large/theirs", value)
        ours.raw.put(b"large/ours", value)
        assert ours.raw.get(b"large/theirs") == theirs.get(b"large/ours") == value
        assert [len(found) for _, found in ours.raw.scan(b"large/", b"large0")] == [5 * MIB, 5 * MIB]
        with pytest.raises((EntryTooLargeError, InvalidArgumentError)):
            ours.raw.put(b"large/too", b"x" * (9 * MIB))
        ours.raw.delete_range(b"large/", b"large0")


def test_a_client_that_pings_a_quiet_connection_keeps_it(cluster: Cluster) -> None:
    """A gRPC server with default settings sends such a client away at the fifth ping: GOAWAY, too_many_pings."""
    for process in cluster.processes:
        assert answered_pings(process.address, 20) == 20


def answered_pings(address: str, count: int) -> int:
    """Speak HTTP/2 and do nothing but ping; return how many pings were answered before the server had enough."""
    settings, ping, goaway, acknowledgement = 4, 6, 7, 1

    def frame(kind: int, flags: int = 0, body: bytes = b"") -> bytes:
        return len(body).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + body

    with socket.create_connection(tuple_of(address), CALL_S) as connection, connection.makefile("rb") as answers:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings) + frame(settings, acknowledgement))
        answered = 0
        connection.sendall(frame(ping, 0, bytes(8)))
        while answered < count:
            header = answers.read(9)
            answers.read(int.from_bytes(header[:3], "big"))
            if len(header) < 9 or header[3] == goaway:
                break
            if header[3] == ping and header[4] == acknowledgement:
                answered += 1
                connection.sendall(frame(ping, 0, bytes(8)))
        return answered


def test_a_ping_during_a_stream_is_answered(cluster: Cluster) -> None:
    options = [("grpc.keepalive_time_ms", 100), ("grpc.keepalive_timeout_ms", 10_000)]
    with grpc.insecure_channel(cluster.address, options=options) as channel:
        tso = channel.stream_stream(
            "/pdpb.PD/Tso",
            request_serializer=pdpb_pb2.TsoRequest.SerializeToString,
            response_deserializer=pdpb_pb2.TsoResponse.FromString,
        )

        request = pdpb_pb2.TsoRequest(count=1, header={"cluster_id": int(cluster.scheduler.facts["cluster"])})

        def requests() -> Iterator[pdpb_pb2.TsoRequest]:
            yield request
            time.sleep(1.5)
            yield request

        answers = [answer.timestamp for answer in tso(requests(), timeout=CALL_S)]
        first, second = [(timestamp.physical, timestamp.logical) for timestamp in answers]
        assert first < second


def test_a_connection_that_sends_nothing_disturbs_no_other(cluster: Cluster) -> None:
    silent = [socket.create_connection(tuple_of(process.address)) for process in cluster.processes]
    try:
        with tikv.RawClient([cluster.address]) as theirs:
            theirs.put(b"beside", b"v")
            assert theirs.get(b"beside") == b"v"
    finally:
        for connection in silent:
            connection.close()


def tuple_of(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_on_a_cluster_with_plain_bounds_no_transaction_leaves_anything(fresh_cluster: Cluster, tmp_path: Path) -> None:
    """Ours says why. tikv-client can't read the bounds: it calls an optimistic commit a success, and sends nothing."""

    async def split_at_raw_keys() -> None:
        async with pytinykv.aio.connect(fresh_cluster.address) as db:
            await db.raw.put(b"k05", b"v")
            while (await db.scheduler.split_regions([b"k05", b"k10"])).finished_percentage < 100:
                await asyncio.sleep(0.05)

    pytest.importorskip("tikv_client", reason="its last wheels are for CPython 3.11")
    asyncio.run(split_at_raw_keys())
    shown = run(fresh_cluster, "plain_bounds", tmp_path)
    assert shown["optimistic"] == ""
    assert "unexpected EOF" in shown["pessimistic"]
    assert "unexpected EOF" in shown["read"]

    async def look() -> None:
        async with pytinykv.aio.connect(fresh_cluster.address) as db:
            for key in (b"a", b"k07", b"z"):
                txn = await db.transaction()
                await txn.put(key, b"1")
                with pytest.raises(TransactionRefusedError, match="was split at raw keys before it saw a transaction"):
                    await txn.commit()
                history = await db.inspector.history(key)
                assert (history.lock, list(history.versions)) == (None, [])

    asyncio.run(look())
