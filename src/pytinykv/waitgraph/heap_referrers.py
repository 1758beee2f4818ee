"""What else could end a wait, besides the runners: asked before a deadlock cycle is reported, in case it is none.

Runners are looked at in `wakers`. But a timer, a transport's protocol, a callback of another future, a task of a foreign
loop can end a wait as well, and are in no frame of a runner. They have this in common: they refer to what is waited for. So
the collector is asked for referrers (`gc.get_referrers`), which costs three walks through all objects, tens of milliseconds
each, and is done only when there is a cycle that rests on what code suggests.

```
the resource ◄── bound method `event.set`                held by anything
             ◄── cell ◄── function that calls it         a closure
             ◄── object, its attribute                   a method of its class
             ◄── list, dict ◄── object, its attribute    the same; elements go by any name
             ◄── module                                  a function of it
             ◄── coroutine                               one that no task shown here runs
```

Of functions, those count that no runner is inside of.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final, NamedTuple

from pytinykv.waitgraph.blocked_on import WAITING_LIBRARY
from pytinykv.waitgraph.wakers import functions_of, parts_of, uses

_OURS: Final = __name__.rpartition(".")[0] + "."
_COLLECTIONS: Final = (list, tuple, dict, set, deque)
_REFERRERS_MAX: Final = 2000
"""What has more referrers than that says nothing of any of them."""


class Referrer(NamedTuple):
    """Something that could end a wait."""

    place: int
    """Of what is waited for, among those that were asked about."""
    name: str


def find_referrers(
    asked: Sequence[tuple[object, frozenset[str]]], inside: Container[CodeType], free: Collection[CodeType]
) -> list[Referrer]:
    """Return what else could call one of the methods on each of the resources asked about.

    Args:
        asked: resources, each with its methods.
        inside: the functions that runners are inside of, which `wakers` has looked at.
        free: those of them in which no runner is stuck; they may get at a resource by paths too long for `wakers`.
    """
    found: dict[Referrer, None] = {}
    heap = _Heap([resource for resource, _ in asked])
    for place, (resource, methods) in enumerate(asked):
        for name in _Search(resource, methods, inside, free, heap).names():
            found[Referrer(place, name)] = None
    return list(found)


class _Search:
    """The search for what could call a method on one resource."""

    def __init__(
        self,
        resource: object,
        methods: frozenset[str],
        inside: Container[CodeType],
        free: Collection[CodeType],
        heap: _Heap,
    ) -> None:
        self._resource: Final = resource
        self._methods: Final = methods
        self._inside: Final = inside
        self._free: Final = free
        self._heap: Final = heap

    def names(self) -> Iterator[str]:
        """Yield their names."""
        around = self._heap.referrers_of(self._resource)
        yield from self._methods_given(around)
        yield from self._coroutines(around)
        yield from self._closures([one for one in around if type(one) is CellType])
        yield from self._modules(around)
        collections = [one for one in around if type(one) in _COLLECTIONS]
        holders = [holder for one in collections for holder in self._heap.referrers_of(one)]
        attributes = [holder for holder in holders if type(holder) is dict]
        for owner in [*around, *holders, *(owner for one in attributes for owner in self._heap.referrers_of(one))]:
            yield from self._methods_of(owner, collections)

    def _methods_given(self, around: Iterable[Any]) -> Iterator[str]:
        for one in around:
            if (
                type(one) in (MethodType, BuiltinMethodType)
                and one.__self__ is self._resource
                and one.__name__ in self._methods
            ):
                yield f"a callback {type(self._resource).__name__}.{one.__name__}"

    def _coroutines(self, around: Iterable[Any]) -> Iterator[str]:
        for one in around:
            code = one.cr_code if type(one) is CoroutineType else one.gi_code if type(one) is GeneratorType else None
            if code is not None and self._calls(code, lambda _: True):
                yield f"{code.co_qualname}, which runs elsewhere"

    def _closures(self, cells: Sequence[Any]) -> Iterator[str]:
        tuples = [one for cell in cells for one in self._heap.referrers_of(cell) if type(one) is tuple]
        for function in [one for each in tuples for one in self._heap.referrers_of(each) if type(one) is FunctionType]:
            free = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            names = {name for name, cell in free if any(cell is one for one in cells)}
            if self._calls(function.__code__, names.__contains__):
                yield function.__qualname__

    def _modules(self, around: Iterable[Any]) -> Iterator[str]:
        modules = {id(module.__dict__): module for module in list(sys.modules.values()) if type(module) is ModuleType}
        for module in [modules[id(one)] for one in around if id(one) in modules]:
            names = {name for name, value in list(vars(module).items()) if value is self._resource}
            for function in [value for value in list(vars(module).values()) if type(value) is FunctionType]:
                if self._calls(function.__code__, names.__contains__):
                    yield f"{module.__name__}.{function.__qualname__}"

    def _methods_of(self, owner: Any, collections: Sequence[Any]) -> Iterator[str]:
        """Yield the methods of an object that has the resource, a collection with it, or the dictionary of its attributes."""
        if type(owner) in (FunctionType, ModuleType, CellType, FrameType, *_COLLECTIONS):
            return
        attributes = dict(parts_of(owner))
        own = [name for name, value in attributes.items() if name and value is self._resource]
        names = {f"self.{name}" for name in own}
        for code in self._free if own else ():
            if self._takes(code, lambda way: way.rpartition(".")[2] in own):
                yield code.co_qualname
        holds_some = any(value is one for value in attributes.values() for one in collections)
        for function in functions_of(type(owner)) if names or holds_some else ():
            if self._calls(function.__code__, lambda way: way in names or (holds_some and "self." not in way)):
                yield function.__qualname__

    def _calls(self, code: CodeType, means_it: Callable[[str], bool]) -> bool:
        """Whether code that no runner is inside of takes one of the methods of what `means_it` says is the resource."""
        mechanics = code.co_filename.startswith(WAITING_LIBRARY)  # they are known
        return code not in self._inside and not mechanics and self._takes(code, means_it)

    def _takes(self, code: CodeType, means_it: Callable[[str], bool]) -> bool:
        """Whether code does, or a function in it that no runner is inside of."""
        return any(method in self._methods and means_it(way) for way, method, _ in uses(code)) or any(
            self._calls(inner, means_it) for inner in code.co_consts if type(inner) is CodeType
        )


class _Heap:
    """The referrers of some resources, of the cells and collections among them, and of closures and attributes."""

    def __init__(self, resources: Sequence[object]) -> None:
        self._found: Final[dict[int, list[Any]]] = {}
        """By the id of an object that was asked about, what refers to it."""
        around = self._walk(resources)
        indirect = self._walk([one for one in around if type(one) in (CellType, *_COLLECTIONS)])
        self._walk([one for one in indirect if type(one) in (tuple, dict)])

    def referrers_of(self, one: object) -> list[Any]:
        """Return the referrers of something that was walked for."""
        return self._found.get(id(one), [])

    def _walk(self, wanted: Sequence[object]) -> list[Any]:
        """Find the referrers of what is wanted: without the drawing itself, and not all of very many."""
        new = {id(one) for one in wanted}.difference(self._found)
        if not new:
            return []
        around = gc.get_referrers(*[one for one in wanted if id(one) in new])
        kept = [one for one in around if not str(type(one).__module__).startswith(_OURS) and one is not wanted]
        for one in kept[:_REFERRERS_MAX]:
            for inner in gc.get_referents(one):
                if id(inner) in new:
                    self._found.setdefault(id(inner), []).append(one)
        return kept[:_REFERRERS_MAX]
