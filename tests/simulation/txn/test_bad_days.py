"""Transactions whose owner, scheduler or stores go away in the middle: nothing is lost, nothing half there, nobody hangs."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

import msgspec
import pytest
from tests.simulation.txn.txn_world import (
    ASYNC_COMMIT,
    TWO_PHASES,
    backend_of,
    client_of,
    end_background,
    get_all,
    locks_of,
    prewrite_only,
    put_all,
    tell,
)

from pytinykv.client import (
    AsyncClient,
    AsyncTransaction,
    ClientClosedError,
    ClientConfig,
    ClientError,
    DeadlineExceededError,
    SchedulerUnavailableError,
    TransactionAbortedError,
    TransactionClosedError,
    TransactionRefusedError,
    UndeterminedError,
    WriteConflictError,
)
from pytinykv.client.txn.commit_commands import CommitKeys, CommitPrimary, TxnPrewrite
from pytinykv.client.txn.committer import _Commit
from pytinykv.client.txn.records import Phase
from pytinykv.simulation.cluster import Cluster
from pytinykv.wire.errors import NotLeader

BOTH = pytest.mark.parametrize("config", [TWO_PHASES, ASYNC_COMMIT], ids=["two phases", "async commit"])


@BOTH
def test_the_next_reader_finishes_what_a_killed_client_has_committed(config: ClientConfig) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        other = client_of(cluster, 1)
        await put_all(client, a=1, b=1, y=1, z=1)
        end_background(other)
        await cluster.clients[1].spawn("commit", put_all(other, a=2, b=2, y=2, z=2))
        left = await locks_of(client)
        assert set(left) >= {b"y", b"z"}
        await cluster.clients[1].crash()
        assert await get_all(client) == {"a": 2, "b": 2, "y": 2, "z": 2}
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story, config=config)


@BOTH
@pytest.mark.parametrize("prewritten", [{b"a", b"z"}, {b"a"}, {b"z"}], ids=["all", "primary", "secondary"])
def test_what_a_killed_client_has_only_prewritten(config: ClientConfig, prewritten: set[bytes]) -> None:
    """A reader passes it where it can push its commit; otherwise it waits until the locks have run out. Then it is rolled
    back, or, if it was an asynchronous commit whose prewrites are all there, committed.
    """

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        other = client_of(cluster, 1)

        async def begin_to_commit() -> None:
            txn = await other.transaction()
            await txn.put(b"a", b"2")
            await txn.put(b"z", b"2")
            await prewrite_only(other, txn, prewritten)

        await cluster.clients[1].spawn("commit", begin_to_commit())
        await cluster.clients[1].crash()
        loop = asyncio.get_running_loop()
        began = loop.time()
        if b"a" in prewritten or config is TWO_PHASES:
            snapshot = await client.snapshot()
            seen = {key: await snapshot.get(key, timeout=8) for key in (b"a", b"z")}
            assert seen[b"a"] == seen[b"z"]
            can_be_pushed = config is TWO_PHASES and b"a" in prewritten
            assert (loop.time() - began < 0.5) is can_be_pushed
        is_committed = config is ASYNC_COMMIT and len(prewritten) == 2
        expected = {"a": 2, "z": 2} if is_committed else {"a": 1, "z": 1}
        await asyncio.sleep(4)
        assert await get_all(client) == expected
        await put_all(client, a=5, z=5)
        assert await get_all(client) == {"a": 5, "z": 5}
        assert loop.time() - began < 15
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story, config=config)


@BOTH
def test_secondaries_whose_first_commit_came_to_nothing_are_committed_again(config: ClientConfig) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        executor = client.executor
        right, refused = executor.response_of, list[bytes]()

        def response_of(command: Any, reply: Any) -> Any:
            if isinstance(command, CommitKeys) and command.key not in refused:
                refused.append(command.key)
                return NotLeader(region_id=0, message="for the test")
            return right(command, reply)

        executor.response_of = response_of  # type: ignore[method-assign]
        await put_all(client, a=2, z=2)
        assert await get_all(client) == {"a": 2, "z": 2}
        await asyncio.sleep(1)
        assert b"z" in refused
        assert len(backend_of(client).background) == 0
        assert await locks_of(client) == []

    tell(story, config=config)


def test_a_client_does_not_ask_what_became_of_its_own_transaction() -> None:
    """Its last locks may stand a moment longer than its commit takes."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        asked = list[str]()
        right = client.executor.submit

        def submit(command: Any, deadline: float) -> Any:
            asked.append(command.verb)
            return right(command, deadline)

        client.executor.submit = submit  # type: ignore[method-assign]
        _Commit._send_commits, send = (lambda *_: True), _Commit._send_commits  # type: ignore[method-assign]
        try:
            await put_all(client, a=2, z=2)
        finally:
            _Commit._send_commits = send  # type: ignore[method-assign]
        assert set(await locks_of(client)) == {b"a", b"z"}
        snapshot = await client.snapshot()
        assert [await snapshot.get(key) for key in (b"a", b"z")] == [b"2", b"2"]
        assert "status of" not in asked
        assert "get" in asked
        await put_all(client, a=3, z=3)
        assert await get_all(client) == {"a": 3, "z": 3}

    tell(story, config=ASYNC_COMMIT)


