"""What a failed attempt means: give up with which error, or try again, and after what pause.

| a store said                             | read         | idempotent   | once         | then                  |
| ---------------------------------------- | ------------ | ------------ | ------------ | --------------------- |
| not_leader with a leader                 | at once      | at once      | at once      | ask that leader       |
| not_leader without                       | pause        | pause        | pause        | ask the scheduler     |
| epoch_not_match                          | at once      | at once      | at once      | take the regions told |
| region_not_found, key_not_in_region      | pause        | pause        | pause        | ask the scheduler     |
| mismatch_peer_id, is_witness             | pause        | pause        | pause        | ask the scheduler     |
| bucket_version_not_match                 | pause        | pause        | pause        | ask the scheduler     |
| store_not_match                          | pause        | pause        | pause        | … for the store, too  |
| server_is_busy                           | longer pause | longer pause | longer pause | ask for less          |
| max_timestamp_not_synced                 | pause        | pause        | pause        |                       |
| read_index_not_ready, data_is_not_ready  | pause        | pause        | pause        |                       |
| proposal_in_merging_mode                 | pause        | pause        | pause        |                       |
| region_not_initialized                   | pause        | pause        | pause        |                       |
| RecoveryInProgress                       | pause        | pause        | pause        |                       |
| stale_command, undetermined_result       | pause        | pause (?)    | undetermined | ask the scheduler     |
| a kind we don't know, or only a message  | pause        | pause (?)    | undetermined | ask the scheduler     |
| too much for one answer                  | at once      |              |              | ask for less          |
| raft_entry_too_large, disk_full          | error        | error        | error        |                       |
| FlashbackInProgress, FlashbackNotPrepared | error       | error        | error        |                       |

| the transport said                       | read          | idempotent        | once         |
| ---------------------------------------- | ------------- | ----------------- | ------------ |
| never sent: no connection, store silent  | pause         | pause             | pause        |
| broken after it was sent                 | pause         | pause (?)         | undetermined |
| no answer in time                        | ask elsewhere | ask elsewhere (?) | undetermined |

The columns are the kinds of `Effect`. A region error means that the command was not executed, except for the two rows that
make a write undetermined: TiKV sends them also for commands that it had proposed already (our stores only the second).
"At once" holds for the first time; two stores that point at each other must not be asked in a tight loop.

(?): the attempt may have been executed. An idempotent write goes on all the same; if it then ends with an error, or its time
is up, or the client closes, the error is `UndeterminedError` instead.

Pure: this module decides; `executor` carries it out.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from pytinykv.client.attempts import AttemptFailure, Failure, FailureKind
from pytinykv.client.commands import Command, Effect
from pytinykv.client.errors import (
    ClientClosedError,
    ClientError,
    CutOffWriteError,
    DeadlineExceededError,
    EntryTooLargeError,
    StoreDiskFullError,
    StoreError,
    UndeterminedError,
    UnsupportedError,
)
from pytinykv.wire import StatusCode
from pytinykv.wire import errors as wire_errors
from pytinykv.wire.errors import RegionError

BUSY_PAUSE_S: Final = 0.1
"""Shortest pause after `server_is_busy` when the store names none."""

_DOUBTFUL: Final = (wire_errors.StaleCommand, wire_errors.UndeterminedResult, wire_errors.UnknownRegionError)
_WAIT_ONLY: Final = (
    wire_errors.ServerIsBusy,
    wire_errors.MaxTimestampNotSynced,
    wire_errors.ReadIndexNotReady,
    wire_errors.ProposalInMergingMode,
    wire_errors.DataIsNotReady,
    wire_errors.RegionNotInitialized,
    wire_errors.RecoveryInProgress,
)
_FINAL: Final[dict[type[RegionError], type[StoreError]]] = {
    wire_errors.RaftEntryTooLarge: EntryTooLargeError,
    wire_errors.DiskFull: StoreDiskFullError,
}
_WHAT_TO_DO_IF_UNDETERMINED: Final = (
    "whether it was executed, or still will be, is unknown; "
    "read the data to find out, or repeat it if that does no harm"
)


class Pause(Enum):
    """How long to wait before the next attempt."""

    NONE = auto()
    BACKOFF = auto()


class Retry(NamedTuple):
    """Try again: after which pause, and after forgetting what."""

    pause: Pause = Pause.BACKOFF
    pause_at_least_s: float = 0.0
    drop_region: bool = True
    drop_store: bool = False
    """The store's address is wrong."""
    avoid_store: bool = False
    """The store does not answer: choose another peer for a while."""
    shrink: bool = False
    """What was asked for may have been too much."""


def leaves_doubt(command: Command[Any], failure: Failure) -> bool:
    """Return whether an attempt that failed so may have changed data."""
    if command.effect is Effect.READ:
        return False
    return failure.doubtful if isinstance(failure, AttemptFailure) else isinstance(failure, _DOUBTFUL)


