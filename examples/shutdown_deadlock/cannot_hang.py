"""The same two stores, wired so that they cannot hang; and the check that refuses the other wiring before it runs.

What is different, rule by rule:

1. sends never wait: a full inbox drops the oldest message, because Raft repeats itself (`deque(maxlen=…)`);
2. the worker waits for one thing only, which a message and the stop both set: the exit is reachable wherever it is;
3. a proposal's future is resolved on every path: with its result, or with the reason why there is none;
4. the stop is a sequence of stages with deadlines, in the order of the waits: what is waited for stops later;
5. the wiring is declared, and checked for cycles at start.
"""

from __future__ import annotations

import asyncio
from collections import deque

from pytinykv.lifecycle import Scope, StopReport, WhenFull, Wiring


class StoppingError(Exception):
    """The store is stopping; the proposal may be made again, elsewhere."""


class Store:
    """A store's worker that always stops."""

    def __init__(self, name: str, scope: Scope) -> None:
        self.name = name
        self.other = self
        self._inbox: deque[str] = deque(maxlen=2)
        self._wake = asyncio.Event()
        self._proposals: list[asyncio.Future[str]] = []
        self._scope = scope.child(name)
        self._scope.on_stop("answer the rest", self._answer_the_rest)
        self._scope.start("worker", self._run)

    def receive(self, message: str) -> None:
        """Take a message; never waits."""
        self._inbox.append(message)
        self._wake.set()

    def propose(self) -> asyncio.Future[str]:
        """Return a future that is always resolved."""
        proposal: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if self._scope.stopping:
            proposal.set_exception(StoppingError(self.name))
        else:
            self._proposals.append(proposal)
        return proposal

    def _answer_the_rest(self) -> None:
        for proposal in self._proposals:
            if not proposal.done():
                proposal.set_exception(StoppingError(self.name))

    async def _run(self) -> None:
        while True:
            await self._wake.wait()  # cancelled by the scope, wherever the messages are
            self._wake.clear()
            while self._inbox:
                message = self._inbox.popleft()
                self.other.receive(f"{self.name} has received {message[:20]}")
                await asyncio.sleep(0)


def hanging_wiring() -> Wiring:
    """Return the wiring of the first shape."""
    wiring = Wiring("two stores")
    for name in ("store-1", "store-2"):
        wiring.component(name)
    wiring.hands_over("store-1", "store-2", "messages", bound=1, when_full=WhenFull.WAIT)
    wiring.hands_over("store-2", "store-1", "messages", bound=1, when_full=WhenFull.WAIT)
    return wiring


def sound_wiring() -> Wiring:
    """Return the wiring of `Store`."""
    wiring = Wiring("two stores")
    for name in ("clients", "store-1", "store-2"):
        wiring.component(name)
    wiring.hands_over("store-1", "store-2", "messages", bound=2, when_full=WhenFull.DROP)
    wiring.hands_over("store-2", "store-1", "messages", bound=2, when_full=WhenFull.DROP)
    wiring.waits("clients", "store-1", "the outcome of a proposal")
    return wiring


async def run_and_stop() -> tuple[StopReport, BaseException | None]:
    """Run two stores that never stop talking, stop them in the middle of it; return the report and a client's fate."""
    sound_wiring().check()
    scope = Scope("cluster")
    left, right = Store("store-1", scope), Store("store-2", scope)
    left.other, right.other = right, left
    for store in (left, right):
        store.receive("hello")
        store.receive("hello again")
    proposal = left.propose()
    for _ in range(100):
        await asyncio.sleep(0)
    report = await scope.stop(1.0)
    return report, proposal.exception()
