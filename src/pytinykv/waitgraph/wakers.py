"""Wakers: what would end a wait, read off the source code of the runners. Which of them calls `get` on the full queue?

For each frame of each runner the objects in reach of its variables are listed with the paths that lead to them
(`self.inbox`, `self.workers[].inbox`). A runner may end the wait for a resource if the code it is in calls one of the right
methods on one of the paths to that very object: `self.inbox.get()`. Elements of a collection may be called by any name. Where
a class wraps the resource (`Mailbox.take` calls `self._queue.get`), the callers of the wrapping method count. Functions that
would do it and that no runner is inside of are listed too: a future that a callback resolves does have a waker.

It is a judgement about code, not about what will happen: hence "probably" in the graph. Code is read as bytecode. Where that
is not known (`stacks.bytecode_is_known`), no wakers are found.

Objects are looked into without asking them anything: no method, property or `__getattr__` of theirs runs, which could block,
raise, or change what it is asked about.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import functools
import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple

from pytinykv.waitgraph.blocked_on import is_library
from pytinykv.waitgraph.lock_holders import attribute_of, variables_of
from pytinykv.waitgraph.stacks import CallSite, Step, bytecode_is_known

_REACH: Final = 3
"""How many steps of attributes and elements away from a variable a resource may be."""
_OBJECTS_PER_FRAME_MAX: Final = 600
_OBJECTS_MAX: Final = 100_000
"""For all frames together: with thousands of tasks, fewer objects of each frame are looked at."""
_OBJECTS_PER_FRAME_MIN: Final = 20
_FRAMES_PER_RUNNER_MAX: Final = 10
"""The innermost ones; what is further out in a thread shows how the program was started."""
_ELEMENTS_MAX: Final = 64
_WRAPPERS: Final = 2
_PLAIN: Final = (int, float, str, bytes, bytearray, bool, type(None), type, ModuleType, FunctionType)
_OPAQUE_MODULES: Final = frozenset({"builtins", "asyncio", "threading", "queue", "logging", "re", "random", "uvloop"})


class Place(NamedTuple):
    """A runner's frame in which a resource is in reach."""

    runner: str
    step: Step
    way: str
    """How the code gets there: `self.inbox`, `self.workers[].inbox`."""


class Wakers(NamedTuple):
    """What would end a wait."""

    runners: dict[str, str]
    """By the key of the runner, the evidence."""
    functions: dict[str, None]
    """Names of functions that no runner is inside of."""


class Reach:
    """What is in reach of which runner. Made once per graph; holds what it has seen, so that identities stay unique."""

    def __init__(self, runners: Sequence[tuple[str, Sequence[Step]]]) -> None:
        self._places: Final[dict[int, dict[tuple[str, int, str], Place]]] = {}
        """By the id of an object, where it was found: by runner, step and way, so that each is there once."""
        self._owners: Final[dict[int, dict[tuple[int, str], tuple[object, str]]]] = {}
        """By the id of an object, the objects that have it as an attribute, and the attribute's name."""
        self._kept: Final[list[object]] = []
        """Everything whose id is a key above: it must not be freed, or another object may get its id."""
        self._inside: Final[dict[CodeType, set[str]]] = {}
        """By a piece of code, the runners that are inside of it now."""
        own = [
            (runner, step)
            for runner, steps in runners
            for step in [step for step in steps if step.frame is not None and not is_library(step)][
                -_FRAMES_PER_RUNNER_MAX:
            ]
        ]
        fair = _OBJECTS_MAX // max(1, len(own))
        self._objects_max: Final = max(_OBJECTS_PER_FRAME_MIN, min(_OBJECTS_PER_FRAME_MAX, fair))
        for runner, step in own:
            self._inside.setdefault(step.code, set()).add(runner)
            self._visit(runner, step)

    def find(self, resource: object, methods: frozenset[str], *, wrappers: int = _WRAPPERS) -> Wakers:
        """Return what would call one of `methods` on `resource`."""
        found = Wakers({}, {})
        for place in self._places.get(id(resource), {}).values():
            for way, method, called in uses(place.step.code):
                if method in methods and _leads_to(way, place.way):
                    if called:
                        found.runners.setdefault(place.runner, f"{place.step.code.co_qualname} calls {way}.{method}")
                    else:
                        found.functions[f"a callback {way}.{method} from {place.step.code.co_qualname}"] = None
        for owner, attribute in self._owners.get(id(resource), {}).values():
            self._find_through(owner, attribute, methods, found, wrappers)
        return found

    def name_of(self, resource: object) -> tuple[str, CallSite | None]:
        """Return what the code calls a resource, and where it was made; ("", None) for one that is out of reach."""
        for owner, attribute in self._owners.get(id(resource), {}).values():
            name = f"{type(owner).__qualname__}.{attribute}"
            of = attribute_of(owner, "name")
            return (f"{name} of {of}" if type(of) is str else name), _site_of_attribute(type(owner), attribute)
        for place in self._places.get(id(resource), {}).values():
            code = place.step.code
            return f"{place.way} in {code.co_qualname}", _first_store(code, place.way)
        return "", None

    def _find_through(
        self, owner: object, attribute: str, methods: frozenset[str], found: Wakers, wrappers: int
    ) -> None:
        """Look at the methods of an object that holds the resource, and at the callers of those."""
        for function in functions_of(type(owner)):
            way = f"self.{attribute}"
            if not any(method in methods and _leads_to(of, way) for of, method, _ in uses_deep(function.__code__)):
                continue
            callers = Wakers({}, {})
            if wrappers:
                callers = self.find(owner, frozenset({function.__name__}), wrappers=wrappers - 1)
                found.runners.update({key: why for key, why in callers.runners.items() if key not in found.runners})
            if not callers.runners and function.__code__ not in self._inside:
                found.functions[function.__qualname__] = None

    def _visit(self, runner: str, step: Step) -> None:
        assert step.frame is not None
        names = variables_of(step)
        todo: deque[tuple[str, Any, int]] = deque((name, value, _REACH) for name, value in names.items())
        seen: set[int] = set()
        while todo and len(seen) < self._objects_max:
            way, value, reach = todo.popleft()
            if issubclass(type(value), _PLAIN):
                continue
            self._places.setdefault(id(value), {}).setdefault((runner, id(step), way), Place(runner, step, way))
            if id(value) in seen:
                continue
            seen.add(id(value))
            self._kept.append(value)
            if reach:
                for attribute, inner in parts_of(value):
                    if not issubclass(type(inner), _PLAIN):
                        if attribute:
                            owners = self._owners.setdefault(id(inner), {})
                            owners.setdefault((id(value), attribute), (value, attribute))
                        todo.append((f"{way}.{attribute}" if attribute else f"{way}[]", inner, reach - 1))


