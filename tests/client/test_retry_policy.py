"""The table of `client.retry_policy` is true: for every failure, and each effect that a command can have."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.client.fake_cluster import FakeCluster, FakeConnector

from pytinykv.client import (
    AsyncClient,
    ClientClosedError,
    ClientError,
    CutOffWriteError,
    DeadlineExceededError,
    StoreDiskFullError,
    StoreError,
    UndeterminedError,
    UnsupportedError,
    retry_policy,
)
from pytinykv.client.attempts import AttemptFailure, Failure, FailureKind
from pytinykv.client.commands import Command, Effect
from pytinykv.client.raw_commands import RawGet, RawPut
from pytinykv.client.retry_policy import Pause, Retry, judge, leaves_doubt
from pytinykv.client.route import Route
from pytinykv.lifecycle import Scope
from pytinykv.model import Peer, PeerId, Region, RegionId, StoreId
from pytinykv.wire import StatusCode
from pytinykv.wire import errors as wire
from pytinykv.wire.pb import metapb_pb2

STORE = 2  # leads [g, p)
EXAMPLES: dict[str, Failure] = {
    "not_leader with a leader": wire.NotLeader(region_id=1, leader=metapb_pb2.Peer(id=1, store_id=1)),
    "not_leader without": wire.NotLeader(region_id=1),
    "epoch_not_match": wire.EpochNotMatch(current_regions=[metapb_pb2.Region(id=1)]),
    "region_not_found": wire.RegionNotFound(region_id=1),
    "key_not_in_region": wire.KeyNotInRegion(key=b"k", region_id=1, start_key=b"", end_key=b"a"),
    "store_not_match": wire.StoreNotMatch(request_store_id=1, actual_store_id=2),
    "mismatch_peer_id": wire.MismatchPeerId(request_peer_id=1, store_peer_id=2),
    "is_witness": wire.IsWitness(region_id=1),
    "bucket_version_not_match": wire.BucketVersionNotMatch(version=1, keys=[]),
    "server_is_busy": wire.ServerIsBusy(reason="writing", backoff_ms=0),
    "max_timestamp_not_synced": wire.MaxTimestampNotSynced(),
    "read_index_not_ready": wire.ReadIndexNotReady(region_id=1, reason="no entry of its term yet"),
    "data_is_not_ready": wire.DataIsNotReady(region_id=1, peer_id=2, safe_ts=3),
    "proposal_in_merging_mode": wire.ProposalInMergingMode(region_id=1),
    "region_not_initialized": wire.RegionNotInitialized(region_id=1),
    "RecoveryInProgress": wire.RecoveryInProgress(region_id=1),
    "stale_command": wire.StaleCommand(),
    "undetermined_result": wire.UndeterminedResult(),
    "a kind we don't know": wire.UnknownRegionError("something new"),
    "or only a message": wire.UnknownRegionError("something new"),
    "too much for one answer": AttemptFailure(FailureKind.TOO_MUCH, "too large"),
    "raft_entry_too_large": wire.RaftEntryTooLarge(region_id=1, entry_size=9 << 20),
    "disk_full": wire.DiskFull(store_id=[2], reason="0 bytes left"),
    "FlashbackInProgress": wire.FlashbackInProgress(region_id=1, flashback_start_ts=5),
    "FlashbackNotPrepared": wire.FlashbackNotPrepared(region_id=1),
    "never sent: no connection, store silent": AttemptFailure(FailureKind.NOT_SENT, "no connection"),
    "broken after it was sent": AttemptFailure(FailureKind.BROKEN, "reset"),
    "no answer in time": AttemptFailure(FailureKind.EXPIRED_SENT, "silence"),
}


class IdempotentPut(RawPut):
    """Stands for a write of a transaction."""

    __slots__ = ()
    effect = Effect.IDEMPOTENT


def command_of(effect: Effect) -> Command[object]:
    kinds = {Effect.READ: RawGet(b"k", ""), Effect.IDEMPOTENT: IdempotentPut(b"k", b"v", 0, "")}
    command = kinds.get(effect, RawPut(b"k", b"v", 0, ""))
    command.route = Route(Region(RegionId(1)), Peer(PeerId(2), StoreId(3)))
    return command


class Row(NamedTuple):
    failure: str
    effect: Effect
    says: str


def _rows() -> Iterator[Row]:
    """Read the tables: one row for each failure and effect."""
    for line in re.findall(r"^\| (.*) \|$", retry_policy.__doc__ or "", flags=re.MULTILINE):
        names, *cells = (cell.strip() for cell in line.split("|"))
        if names.endswith("said") or names.startswith("-"):
            continue
        for name in [names] if names in EXAMPLES else names.split(", "):
            yield from (Row(name, effect, says) for effect, says in zip(Effect, cells, strict=False) if says)


ROWS = list(_rows())


def meets(says: str, outcome: Retry | ClientError) -> bool:
    """Say whether the policy's answer is what a cell of the table says."""
    match says.removesuffix(" (?)"), outcome:
        case "at once", Retry(pause=Pause.NONE, avoid_store=False):
            return True
        case "pause", Retry(pause=Pause.BACKOFF, pause_at_least_s=0.0):
            return True
        case "longer pause", Retry(pause=Pause.BACKOFF, shrink=True) as retry:
            return retry.pause_at_least_s == retry_policy.BUSY_PAUSE_S
        case "ask elsewhere", Retry(pause=Pause.NONE, avoid_store=True):
            return True
        case "undetermined", UndeterminedError():
            return True
        case "error", StoreError():
            return True
    return False