def test_a_reader_pushes_a_prewritten_transaction_and_passes() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        other = client_of(cluster, 1)
        txn = await other.transaction()
        await txn.put(b"a", b"2")
        await txn.put(b"z", b"2")
        commit = _Commit(
            backend_of(other)._parts, txn._begun(), txn.buffered.freeze(str), backend_of(other).deadline(5)
        )
        await commit._choose_phases()
        await commit._prewrite_all()
        loop = asyncio.get_running_loop()
        began = loop.time()
        snapshot = await client.snapshot()
        assert await snapshot.get(b"z") == b"1", "the lock of a secondary"
        assert await snapshot.get_many([b"a", b"z"]) == {b"a": b"1", b"z": b"1"}
        assert [pair async for pair in snapshot.scan()] == [(b"a", b"1"), (b"z", b"1")]
        assert loop.time() - began < 0.5, "nobody waits for the owner"
        assert await commit._commit_primary() > snapshot.ts
        txn._progress.phase = Phase.COMMITTED
        assert await snapshot.get(b"z") == b"1"
        assert await get_all(client) == {"a": 2, "z": 2}

    tell(story, config=TWO_PHASES)


@BOTH
def test_a_writer_waits_until_the_locks_of_a_killed_client_have_run_out(config: ClientConfig) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        other = client_of(cluster, 1)

        async def begin_to_commit() -> None:
            txn = await other.transaction()
            await txn.put(b"a", b"2")
            await txn.put(b"z", b"2")
            await prewrite_only(other, txn, {b"a", b"z"})

        await cluster.clients[1].spawn("commit", begin_to_commit())
        await cluster.clients[1].crash()
        began = asyncio.get_running_loop().time()
        await put_all(client, z=5)
        assert config.lock_ttl_s - 0.5 < asyncio.get_running_loop().time() - began < config.lock_ttl_s + 2
        assert await get_all(client) == {"a": 1 if config is TWO_PHASES else 2, "z": 5}

    tell(story, config=config)


def test_a_pessimistic_lock_whose_owner_is_gone_runs_out() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        other = client_of(cluster, 1)

        async def lock() -> None:
            txn = await other.transaction(pessimistic=True)
            await txn.lock(b"a", b"z")
            txn._progress.phase = Phase.UNDETERMINED  # a killed process gives no warning

        await cluster.clients[1].spawn("lock", lock())
        await cluster.clients[1].crash()
        began = asyncio.get_running_loop().time()
        await put_all(client, a=0)  # an optimistic write waits as well
        async with client.transaction(pessimistic=True, timeout=30) as mine:
            await mine.put(b"z", b"1")
        assert asyncio.get_running_loop().time() - began < 4
        assert await get_all(client) == {"a": 0, "z": 1}

    tell(story, config=ClientConfig(pessimistic_lock_ttl_s=2.0))


