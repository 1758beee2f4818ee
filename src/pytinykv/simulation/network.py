"""The virtual network: who can talk to whom, how long it takes, and what gets lost.

Links are directed, host to host. Two kinds of traffic use them:

* datagrams (`Network.post`): each is delayed by itself, may be lost, doubled or overtaken. Store to store traffic.
* connections (`Connection`, see `connection.py`): ordered and reliable like TCP, so a bad link shows up as delay, and a
  link that stays bad as a broken connection. Calls and streams of clients use them.

Faults, all undone by `heal`: `block` (a one-way cut), `partition` (cuts between groups), `clog` (traffic waits until the
link is freed), and `conditions` (loss, duplication, delay) for all links or one.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from random import Random
from typing import Any, Protocol

import msgspec

from pytinykv.simulation.loop import SimLoop
from pytinykv.simulation.process import Process
from pytinykv.simulation.trace import Trace


class NetworkConnection(Protocol):
    """A connection as the network sees it."""

    def crosses(self, source: str, target: str) -> bool:
        """Whether it leads over this link, in either direction."""
        ...

    def expect_break(self) -> None:
        """Be told that its link has been cut."""
        ...

    def is_held_by(self, process: Process) -> bool:
        """Whether a process has dialled it and not closed it."""
        ...


class LinkConditions(msgspec.Struct, frozen=True, kw_only=True):
    """How one direction of a link behaves. Probabilities are per message."""

    latency_min_s: float = 0.0003
    """No message is faster."""
    latency_extra_mean_s: float = 0.0005
    """Mean of the exponentially distributed part on top; so messages overtake each other."""
    loss: float = 0.0
    """Probability that a datagram vanishes; on a connection: that a segment is sent again, `retransmit_s` later."""
    duplicate: float = 0.0
    """Probability that a datagram arrives a second time, independently delayed."""
    straggle: float = 0.0
    """Probability that a message takes up to `straggle_max_s` longer."""
    straggle_max_s: float = 0.2
    retransmit_s: float = 0.2
    """How long a connection waits before it tries a lost segment, or a blocked link, again."""
    notice_min_s: float = 0.2
    notice_max_s: float = 2.0
    """How long an end of a connection takes to notice that the other end can't be reached any more."""


