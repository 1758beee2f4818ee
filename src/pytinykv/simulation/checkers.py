"""Judges of a history, apart from the workloads that made it.

Each checker takes what happened and raises `Violation`. They share nothing with the code under test: the model of a
key-value map below is all they know about what a store should do.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from pytinykv.simulation.errors import Violation
from pytinykv.simulation.history import RawHistory

if TYPE_CHECKING:
    from detangle.lin import Operation

SEARCH_STEPS_MAX = 3_000_000


def check_linearizable(history: RawHistory) -> int:
    """Check that some order of the operations, keeping real time, explains every output. Returns how many were explained.

    Each key is searched by itself (linearizability is a local property: Herlihy and Wing 1990, theorem 1).
    """
    from detangle import lin

    operations = history.relevant_operations()
    try:
        result = lin.check(operations, _model(), budget=SEARCH_STEPS_MAX)
    except RuntimeError as error:
        raise Violation("linearizability", f"undecided: {error}") from error
    if not result.ok:
        raise Violation("linearizability", result.explain())
    return len(operations)


def _model() -> Any:
    """Build the model on detangle's base class, which is imported only here: detangle is optional."""
    from detangle import lin

    class RawKeyValue(lin.Model):
        """One key at a time: `get` (key), `put` (key, value), `delete` (key), `cas` (key, expected, new)."""

        name = "raw key-value map"

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
                return (not known or op.output == state, state)
            if op.f == "put":
                return (True, op.arg[1])
            if op.f == "delete":
                return (True, None)
            assert op.f == "cas", op.f
            _, expected, new = op.arg
            swaps = state == expected
            if known and (op.output.succeeded != swaps or op.output.previous != state):
                return (False, state)
            return (True, new if swaps else state)

    return RawKeyValue()