def test_heartbeats_keep_a_long_transaction_alive() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        async with client.transaction(pessimistic=True) as txn:
            await txn.put(b"a", b"1")
            await txn.put(b"z", b"1")
            await asyncio.sleep(10)
            other = await client_of(cluster, 1).transaction(pessimistic=True)
            with pytest.raises(ClientError):
                await other.lock(b"z", timeout=3)
            await other.rollback()
        assert await get_all(client) == {"a": 1, "z": 1}

    tell(story, config=ClientConfig(pessimistic_lock_ttl_s=1.5))


def test_a_transaction_without_heartbeats_is_aborted_and_says_so() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        txn = await client.transaction(pessimistic=True)
        await txn.put(b"a", b"1")
        await txn.put(b"z", b"1")
        txn._begun().heartbeat.stop()
        await asyncio.sleep(2)
        await put_all(client_of(cluster, 1), a=5, z=5)
        with pytest.raises(TransactionAbortedError, match="run the transaction again"):
            await txn.commit()
        assert await get_all(client) == {"a": 5, "z": 5}
        await asyncio.sleep(1)
        assert await locks_of(client) == []

    tell(story, config=ClientConfig(pessimistic_lock_ttl_s=1.5))


def test_transactions_left_open_when_their_client_closes() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        locking = await client.transaction(pessimistic=True)
        await locking.put(b"z", b"1")
        writing = await client.transaction()
        await writing.put(b"a", b"1")
        reading = await client.transaction()
        assert await reading.get(b"a") is None
        began = asyncio.get_running_loop().time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = await client.close()
        assert report.ok, report.render()
        assert asyncio.get_running_loop().time() - began < 1
        (warning,) = [warning for warning in caught if warning.category is ResourceWarning]
        assert "2 transaction(s) with writes or locks were open when their client closed" in str(warning.message)
        for txn in (locking, writing, reading):
            with pytest.raises(TransactionClosedError, match="is closed with its client"):
                await txn.get(b"a")
        with pytest.raises(ClientClosedError):
            await client.transaction()
        assert await locks_of(client_of(cluster, 1)) == []

    tell(story)


def test_a_closing_client_finishes_its_secondaries() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        report = await client.close()
        assert report.ok, report.render()
        assert await locks_of(client_of(cluster, 1)) == []

    tell(story, config=TWO_PHASES)


def test_a_closing_client_does_not_hang_on_secondaries_that_are_out_of_reach() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, z=1)
        backend = backend_of(client)
        txn = await client.transaction()
        await txn.put(b"a", b"2")
        await txn.put(b"z", b"2")
        await txn.commit()
        cluster.network.partition(["client-1"], [host for host in cluster.all_hosts if host != "client-1"])
        assert len(backend.background)
        began = asyncio.get_running_loop().time()
        report = await client.close()
        assert report.ok, report.render()
        assert asyncio.get_running_loop().time() - began < 3
        cluster.network.heal()
        assert await get_all(client_of(cluster, 1)) == {"a": 2, "z": 2}

    tell(story, config=TWO_PHASES)


async def end_of_commit(client: AsyncClient, number: int, *, pessimistic: bool) -> str:
    """Write a pair of keys; return what the client is told. Other errors than these come through."""
    txn = None
    try:
        txn = await client.transaction(timeout=3, pessimistic=pessimistic)
        await txn.put(b"a%03d" % number, b"1")
        await txn.put(b"z%03d" % number, b"1")
        await txn.commit()
    except UndeterminedError:
        return "unknown"
    except (SchedulerUnavailableError, DeadlineExceededError, TransactionAbortedError) as error:
        return "not" if error.retryable else str(error)
    else:
        return "committed"
    finally:
        if txn is not None and txn.is_active:
            await txn.rollback()


