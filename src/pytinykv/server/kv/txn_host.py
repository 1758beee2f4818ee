"""What runs a store's transactional commands: the executor over the store's regions, and what it must be told of them.

    dispatcher ──submit──▶ TransactionHost ──▶ Executor ──RegionPort──▶ Store (log, lease)
                                │  ▲
        region events ──────────┘  └── timer: lock waits · task: the largest read timestamp of regions that came to be led

`max_ts`, on which async and one-phase commit rest, is one number for the store. Which reads the leader before has served it
does not know; but all of them had timestamps from before this store came to lead, so one that is fetched after that, for all
regions that came to be led meanwhile, is above them. Until it is here, transactions commit in two phases.

Invariants:
1. A region's `max_ts` counts as known only in the term for which a timestamp was fetched after it began.
2. Who waits for a lock is answered when the region is lost or its range changes, and at the stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from pytinykv.lifecycle import ScopeStoppedError
from pytinykv.raftstore.region_events import Deposed, Destroyed, Leading, RegionChanged
from pytinykv.raftstore.split_keys import holds_transactional_data
from pytinykv.server.kv.kinds import InvalidRequestError
from pytinykv.transaction.concurrency import ConcurrencyManager
from pytinykv.transaction.errors import TxnErrorRaised
from pytinykv.transaction.executor import Executor, OnAnswer, OnSettled, WaitLostError
from pytinykv.wire.errors import NotLeader, RegionError, RegionNotFound, ServerIsBusy, UndeterminedResult
from pytinykv.wire.timestamp import LOGICAL_MAX, MAX_TIMESTAMP, Timestamp, compose, physical_ms

if TYPE_CHECKING:
    from pytinykv.client.txn.records import ForeignLock
    from pytinykv.lifecycle import Scope
    from pytinykv.raft import Term
    from pytinykv.raftstore import RegionPeer, Store
    from pytinykv.raftstore.region_events import RegionEvent
    from pytinykv.server.kv.deadlocks import Deadlocks
    from pytinykv.storage import Reader
    from pytinykv.storage.changes import Change
    from pytinykv.transaction.commands import WriteCommand

_log = logging.getLogger(__name__)

TIMER_S: Final = 0.02
"""How exactly deadlines of lock waits are kept."""
MAX_TS_TIMEOUT_S: Final = 2.0
"""How long one attempt to fetch a timestamp may take."""
MAX_TS_PAUSE_S: Final = 0.2
"""Pause after one that failed."""
FUTURE_MS_MAX: Final = 60_000
"""How far beyond what the scheduler's clock must show a timestamp may lie: clocks differ, and are set."""

ALLOW_TIMEOUT_S: Final = 10.0
"""How long the scheduler has to switch the cluster over to transactions; it may wait for splits under way."""
ALLOW_BACKOFF_MS: Final = 500

AllowTransactions = Callable[[float], Awaitable[str]]
"""Asks the scheduler for transactions; returns why there can be none, "" if there can. Raises Exception."""
FetchTimestamp = Callable[[float], Awaitable[Timestamp]]
"""Returns a new timestamp of the scheduler within so many seconds. Raises Exception."""


class Collector(Protocol):
    """What collects the garbage of the store's regions."""

    collect_ts: int
    """Up to which it may be collected."""

    def collect_region(self, peer: RegionPeer, on_done: Callable[[Exception | None], None]) -> None:
        """Collect one region now; `on_done(error)` is called once."""
        ...


class ClusterPort(Protocol):
    """What a store asks of the whole cluster, as a client of it."""

    async def resolve_locks(self, locks: Sequence[ForeignLock], timeout_s: float) -> int:
        """Remove locks whose transactions have ended or run out; return how many are left, alive or out of reach.

        Raises ClientError if no scheduler answers; then nothing was done.
        """
        ...

    async def delete_range(self, start: bytes, end: bytes, timeout_s: float) -> None:
        """Delete all versions, values and locks of a range of users' keys (empty end: none). Raises ClientError."""
        ...


