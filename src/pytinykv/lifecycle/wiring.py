"""Refuse a wiring that can hang, before it runs: which component of a process waits for which, checked for cycles.

```
wiring = Wiring("store")
wiring.component("service", runs=("*/grpc/*",))                     in the order in which they stop
wiring.component("store loop", runs=("*/store-loop", "*/ticks"))
wiring.component("disk thread", runs=("*/disk",))
wiring.waits("service", "store loop", "the result of a proposal")
wiring.hands_over("store loop", "disk thread", "syncs", bound=1, when_full=WhenFull.REFUSE)
wiring.check()
```

What blocks is a wait for a result, and a hand-over to a full queue whose policy is to wait. If such waits form a
cycle, there is an order of events in which all its components wait for ever: each queue full, each component about to send.
It is a property of the wiring, not of luck, so it is refused whatever the sizes of the queues are.

Deadlines do not excuse a cycle. They end the hang of one round, and the next one begins.

A second rule is about stopping: a component outlives those that wait for it. One that stops before another that still
waits for it leaves that one waiting. (A store that has left its loop while the transport still sends to it.)

A declaration is only as good as its agreement with the code: `undeclared` tells which running tasks and threads no component
has claimed, and a test asks it of real servers.

Left out: waits inside a component, which the wait-for graph finds when they happen, and waits between processes, which all
go through calls with deadlines.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from pytinykv.lifecycle.errors import LifecycleError


class WiringError(LifecycleError):
    """Components wait for each other in a cycle, or one stops before another that waits for it."""


class WhenFull(StrEnum):
    """What a sender does when the queue is full."""

    WAIT = "waits"
    DROP = "drops it"
    REFUSE = "refuses it, with an error"
    REPLACE = "replaces an older one"


class Link(NamedTuple):
    """One component makes another one do something."""

    source: str
    target: str
    what: str
    blocks: bool
    how: str
    """In words, for the error and for people."""


class Wiring:
    """The components of a process and their links, declared where they are put together and checked before they run."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.components: Final[dict[str, tuple[str, ...]]] = {}
        """In the order in which they stop; each with the patterns of the names of its tasks and threads."""
        self.links: Final[list[Link]] = []
        """In the order in which they were declared. Only grows."""

    def component(self, name: str, *, runs: Sequence[str] = ()) -> None:
        """Add a component, after those that stop before it; `runs` are its tasks and threads, with `*` as in file names."""
        self.components[name] = tuple(runs)

    def undeclared(self, runners: Iterable[str]) -> list[str]:
        """Return the names of tasks and threads that belong to no component."""
        patterns = [pattern for runs in self.components.values() for pattern in runs]
        return [name for name in runners if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]

    def waits(self, source: str, target: str, what: str) -> None:
        """Say that `source` cannot go on before `target` has given it `what`, with or without a deadline."""
        self._link(source, target, what, f"waits for {target} to give it {what}", blocks=True)

    def hands_over(self, source: str, target: str, what: str, *, bound: int | None, when_full: WhenFull) -> None:
        """Say that `source` puts `what` into a queue that `target` takes it from.

        Args:
            source: the component that puts.
            target: the component that takes.
            what: the items.
            bound: how many fit; None without a bound, in which case `when_full` never happens.
            when_full: what the source does when as many are waiting.
        """
        blocks = bound is not None and when_full is WhenFull.WAIT
        how = f"hands {what} to {target} through a queue of {'any length' if bound is None else bound}"
        self._link(
            source, target, what, how if bound is None else f"{how}; when it is full, {when_full}", blocks=blocks
        )

    def check(self) -> None:
        """Refuse the wiring if it can hang.

        Raises:
            WiringError: naming the components of a cycle with what each waits for, or the two that stop in the wrong order.
        """
        cycle = self._find_cycle()
        if cycle:
            steps = "\n".join(f"  {link.source} {link.how}" for link in cycle)
            raise WiringError(
                f"the wiring of {self.name} can hang: these wait for each other\n{steps}\n"
                "let one of them drop, refuse or replace instead of waiting"
            )
        order = {component: place for place, component in enumerate(self.components)}
        for link in self._blocking():
            if order[link.target] < order[link.source]:
                raise WiringError(
                    f"the wiring of {self.name} can hang in its stop: {link.source} {link.how}, and {link.target} stops first"
                )

    def render(self) -> str:
        """Return the links as lines for people, the blocking ones marked."""
        lines = [f"{self.name}, in the order in which it stops: {', '.join(self.components)}"]
        lines += [f"  {'blocks' if link.blocks else 'passes'}  {link.source} {link.how}" for link in self.links]
        return "\n".join(lines)

    # --- inside -------------------------------------------------------------------------------------------------

    def _link(self, source: str, target: str, what: str, how: str, *, blocks: bool) -> None:
        known = ", ".join(self.components)
        for component in (source, target):
            if component not in self.components:
                raise WiringError(f"the wiring of {self.name} has no component {component!r}; it has {known}")
        self.links.append(Link(source, target, what, blocks, how))

    def _blocking(self) -> list[Link]:
        return [link for link in self.links if link.blocks]

    def _find_cycle(self) -> list[Link]:
        """Return the links of a cycle of waits, [] if there is none: a walk that never goes to a place twice."""
        done: set[str] = set()
        for start in self.components:
            found = self._walk(start, [], done)
            if found:
                return found
        return []

    def _walk(self, component: str, way: list[Link], done: set[str]) -> list[Link]:
        if component in done:
            return []
        for place, link in enumerate(way):
            if link.source == component:
                return way[place:]
        for link in self._blocking():
            if link.source == component and (found := self._walk(link.target, [*way, link], done)):
                return found
        done.add(component)
        return []