async def see_no_halves(client: AsyncClient, until: float) -> None:
    """Read all pairs again and again; that commits or rolls back what is in the way."""
    while asyncio.get_running_loop().time() < until:
        with contextlib.suppress(SchedulerUnavailableError, DeadlineExceededError):
            rows = await get_all(client)
            assert [key for key in rows if key.translate(str.maketrans("az", "za")) not in rows] == []
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("pessimistic", [False, True], ids=["optimistic", "pessimistic"])
@pytest.mark.parametrize("config", [TWO_PHASES, ASYNC_COMMIT, ClientConfig()], ids=["two phases", "async", "one phase"])
def test_the_scheduler_goes_away_during_commits(config: ClientConfig, *, pessimistic: bool) -> None:
    """Each commit is there, or is not, or says that it does not know; and never half. Others clean up what has run out."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=0, z=0)
        ends: dict[int, str] = {}

        async def commit(number: int) -> None:
            ends[number] = await end_of_commit(client, number, pessimistic=pessimistic)

        async def commits() -> None:
            number = 0
            while loop.time() < until:
                await asyncio.gather(*(commit(number + offset) for offset in range(5)))
                number += 5
                await asyncio.sleep(0.05)  # enough commits meet the outage with a few hundred

        loop = asyncio.get_running_loop()
        until = loop.time() + 6
        work = asyncio.gather(commits(), see_no_halves(client_of(cluster, 1), until))
        await asyncio.sleep(1.001)
        await cluster.scheduler.crash()
        await asyncio.sleep(3.5)
        await cluster.scheduler.start()
        await work
        await asyncio.sleep(4)
        rows = await get_all(client)
        for number, end in ends.items():
            there = [f"{letter}{number:03}" in rows for letter in "az"]
            assert there[0] == there[1], number
            assert end == "unknown" or there[0] == (end == "committed"), (number, end)
        assert {"committed", "not"} <= set(ends.values()) <= {"committed", "not", "unknown"}

    tell(story, config=msgspec.structs.replace(config, pessimistic_lock_ttl_s=2.0, lock_ttl_s=2.0))


@pytest.mark.parametrize("config", [TWO_PHASES, ASYNC_COMMIT, ClientConfig()], ids=["two phases", "async", "one phase"])
def test_a_commit_whose_answer_does_not_come_is_undetermined(
    config: ClientConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await put_all(client, a=1, b=1)
        txn = await client.transaction()
        await txn.put(b"a", b"2")
        await txn.put(b"b", b"2")
        decides = CommitPrimary if config is TWO_PHASES else TxnPrewrite
        request = decides.request

        def cut_off(command: Any, route: Any) -> Any:
            for host in cluster.store_hosts:
                cluster.network.block(host, "client-1")
            return request(command, route)

        monkeypatch.setattr(decides, "request", cut_off)
        with pytest.raises(UndeterminedError, match="unknown"):
            await txn.commit(timeout=2)
        assert txn.phase is Phase.UNDETERMINED
        monkeypatch.undo()
        cluster.network.heal()
        await asyncio.sleep(4)
        assert await get_all(client_of(cluster, 1)) == {"a": 2, "b": 2}, "it was executed, in truth"

    tell(story, config=config)


@pytest.mark.parametrize("restarts", [False, True], ids=["while it runs", "while it is down"])
def test_the_clock_of_the_scheduler_steps_back(*, restarts: bool) -> None:
    """Timestamps go on from where they were, so what is committed later is later, and a dead owner's locks run out."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        before = await put_all(client, a=1, z=1)
        other = client_of(cluster, 1)

        async def lock() -> None:
            txn = await other.transaction(pessimistic=True)
            await txn.lock(b"z")
            txn._progress.phase = Phase.UNDETERMINED  # a killed process gives no warning

        await cluster.clients[1].spawn("lock", lock())
        await cluster.clients[1].crash()
        if restarts:
            await cluster.scheduler.crash()
        cluster.scheduler.clock.step_wall(-3_600_000)
        if restarts:
            await cluster.scheduler.start()
        after = await put_all(client, a=2)
        assert after > before
        assert await get_all(client, before) == {"a": 1, "z": 1}
        async with client.transaction(pessimistic=True, timeout=20) as txn:
            await txn.put(b"z", b"2")
        assert txn.commit_ts is not None
        assert txn.commit_ts > after
        assert await get_all(client) == {"a": 2, "z": 2}

    tell(story, config=ClientConfig(pessimistic_lock_ttl_s=2.0))