class StorePort:
    """A region as a frame found it; see `RegionPort`."""

    __slots__ = ("_host", "_store", "peer", "term", "version")

    def __init__(self, host: TransactionHost, peer: RegionPeer, version: int, term: Term) -> None:
        self._host = host
        self._store = host.store
        self.peer = peer
        self.version = version
        self.term = term

    @property
    def region_id(self) -> int:
        return self.peer.region.id

    @property
    def reader(self) -> Reader:
        return self._store.engine

    @property
    def may_compute_commit_ts(self) -> bool:
        return self._host.knows_max_ts(self.peer.region.id, self.term)

    def refusal(self) -> RegionError | None:
        peer = self.peer
        if self._store.refuses is not None:
            return self._store.refuses
        if peer.is_destroyed:
            return RegionNotFound(region_id=peer.region.id)
        if not peer.is_leader or peer.term != self.term:
            return peer.not_leader()
        if peer.region.epoch.version != self.version:
            return peer.epoch_not_match(self.version)
        return None

    def is_current(self) -> bool:
        return self.peer.can_ask_reads()

    def wait_until_current(self, on_ready: OnSettled) -> None:
        self._store.read(self.peer, on_ready)

    def confirm(self, on_confirmed: OnSettled) -> None:
        if self.peer.can_read_now(self._store.clock.monotonic()):
            on_confirmed(None)
        else:
            self._store.read(self.peer, on_confirmed)

    def propose(self, changes: list[Change], on_applied: OnSettled) -> None:
        size_bytes = sum(len(part) for change in changes for part in change[2:])
        self._store.propose(
            self.peer,
            changes,
            size_bytes,
            lambda error, _results: on_applied(error),
            version=self.version,
            term=self.term,
        )

    def is_undetermined(self, error: Exception) -> bool:
        return isinstance(error, UndeterminedResult)


