"""What becomes of commands when connections break, stall, fill up or close."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec
import pytest
from tests.client.fake_cluster import FakeCluster, FakeConnector, FakeStore

from pytinykv.client import (
    AsyncClient,
    ClientClosedError,
    CutOffWriteError,
    DeadlineExceededError,
    SchedulerUnavailableError,
    StoreError,
    UndeterminedError,
    UnsupportedError,
)
from pytinykv.client.raw_commands import RawGet, RawTtl
from pytinykv.client.route import Route
from pytinykv.lifecycle import Scope
from pytinykv.wire import RpcError, StatusCode
from pytinykv.wire.cut_streams import stream_cut
from pytinykv.wire.pb import tikvpb_pb2

STORE = 2  # leads [g, p)
ADDRESS = "store-2:20160"


async def started(coroutine: Any, scope: Scope, cluster: FakeCluster, commands: int = 1) -> Any:
    """Start a call and wait until its command has reached the store."""
    before = len(cluster.commands())
    task = scope.start("call", _give, coroutine)
    async with asyncio.timeout(2):
        while len(cluster.commands()) < before + commands:
            await asyncio.sleep(0)
    return task


async def _give(coroutine: Any) -> tuple[Any, BaseException | None]:
    try:
        return await coroutine, None
    except Exception as error:  # noqa: BLE001 - it is what the test asks for
        return None, error


async def test_a_write_whose_answer_got_lost_is_undetermined(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    cluster.stores[STORE].script.append("execute and lose")
    task = await started(client.raw.put(b"k", b"v"), scope, cluster)
    connector.break_streams(ADDRESS)
    _, error = await task.wait()
    assert type(error) is UndeterminedError
    assert "put b'k': connection lost after it was sent" in str(error)
    assert cluster.stores[STORE].seen == ["RawPut"]
    assert await client.raw.get(b"k") == b"v"


async def test_what_a_stopping_store_has_not_read_goes_to_the_next_leader(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    """A rolling restart made a few puts of unknown fate at every store: those that were on their way when it stopped."""
    await client.raw.put(b"k", b"0")
    [stream] = [stream for stream in connector.streams if stream.address == ADDRESS]
    read = stream.sent
    cluster.stores[STORE].script.append("execute and lose")
    doubtful = await started(client.raw.put(b"k", b"1"), scope, cluster)
    cluster.stores[STORE].silent = True  # what comes now is left unread
    unread = [scope.start("put", _give, client.raw.put(b"k%d" % number, b"2")) for number in range(3)]
    while stream.sent < read + 2:
        await asyncio.sleep(0)
    cluster.down.add(ADDRESS)
    cluster.region_of(b"k").leader = 3
    stream.fail(stream_cut("the store is stopping", read + 1))
    assert [await task.wait() for task in unread] == [(None, None)] * 3
    _, error = await doubtful.wait()
    assert type(error) is UndeterminedError
    assert {cluster.data[""][b"k%d" % number] for number in range(3)} == {b"2"}


async def test_a_stopping_store_that_has_read_nothing_but_the_probe_leaves_nothing_in_doubt(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    await client.raw.put(b"k", b"0")
    [stream] = [stream for stream in connector.streams if stream.address == ADDRESS]
    read = stream.sent
    cluster.stores[STORE].silent = True
    unread = scope.start("put", _give, client.raw.put(b"k", b"2"))
    while stream.sent < read + 1:
        await asyncio.sleep(0)
    cluster.down.add(ADDRESS)
    cluster.region_of(b"k").leader = 3
    stream.fail(stream_cut("the store is stopping", read))
    assert await unread.wait() == (None, None)


async def test_a_read_whose_answer_got_lost_is_repeated(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    cluster.data[""][b"k"] = b"v"
    cluster.stores[STORE].script.append("lose")
    task = await started(client.raw.get(b"k"), scope, cluster)
    connector.break_streams(ADDRESS)
    assert await task.wait() == (b"v", None)


async def test_a_write_to_a_dead_store_was_never_sent_and_goes_to_the_next_leader(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector
) -> None:
    await client.raw.put(b"k", b"1")
    cluster.down.add(ADDRESS)
    connector.break_streams(ADDRESS)
    cluster.region_of(b"k").leader = 0
    asyncio.get_running_loop().call_later(0.02, setattr, cluster.region_of(b"k"), "leader", 3)
    await client.raw.put(b"k", b"2")
    await client.raw.batch_put({b"k": b"3"})
    assert (await client.raw.compare_and_swap(b"k", b"3", b"4")).swapped
    assert cluster.data[""] == {b"k": b"4"}
    assert cluster.stores[STORE].seen == ["RawPut"]


async def test_another_peer_is_tried_while_the_scheduler_still_names_the_dead_leader(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector
) -> None:
    import copy

    await client.raw.put(b"k", b"1")
    cluster.scheduler_sees = copy.deepcopy(cluster.regions)
    cluster.down.add(ADDRESS)
    connector.break_streams(ADDRESS)
    cluster.region_of(b"k").leader = 3
    await client.raw.put(b"k", b"2")
    assert cluster.data[""] == {b"k": b"2"}


async def test_a_new_leader_is_found_even_while_no_scheduler_answers(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector
) -> None:
    await client.raw.batch_put({b"a": b"1", b"k": b"1", b"z": b"1"})
    cluster.down.update([cluster.scheduler_address, ADDRESS])
    connector.break_streams(ADDRESS)
    cluster.region_of(b"k").leader = 0
    asyncio.get_running_loop().call_later(0.02, setattr, cluster.region_of(b"k"), "leader", 3)
    await client.raw.put(b"k", b"2")
    assert cluster.data[""][b"k"] == b"2"


async def test_without_a_scheduler_an_unknown_region_is_an_error_that_says_so(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    await client.open()
    cluster.down.add(cluster.scheduler_address)
    with pytest.raises(SchedulerUnavailableError, match="put b'k' was not executed: no scheduler answered in time"):
        await client.raw.put(b"k", b"2", timeout=0.05)


async def test_a_store_that_comes_back_elsewhere_is_found(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector
) -> None:
    await client.raw.put(b"k", b"1")
    cluster.down.add(ADDRESS)
    connector.break_streams(ADDRESS)
    cluster.addresses[STORE] = "store-2:9999"
    await client.raw.put(b"k", b"2")
    assert cluster.data[""] == {b"k": b"2"}


async def test_another_store_at_the_address_is_noticed(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.put(b"k", b"1")
    await client.raw.put(b"a", b"1")
    cluster.addresses[1], cluster.addresses[2] = cluster.addresses[2], cluster.addresses[1]
    await client.raw.put(b"k", b"2")
    await client.raw.put(b"a", b"2")
    assert cluster.data[""] == {b"k": b"2", b"a": b"2"}


async def test_the_stream_to_a_store_whose_host_serves_a_new_one_ends(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector
) -> None:
    """Store 2 leaves the cluster, and its machine comes back with an empty disk, as store 9."""
    await client.raw.put(b"k", b"1")
    del cluster.addresses[STORE]
    cluster.stores[9], cluster.addresses[9] = FakeStore(cluster, 9), ADDRESS
    connector.break_streams(ADDRESS)
    while client.executor.router.stores[STORE]._stream is not None:
        await asyncio.sleep(0)
    region = cluster.region_of(b"k")
    region.peers[9] = cluster.new_id()
    region.leader = 3
    await client.raw.put(b"k", b"2")  # to the address of old: the new store answers that it is another one
    assert cluster.stores[9].seen == ["RawPut"]
    region.leader = 9
    await client.raw.put(b"k", b"3")
    assert cluster.data[""] == {b"k": b"3"}
    _, former, present = [stream for stream in connector.streams if stream.address == ADDRESS]
    assert former.error is not None
    assert present.error is None


async def test_what_is_on_its_way_to_a_store_that_has_left_is_still_answered(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    await client.raw.put(b"k", b"1")
    [stream] = [stream for stream in connector.streams if stream.address == ADDRESS]
    before = stream.sent
    cluster.stores[STORE].open.clear()
    task = scope.start("put", _give, client.raw.put(b"k", b"2"))
    while stream.sent == before:
        await asyncio.sleep(0)
    del cluster.addresses[STORE]
    await client.raw.put(b"a", b"1")  # asks where the stores are, for one that is not known
    assert stream.error is None
    cluster.stores[STORE].open.set()
    assert await task.wait() == (None, None)
    await asyncio.sleep(0)
    assert stream.error is not None


async def test_a_retired_connection_takes_no_command_and_ends_once_the_last_has_expired(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    await client.raw.put(b"k", b"1")
    store = client.executor.router.stores[STORE]
    cluster.stores[STORE].script.append("lose")
    task = await started(client.raw.put(b"k", b"2", timeout=0.05), scope, cluster)
    store.retire()
    [stream] = [stream for stream in connector.streams if stream.address == ADDRESS]
    assert stream.error is None
    before = len(cluster.commands())
    framed, unary = RawGet(b"k", ""), RawTtl(b"k", "")
    route = framed.locate(client.executor.router.regions)
    assert route is not None
    refused = f"not sent: store 2 is not at {ADDRESS} any more"
    assert repr(await store.submit(framed, route, math.inf)) == refused
    assert repr(await store.call(unary, route, math.inf)) == refused
    assert len(cluster.commands()) == before
    _, error = await task.wait()
    assert type(error) is UndeterminedError
    assert stream.error is not None


async def test_a_write_without_an_answer_is_undetermined_at_its_deadline(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.stores[STORE].open.clear()
    with pytest.raises(UndeterminedError, match="put b'k': no answer in time"):
        await client.raw.put(b"k", b"v", timeout=0.03)
    with pytest.raises(UndeterminedError, match="compare_and_swap b'k': no answer in time"):
        await client.raw.compare_and_swap(b"k", None, b"v", timeout=0.03)
    cluster.stores[STORE].open.set()


async def test_a_read_without_an_answer_ends_at_its_deadline(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.stores[STORE].open.clear()
    with pytest.raises(DeadlineExceededError, match="get b'k' ran out of time: there is no answer"):
        await client.raw.get(b"k", timeout=0.03)
    with pytest.raises(DeadlineExceededError):
        await client.raw.ttl(b"k", timeout=0.03)
    with pytest.raises(DeadlineExceededError):
        await client.raw.batch_get([b"a", b"k"], timeout=0.03)
    cluster.stores[STORE].open.set()


async def test_deadlines_of_one_store_expire_one_by_one(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.stores[STORE].open.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def expiry(timeout: float) -> float:
        with pytest.raises(UndeterminedError):
            await client.raw.put(b"k", b"v", timeout=timeout)
        return loop.time() - began

    took = await asyncio.gather(expiry(0.09), expiry(0.03), expiry(0.06))
    assert sorted(took) == [took[1], took[2], took[0]]
    cluster.stores[STORE].open.set()


async def test_a_silent_leader_is_left_for_its_successor(
    client: AsyncClient, cluster: FakeCluster, scope: Scope
) -> None:
    await client.raw.put(b"k", b"1")
    cluster.stores[STORE].silent = True
    cluster.region_of(b"k").leader = 3
    assert await client.raw.get(b"k") == b"1"  # asks elsewhere once the attempt has taken too long
    await client.raw.put(b"k", b"2")
    assert cluster.data[""] == {b"k": b"2"}


async def test_a_silent_store_gets_no_more_writes_until_it_answers(client: AsyncClient, cluster: FakeCluster) -> None:
    await client.raw.put(b"k", b"1")
    cluster.stores[STORE].silent = True
    with pytest.raises(UndeterminedError):
        await client.raw.put(b"k", b"2", timeout=0.1)
    with pytest.raises(DeadlineExceededError, match="it was not executed"):
        await client.raw.put(b"k", b"3", timeout=0.05)
    cluster.stores[STORE].silent = False
    await client.raw.put(b"k", b"4")
    assert cluster.data[""] == {b"k": b"4"}


async def test_a_slow_command_on_a_lively_store_is_no_silence(
    client: AsyncClient, cluster: FakeCluster, scope: Scope
) -> None:
    cluster.stores[STORE].script.append("lose")
    slow = await started(client.raw.put(b"k", b"1", timeout=0.3), scope, cluster)
    async with asyncio.timeout(2):
        while not slow.done:
            await client.raw.put(b"l", b"2")  # never refused
            await asyncio.sleep(0.01)
    assert type((await slow.wait())[1]) is UndeterminedError


async def test_a_transport_that_takes_no_more_keeps_commands_in_the_client(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    await client.raw.get(b"k")
    stream = next(stream for stream in connector.streams if stream.address == ADDRESS)
    cluster.stores[STORE].open.clear()
    first = await _queued(client.raw.put(b"k", b"1"), scope)
    stream.full = True
    second = await _queued(client.raw.put(b"l", b"2"), scope)
    stream.full = False
    cluster.stores[STORE].open.set()
    assert (await first.wait())[1] is None
    assert (await second.wait())[1] is None
    assert cluster.data[""] == {b"k": b"1", b"l": b"2"}


async def test_commands_gather_into_one_frame_while_the_transport_is_busy(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    await client.raw.get(b"k")
    stream = next(stream for stream in connector.streams if stream.address == ADDRESS)
    sent: list[int] = []
    send_nowait = stream.send_nowait

    def send_and_count(message: bytes) -> None:
        sent.append(len(tikvpb_pb2.BatchCommandsRequest.FromString(message).requests))
        send_nowait(message)

    stream.send_nowait = send_and_count  # type: ignore[method-assign]
    stream.slow = True
    calls = [await _queued(client.raw.put(b"k%d" % number, b"v"), scope) for number in range(5)]
    assert sent == []
    stream.slow = False
    assert stream.when_drained is not None
    stream.when_drained()
    for call in calls:
        assert (await call.wait())[1] is None
    assert sent == [5]


class PatientGet(RawGet):
    """A command for whose answer no caller waits."""

    __slots__ = ()
    is_patient = True


@pytest.mark.parametrize("has_company", [True, False])
async def test_what_no_caller_waits_for_goes_with_the_next_frame(
    client: AsyncClient, cluster: FakeCluster, scope: Scope, monkeypatch: pytest.MonkeyPatch, has_company: bool
) -> None:
    monkeypatch.setattr("pytinykv.client.store_connection.COMPANY_WAIT_MAX_S", 3600.0)
    await client.raw.put(b"k", b"v")
    store = client.executor.router.stores[STORE]
    store._answer_s = 3600.0 if has_company else 0.001
    stream, sizes = store._stream, list[int]()
    assert stream is not None
    send = stream.send_nowait

    def send_and_count(message: bytes) -> None:
        sizes.append(len(tikvpb_pb2.BatchCommandsRequest.FromString(message).requests))
        send(message)

    stream.send_nowait = send_and_count  # type: ignore[method-assign]
    store._had_company = True
    patient = PatientGet(b"k", "")
    route = patient.locate(client.executor.router.regions)
    assert route is not None
    answer = store.submit(patient, route, math.inf)
    for _ in range(5):
        await asyncio.sleep(0)
    assert sizes == []
    if has_company:
        assert await client.raw.get(b"k") == b"v"
    assert patient.decode(client.executor.response_of(patient, await answer)) == b"v"
    assert sizes == [2 if has_company else 1]
    assert store._late_flush is None


async def test_what_no_caller_waits_for_does_not_hold_up_what_came_before(
    client: AsyncClient, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytinykv.client.store_connection.COMPANY_WAIT_MAX_S", 3600.0)
    await client.raw.put(b"k", b"v")
    store = client.executor.router.stores[STORE]
    store._answer_s = 3600.0
    store._config = msgspec.structs.replace(store._config, in_flight_max=1)
    route = RawGet(b"k", "").locate(client.executor.router.regions)
    assert route is not None
    cluster.stores[STORE].open.clear()
    sent = store.submit(RawGet(b"k", ""), route, math.inf)
    waiting = store.submit(RawGet(b"k", ""), route, math.inf)
    await asyncio.sleep(0)
    assert (store.in_flight, len(store._sent)) == (2, 1)
    patient = store.submit(PatientGet(b"k", ""), route, math.inf)
    cluster.stores[STORE].open.set()
    async with asyncio.timeout(20):
        await asyncio.gather(sent, waiting, patient)


async def test_a_command_that_can_not_be_encoded_fails_alone(client: AsyncClient, cluster: FakeCluster) -> None:
    class Broken(RawGet):
        def encode(self, route: Route) -> bytes:
            raise ValueError("a number that no field has room for")

    await client.raw.put(b"k", b"v")
    deadline = client.executor.deadline(1.0)
    outcomes = await asyncio.wait_for(
        asyncio.gather(
            client.raw.get(b"k"),
            client.executor.execute(Broken(b"k", ""), deadline),
            client.raw.get(b"k"),
            return_exceptions=True,
        ),
        20,
    )
    assert outcomes[::2] == [b"v", b"v"]
    assert isinstance(outcomes[1], ValueError)


async def test_what_no_caller_waits_for_goes_at_once_where_no_company_is_to_be_expected(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    await client.raw.put(b"k", b"v")
    patient = PatientGet(b"k", "")
    route = patient.locate(client.executor.router.regions)
    assert route is not None
    store = client.executor.router.stores[STORE]
    store._answer_s = 3600.0
    await store.submit(patient, route, math.inf)
    assert store._late_flush is None


@pytest.mark.parametrize(
    ("calls", "write", "frames"),
    [
        (1, False, [1]),
        (32, False, [32]),
        (64, False, [32, 32]),
        (200, False, [100, 100]),
        (600, False, [256, 256, 88]),
        (64, True, [64]),
        (200, True, [200]),
        (300, True, [256, 44]),
    ],
)
async def test_what_is_under_way_travels_as_two_groups_unless_they_would_be_small(
    client: AsyncClient, cluster: FakeCluster, scope: Scope, calls: int, write: bool, frames: list[int]
) -> None:
    """As one group, all commands waited for each of client, leader and followers in turn, and half of two cores was idle."""
    await client.raw.put(b"k", b"v")
    stream = client.executor.router.stores[STORE]._stream
    assert stream is not None
    sizes: list[int] = []
    send = stream.send_nowait

    def send_and_count(message: bytes) -> None:
        sizes.append(len(tikvpb_pb2.BatchCommandsRequest.FromString(message).requests))
        send(message)

    stream.send_nowait = send_and_count  # type: ignore[method-assign]
    tasks = [
        scope.start("call", _give, client.raw.put(b"k", b"w") if write else client.raw.get(b"k")) for _ in range(calls)
    ]
    for task in tasks:
        await task.wait()
    assert sizes == frames


async def _queued(coroutine: Any, scope: Scope) -> Any:
    task = scope.start("call", _give, coroutine)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_a_refused_unary_call_is_final(client: AsyncClient, cluster: FakeCluster) -> None:
    cluster.stores[STORE].script.append(RpcError(StatusCode.UNIMPLEMENTED, "unknown method"))
    with pytest.raises(UnsupportedError, match="compare_and_swap b'k'.*UNIMPLEMENTED.*nothing was changed"):
        await client.raw.compare_and_swap(b"k", None, b"v")
    cluster.stores[STORE].script.append(RpcError(StatusCode.INVALID_ARGUMENT, "no"))
    with pytest.raises(StoreError):
        await client.raw.ttl(b"k")


async def test_a_broken_unary_write_is_undetermined_and_a_read_is_repeated(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.stores[STORE].script.append("execute and lose")
    with pytest.raises(UndeterminedError):
        await client.raw.compare_and_swap(b"k", None, b"v")
    cluster.stores[STORE].script.append("lose")
    assert await client.raw.ttl(b"k") == math.inf


async def test_a_cancelled_call_leaves_the_client_usable(
    client: AsyncClient, cluster: FakeCluster, scope: Scope
) -> None:
    cluster.stores[STORE].open.clear()
    task = await _queued(client.raw.put(b"k", b"1"), scope)
    task.cancel()
    cluster.stores[STORE].open.set()
    await client.raw.put(b"k", b"2")
    assert await client.raw.get(b"k") == b"2"


async def test_closing_resolves_every_pending_call(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    cluster.stores[STORE].open.clear()
    written = await started(client.raw.put(b"k", b"v"), scope, cluster, 0)
    read = await started(client.raw.get(b"k"), scope, cluster, 0)
    swap = await started(client.raw.compare_and_swap(b"k", None, b"v"), scope, cluster, 0)
    async with asyncio.timeout(2):
        while STORE not in client.executor.router.stores or not client.executor.router.stores[STORE]._sent:
            await asyncio.sleep(0)
    cluster.down.add(cluster.scheduler_address)
    lost = await started(client.raw.put(b"z", b"v"), scope, cluster, 0)
    for _ in range(10):
        await asyncio.sleep(0)
    report = await client.close()
    assert report.ok
    async with asyncio.timeout(2):
        errors = [(await task.wait())[1] for task in (written, read, swap, lost)]
    assert type(errors[0]) is CutOffWriteError
    assert type(errors[1]) is ClientClosedError
    assert type(errors[3]) is ClientClosedError
    assert isinstance(errors[2], ClientClosedError)
    cluster.stores[STORE].open.set()


async def test_a_closed_client_says_so(client: AsyncClient) -> None:
    await client.raw.put(b"k", b"v")
    await client.close()
    await client.close()
    for call in (client.raw.get(b"k"), client.raw.put(b"k", b"v"), client.raw.ttl(b"k"), client.open()):
        with pytest.raises(ClientClosedError):
            await call
    with pytest.raises(ClientClosedError):
        await client.raw.batch_put({b"k": b"v"})
    with pytest.raises(ClientClosedError):
        await anext(client.raw.scan())


async def test_a_client_never_closed_warns(cluster: FakeCluster, scope: Scope) -> None:
    from random import Random

    client = AsyncClient(cluster.scheduler_address, connector=cluster.connector(scope), rng=Random(0), scope=scope)
    with pytest.warns(ResourceWarning, match="was never closed"):
        client.__del__()
    await client.close()