def judged(
    command: Command[object], failure: Failure, *, before: bool = False, time_left: bool = True
) -> Retry | ClientError:
    """Return the policy's answer; `before`: an earlier attempt may have been executed."""
    try:
        maybe_executed = before or leaves_doubt(command, failure)
        return judge(command, failure, maybe_executed=maybe_executed, time_left=time_left)
    except ClientError as error:
        return error


def test_the_table_has_every_failure_and_effect() -> None:
    seen = [(row.failure, row.effect) for row in ROWS]
    writes = [effect for effect in Effect if effect is not Effect.READ]
    impossible = {("too much for one answer", effect) for effect in writes}
    assert set(seen) == {(name, effect) for name in EXAMPLES for effect in Effect} - impossible
    kinds = {type(failure) for failure in EXAMPLES.values()} - {AttemptFailure}
    assert kinds == {
        kind for kind in vars(wire).values() if isinstance(kind, type) and issubclass(kind, wire.RegionError)
    } - {
        wire.RegionError,
        wire._OfRegion,
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.failure}-{row.effect.name}")
def test_what_the_table_says_is_done(row: Row) -> None:
    failure, command = EXAMPLES[row.failure], command_of(row.effect)
    outcome = judged(command, failure)
    assert meets(row.says, outcome), outcome
    assert (row.says.endswith("(?)") or row.says == "undetermined") == leaves_doubt(command, failure)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_idempotent_write_that_may_have_been_executed_never_ends_as_if_it_had_not(name: str) -> None:
    outcome = judged(command_of(Effect.IDEMPOTENT), EXAMPLES[name], before=True, time_left=False)
    assert isinstance(outcome, UndeterminedError | Retry)


