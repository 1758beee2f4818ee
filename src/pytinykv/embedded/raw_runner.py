"""Raw operations on a database: runs the commands of `client.raw_commands` on the engine instead of sending them.

A raw value has no versions: what is written is there at once. It is durable a sync later, and until then no reader may see
it, or a power cut could take back what a reader has seen. So a read looks whether what it has read is still on its way to the
disk, and if so waits for that. It does not read again then: beside a busy writer something would always be on its way.

Left out: as on a cluster nothing is atomic over several keys, though here a batch is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from pytinykv.client.answer_sizes import AnswerSizes
from pytinykv.client.commands import Command, Pair
from pytinykv.client.config import ClientConfig
from pytinykv.client.errors import DeadlineExceededError
from pytinykv.client.raw_commands import (
    CasResult,
    Checksum,
    RawBatchDelete,
    RawBatchGet,
    RawBatchPut,
    RawChecksum,
    RawCompareAndSwap,
    RawDelete,
    RawDeleteRange,
    RawGet,
    RawPut,
    RawScan,
    RawTtl,
)
from pytinykv.embedded.database import Database
from pytinykv.embedded.quiet_event import QuietEvent
from pytinykv.embedded.refusals import engine_error
from pytinykv.model.raw_values import encode_raw_value, live_value, remaining_ttl_s
from pytinykv.raftstore.keys import RAW_TAGS, raw_end
from pytinykv.storage import ColumnFamily, EngineError, WriteBatch
from pytinykv.wire.checksum import checksum_pairs

_T = TypeVar("_T")
_RAW: Final = ColumnFamily.RAW

Fill = Callable[[WriteBatch], _T]
"""Fills the batch of a write, and returns its result. Under the writer's lock."""


class RawWrite:
    """A raw write, in the two parts that a group commit needs."""

    __slots__ = ("_fill", "_keys", "_runner")

    def __init__(self, runner: RawRunner, fill: Fill[Any], keys: Iterable[bytes] | None) -> None:
        self._runner = runner
        self._fill = fill
        self._keys = keys
        """Engine keys that it writes; None for a range of them."""

    def __call__(self) -> Any:
        """Write. The work of an entry of a group."""
        database = self._runner.database
        database.check_writable()
        try:
            database.port.flush()  # first: what comes first in a group is not lost alone
            batch = database.engine.write_batch()
            result = self._fill(batch)
        except EngineError as error:
            raise engine_error(error) from error
        if len(batch):
            self._runner.pending.add(self._keys)
            try:
                database.engine.write(batch)
            except EngineError as error:
                raise engine_error(error, may_have_written=True) from error
            database.port.writes += 1
        return result