@pytest.mark.parametrize("is_killed", [False, True], ids=["stops", "dies"])
def test_a_store_that_goes_away_answers_who_waits_for_its_locks(*, is_killed: bool) -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        holder = await client_of(cluster, 1).transaction(pessimistic=True)
        await holder.put(b"a", b"1")

        async def wait_for_lock() -> None:
            async with client.transaction(pessimistic=True) as txn:
                await txn.put(b"a", b"2", timeout=12)

        waiting = [asyncio.ensure_future(wait_for_lock()) for _ in range(5)]
        await asyncio.sleep(0.5)
        leader = await cluster.wait_for_leader()
        await (leader.crash() if is_killed else leader.stop())
        await asyncio.sleep(2)
        await holder.rollback()
        await asyncio.gather(*waiting)
        await leader.start()
        assert await get_all(client) == {"a": 2}

    tell(story, splits=())


@pytest.mark.parametrize("pessimistic", [False, True], ids=["optimistic", "pessimistic"])
def test_the_first_transaction_on_a_cluster_with_plain_bounds_is_refused(*, pessimistic: bool) -> None:
    """A region that begins in the middle of a key's encoded form could hold half of its versions. Raw keys are fine."""

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        await client.raw.put(b"k05", b"raw")
        while (await client.scheduler.split_regions([b"k05", b"k10"])).finished_percentage < 100:
            await asyncio.sleep(0.05)
        for key in (b"a", b"k05", b"k07", b"z"):
            txn = await client.transaction(pessimistic=pessimistic)
            with pytest.raises(TransactionRefusedError, match="was split at raw keys before it saw a transaction"):
                await write_and_commit(txn, key)
            if txn.is_active:
                await txn.rollback()
            history = await client.inspector.history(key)
            assert (history.lock, list(history.versions)) == (None, [])
        assert await client.raw.get(b"k05") == b"raw"

    tell(story, clients=1, splits=())


async def write_and_commit(txn: AsyncTransaction, key: bytes) -> None:
    await txn.put(key, b"1")
    await txn.commit()


def test_what_goes_on_in_the_background_is_bounded_and_then_slows_commits_down() -> None:
    """Without a bound, a client that is faster than its stores piles up secondaries without end."""
    most = 0

    async def story(cluster: Cluster, client: AsyncClient) -> None:
        background = backend_of(client).background

        async def commit(number: int) -> None:
            nonlocal most
            async with client.transaction() as txn:
                await txn.put(b"a%d" % number, b"1")
                await txn.put(b"z%d" % number, b"1")
            most = max(most, len(background))

        await asyncio.gather(*map(commit, range(40)))
        assert len(await get_all(client_of(cluster, 1))) == 80
        await background.wait_idle(5)
        assert await locks_of(client) == []
        await put_all(client, a=0, z=0)
        refused = await client.transaction()
        assert await refused.get(b"a") == b"0"
        await refused.put(b"a", b"2")
        await refused.put(b"z", b"2")
        await put_all(client, z=1)
        with pytest.raises(WriteConflictError):
            await refused.commit()
        await background.wait_idle(5)
        assert await locks_of(client) == [], "a rollback is done by the call, too"

    for config in (TWO_PHASES, ASYNC_COMMIT):
        tell(story, config=msgspec.structs.replace(config, background_max=2))
    assert most == 2


def test_secondaries_that_no_room_is_left_for_are_left_when_the_time_is_over() -> None:
    async def story(cluster: Cluster, client: AsyncClient) -> None:
        background = backend_of(client).background
        stuck = asyncio.Event()
        assert background.start("stuck", stuck.wait)
        txn = await client.transaction(timeout=2)
        await txn.put(b"a", b"1")
        await txn.put(b"z", b"1")
        commit = _Commit(
            backend_of(client)._parts, txn._begun(), txn.buffered.freeze(str), backend_of(client).deadline(2)
        )
        commit._commit_keys = lambda *_: asyncio.sleep(3600)  # type: ignore[method-assign,assignment]
        txn._progress.phase = Phase.COMMITTED
        began = asyncio.get_running_loop().time()
        assert await commit.run()
        assert asyncio.get_running_loop().time() - began < 3
        assert len(background) == 1
        stuck.set()
        assert await get_all(client_of(cluster, 1)) == {"a": 1, "z": 1}

    tell(story, config=msgspec.structs.replace(ASYNC_COMMIT, background_max=1))