@pytest.mark.parametrize(
    ("kind", "code", "read", "idempotent", "once"),
    [
        (FailureKind.NOT_SENT, None, DeadlineExceededError, DeadlineExceededError, DeadlineExceededError),
        (FailureKind.EXPIRED_WAITING, None, DeadlineExceededError, DeadlineExceededError, DeadlineExceededError),
        (FailureKind.CLOSED_WAITING, None, ClientClosedError, ClientClosedError, ClientClosedError),
        (FailureKind.REFUSED, StatusCode.UNIMPLEMENTED, UnsupportedError, UnsupportedError, UnsupportedError),
        (FailureKind.REFUSED, StatusCode.INVALID_ARGUMENT, StoreError, StoreError, StoreError),
        (FailureKind.TOO_MUCH, None, DeadlineExceededError, DeadlineExceededError, DeadlineExceededError),
        (FailureKind.BROKEN, None, DeadlineExceededError, UndeterminedError, UndeterminedError),
        (FailureKind.EXPIRED_SENT, None, DeadlineExceededError, UndeterminedError, UndeterminedError),
        (FailureKind.CLOSED_SENT, None, ClientClosedError, CutOffWriteError, CutOffWriteError),
    ],
)
def test_how_a_call_ends_when_its_time_is_up_or_the_client_closes(
    kind: FailureKind, code: StatusCode | None, read: type, idempotent: type, once: type
) -> None:
    failure = AttemptFailure(kind, "why", code)
    ends = [type(judged(command_of(effect), failure, time_left=False)) for effect in Effect]
    assert ends == [read, idempotent, once]


# --- an idempotent write through the whole client --------------------------------------------------------------------


def put(client: AsyncClient, timeout_s: float | None = None) -> object:
    return client.executor.execute(IdempotentPut(b"k", b"v", 0, ""), client.executor.deadline(timeout_s))


@pytest.mark.parametrize("failure", [wire.StaleCommand(), wire.UndeterminedResult(), "execute and lose"])
async def test_an_idempotent_write_of_unknown_fate_is_sent_again(
    client: AsyncClient, cluster: FakeCluster, failure: object
) -> None:
    cluster.stores[STORE].script.append(failure)
    await put(client)  # type: ignore[misc]
    assert cluster.data[""] == {b"k": b"v"}
    assert cluster.stores[STORE].seen == ["RawPut"] * 2


async def test_an_idempotent_write_that_never_gets_an_answer_is_undetermined(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.stores[STORE].script.extend([wire.UndeterminedResult(), *[wire.NotLeader(region_id=1)] * 100])
    with pytest.raises(UndeterminedError, match="put b'k'.*is unknown"):
        await put(client, 0.05)  # type: ignore[misc]


async def test_an_idempotent_write_refused_after_an_attempt_of_unknown_fate_is_undetermined(
    client: AsyncClient, cluster: FakeCluster
) -> None:
    cluster.stores[STORE].script.extend([wire.UndeterminedResult(), wire.DiskFull(store_id=[2], reason="full")])
    with pytest.raises(UndeterminedError, match="disk full.*is unknown"):
        await put(client)  # type: ignore[misc]
    cluster.stores[STORE].script.append(wire.DiskFull(store_id=[2], reason="full"))
    with pytest.raises(StoreDiskFullError, match="nothing was changed"):
        await put(client)  # type: ignore[misc]


async def test_an_idempotent_write_is_undetermined_when_no_scheduler_can_say_where_to_repeat_it(
    client: AsyncClient, cluster: FakeCluster, connector: FakeConnector, scope: Scope
) -> None:
    await client.raw.get(b"k")
    cluster.stores[STORE].silent = True
    call = scope.start("call", lambda: _error(put(client, 1.0)))
    await asyncio.sleep(0.01)
    cluster.down.update([cluster.scheduler_address, *cluster.addresses.values()])
    connector.break_streams("store-2:20160")
    assert type(await call.wait()) is UndeterminedError


async def test_an_idempotent_write_cut_off_by_closing_is_undetermined(
    client: AsyncClient, cluster: FakeCluster, scope: Scope
) -> None:
    await client.raw.get(b"k")
    cluster.stores[STORE].silent = True
    call = scope.start("call", lambda: _error(put(client)))
    await asyncio.sleep(0.01)
    await client.close()
    assert type(await call.wait()) is CutOffWriteError


async def _error(call: object) -> Exception | None:
    try:
        await call  # type: ignore[misc]
    except ClientError as error:
        return error
    return None
