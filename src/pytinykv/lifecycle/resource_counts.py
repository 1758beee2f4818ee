"""Count what a running process has, by owner and by the line that started it, and notice what only ever grows.

```
count_resources(scope)   {(task, "process/store", started at …): 12, (file descriptor, "files in /data/db", …): 40, …}
GrowthWatch.observe      one such count after the other  ──►  "threads of X, started at Y: 3 → 40, never fewer"
```

An owner's name has its numbers replaced by `*`, so that a hundred scopes `connection-17` are one owner. Descriptors belong to
the directory of their file, to the listener whose port their connection came in at, or to the address that they lead to.
"""

from __future__ import annotations

import asyncio
import collections
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from pytinykv.lifecycle.census import counted_descriptors, counted_threads
from pytinykv.lifecycle.members import Member
from pytinykv.lifecycle.report import LeakKind
from pytinykv.lifecycle.scope import Scope

WINDOW: Final = 30
"""How many counts in a row must not shrink."""
GROWTH_MIN: Final = 32
_STEPS_MIN: Final = 4
"""In how many of them it must have grown: one burst at the start is no growth."""
_NUMBER: Final = re.compile(r"\d+")
_LISTENING: Final = "0A"


UNOWNED: Final = "no scope"


class Owned(NamedTuple):
    """What is counted together: of one kind, with one owner, started at one line."""

    kind: LeakKind
    owner: str
    """The name of the scope or member, with `*` for numbers; `UNOWNED` for what none has."""
    started_at: str
    """`path:line in function`, or "" where that is not known."""


class Growth(NamedTuple):
    """Something that only ever grew."""

    what: Owned
    before: int
    now: int

    def __str__(self) -> str:
        site = f", started at {self.what.started_at}" if self.what.started_at else ""
        return f"{self.what.kind}s of {self.what.owner}{site}: {self.before} → {self.now}, never fewer meanwhile"


def count_resources(scope: Scope) -> dict[Owned, int]:
    """Return how many tasks, threads, calls, children and descriptors there are, by owner. Callable from any thread."""
    counts: collections.Counter[Owned] = collections.Counter()
    owned_tasks: set[asyncio.Task[Any]] = set()
    owned_threads: set[threading.Thread] = set()
    ports: dict[int, tuple[str, str]] = {}
    for below in scope.subtree():
        for task, handle in list(below.books.tasks.items()):
            owned_tasks.add(task)
            counts[Owned(LeakKind.TASK, _pattern(below.name), str(handle.started_at))] += 1
        for thread in list(below.books.threads):
            owned_threads.add(thread.thread)
            counts[Owned(LeakKind.THREAD, _pattern(below.name), str(thread.started_at))] += 1
        for member in list(below.books.members):
            owned_tasks.update(_count_member(member, counts, ports))
    loops = {id(loop): loop for below in scope.subtree() if (loop := below.loop) is not None}
    for loop in loops.values():
        for stray in asyncio.all_tasks(loop) - owned_tasks:
            code = getattr(stray.get_coro(), "cr_code", None)
            site = "" if code is None else f"{code.co_filename}:{code.co_firstlineno} in {code.co_qualname}"
            counts[Owned(LeakKind.TASK, UNOWNED, site)] += 1
    for other in counted_threads():
        if other not in owned_threads and other is not threading.current_thread():
            counts[Owned(LeakKind.THREAD, f"{UNOWNED} ({_pattern(other.name)})", "")] += 1
    for owner, site in _descriptor_owners(ports):
        counts[Owned(LeakKind.DESCRIPTOR, owner, site)] += 1
    return {what: number for what, number in counts.items() if number}


