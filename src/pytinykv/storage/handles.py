"""What both engines use to close all that depends on them: tables that say why an entry is missing, lists of dependents; and
how to close nothing where that would do harm.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Protocol, TypeVar

from pytinykv.storage.engine import ColumnFamily
from pytinykv.storage.errors import EngineClosedError, UnknownColumnFamilyError

Value = TypeVar("Value")


class ByFamily(dict[ColumnFamily, Value]):
    """Something per column family. Emptied when its owner is closed, which every later lookup then reports.

    So the hot paths need no check of their own: a lookup either finds its entry or raises the right error.
    """

    def __missing__(self, cf: ColumnFamily) -> Value:
        if not self:
            raise EngineClosedError("the engine or snapshot is closed")
        raise UnknownColumnFamilyError(f"no column family {cf!r}; there are {', '.join(sorted(self))}")


class Closable(Protocol):
    """Something that can be closed, twice as well as once."""

    def close(self) -> None: ...


class Dependents:
    """Weak references to what must be closed before its owner is; dead ones are dropped now and then.

    Adding costs a tenth of a microsecond, which a `weakref.WeakSet` does not manage.
    """

    __slots__ = ("_limit", "_references")

    def __init__(self) -> None:
        self._references: list[weakref.ref[Closable]] = []
        """In the order in which they were added; some may be dead."""
        self._limit = 64
        """At so many references the dead ones are dropped; then twice what was left, so that adding costs constant
        time."""

    def add(self, dependent: Closable) -> None:
        self._references.append(weakref.ref(dependent))
        if len(self._references) > self._limit:
            self._references = [reference for reference in self._references if reference() is not None]
            self._limit = max(64, 2 * len(self._references))

    def close_all(self) -> None:
        references, self._references = self._references, []
        for reference in references:
            dependent = reference()
            if dependent is not None:
                dependent.close()


def keep_for_ever(thing: object) -> None:
    """Never free an object, not even when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
