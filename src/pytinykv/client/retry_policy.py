"""What a failed attempt means: give up with which error, or try again, and after what pause.

| a store said                             | read         | write        | then                  |
| ---------------------------------------- | ------------ | ------------ | --------------------- |
| not_leader with a leader                 | at once      | at once      | ask that leader       |
| not_leader without                       | pause        | pause        | ask the scheduler     |
| epoch_not_match                          | at once      | at once      | take the regions told |
| region_not_found, key_not_in_region      | pause        | pause        | ask the scheduler     |
| mismatch_peer_id, is_witness             | pause        | pause        | ask the scheduler     |
| bucket_version_not_match                 | pause        | pause        | ask the scheduler     |
| store_not_match                          | pause        | pause        | … for the store, too  |
| server_is_busy                           | longer pause | longer pause |                       |
| max_timestamp_not_synced                 | pause        | pause        |                       |
| read_index_not_ready, data_is_not_ready  | pause        | pause        |                       |
| proposal_in_merging_mode                 | pause        | pause        |                       |
| region_not_initialized                   | pause        | pause        |                       |
| RecoveryInProgress                       | pause        | pause        |                       |
| stale_command, undetermined_result       | pause        | undetermined | ask the scheduler     |
| a kind we don't know, or only a message  | pause        | undetermined | ask the scheduler     |
| raft_entry_too_large, disk_full          | error        | error        |                       |
| FlashbackInProgress, FlashbackNotPrepared | error       | error        |                       |

| the transport said                       | read          | write        |
| ---------------------------------------- | ------------- | ------------ |
| never sent: no connection, store silent  | pause         | pause        |
| broken after it was sent                 | pause         | undetermined |
| no answer in time                        | ask elsewhere | undetermined |

A region error means that the command was not executed, except for the two rows that make a write undetermined: TiKV sends
them also for commands that it had proposed already (our stores only the second). "At once" holds for the first time;
two stores that point at each other must not be asked in a tight loop.

Pure: this module decides; `executor` carries it out.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from pytinykv.client.attempts import AttemptFailure, FailureKind
from pytinykv.client.commands import Command
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

_DOUBTFUL_FOR_WRITES: Final = (
    wire_errors.StaleCommand,
    wire_errors.UndeterminedResult,
    wire_errors.UnknownRegionError,
)
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


def on_region_error(command: Command[Any], error: RegionError) -> Retry:
    """Return what to do about a region error. Raises what the caller gets, if that is to be the end."""
    what = f"{command.describe()} at {command.region!r}: {error.message}"
    if isinstance(error, _DOUBTFUL_FOR_WRITES):
        if command.write:
            raise UndeterminedError(f"{what}; {_WHAT_TO_DO_IF_UNDETERMINED}")
        return Retry()
    if not error.retryable or type(error) in _FINAL:
        raise _FINAL.get(type(error), StoreError)(f"{what}; nothing was changed")
    match error:
        case wire_errors.NotLeader(leader=leader):
            return Retry(Pause.BACKOFF if leader is None else Pause.NONE, drop_region=leader is None)
        case wire_errors.EpochNotMatch(current_regions=regions):
            return Retry(Pause.NONE if regions else Pause.BACKOFF)
        case wire_errors.StoreNotMatch():
            return Retry(drop_store=True)
        case wire_errors.ServerIsBusy(backoff_ms=backoff_ms):
            return Retry(pause_at_least_s=backoff_ms / 1000 or BUSY_PAUSE_S, drop_region=False)
    return Retry(drop_region=not isinstance(error, _WAIT_ONLY))


def on_failure(command: Command[Any], failure: AttemptFailure, *, time_left: bool) -> Retry:
    """Return what to do about an attempt without a reply. Raises what the caller gets, if that is to be the end."""
    if failure.doubtful and command.write:
        kind = CutOffWriteError if failure.kind is FailureKind.CLOSED_SENT else UndeterminedError
        raise kind(f"{command.describe()}: {failure!r} ({command.region!r}); {_WHAT_TO_DO_IF_UNDETERMINED}")
    match failure.kind:
        case FailureKind.CLOSED_WAITING | FailureKind.CLOSED_SENT:
            raise ClientClosedError(f"{command.describe()}: the client was closed; nothing was changed")
        case FailureKind.REFUSED:
            kind_of: type[ClientError] = UnsupportedError if failure.code is StatusCode.UNIMPLEMENTED else StoreError
            raise kind_of(f"{command.describe()}: {failure.reason}; nothing was changed")
        case _ if not time_left:
            raise deadline_exceeded(command, repr(failure))
    silent = failure.kind in (FailureKind.EXPIRED_SENT, FailureKind.EXPIRED_WAITING)
    return Retry(Pause.NONE if silent else Pause.BACKOFF, avoid_store=True, drop_store=True)


def deadline_exceeded(command: Command[Any], trouble: str) -> DeadlineExceededError:
    """Return the error of a command whose time is up and which certainly was not executed."""
    fate = "it was not executed" if command.write else "there is no answer"
    return DeadlineExceededError(
        f"{command.describe()} ran out of time: {fate}; last: {trouble}. Check that the cluster's stores are up, "
        "or give the call more time"
    )