def uses(code: CodeType) -> tuple[tuple[str, str, bool], ...]:
    """Return the attributes that a piece of code takes: of what ("self.inbox"), which, and whether it calls it at once.

    What is not reached by names alone begins with "?": "?.inbox".
    """
    return _uses(code) if bytecode_is_known() else ()


@functools.lru_cache(maxsize=2048)
def _uses(code: CodeType) -> tuple[tuple[str, str, bool], ...]:
    found: list[tuple[str, str, bool]] = []
    way = "?"
    for instruction in dis.get_instructions(code):
        operation, argument = instruction.opname, instruction.argval
        if operation in ("CACHE", "EXTENDED_ARG"):
            continue
        if operation in ("LOAD_ATTR", "LOAD_METHOD"):
            is_call = operation == "LOAD_METHOD" or (sys.version_info >= (3, 12) and bool((instruction.arg or 0) & 1))
            found.append((way, str(argument), is_call))
            way = f"{way}.{argument}"
        elif operation.startswith("LOAD_FAST") and isinstance(argument, tuple):  # two at once
            way = str(argument[-1])
        elif operation.startswith("LOAD_") and operation != "LOAD_CONST" and isinstance(argument, str):
            way = argument
        else:
            way = "?"
    return tuple(found)


def uses_deep(code: CodeType) -> Iterator[tuple[str, str, bool]]:
    """As `uses`, with the functions defined inside."""
    yield from uses(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from uses_deep(constant)


def _leads_to(way: str, place: str) -> bool:
    """Whether code that says `way` may mean what is at `place`."""
    if way == place:
        return True
    of, _, last = way.rpartition(".")
    if "[]" in place:  # an element, under whatever name the code has given it
        return not way.startswith("self.") and (place.endswith("[]") or last == place.rpartition(".")[2])
    return of.startswith("?") and last == place.rpartition(".")[2]


def _is_opaque(kind: type) -> bool:
    module: object = kind.__module__  # anything may stand there: the classes that protobuf makes at run time have None
    return isinstance(module, str) and module.partition(".")[0] in _OPAQUE_MODULES


def functions_of(kind: type) -> Iterator[FunctionType]:
    """Yield the functions of a class: methods, those behind properties, static and class methods."""
    if _is_opaque(kind):
        return
    for base in kind.__mro__[:-1]:
        for member in list(vars(base).values()):
            function: object = member
            if type(member) is property:
                function = member.fget
            elif type(member) in (staticmethod, classmethod):
                function = member.__func__
            if type(function) is FunctionType:
                yield function


def parts_of(value: Any) -> Iterator[tuple[str, object]]:
    """Yield attributes by name, and the elements of a collection without one."""
    kind = type(value)
    if issubclass(kind, dict):
        yield from (("", inner) for inner in _first(dict.values(value)))
    elif issubclass(kind, (list, tuple, deque)):
        iterate: Any = next(base for base in (list, tuple, deque) if issubclass(kind, base)).__iter__
        yield from (("", inner) for inner in _first(iterate(value)))
    elif not _is_opaque(kind) and not issubclass(kind, asyncio.Future):
        with contextlib.suppress(AttributeError):
            yield from list(object.__getattribute__(value, "__dict__").items())
        for base in kind.__mro__[:-1]:
            for slot in _slots(base):
                if (inner := attribute_of(value, slot)) is not None:
                    yield slot, inner


def _first(values: Iterable[object]) -> list[object]:
    """Return the first few, or none of a collection that another thread changes just now."""
    try:
        return list(itertools.islice(values, _ELEMENTS_MAX))
    except RuntimeError:
        return []


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__weakref__", "__dict__") and not name.startswith("__"))


def _site_of_attribute(kind: type, attribute: str) -> CallSite | None:
    for function in functions_of(kind):
        if function.__name__ == "__init__":
            return _first_store(function.__code__, attribute)
    return None


def _first_store(code: CodeType, name: str) -> CallSite | None:
    if not bytecode_is_known():
        return None
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        if instruction.starts_line:
            start = getattr(instruction, "line_number", None) or instruction.starts_line
            line = start if isinstance(start, int) and not isinstance(start, bool) else line
        if instruction.opname.startswith("STORE_") and instruction.argval == name:
            return CallSite(code.co_filename, line, code.co_qualname)
    return None
