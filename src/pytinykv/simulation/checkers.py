"""Judges of what clients saw, apart from the workloads that made it.

They share nothing with the code under test: the model of a key-value map below is all they know about what a store should do.

A value with a TTL ends in some second that depends on when its write reached the leader, so the model keeps bounds of it:

    put of v, TTL t, between i and c      v, ends in [floor(i) + t, floor(c) + t]
    a read between i and c sees v         legal if floor(i) is before the last end; so the end is after floor(i)
    it sees nothing                       legal if floor(c) has reached the first end; v is gone for good
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import floor, inf
from typing import TYPE_CHECKING, Any, NamedTuple

from pytinykv.simulation.errors import Violation

if TYPE_CHECKING:
    from detangle.lin import Operation

SEARCH_STEPS_MAX = 3_000_000


class CompareAndSwap(NamedTuple):
    """What a compare-and-swap answered: whether it swapped, and the value it found."""

    succeeded: bool
    previous: bytes | None


class Expiring(NamedTuple):
    """A value that ends in a second from `first` to `last`, of the world's time."""

    value: bytes
    first: float
    last: float


def check_linearizable(operations: list[Operation], *, clock_error_s: float = 0.0) -> int:
    """Check that some order of the operations, keeping real time, explains every output. Returns how many were explained.

    Each key is searched by itself (linearizability is a local property: Herlihy and Wing 1990, theorem 1).
    `clock_error_s`: by how much the leaders' clocks may be wrong, which say when a value ends.
    """
    from detangle import lin

    try:
        result = lin.check(operations, _model(clock_error_s), budget=SEARCH_STEPS_MAX)
    except RuntimeError as error:
        raise Violation("linearizability", f"undecided: {error}") from error
    if not result.ok:
        raise Violation("linearizability", result.explain())
    return len(operations)


class _Rules:
    """One key at a time: `get`, `ttl` (key), `put` (key, value, TTL), `delete` (key), `cas` (key, expected, new, TTL)."""

    name = "raw key-value map"

    def __init__(self, clock_error_s: float) -> None:
        self._clock_error_s = clock_error_s

    def init(self) -> Hashable:
        return None

    def partition(self, operations: Sequence[Operation]) -> list[list[Operation]]:
        by_key: dict[bytes, list[Operation]] = {}
        for operation in operations:
            by_key.setdefault(operation.arg[0], []).append(operation)
        return [by_key[key] for key in sorted(by_key)]

    def step(self, state: Any, op: Operation) -> tuple[bool, Any]:
        known = op.status == "ok"
        if op.f == "get":
            return self._see(state, op, op.output) if known else (True, state)
        if op.f == "put":
            return (True, self._written(op, op.arg[1], op.arg[2]))
        if op.f == "delete":
            return (True, None)
        if op.f == "ttl":
            return self._see_ttl(state, op) if known else (True, state)
        assert op.f == "cas", op.f
        return self._swap(state, op) if known else (True, self._swapped_unseen(state, op))

    def _began(self, op: Operation) -> int:
        return floor(op.call_time - self._clock_error_s)

    def _ended(self, op: Operation) -> float:
        return inf if op.ret_time is None else floor(op.ret_time + self._clock_error_s)

    def _written(self, op: Operation, value: bytes, ttl_s: int) -> Any:
        return Expiring(value, self._began(op) + ttl_s, self._ended(op) + ttl_s) if ttl_s else value

    def _see(self, state: Any, op: Operation, seen: bytes | None) -> tuple[bool, Any]:
        if not isinstance(state, Expiring):
            return (seen == state, state)
        if seen is None:
            return (self._ended(op) >= state.first, None)
        began = self._began(op)
        is_legal = seen == state.value and began < state.last
        return (is_legal, state._replace(first=max(state.first, began + 1)))

    def _see_ttl(self, state: Any, op: Operation) -> tuple[bool, Any]:
        left: int | None = op.output
        if not isinstance(state, Expiring) or left is None:
            plain = state.value if isinstance(state, Expiring) else state
            return self._see(state, op, None) if left is None else (left == 0 and plain is not None, state)
        first = max(state.first, self._began(op) + left)
        last = min(state.last, self._ended(op) + left)
        return (left > 0 and first <= last, state._replace(first=first, last=last))

    def _swap(self, state: Any, op: Operation) -> tuple[bool, Any]:
        _, expected, new, ttl_s = op.arg
        is_legal, state = self._see(state, op, op.output.previous)
        swaps = op.output.previous == expected
        if not is_legal or op.output.succeeded != swaps:
            return (False, state)
        return (True, self._written(op, new, ttl_s) if swaps else state)

    def _swapped_unseen(self, state: Any, op: Operation) -> Any:
        """What a swap of unknown outcome leaves; that it did nothing is another branch of the search."""
        _, expected, new, ttl_s = op.arg
        present = state.value if isinstance(state, Expiring) else state
        may_swap = present == expected or (expected is None and isinstance(state, Expiring))
        return self._written(op, new, ttl_s) if may_swap else state


def _model(clock_error_s: float) -> Any:
    """Put the rules on detangle's base class, which is imported only here: detangle is optional."""
    from detangle import lin

    class RawKeyValue(_Rules, lin.Model):
        pass

    return RawKeyValue(clock_error_s)
