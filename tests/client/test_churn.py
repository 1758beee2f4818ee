"""The client against a dictionary while regions split, merge and change leaders, and stores refuse at random."""

from __future__ import annotations

import asyncio
import inspect
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.client.fake_cluster import QUICK, FakeCluster, FakeConnector

from pytinykv.client import AsyncClient, ClientConfig, ClientError, InvalidArgumentError
from pytinykv.client import errors as client_errors
from pytinykv.lifecycle import Scope
from pytinykv.wire import errors as wire

REFUSALS = [
    wire.NotLeader(region_id=1),
    wire.EpochNotMatch(),
    wire.RegionNotFound(region_id=1),
    wire.ServerIsBusy(reason="busy", backoff_ms=1),
    wire.ReadIndexNotReady(region_id=1, reason="new"),
]
KEYS = [bytes([letter, digit]) for letter in b"abcdef" for digit in b"0123"]


def disturb(cluster: FakeCluster, connector: FakeConnector, rng: Random) -> None:
    """Change something about the cluster that must not show in any result."""
    key = rng.choice(KEYS)
    match rng.randrange(6):
        case 0 if cluster.region_of(key).start != key:
            cluster.split(key)
        case 1 if cluster.region_of(key).end:
            cluster.merge(key)
        case 2 | 3:
            cluster.region_of(key).leader = rng.choice(sorted(cluster.stores))
        case 4:
            rng.choice(list(cluster.stores.values())).script.append(rng.choice(REFUSALS))
        case 5:
            store = rng.choice(sorted(cluster.addresses))
            connector.break_streams(cluster.addresses[store])
            cluster.addresses[store] = f"store-{store}:{rng.randrange(1000, 9999)}"


async def step(client: AsyncClient, model: dict[bytes, bytes], rng: Random) -> None:
    """Do one random operation and compare it with the model."""
    key, some = rng.choice(KEYS), rng.sample(KEYS, rng.randint(1, 8))
    low, high = sorted(rng.sample(KEYS, 2))
    value = b"%d" % rng.randrange(1000)
    match rng.randrange(9):
        case 0:
            await client.raw.put(key, value)
            model[key] = value
        case 1:
            await client.raw.delete(key)
            model.pop(key, None)
        case 2:
            await client.raw.batch_put(dict.fromkeys(some, value))
            model.update(dict.fromkeys(some, value))
        case 3:
            await client.raw.batch_delete(some)
            for each in some:
                model.pop(each, None)
        case 4:
            await client.raw.delete_range(low, high)
            for each in [each for each in model if low <= each < high]:
                del model[each]
        case 5:
            assert await client.raw.compare_and_swap(key, model.get(key), value) == (True, model.get(key))
            model[key] = value
        case 6:
            assert await client.raw.batch_get(some) == {each: model[each] for each in sorted(some) if each in model}
        case 7:
            reverse = rng.random() < 0.5
            expected = sorted((each for each in model.items() if low <= each[0] < high), reverse=reverse)
            assert [pair async for pair in client.raw.scan(low, high, reverse=reverse)] == expected
        case 8:
            assert await client.raw.get(key) == model.get(key)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32))
async def test_no_churn_shows_in_any_result(seed: int) -> None:
    """Every operation has exactly its effect, once, whatever the cluster does meanwhile."""
    rng = Random(seed)
    cluster = FakeCluster(splits=[b"c"])
    scope = Scope("churn")
    connector = cluster.connector(scope)
    client = AsyncClient(cluster.scheduler_address, connector=connector, rng=Random(seed), scope=scope, config=QUICK)
    model: dict[bytes, bytes] = {}
    async with client:
        for _ in range(40):
            for _ in range(rng.randrange(3)):
                disturb(cluster, connector, rng)
            for _ in range(5):
                await asyncio.sleep(0)  # the client notices that streams broke
            await step(client, model, rng)
            assert cluster.data[""] == model


def test_every_error_says_of_itself_what_may_be_done() -> None:
    kinds = inspect.getmembers(client_errors, lambda value: inspect.isclass(value) and issubclass(value, ClientError))
    assert len(kinds) > 10
    for name, kind in kinds:
        assert not (kind.retryable and kind.undetermined), f"{name} can't be both"
        assert f" {name}" in (client_errors.__doc__ or ""), f"{name} is missing in the tree"
    assert client_errors.CutOffWriteError.undetermined


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"timeout_s": 0}, "client setting timeout_s must be positive and finite, is 0"),
        ({"timeout_s": float("nan")}, "client setting timeout_s must be positive and finite, is nan"),
        ({"timeout_s": float("inf")}, "client setting timeout_s must be positive and finite, is inf"),
        ({"in_flight_max": -1}, "client setting in_flight_max must be positive"),
        ({"scan_page_rows_max": 10_241}, "scan_page_rows_max must be at most 10240, is 10241"),
        ({"backoff_min_s": 2.0}, r"backoff_min_s \(2.0\) must not exceed backoff_max_s \(0.5\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, float], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        ClientConfig(**setting).validate()  # type: ignore[arg-type]