def _count_member(
    member: Member, counts: collections.Counter[Owned], ports: dict[int, tuple[str, str]]
) -> list[asyncio.Task[Any]]:
    """Count a member's calls and child processes, note the port it listens on; return the tasks it owns."""
    if isinstance(member, Scope):  # `subtree` comes to it
        return []
    name, site = _pattern(member.name), str(member.made_at)
    calls = list[asyncio.Task[Any]]()
    for label in member.labels():
        if isinstance(label.subject, asyncio.Task):
            calls.append(label.subject)
            counts[Owned(LeakKind.CALL, name, site)] += 1
        else:
            counts[Owned(LeakKind.CHILD, name, str(label.started_at))] += 1
    if member.port is not None:
        ports[member.port] = (name, site)
    return calls


class GrowthWatch:
    """Notices what never shrinks and keeps growing, over a window of counts. Reports each again when it has doubled."""

    def __init__(self, *, window: int = WINDOW, growth_min: int = GROWTH_MIN) -> None:
        """Take `window` counts, none smaller than the one before, for growth if they differ by `growth_min`."""
        self._window: Final = window
        self._growth_min: Final = growth_min
        self._history: Final[dict[Owned, collections.deque[int]]] = {}
        """The last counts of each, since it last shrank."""
        self._reported: Final[dict[Owned, int]] = {}
        """The count at which each was last returned by `observe`."""

    def observe(self, counts: Mapping[Owned, int]) -> list[Growth]:
        """Take a count; return what has only ever grown for the whole window and was not reported yet."""
        for gone in self._history.keys() - counts.keys():
            del self._history[gone]
            self._reported.pop(gone, None)
        return [
            growth for what, number in sorted(counts.items()) if (growth := self._observe(what, number)) is not None
        ]

    def _observe(self, what: Owned, number: int) -> Growth | None:
        history = self._history.setdefault(what, collections.deque(maxlen=self._window))
        if history and number < history[-1]:
            history.clear()
        history.append(number)
        steps = sum(after > before for before, after in zip(history, list(history)[1:], strict=False))
        if len(history) < self._window or number - history[0] < self._growth_min or steps < _STEPS_MIN:
            return None
        if number < 2 * self._reported.get(what, 0):
            return None
        self._reported[what] = number
        return Growth(what, history[0], number)


def _descriptor_owners(ports: Mapping[int, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    sockets = tcp_sockets()
    listening = {local for local, _, state in sockets.values() if state == _LISTENING}
    for target in counted_descriptors().values():
        if not target.startswith("socket:"):
            is_file = target.startswith("/")
            yield (f"files in {PurePath(target).parent}" if is_file else target.partition(":")[0]), ""
            continue
        known = sockets.get(target[len("socket:[") : -1])
        if known is None:
            yield "sockets within this machine", ""
            continue
        local, remote, _ = known
        port = int(local.rpartition(":")[2])
        if local in listening or any(address.endswith(f":{port}") for address in listening):
            yield ports.get(port, (f"port {port}", ""))
        else:
            yield f"connections to {remote}", ""


def describe_descriptor(target: str) -> str:
    """Return what an open descriptor is; of a TCP socket, which says nothing but `socket:[inode]`, where it leads."""
    known = tcp_sockets().get(target[len("socket:[") : -1]) if target.startswith("socket:") else None
    if known is None:
        return target
    local, remote, state = known
    return f"{target}, listening on {local}" if state == _LISTENING else f"{target}, from {local} to {remote}"


def tcp_sockets() -> dict[str, tuple[str, str, str]]:
    """Return local and remote address and state of TCP sockets, by inode; empty without /proc."""
    found: dict[str, tuple[str, str, str]] = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            found[fields[9]] = (_address(fields[1]), _address(fields[2]), fields[3])
    return found


def _address(text: str) -> str:
    """Return `127.0.0.1:2379` for the kernel's `0100007F:094B`; of an IPv6 address, only the port."""
    host, _, port = text.partition(":")
    if len(host) == 8:
        return f"{'.'.join(str(byte) for byte in reversed(bytes.fromhex(host)))}:{int(port, 16)}"
    return f"[…]:{int(port, 16)}"


def _pattern(name: str) -> str:
    return _NUMBER.sub("*", name)
