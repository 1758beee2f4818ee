"""What the servers tell about themselves, asked twice a second: /debug/store of each store, /debug/scheduler.

A store that does not answer keeps what it told last, and says nothing new: its writes were made, its leadership is over.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

import msgspec

from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
from pytinykv.lifecycle import Scope
from pytinykv.transport.address import parse_address

INTERVAL_S: Final = 0.5
TIMEOUT_S: Final = 1.0
FIRST_S: Final = 3.0
"""How long the first picture waits for the stores' first answers."""
STORE_PAGE: Final = "/debug/store"
_SCHEDULER_PAGE: Final = "/debug/scheduler"

P = TypeVar("P", bound=msgspec.Struct)


class PeerFacts(msgspec.Struct, frozen=True):
    """One region as one store sees it."""

    region: int
    start: str
    end: str
    is_leader: bool
    term: int
    applied: int
    stores: list[int]
    is_asleep: bool = False


class StoreFacts(msgspec.Struct, frozen=True):
    """One store's page."""

    store: int = 0
    writes: int = 0
    resident_bytes: int = 0
    regions: list[PeerFacts] = []


class OperatorFacts(msgspec.Struct, frozen=True):
    """Something the scheduler does, or has done."""

    region: int
    what: str
    status: str
    reason: str
    steps: list[str]
    done_steps: int
    took_s: float
    ended_ago_s: float

    @property
    def is_running(self) -> bool:
        return self.status == "running"


class SchedulerFacts(msgspec.Struct, frozen=True):
    """The scheduler's page."""

    running: list[OperatorFacts] = []
    ended: list[OperatorFacts] = []
    """The latest first."""


class RegionView(msgspec.Struct, frozen=True):
    """A region put together from what its stores tell."""

    region: int
    start: str
    end: str
    term: int
    stores: list[int]
    """Of its peers, as its leader says."""
    leader: int | None
    """The store that leads it; None while there is no leader."""
    applied: dict[int, int]
    """By store, of those that answer."""


class Observer:
    """Keeps the newest page of each store."""

    def __init__(self, cluster: LocalCluster, scope: Scope) -> None:
        self._cluster: Final = cluster
        self._facts: Final[dict[str, StoreFacts]] = {}
        """By the store's name, the newest page that could be read; it stays when the store no longer answers."""
        self._answers: Final[dict[str, bool]] = {}
        """By the store's name, whether its latest page could be read; no entry before the first attempt."""
        self.scheduler: SchedulerFacts = SchedulerFacts()
        """What the scheduler told last."""
        self._first: Final = asyncio.Event()
        """Set once every store has been asked."""
        for index, process in enumerate(cluster.stores):
            scope.start(f"observe-{process.name}", self._observe, index)
        scope.start("observe-scheduler", self._observe_scheduler)

    async def wait_first(self) -> None:
        """Return when each store has answered, or failed to, or after `FIRST_S`."""
        try:
            await asyncio.wait_for(self._first.wait(), FIRST_S)
        except TimeoutError:
            return

    async def _observe(self, index: int) -> None:
        while True:
            process = self._cluster.stores[index]  # another one once it was started again
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    facts = await read_page(process.facts.get("status", ""), STORE_PAGE, StoreFacts)
                self._facts[process.name] = facts
                self._answers[process.name] = True
            except (OSError, TimeoutError, msgspec.DecodeError):
                self._answers[process.name] = False
            if len(self._answers) == len(self._cluster.stores):
                self._first.set()
            await asyncio.sleep(INTERVAL_S)

    async def _observe_scheduler(self) -> None:
        while True:
            status = self._cluster.scheduler.facts.get("status", "")
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self.scheduler = await read_page(status, _SCHEDULER_PAGE, SchedulerFacts)
            except (OSError, TimeoutError, msgspec.DecodeError):
                self.scheduler = SchedulerFacts()  # what it did last is over, as far as is known
            await asyncio.sleep(INTERVAL_S)

    def facts_of(self, process: ServerProcess) -> StoreFacts:
        """Return what a store told last."""
        return self._facts.get(process.name, StoreFacts())

    def answers(self, process: ServerProcess) -> bool:
        """Return whether it answered when it was asked last."""
        return process.is_running and self._answers.get(process.name, False)

    @property
    def writes(self) -> int:
        """Changes of keys that the stores have taken since the playground began."""
        return sum(facts.writes for facts in self._facts.values())

    def regions(self) -> list[RegionView]:
        """Return the regions, as their leaders see them where they have one."""
        alive = [process for process in self._cluster.stores if self.answers(process)]
        by_region: dict[int, dict[int, PeerFacts]] = {}
        for process in alive:
            facts = self.facts_of(process)
            for peer in facts.regions:
                by_region.setdefault(peer.region, {})[facts.store] = peer
        return [_view(region, by_region[region]) for region in sorted(by_region)]


def _view(region: int, peers: dict[int, PeerFacts]) -> RegionView:
    leaders = [store for store, peer in peers.items() if peer.is_leader]
    leader = max(leaders, key=lambda store: peers[store].term, default=None)
    best = peers[leader] if leader is not None else max(peers.values(), key=lambda peer: (peer.term, peer.applied))
    return RegionView(
        region=region,
        start=best.start,
        end=best.end,
        term=best.term,
        stores=sorted(best.stores),
        leader=leader,
        applied={store: peers[store].applied for store in sorted(peers)},
    )


async def read_page(address: str, page: str, kind: type[P]) -> P:
    """Fetch a page of a status port. Raises OSError, DecodeError (an answer that is none)."""
    if not address:
        raise ConnectionError("the server has no status port")
    reader, writer = await asyncio.open_connection(*parse_address(address))
    try:
        writer.write(f"GET {page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return msgspec.json.decode(body, type=kind)
