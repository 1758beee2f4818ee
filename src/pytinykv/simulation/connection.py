"""A connection of the virtual network: two ordered, reliable pipes that break as a whole.

        client end ── up ──▶ server end          a frame enters a pipe, waits for its latency behind its predecessors,
        client end ◀─ down ─ server end          and leaves at the other end; a blocked link holds the pipe

As with TCP, nothing is lost while a connection lasts: a lost segment costs time, a cut link holds everything back. Each
end notices by itself, after a drawn time, that the other can't be reached (a keepalive), and closes; what was under way is
gone, and its caller gets UNAVAILABLE without knowing whether the other side acted. When a process dies, its peer gets a
reset at once (the host lives) or has to notice (the host died too).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from pytinykv.simulation.network import Network
from pytinykv.simulation.process import Process

Frame = tuple[Any, ...]


class _Pipe:
    """One direction. Frames leave in the order in which they came."""

    def __init__(self, network: Network, source: str, target: str, leave: Callable[[Frame], None]) -> None:
        self._network = network
        self._link = (source, target)
        self._leave = leave
        self._frames: deque[tuple[float, Frame]] = deque()
        """(when it may leave, frame), in the order they came; the times never decrease."""
        self._last = 0.0
        """When the frame sent last may leave."""
        self._timer: Any = None
        """Fires when the first frame may leave; None if there is none, or if the pipe is held."""
        self._is_held = False
        """Whether the link is clogged and will say when it no longer is."""

    def push(self, frame: Frame) -> None:
        network = self._network
        conditions = network.conditions_of(*self._link)
        delay = network.delay_s(conditions)
        if conditions.loss and network.rng.random() < conditions.loss:
            delay += conditions.retransmit_s
        self._last = max(self._last, network.loop.time() + delay)
        self._frames.append((self._last, frame))
        if self._timer is None and not self._is_held:
            self._wait(self._last)

    def _wait(self, when: float) -> None:
        self._timer = self._network.call_later(when - self._network.loop.time(), self._drain)

    def _drain(self) -> None:
        self._timer = None
        now = self._network.loop.time()
        while self._frames and self._frames[0][0] <= now:
            if self._network.hold_if_clogged(*self._link, self._go_on):
                self._is_held = True
                return
            if self._network.is_blocked(*self._link):
                self._wait(now + self._network.conditions_of(*self._link).retransmit_s)
                return
            self._leave(self._frames.popleft()[1])
        if self._frames and self._timer is None:
            self._wait(self._frames[0][0])

    def left_s(self) -> float:
        """Return in how many seconds the last of the frames under way may leave; 0 if there is none."""
        return max(0.0, self._last - self._network.loop.time()) if self._frames else 0.0

    def _go_on(self) -> None:
        self._is_held = False
        self._drain()

    def close(self) -> None:
        self._frames.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class End:
    """One end of a connection: where frames arrive and where the break is told. `process` owns it."""

    def __init__(self, process: Process, on_frame: Callable[[Frame], None], on_closed: Callable[[str], None]) -> None:
        self.process = process
        self.is_open = True
        """Unset once, when the break has arrived here; nothing is delivered any more."""
        self._on_frame = on_frame
        self._on_closed = on_closed

    def receive(self, frame: Frame) -> None:
        if self.is_open and self.process.alive:
            self.process.post(self._on_frame, frame)

    def close(self, reason: str) -> None:
        """Close this end only, and tell its owner why, if it lives."""
        if not self.is_open:
            return
        self.is_open = False
        if self.process.alive:
            self.process.post(self._on_closed, reason)


class Connection:
    """Both ends and both pipes."""

    def __init__(self, network: Network, client: End, server: End) -> None:
        self._network = network
        self.client = client
        self.server = server
        here, there = self._hosts = (client.process.host, server.process.host)
        self._up = _Pipe(network, here, there, server.receive)
        self._down = _Pipe(network, there, here, client.receive)
        self._timers: list[Any] = []
        """Of ends that have yet to notice that the other one cannot be reached."""
        self.number = network.add_connection(self)
        client.process.on_death.append(self._on_client_death)
        server.process.on_death.append(self._on_server_death)
        if network.is_blocked(here, there) or network.is_blocked(there, here):
            self.expect_break()

    def crosses(self, source: str, target: str) -> bool:
        return (source, target) in (self._hosts, self._hosts[::-1])

    def is_held_by(self, process: Process) -> bool:
        return self.client.process is process and self.client.is_open

    def send(self, end: End, frame: Frame) -> None:
        """Send a frame from one end; silently nothing when that end is closed or its process dead."""
        if end.is_open and end.process.alive:
            (self._up if end is self.client else self._down).push(frame)

    def expect_break(self) -> None:
        """Start both ends' keepalives: an end that can't reach the other within its keepalive timeout gives up."""
        conditions = self._network.conditions
        for end in (self.client, self.server):
            notice_s = self._network.rng.uniform(conditions.notice_min_s, conditions.notice_max_s)
            self._timers.append(self._network.call_later(notice_s, self._notice, end))

    def _notice(self, end: End) -> None:
        a, b = self._hosts
        if self._network.is_blocked(a, b) or self._network.is_blocked(b, a):
            self.close(end, "keepalive timed out")

    def close(self, end: End, reason: str) -> None:
        """Close one end; the other hears of it by a reset if the link lets it through, else by its own keepalive.

        The reset comes after the frames that are under way: a program that closes in good order lets them go first.
        """
        if not end.is_open:
            return
        self._network.count("broken")
        self._network.trace.record("close", self.number, end.process.host, reason.replace(" ", "_"))
        end.close(reason)
        sent = self._up if end is self.client else self._down
        self._tell(self._other(end), "connection reset by peer", after_s=sent.left_s())

    def _other(self, end: End) -> End:
        return self.server if end is self.client else self.client

    def _tell(self, end: End, reason: str, *, after_s: float = 0.0) -> None:
        if not end.is_open:
            self._forget()
            return
        delay = max(after_s, self._network.delay_s(self._network.conditions))
        if self._network.is_blocked(self._other(end).process.host, end.process.host):
            delay = self._network.rng.uniform(
                self._network.conditions.notice_min_s, self._network.conditions.notice_max_s
            )
        self._timers.append(self._network.call_later(delay, self._reset, end, reason))

    def _reset(self, end: End, reason: str) -> None:
        end.close(reason)
        self._forget()

    def _on_client_death(self) -> None:
        self._on_death(self.client)

    def _on_server_death(self) -> None:
        self._on_death(self.server)

    def _on_death(self, end: End) -> None:
        end.is_open = False
        self._tell(self._other(end), f"{end.process.host} is gone")

    def _forget(self) -> None:
        """Both ends are closed: take the pipes and the timers down."""
        self._up.close()
        self._down.close()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._network.remove_connection(self.number)
        for end, callback in ((self.client, self._on_client_death), (self.server, self._on_server_death)):
            if callback in end.process.on_death:
                end.process.on_death.remove(callback)