def judge(command: Command[Any], failure: Failure, *, maybe_executed: bool, time_left: bool) -> Retry:
    """Return what to do after a failed attempt. Raises what the caller gets, if that is to be the end.

    `maybe_executed`: whether this attempt or an earlier one may have changed data (see `leaves_doubt`).
    """
    if maybe_executed and command.effect is Effect.ONCE:
        closed = isinstance(failure, AttemptFailure) and failure.kind is FailureKind.CLOSED_SENT
        raise undetermined(command, failure, CutOffWriteError if closed else UndeterminedError)
    if isinstance(failure, AttemptFailure):
        return _judge_transport(command, failure, maybe_executed=maybe_executed, time_left=time_left)
    if type(failure) in _FINAL or not (failure.retryable or isinstance(failure, _DOUBTFUL)):
        raise _ended(command, failure, _FINAL.get(type(failure), StoreError), maybe_executed=maybe_executed)
    return _judge_region_error(failure)


def _judge_region_error(error: RegionError) -> Retry:
    match error:
        case wire_errors.NotLeader(leader=leader):
            return Retry(Pause.BACKOFF if leader is None else Pause.NONE, drop_region=leader is None)
        case wire_errors.EpochNotMatch(current_regions=regions):
            return Retry(Pause.NONE if regions else Pause.BACKOFF)
        case wire_errors.StoreNotMatch():
            return Retry(drop_store=True)
        case wire_errors.ServerIsBusy(backoff_ms=backoff_ms):
            return Retry(pause_at_least_s=backoff_ms / 1000 or BUSY_PAUSE_S, drop_region=False, shrink=True)
    return Retry(drop_region=not isinstance(error, _WAIT_ONLY))


def _judge_transport(command: Command[Any], failure: AttemptFailure, *, maybe_executed: bool, time_left: bool) -> Retry:
    match failure.kind:
        case FailureKind.CLOSED_WAITING | FailureKind.CLOSED_SENT:
            raise client_closed(command, failure, maybe_executed=maybe_executed)
        case FailureKind.REFUSED:
            kind = UnsupportedError if failure.code is StatusCode.UNIMPLEMENTED else StoreError
            raise _ended(command, failure, kind, maybe_executed=maybe_executed)
        case _ if not time_left:
            raise time_is_up(command, failure, maybe_executed=maybe_executed)
        case FailureKind.TOO_MUCH:
            return Retry(Pause.NONE, drop_region=False, shrink=True)
    silent = failure.kind in (FailureKind.EXPIRED_SENT, FailureKind.EXPIRED_WAITING)
    return Retry(Pause.NONE if silent else Pause.BACKOFF, avoid_store=True, drop_store=True, shrink=silent)


# --- how a call ends ---------------------------------------------------------------------------------------------


def undetermined(
    command: Command[Any], failure: object, kind: type[UndeterminedError] = UndeterminedError
) -> UndeterminedError:
    """Return the error of a write that may have been executed."""
    return kind(f"{_what(command, failure)}; {_WHAT_TO_DO_IF_UNDETERMINED}")


def time_is_up(command: Command[Any], failure: object, *, maybe_executed: bool) -> ClientError:
    """Return the error of a command whose deadline has passed; `failure` is what went wrong last."""
    if maybe_executed:
        return undetermined(command, failure)
    fate = "there is no answer" if command.effect is Effect.READ else "it was not executed"
    is_slow = isinstance(failure, AttemptFailure) and failure.kind in (
        FailureKind.EXPIRED_SENT,
        FailureKind.EXPIRED_WAITING,
    )
    advice = "Give the call more time; if it had enough, check" if is_slow else "Check"
    return DeadlineExceededError(
        f"{command.describe()} ran out of time: {fate}; last: {failure}. {advice} that the cluster's stores are up"
    )


def client_closed(command: Command[Any], failure: object, *, maybe_executed: bool) -> ClientClosedError:
    """Return the error of a command that gets no further attempt because the client is closed."""
    if maybe_executed:
        return CutOffWriteError(f"{_what(command, failure)}; {_WHAT_TO_DO_IF_UNDETERMINED}")
    return ClientClosedError(f"{command.describe()}: the client was closed; nothing was changed")


def _ended(command: Command[Any], failure: Failure, kind: type[StoreError], *, maybe_executed: bool) -> ClientError:
    if maybe_executed:
        return undetermined(command, failure)
    return kind(f"{_what(command, failure)}; nothing was changed")


def _what(command: Command[Any], failure: object) -> str:
    route = getattr(command, "route", None)  # a batch that was cut anew has not been on its way yet
    if isinstance(failure, RegionError):
        return f"{command.describe()} at {route!r}: {failure.message}"
    return f"{command.describe()}: {failure}" + ("" if route is None else f" ({route!r})")
