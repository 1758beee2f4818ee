"""Settings of a client. Times are in seconds, sizes in bytes."""

from __future__ import annotations

import math

import msgspec

from pytinykv.client.errors import InvalidArgumentError
from pytinykv.wire.limits import ENTRY_BYTES_MAX, RAW_SCAN_LIMIT_MAX


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one client. The defaults suit a cluster in one data centre."""

    timeout_s: float = 10.0
    """Deadline of every call that brings none of its own."""
    read_attempt_timeout_s: float = 2.5
    """A command that may be repeated goes to another store when one has not answered for so long. (A raw write can't: the
    first attempt may still be executed.)"""
    connect_timeout_s: float = 2.0
    """A new connection to a store must answer its first probe within this."""
    stall_timeout_s: float = 2.5
    """A store silent for so long while commands wait gets no further ones until it answers again."""
    scheduler_timeout_s: float = 3.0
    """Longest single call to one scheduler endpoint; the endpoints take turns within the caller's deadline."""
    backoff_min_s: float = 0.002
    """First pause before a retry; it doubles from there."""
    backoff_max_s: float = 0.5
    """Longest pause before a retry (a busy server may ask for a longer one)."""
    frame_commands_max: int = 256
    """Commands in one `BatchCommands` frame."""
    frame_bytes_max: int = 1 << 20
    """A frame is closed once it holds so much."""
    in_flight_max: int = 4096
    """Commands handed to one store and not answered yet; more wait in the client."""
    batch_keys_max: int = 512
    """Keys in one command of a batch operation."""
    batch_bytes_max: int = 1 << 20
    """Keys and values in one command of a batch operation, and about so many in its answer."""
    scan_page_rows_max: int = 1024
    """Rows that a scan fetches at a time, at most; it begins with fewer. A store refuses more than `RAW_SCAN_LIMIT_MAX`."""
    scan_page_bytes_target: int = 1 << 20
    """A scan fetches fewer rows at a time when they are so large that a page would exceed this."""
    value_bytes_max: int = ENTRY_BYTES_MAX - 64 * 1024
    """Longest value: the limit of a replicated command, less some room for the key and what frames it."""

    transaction_bytes_max: int = 100 << 20
    """Keys and values that one transaction may write."""
    transaction_keys_max: int = 1_000_000
    """Keys that one transaction may write or lock."""
    lock_ttl_s: float = 3.0
    """For how long the locks of a commit stand when their owner is silent. Longer for large commits."""
    pessimistic_lock_ttl_s: float = 20.0
    """The same for pessimistic locks, which heartbeats keep alive while their transaction is open."""
    transaction_lifetime_s: float = 3600.0
    """Heartbeats end after so long: a transaction that was forgotten must not hold its locks for ever."""
    close_transactions_s: float = 1.0
    """How long a closing client finishes what runs in the background: secondaries to commit, locks to remove. What is left
    is resolved by those who meet it."""
    background_max: int = 512
    """Commits of secondaries and removals of locks that go on in the background; calls do further ones themselves before they
    return."""
    async_commit: bool = True
    """Whether small transactions are committed by their prewrites alone, where the stores offer it."""
    one_phase_commit: bool = True
    """Whether a transaction within one region is committed by one command, where the stores offer it."""
    async_commit_keys_max: int = 256
    """Keys of an asynchronous commit: its primary lock names them all."""
    async_commit_key_bytes_max: int = 4096

    def with_timeout(self, timeout_s: float) -> ClientConfig:
        """Return the same settings with another default deadline."""
        return msgspec.structs.replace(self, timeout_s=timeout_s)

    def validate(self) -> None:
        """Raise `InvalidArgumentError` for a setting, or a pair of settings, that can't work."""
        for name in self.__struct_fields__:
            if isinstance(getattr(self, name), bool):
                continue
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidArgumentError(
                    f"client setting {name} must be positive and finite, is {getattr(self, name)!r}"
                )
        if self.scan_page_rows_max > RAW_SCAN_LIMIT_MAX:
            raise InvalidArgumentError(
                f"client setting scan_page_rows_max must be at most {RAW_SCAN_LIMIT_MAX}, is {self.scan_page_rows_max}"
            )
        if self.backoff_min_s > self.backoff_max_s:
            raise InvalidArgumentError(
                f"backoff_min_s ({self.backoff_min_s}) must not exceed backoff_max_s ({self.backoff_max_s})"
            )
