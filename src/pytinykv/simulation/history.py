"""What the clients of a simulated cluster asked and saw: the raw material of the checkers.

An operation is invoked, and then completes with an output, or fails for certain (it had no effect), or its outcome stays
unknown (it may take effect at any later moment, or never). Recording is detangle's (`detangle.lin.History`); what is added
here is the taking apart of operations on many keys and the removal of what can't matter, which keeps the search short:

* a scan or a batch is one operation per key, all with the same interval. This is weaker than "the scan is one moment" but
  holds for every correct store, also across regions;
* a read without an outcome says nothing, so it is dropped;
* a write without an outcome whose value was never seen is dropped as well: if some order explains the history with it, the
  same order without it does, as no read comes between it and the next write. One with a TTL may also show by its end, as
  nothing.

Values may recur, but each that does makes the search longer: it keeps all lost writes of a value that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pytinykv.simulation.checkers import check_linearizable
from pytinykv.simulation.errors import SimulationError

if TYPE_CHECKING:
    from detangle.lin import History, Operation


_WIDTHS = {"get": 1, "ttl": 1, "delete": 1, "put": 3, "cas": 4}
"""How many arguments the model wants; the last of a write is its TTL."""


class Event(msgspec.Struct, kw_only=True):
    """One client operation on some keys, as the workload reports it."""

    client: str
    kind: str
    """get, ttl, put, delete, cas"""
    operations: list[Any]
    """detangle's operations, one per key."""


class RawHistory:
    """Records raw operations, and judges them."""

    def __init__(self, observe: Callable[..., None] | None = None) -> None:
        self._history = new_history()
        self._observe = observe or (lambda *_: None)
        self.invoked = 0
        """Operations begun, a batch or scan counted once."""
        self.unknown = 0
        """Of these, those whose outcome stayed unknown."""
        self.clock_error_s = 0.0
        """By how much clocks of stores may differ from the world's; they say when values end."""

    def invoke(self, client: str, kind: str, arguments: Sequence[tuple[Any, ...]]) -> Event:
        """Note that `client` begins an operation: one tuple of arguments per key, as the model has them; no TTL means 0."""
        self.invoked += 1
        self._observe("invoke", client, kind, *arguments)
        whole = [(*argument, 0)[: _WIDTHS[kind]] for argument in arguments]
        return Event(
            client=client,
            kind=kind,
            operations=[self._history.invoke(client, kind, argument) for argument in whole],
        )

    def complete(self, event: Event, outputs: Sequence[Any]) -> None:
        """Note the outputs, one per key, in the order of the arguments."""
        self._observe("complete", event.client, event.kind, *outputs)
        for operation, output in zip(event.operations, outputs, strict=True):
            self._history.ok(operation, output)

    def fail(self, event: Event) -> None:
        """Note that the operation certainly had no effect."""
        self._observe("fail", event.client, event.kind)
        for operation in event.operations:
            self._history.fail(operation)

    def lose(self, event: Event) -> None:
        """Note that the outcome of the operation is unknown."""
        self.unknown += 1
        self._observe("unknown", event.client, event.kind)
        for operation in event.operations:
            self._history.info(operation)

    def check(self) -> int:
        """Judge it: linearizable, per key. Returns how many operations were explained. Raises `Violation`."""
        return check_linearizable(self.relevant_operations(), clock_error_s=self.clock_error_s)

    def relevant_operations(self) -> list[Operation]:
        """Return what the checker has to explain (see the module's text)."""
        operations = self._history.operations
        seen = {value for operation in operations for value in _values_seen(operation)}
        return [operation for operation in operations if _matters(operation, seen)]


def new_history() -> History:
    """Make detangle's history, or say how to get detangle."""
    try:
        from detangle.lin import History
    except ImportError as error:
        raise SimulationError("the simulator's checkers need detangle: pip install 'pytinykv[sim]'") from error
    return History()


def _values_seen(operation: Operation) -> Iterable[object]:
    if operation.status != "ok":
        return ()
    if operation.f == "get":
        return (operation.output,)
    if operation.f == "cas":
        return (operation.output.previous,)
    return (None,) if operation.f == "ttl" and operation.output is None else ()


def _matters(operation: Operation, seen: set[object]) -> bool:
    if operation.status == "ok":
        return True
    if operation.status == "fail" or operation.f in {"get", "ttl"}:
        return False
    if operation.f == "delete":
        return None in seen
    _, *_, value, ttl_s = operation.arg
    return value in seen or bool(ttl_s and None in seen)