class Network:
    """All links of one simulated world."""

    def __init__(self, loop: SimLoop, rng: Random, trace: Trace, conditions: LinkConditions | None = None) -> None:
        self.loop = loop
        self.rng = rng
        self.trace = trace
        self.conditions = conditions or LinkConditions()
        """The conditions of every link that has none of its own."""
        self._link_conditions: dict[tuple[str, str], LinkConditions] = {}
        """(source, target) -> conditions of that link."""
        self._blocked: set[tuple[str, str]] = set()
        """Links that are cut."""
        self._clogged: dict[tuple[str, str], list[Callable[[], None]]] = {}
        """Clogged link -> what to call, in this order, when it is freed."""
        self.snapshot_piece_bytes = 64 * 1024
        """How much of a snapshot travels at once."""
        self.full_buffers = 0.0
        """Probability that a stream takes no message at the moment."""
        self.lost_receipts = 0.0
        """Probability that the sender of a snapshot never hears that it has arrived."""
        self._connections: dict[int, NetworkConnection] = {}
        """Open connections by number."""
        self._connections_made = 0
        """The number of the latest connection. Only grows, so that each has its own."""
        self._no_process = Context()
        """The context of the network's own timers: they outlive the process that sent."""
        self.counters: dict[str, int] = {}
        """What happened how often: posted, delivered, lost, blocked, duplicated, broken connections."""

    # faults

    def set_conditions(self, source: str, target: str, conditions: LinkConditions) -> None:
        """Give one directed link its own conditions."""
        self.count("links made worse")
        self._link_conditions[source, target] = conditions

    def block(self, source: str, target: str) -> None:
        """Cut one direction: what is under way on it is lost, connections across it break when an end notices."""
        self.count("links cut")
        self._blocked.add((source, target))
        for connection in list(self._connections.values()):
            if connection.crosses(source, target):
                connection.expect_break()

    def unblock(self, source: str, target: str) -> None:
        self._blocked.discard((source, target))

    def partition(self, *groups: Sequence[str]) -> None:
        """Cut both directions between hosts of different groups; hosts in no group keep all their links."""
        self.trace.record("partition", *("+".join(group) for group in groups))
        for number, group in enumerate(groups):
            for other in (host for later in groups[number + 1 :] for host in later):
                for host in group:
                    self.block(host, other)
                    self.block(other, host)

    def clog(self, source: str, target: str) -> None:
        """Let what goes in one direction wait until `unclog`: datagrams at its entrance, connections at its end."""
        self.count("links clogged")
        self._clogged.setdefault((source, target), [])

    def unclog(self, source: str, target: str) -> None:
        for go in self._clogged.pop((source, target), []):
            go()

    def heal(self) -> None:
        """Undo every cut, clog and condition of single links; the general conditions stay."""
        self.trace.record("heal")
        self.full_buffers = self.lost_receipts = 0.0
        self._blocked.clear()
        self._link_conditions.clear()
        for source, target in sorted(self._clogged):
            self.unclog(source, target)

    def hold_if_clogged(self, source: str, target: str, go: Callable[[], None]) -> bool:
        """Say whether a direction is clogged; `go` is called when it is free again."""
        waiting = self._clogged.get((source, target))
        if waiting is None:
            return False
        waiting.append(go)
        return True

    # what the traffic asks

    def conditions_of(self, source: str, target: str) -> LinkConditions:
        if source == target:
            return LinkConditions(latency_extra_mean_s=0.00005)
        return self._link_conditions.get((source, target), self.conditions)

    @property
    def cuts(self) -> list[tuple[str, str]]:
        """The directions that are cut, (source, target), sorted."""
        return sorted(self._blocked)

    def is_blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._blocked

    def delay_s(self, conditions: LinkConditions) -> float:
        """Draw the latency of one message."""
        delay = conditions.latency_min_s + self.rng.expovariate(1.0) * conditions.latency_extra_mean_s
        if conditions.straggle and self.rng.random() < conditions.straggle:
            delay += self.rng.random() * conditions.straggle_max_s
        return delay

    def call_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> TimerHandle:
        """Set a timer that belongs to the network: what is under way arrives, whatever becomes of its sender."""
        return self.loop.call_later(delay_s, callback, *args, context=self._no_process)

    def count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    # datagrams

    def post(self, source: Process, target: str, payload: bytes, deliver: Callable[[bytes], None]) -> None:
        """Send a datagram from a process to a host; `deliver` gets it there, if it arrives, as a callback of no process.

        `deliver` finds out by itself whether the target still listens, and goes on in its context (`Process.post`).
        """
        if not source.alive:
            return
        link = (source.host, target)
        conditions = self.conditions_of(*link)
        self.count("posted")
        if self.is_blocked(*link):
            self.count("blocked")
            return
        if conditions.loss and self.rng.random() < conditions.loss:
            self.count("lost")
            return
        copies = 1
        if conditions.duplicate and self.rng.random() < conditions.duplicate:
            self.count("duplicated")
            copies = 2
        for _ in range(copies):
            self._launch(link, payload, deliver)

    def _launch(self, link: tuple[str, str], payload: bytes, deliver: Callable[[bytes], None]) -> None:
        def start() -> None:
            self.call_later(self.delay_s(self.conditions_of(*link)), self._arrive, link, payload, deliver)

        if link in self._clogged:
            self.count("clogged")
            self._clogged[link].append(start)
        else:
            start()

    def _arrive(self, link: tuple[str, str], payload: bytes, deliver: Callable[[bytes], None]) -> None:
        if self.is_blocked(*link):
            self.count("blocked")
            return
        self.count("delivered")
        self.trace.record_message("deliver", link, payload)
        deliver(payload)

    # connections

    def add_connection(self, connection: NetworkConnection) -> int:
        """Register an open connection; returns its number."""
        self._connections_made += 1
        self._connections[self._connections_made] = connection
        return self._connections_made

    def remove_connection(self, number: int) -> None:
        self._connections.pop(number, None)

    def connections_held_by(self, process: Process) -> int:
        """Return how many connections a process has dialled and not closed."""
        return sum(1 for each in self._connections.values() if each.is_held_by(process))

    @property
    def open_connections(self) -> Iterable[NetworkConnection]:
        return tuple(self._connections.values())
