"""Which of pytest-xdist's workers runs which test.

Tests that start servers as processes wait for half of their time, and would like the machine to themselves. So, with
`--dist loadfile`, all workers but one run files of those, and one runs files of all the rest, which only compute. When only
one kind is left, all workers run that, so that they end at about the same time.
"""

from __future__ import annotations

from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling

HEAVY: Final = (
    "tests/tools/test_kit_cost.py",
    "tests/cli/test_bench.py",
    "tests/interop/test_client_go.py",
    "tests/process/",
    "tests/interop/",
    "tests/conformance/",
    "tests/cli/",
    "tests/testing/",
    "tests/embedded/",
    "tests/docs/",
    "tests/packaging/",
)
"""Files and directories of heavy tests, in the order in which they run: the longest first, the shortest last."""
SINGLE: Final = ("tests/simulation/test_", "tests/simulation/planted/")
"""Of these files, each test is handed out for itself: they take seconds each and share nothing."""


def place(unit: str) -> int:
    """Return where a unit of work stands among the heavy ones; behind all of them if it is none."""
    return next((number for number, start in enumerate(HEAVY) if unit.startswith(start)), len(HEAVY))


class FewHeavyFilesAtATime(LoadScopeScheduling):
    """Hands out files, and single tests of some; see the module.

    (xdist has `--dist loadgroup` for groups of tests. It marks them by changing their ids, which pytest 9.2 ignores: they
    then run anywhere, and nothing says so: pytest-xdist issue 1386.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(SINGLE) else nodeid.partition("::")[0]

    def remove_node(self, node: Any) -> str | None:
        """Take back what a worker had when it ended; return the test in which it died, if it did.

        That test has failed and is not run again. (xdist would run it again and again; and it would queue the units that were
        finished, too, of which the next worker runs nothing, and so never asks for more.)
        """
        left = {unit: tests for unit, tests in self.assigned_work.pop(node).items() if not all(tests.values())}
        died_in = next((test for tests in left.values() for test, done in tests.items() if not done), None)
        if died_in is None:
            return None
        left[self._split_scope(died_in)][died_in] = True
        self.workqueue.update({unit: tests for unit, tests in left.items() if not all(tests.values())})
        for other in self.nodes:
            self._reschedule(other)
        return died_in

    def _reschedule(self, node: Any) -> None:
        """Give a worker more when it runs out.

        A worker begins a test once it knows the next one, or that there is none. One that takes the place of a dead one has
        none at first, so one unit may be too little for it; and it takes none before it has collected the tests.
        """
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()

    def _assign_work_unit(self, node: Any) -> None:
        heavy = sum(
            any(unit.startswith(HEAVY) and not all(tests.values()) for unit, tests in units.items())
            for other, units in self.assigned_work.items()
            if other is not node
        )
        busy = heavy >= max(1, self.numnodes - 1)
        waiting = sorted(self.workqueue, key=place)
        unit = next((unit for unit in waiting if unit.startswith(HEAVY) is not busy), waiting[-1])
        self.workqueue.move_to_end(unit, last=False)
        super()._assign_work_unit(node)
