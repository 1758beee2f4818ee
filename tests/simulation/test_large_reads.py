"""Our client reads what is too much for one answer of a store: it asks for less until it gets all."""

from __future__ import annotations

import pytest

from pytinykv.server.kv import reads
from pytinykv.simulation.cluster import Cluster, ClusterOptions
from pytinykv.simulation.scenario import run_world
from pytinykv.simulation.world import World

SMALL = {b"a%04d" % number: b"v" for number in range(300)}
LARGE = {b"b%04d" % number: b"x" * 2000 for number in range(60)}


def test_values_that_become_large_are_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may have 20 kB, so ten of the large values are too much, and the client expects small ones at first."""
    monkeypatch.setattr(reads, "ANSWER_BYTES_MAX", 20_000)
    refused = []
    check_size = reads._check_size

    def count(size_bytes: int) -> None:
        try:
            check_size(size_bytes)
        except reads.AnswerTooLargeError:
            refused.append(size_bytes)
            raise

    monkeypatch.setattr(reads, "_check_size", count)

    async def history(world: World) -> None:
        cluster = Cluster(world, ClusterOptions(stores=3, clients=1))
        try:
            await cluster.start()
            client = cluster.clients[0].client
            assert client is not None
            await client.raw.batch_put(SMALL | LARGE)
            everything = sorted((SMALL | LARGE).items())
            assert [pair async for pair in client.raw.scan()] == everything
            assert [pair async for pair in client.raw.scan(reverse=True)] == everything[::-1]
            assert await client.raw.batch_get(SMALL) == SMALL
            assert await client.raw.batch_get(LARGE) == LARGE
            await cluster.stop()
        except BaseException:
            cluster.abandon()
            raise

    run_world(1, history)
    assert len(refused) >= 2