class Pending:
    """The raw writes that are not durable yet."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        """Engine keys. Filled under the writer's lock before they are written, emptied when they are durable."""
        self._has_ranges = False
        """Whether a range is among them."""
        self._is_empty = QuietEvent()
        """Set while nothing is pending; moved with `_keys` and `_has_ranges`."""

    def add(self, keys: Iterable[bytes] | None) -> None:
        """Note what is about to be written; None for a range."""
        self._is_empty.clear()
        if keys is None:
            self._has_ranges = True
        else:
            self._keys.update(keys)

    def clear(self) -> None:
        """Take note that all of it is durable. Under the writer's lock."""
        self._keys.clear()
        self._has_ranges = False
        self._is_empty.set()

    def holds(self, key: bytes) -> bool:
        return self._has_ranges or key in self._keys

    def __bool__(self) -> bool:
        return not self._is_empty.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until what is pending now is durable, whatever has come since; return whether it is."""
        return self._is_empty.wait(timeout_s)


class RawRunner:
    """Runs raw commands. Thread-safe, for callers that may block. Takes the place of the client's executor."""

    def __init__(self, database: Database, config: ClientConfig) -> None:
        self.database = database
        self.config = config
        self.origin = self  # `check` is below
        self.answer_sizes = AnswerSizes()
        self.pending = Pending()
        database.on_durable = self.pending.clear
        self._reads: Final[dict[type, Callable[[Any, float], Any]]] = {
            RawGet: self._get,
            RawTtl: self._ttl,
            RawBatchGet: self._batch_get,
            RawScan: self._scan,
            RawChecksum: self._checksum,
        }
        self._writes: Final[dict[type, Callable[[Any], RawWrite]]] = {
            RawPut: self._put,
            RawDelete: self._delete,
            RawBatchPut: self._batch_put,
            RawBatchDelete: self._batch_delete,
            RawDeleteRange: self._delete_range,
            RawCompareAndSwap: self._compare_and_swap,
        }

    # --- as the executor of a cluster's client ------------------------------------------------------------------

    def check(self) -> None:
        """Raise `ClientForkedError` or `ClientClosedError` where the database can't be used."""
        self.database.check()

    def deadline(self, timeout_s: float | None) -> float:
        self.check()
        return time.monotonic() + (self.config.timeout_s if timeout_s is None else timeout_s)

    async def execute(self, command: Command[_T], deadline: float) -> _T:
        return self.run(command, deadline)

    def submit(self, command: Command[Any], deadline: float) -> None:
        """Never ahead of need: a page is there when it is asked for."""

    async def finish(self, command: Command[_T], future: Any, deadline: float) -> _T:
        raise AssertionError("nothing is submitted ahead")

    # --- running ------------------------------------------------------------------------------------------------

    def run(self, command: Command[_T], deadline: float) -> _T:
        """Run a command and return its result."""
        write = self.write_of(command)
        if write is None:
            return self.read(command, deadline)
        result: _T = self.database.groups.run(write, deadline)
        return result

    def write_of(self, command: Command[Any]) -> RawWrite | None:
        """Return the work of a command that writes, None for one that reads."""
        make = self._writes.get(type(command))
        return None if make is None else make(command)

    def read(self, command: Command[_T], deadline: float) -> _T:
        """Run a command that reads."""
        self.database.check()
        try:
            result: _T = self._reads[type(command)](command, deadline)
        except EngineError as error:
            self.database.check()
            raise engine_error(error) from error
        return result

    # --- reads --------------------------------------------------------------------------------------------------

    def _stored(self, key: bytes, deadline: float) -> bytes | None:
        database = self.database
        with database.reads.guard:
            stored = database.engine.get(_RAW, key)
        if self.pending and self.pending.holds(key):
            self._wait(deadline)
        return stored

    def _wait(self, deadline: float) -> None:
        """Wait until all that is there is durable. Raises `DeadlineExceededError`."""
        if not self.pending.wait(max(0.0, deadline - time.monotonic())):
            failure = self.database.failure
            if failure is not None:
                raise engine_error(failure)
            raise DeadlineExceededError("a write of what is read is on its way to the disk, which does not answer")
        self.database.check()

    def _get(self, command: RawGet, deadline: float) -> bytes | None:
        return live_value(self._stored(_key(command.cf, command.key), deadline), _now_s())

    def _ttl(self, command: RawTtl, deadline: float) -> float | None:
        stored = self._stored(_key(command.cf, command.key), deadline)
        now_s = _now_s()
        if stored is None or live_value(stored, now_s) is None:
            return None
        return float(remaining_ttl_s(stored, now_s)) or math.inf

    def _batch_get(self, command: RawBatchGet, deadline: float) -> list[Pair]:
        now_s = _now_s()
        found = ((key, live_value(self._stored(_key(command.cf, key), deadline), now_s)) for key in command.items)
        return [(key, value) for key, value in found if value is not None]

    def _scan(self, command: RawScan, deadline: float) -> list[Pair]:
        command.covered = command.range
        pairs = self._pairs(command, command.cf, deadline, limit=command.limit, reverse=command.reverse)
        return [(key, b"") for key, _ in pairs] if command.key_only else pairs

    def _pairs(
        self, command: RawScan | RawChecksum, cf: str, deadline: float, *, limit: int | None, reverse: bool
    ) -> list[Pair]:
        tag = RAW_TAGS[cf or "default"]
        start, end = tag + command.range.start, raw_end(tag, command.range.end)
        database = self.database
        now_s, pairs = _now_s(), list[Pair]()
        with database.reads.loop_guard:
            for key, stored in database.engine.scan(_RAW, start, end, reverse=reverse):
                value = live_value(stored, now_s)
                if value is not None:
                    pairs.append((key[1:], value))
                    if len(pairs) == limit:
                        break
        if self.pending:
            self._wait(deadline)
        return pairs

    def _checksum(self, command: RawChecksum, deadline: float) -> Checksum:
        command.covered = command.range
        total = checksum_pairs(self._pairs(command, "", deadline, limit=None, reverse=False))
        return Checksum(total.checksum, total.total_kvs, total.total_bytes)

    # --- writes -------------------------------------------------------------------------------------------------

    def _put(self, command: RawPut) -> RawWrite:
        return self._put_all([(_key(command.cf, command.key), command.value)], command.ttl_s)

    def _batch_put(self, command: RawBatchPut) -> RawWrite:
        return self._put_all([(_key(command.cf, key), value) for key, value in command.items], command.ttl_s)

    def _put_all(self, pairs: list[Pair], ttl_s: int) -> RawWrite:
        expires_at_s = _now_s() + ttl_s if ttl_s else 0

        def fill(batch: WriteBatch) -> None:
            if expires_at_s:
                self.database.will_expire(expires_at_s)
            for key, value in pairs:
                batch.put(_RAW, key, encode_raw_value(value, expires_at_s))

        return RawWrite(self, fill, [key for key, _ in pairs])

    def _delete(self, command: RawDelete) -> RawWrite:
        return self._delete_all([_key(command.cf, command.key)])

    def _batch_delete(self, command: RawBatchDelete) -> RawWrite:
        return self._delete_all([_key(command.cf, key) for key in command.items])

    def _delete_all(self, keys: list[bytes]) -> RawWrite:
        def fill(batch: WriteBatch) -> None:
            for key in keys:
                batch.delete(_RAW, key)

        return RawWrite(self, fill, keys)

    def _delete_range(self, command: RawDeleteRange) -> RawWrite:
        command.covered = command.range
        tag = RAW_TAGS[command.cf or "default"]
        start, end = tag + command.range.start, raw_end(tag, command.range.end)
        return RawWrite(self, lambda batch: batch.delete_range(_RAW, start, end), None)

    def _compare_and_swap(self, command: RawCompareAndSwap) -> RawWrite:
        key = _key(command.cf, command.key)

        def fill(batch: WriteBatch) -> CasResult:
            now_s = _now_s()
            previous = live_value(self.database.engine.get(_RAW, key), now_s)
            if previous != command.expected:
                return CasResult(swapped=False, previous=previous)
            expires_at_s = now_s + command.ttl_s if command.ttl_s else 0
            if expires_at_s:
                self.database.will_expire(expires_at_s)
            batch.put(_RAW, key, encode_raw_value(command.value, expires_at_s))
            return CasResult(swapped=True, previous=previous)

        return RawWrite(self, fill, [key])


def _key(cf: str, key: bytes) -> bytes:
    return RAW_TAGS[cf or "default"] + key


def _now_s() -> int:
    return int(time.time())
