"""What becomes of open databases in a forked child: they can't be used there, and nothing of them is touched.

A child has a copy of the engine, and none of the threads that work for it. Even taking it down would wait for them. So it is
never taken down: its objects are kept until the child ends.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgettable(Protocol):
    """A database."""

    def forget(self) -> None:
        """Make it unusable."""


_open: weakref.WeakSet[Forgettable] = weakref.WeakSet()
"""All databases that were opened and are still referred to."""


def watch(database: Forgettable) -> None:
    """Have a database forgotten in every child of this process."""
    _open.add(database)


def _after_fork_in_child() -> None:
    for database in list(_open):
        database.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
