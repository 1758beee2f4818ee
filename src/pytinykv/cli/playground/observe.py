"""What the stores tell about themselves: the page /debug/store of each, read twice a second.

A store that does not answer keeps what it told last, and says nothing new: its writes were made, its leadership is over.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from pytinykv.cli.playground.cluster import LocalCluster, ServerProcess
from pytinykv.lifecycle import Scope
from pytinykv.transport.address import parse_address

INTERVAL_S: Final = 0.5
TIMEOUT_S: Final = 1.0
_PAGE: Final = "/debug/store"


class PeerFacts(msgspec.Struct, frozen=True):
    """One region as one store sees it."""

    region: int
    start: str
    end: str
    is_leader: bool
    term: int
    applied: int
    stores: list[int]


class StoreFacts(msgspec.Struct, frozen=True):
    """One store's page."""

    store: int = 0
    writes: int = 0
    resident_bytes: int = 0
    regions: list[PeerFacts] = []


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
        self._answers: Final[dict[str, bool]] = {}
        for process in cluster.stores:
            scope.start(f"observe-{process.name}", self._observe, process)

    async def _observe(self, process: ServerProcess) -> None:
        while True:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    self._facts[process.name] = await read_page(process.facts.get("status", ""))
                self._answers[process.name] = True
            except (OSError, TimeoutError, msgspec.DecodeError):
                self._answers[process.name] = False
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


async def read_page(address: str) -> StoreFacts:
    """Fetch a store's page from its status port. Raises OSError, DecodeError (an answer that is none)."""
    if not address:
        raise ConnectionError("the store has no status port")
    reader, writer = await asyncio.open_connection(*parse_address(address))
    try:
        writer.write(f"GET {_PAGE} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return msgspec.json.decode(body, type=StoreFacts)
