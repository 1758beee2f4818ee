"""A client while no scheduler answers: it goes by what it has known and by what stores say."""

from __future__ import annotations

import asyncio

from tests.client.fake_cluster import FakeCluster

from pytinykv.client import AsyncClient
from pytinykv.client.route import Destination
from pytinykv.client.router import OUTAGE_S, OUTAGE_WAIT_S
from pytinykv.wire import errors as wire

KEYS = (b"a", b"k", b"z")
"""One in each of the three regions."""


async def test_leaders_that_moved_are_found_without_waiting_for_the_scheduler_each_time(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    """Callers take turns in asking the scheduler; each used to wait for it, one after the other."""
    await client.raw.batch_put(dict.fromkeys(KEYS, b"1"))
    cluster.down.add(cluster.scheduler_address)
    loop = asyncio.get_running_loop()
    for round_ in range(4):
        for store in cluster.stores.values():
            store.script.extend([wire.NotLeader(region_id=1)] * 2)
        since = loop.time()
        await asyncio.gather(*(client.raw.put(key, b"%d" % round_) for key in KEYS))
        assert loop.time() - since < OUTAGE_WAIT_S + 0.3, f"round {round_}"
    assert {key: cluster.data[""][key] for key in KEYS} == dict.fromkeys(KEYS, b"3")


async def test_the_scheduler_is_asked_again_after_a_while(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.put(b"k", b"1")
    cluster.down.add(cluster.scheduler_address)
    cluster.stores[2].script.append(wire.NotLeader(region_id=1))
    await client.raw.put(b"k", b"2")
    cluster.down.clear()
    await asyncio.sleep(OUTAGE_S)
    cluster.stores[2].script.append(wire.NotLeader(region_id=1))
    asked = len(cluster.schedulers[0].seen)
    await client.raw.put(b"k", b"3")
    assert len(cluster.schedulers[0].seen) > asked


async def test_neighbours_that_a_store_names_leave_no_gap(client: AsyncClient, cluster: FakeCluster) -> None:
    """[g, p) was split, and of [, g) only the right part is told with it: the left one must not be forgotten for that."""
    await client.raw.batch_put(dict.fromkeys(KEYS, b"1"))
    router = client.executor.router
    asked = router.regions.find(Destination(b"k"))
    assert asked is not None
    neighbour, left, right = (cluster.region_of(key).meta() for key in (b"a", b"k", b"k"))
    neighbour.start_key, neighbour.region_epoch.version = b"c", asked.region.epoch.version + 1
    left.id, left.end_key, right.start_key = 999, b"k5", b"k5"
    left.region_epoch.version = right.region_epoch.version = asked.region.epoch.version + 1
    router.learn(asked, wire.EpochNotMatch(current_regions=[right, left, neighbour]))
    covered = [(route.start, route.end) for route in router.regions]
    assert covered == [(b"", b"g"), (b"g", b"k5"), (b"k5", b"p"), (b"p", b"")]