class TransactionHost:
    """The transactions of one store. Its tasks belong to `scope`, whose stop answers what waits."""

    def __init__(
        self,
        store: Store,
        scope: Scope,
        *,
        fetch_timestamp: FetchTimestamp | None = None,
        allow_transactions: AllowTransactions | None = None,
        deadlocks: Deadlocks,
        cluster: ClusterPort | None = None,
    ) -> None:
        """`fetch_timestamp` None: no commit timestamp is ever computed here. `allow_transactions` None: there may be any.

        `cluster` None: this store's regions are all that is reached, and old locks are left to those who meet them.
        """
        self.store: Final = store
        self.scope: Final = scope
        """Owns what commands start."""
        self.cluster: Final = cluster
        self._scope = scope
        self._fetch_timestamp = fetch_timestamp
        self.concurrency: Final = ConcurrencyManager()
        self.executor: Final = Executor(
            concurrency=self.concurrency, observer=deadlocks, monotonic=store.clock.monotonic
        )
        self.deadlocks: Final = deadlocks
        deadlocks.attach(self.executor)
        self.collector: Collector | None = None
        """Collects garbage, where a client of the scheduler says how far; set once, by `KvService.collect_garbage`."""
        self._allow_transactions = allow_transactions
        self._are_allowed = allow_transactions is None or holds_transactional_data(store.engine)
        """Whether the cluster is known to split regions at memcomparable keys only. Never goes back."""
        store.splits.is_transactional |= self._are_allowed and allow_transactions is not None
        self._held: list[Callable[[Exception | None], None]] = []
        """Commands that wait for that, in the order they came: to be run, or refused with an error."""
        self._terms: dict[int, Term] = {}
        """By region that is led here and in whose term `max_ts` is known, that term."""
        self._came_to_lead: dict[int, Term] = {}
        """By region that came to be led, its term, for which no timestamp was asked yet."""
        self._is_fetching = False
        """Whether a task fetches timestamps; it ends when none is needed."""
        self._newest: tuple[int, float] | None = None
        """Milliseconds of the newest timestamp that was fetched, and when, by the monotonic clock; None: none was."""
        self._is_behind = False
        """Whether a read was refused for a timestamp above `_limit`: a new one is to be fetched, as the scheduler's clock may
        have been set forward."""
        self.concurrency.limit = self._limit
        self._is_timing = False
        """Whether a task wakes who waits for locks; it ends when none does."""
        for peer in store.peers.values():
            if peer.is_leader:
                self._came_to_lead[peer.region.id] = peer.term
        store.listen(self._on_event)
        scope.on_stop("answer who waits for locks", self.executor.stop)
        self._fetch_soon()

    @property
    def safe_point(self) -> Timestamp:
        """Up to which versions may have been collected; only grows."""
        return self.executor.safe_point

    def knows_max_ts(self, region_id: int, term: Term) -> bool:
        """Return whether `max_ts` is above all that was ever read in this region."""
        return self._terms.get(region_id) == term

    def note_read(self, version: Timestamp) -> None:
        """Take note that a read at `version` is about to be served.

        Raises:
            InvalidRequestError: the scheduler can't have handed out that timestamp yet.
        """
        try:
            self.concurrency.note_read(version)
        except TxnErrorRaised as raised:
            self._is_behind = True
            self._fetch_soon()
            raise InvalidRequestError(raised.error.describe()) from None

    def _limit(self) -> Timestamp:
        """Return above what no timestamp can have been handed out; as long as none was fetched, the largest number."""
        if self._newest is None:
            return MAX_TIMESTAMP
        fetched_ms, fetched_at = self._newest
        now_ms = fetched_ms + (self.store.clock.monotonic() - fetched_at) * 1000
        return compose(int(now_ms + FUTURE_MS_MAX), LOGICAL_MAX)

    def raise_safe_point(self, safe_point: Timestamp) -> None:
        """Refuse reads and prewrites below, from now on."""
        self.executor.safe_point = max(self.executor.safe_point, safe_point)

    def port(self, peer: RegionPeer, version: int, term: Term) -> StorePort:
        """Return a region as it was when its epoch and term were these."""
        return StorePort(self, peer, version, term)

    def submit(
        self,
        peer: RegionPeer,
        version: int,
        term: Term,
        command: WriteCommand,
        on_answer: Callable[[Exception | None, Any], None],
    ) -> None:
        """Run a command for a region as it was when its epoch was compared; `on_answer(error, result)` is called once."""

        def on_done(error: Exception | None, result: Any) -> None:
            if isinstance(error, WaitLostError):
                error = NotLeader(region_id=peer.region.id, message=str(error))
            on_answer(error, result)

        port = self.port(peer, version, term)
        if self._are_allowed:
            self._run(port, command, on_done)
        else:
            self._hold(lambda error: self._run(port, command, on_done) if error is None else on_done(error, None))

    def _run(self, port: StorePort, command: WriteCommand, on_done: OnAnswer) -> None:
        self.executor.submit(port, command, on_done)
        if self.executor.waits and not self._is_timing:
            self._start_timer()

    # --- the first transactional write --------------------------------------------------------------------------

    def _hold(self, go_on: Callable[[Exception | None], None]) -> None:
        """Let a command wait until the cluster is known to be fit for transactions."""
        assert self._allow_transactions is not None
        self._held.append(go_on)
        if len(self._held) > 1:
            return
        try:
            self._scope.start("allow-transactions", self._ask_to_allow, self._allow_transactions)
        except ScopeStoppedError:
            self._let_go(NotLeader(region_id=0, message="the store is stopping"))

    async def _ask_to_allow(self, ask: AllowTransactions) -> None:
        error: Exception | None = ServerIsBusy(reason="the store is stopping", backoff_ms=ALLOW_BACKOFF_MS)
        try:
            refusal = await ask(ALLOW_TIMEOUT_S)
        except Exception as failure:  # noqa: BLE001 - whatever keeps the scheduler away: the client asks again
            reason = f"the scheduler can't be asked whether there may be transactions: {failure}"
            error = ServerIsBusy(reason=reason, backoff_ms=ALLOW_BACKOFF_MS)
        else:
            self._are_allowed = not refusal
            self.store.splits.is_transactional |= self._are_allowed
            error = InvalidRequestError(refusal) if refusal else None
        finally:
            self._let_go(error)

    def _let_go(self, error: Exception | None) -> None:
        held, self._held = self._held, []
        for go_on in held:
            go_on(error)

    # --- regions ------------------------------------------------------------------------------------------------

    def _on_event(self, event: RegionEvent) -> None:
        match event:
            case Leading(region, term):
                self.executor.on_region_lost(region.id)
                self._came_to_lead[region.id] = term
                self._fetch_soon()
            case Deposed(region):
                self._forget(region.id)
            case Destroyed(tombstone):
                self._forget(tombstone.region.id)
            case RegionChanged(old, new):
                if old.epoch.version != new.epoch.version:
                    self.executor.on_range_changed(new.id)

    def _forget(self, region_id: int) -> None:
        self._terms.pop(region_id, None)
        self._came_to_lead.pop(region_id, None)
        self.executor.on_region_lost(region_id)

    def _fetch_soon(self) -> None:
        needs_none = not self._came_to_lead and not self._is_behind
        if self._is_fetching or needs_none or self._fetch_timestamp is None or self._scope.stopping:
            return
        self._is_fetching = True
        self._scope.start("max-ts", self._fetch_max_ts, self._fetch_timestamp)

    async def _fetch_max_ts(self, fetch: FetchTimestamp) -> None:
        try:
            while self._came_to_lead or self._is_behind:
                asked = dict(self._came_to_lead)
                try:
                    timestamp = await fetch(MAX_TS_TIMEOUT_S)
                except Exception as error:  # noqa: BLE001 - whatever keeps the scheduler away: it is asked again
                    _log.info("no timestamp for %d regions that came to be led: %s", len(asked), error)
                    await asyncio.sleep(MAX_TS_PAUSE_S)
                    continue
                self._newest = (physical_ms(timestamp), self.store.clock.monotonic())
                self._is_behind = False
                self.concurrency.note_read(timestamp)
                for region_id, term in asked.items():
                    if self._came_to_lead.get(region_id) == term:
                        del self._came_to_lead[region_id]
                        self._terms[region_id] = term
        finally:
            self._is_fetching = False

    # --- time ---------------------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        try:
            self._scope.start("lock-waits", self._keep_time)
            self._is_timing = True
        except ScopeStoppedError:
            self.executor.stop()

    async def _keep_time(self) -> None:
        try:
            while (due := self.executor.next_due()) is not None:
                now = self.store.clock.monotonic()
                if due <= now:
                    self.executor.on_time(now)
                await asyncio.sleep(TIMER_S)
        finally:
            self._is_timing = False
