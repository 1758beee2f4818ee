"""Which task or thread holds a lock, for certain: read off the stacks of those that are inside of its `with` block.

```
a suspended coroutine     its stack holds the bound `__aexit__` of each block that it is inside of
a running frame           the table of exception handlers says which blocks cover the present instruction,
                          and the bytecode before a block says what was entered: `self.lock`
a context manager         `@contextmanager` is inside of what its generator is inside of, an `ExitStack` of what it was given
a condition               is its lock; a task that waits to be notified has released it
```

A block that is still being entered is not held.

All of it rests on bytecode. Where that is not known (`stacks.bytecode_is_known`), nothing is said to be held or entered.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import BuiltinMethodType, CodeType, MemberDescriptorType, MethodType
from typing import Any, Final, NamedTuple

from pytinykv.waitgraph.stacks import Step, bytecode_is_known, held_objects, local_variables, short_site

_EXITS: Final = ("__exit__", "__aexit__")
_NESTED_MAX: Final = 4
"""How deep context managers may lie in each other."""


class HeldBlock(NamedTuple):
    """A task or thread is inside of a block."""

    block: object
    """What was entered."""
    evidence: str


class WithBlock(NamedTuple):
    """An item of a `with` statement in a piece of code, by offsets of instructions."""

    text: str
    """What is entered, where that is a name with attributes; "" otherwise."""
    entered_at: int
    body_at: int
    """From `entered_at` on, and before this, it is being entered."""


class _Blocks(NamedTuple):
    """The `with` blocks of a piece of code, and what tells in which of them an instruction lies."""

    by_handler: dict[int, WithBlock]
    """By the offset of the handler that leaves it when something is raised."""
    table: tuple[tuple[int, int, int], ...]
    """First instruction, the one behind the last, and the handler of what is raised between."""

    def around(self, offset: int) -> list[WithBlock]:
        """Return the blocks that an instruction lies in, the outermost first: the way that an exception would take."""
        found = []
        seen = set[int]()
        handler: int | None = offset
        while handler is not None and handler not in seen:
            seen.add(handler)
            if handler in self.by_handler and handler != offset:
                found.append(self.by_handler[handler])
            handler = next((target for start, end, target in self.table if start <= handler < end), None)
        return found[::-1]

    def entering(self, offset: int) -> WithBlock | None:
        """Return the block that is being entered at an instruction."""
        return next((block for block in self.by_handler.values() if block.entered_at <= offset < block.body_at), None)


def lock_of(resource: Any) -> object:
    """Return the lock behind a resource: a condition's own; of everything else, the resource itself."""
    if issubclass(type(resource), (asyncio.Condition, threading.Condition)):
        lock: object = resource._lock  # noqa: SLF001 - conditions over one lock are told apart by nothing else
        return lock
    found: object = resource
    return found


def held_by(steps: Sequence[Step]) -> list[HeldBlock]:
    """Return the blocks that a runner is inside of, the innermost last, without those whose lock it has given up to wait."""
    if not bytecode_is_known():
        return []
    found = [held for step in steps for held in _held_in(step)]
    released = {
        id(lock_of(local_variables(step.frame).get("self")))
        for step in steps
        if _is_wait(step) and step.frame is not None
    }
    return [held for held in found if id(lock_of(held.block)) not in released]


def blocks_entered(steps: Iterable[Step]) -> list[object]:
    """Return the objects whose `with` or `async with` blocks a suspended task is inside of, or about to enter."""
    return [
        method.__self__
        for step in steps
        for method in held_objects(step.suspended)
        if type(method) in (MethodType, BuiltinMethodType) and method.__name__ in _EXITS
    ]


def entering(step: Step) -> object | None:
    """Return what the frame of a running thread is about to enter; None if nothing, or nothing that has a name."""
    if step.frame is not None and bytecode_is_known():
        block = _blocks_of(step.code).entering(step.frame.f_lasti)
        if block is not None and block.text:
            return evaluate(block.text, variables_of(step))
    return None


@functools.lru_cache(maxsize=2048)
def _blocks_of(code: CodeType) -> _Blocks:
    instructions = list(dis.get_instructions(code))
    handlers = {
        before.offset
        for before, instruction in itertools.pairwise(instructions)
        if instruction.opname == "WITH_EXCEPT_START" and before.opname == "PUSH_EXC_INFO"
    }
    bytecode: Any = dis.Bytecode(code)  # the stubs do not know its table
    table = tuple((entry.start, entry.end, entry.target) for entry in bytecode.exception_entries)
    found: dict[int, WithBlock] = {}
    for place, instruction in enumerate(instructions):
        if instruction.opname in ("BEFORE_WITH", "BEFORE_ASYNC_WITH"):
            entered_at = instruction.offset
            bodies = [
                (start, target)
                for start, _, target in table
                if start > entered_at
                and target in handlers
                and target not in found  # the last are blocks around this one
            ]
            body = next(iter(bodies), None)
            if body is not None:
                found[body[1]] = WithBlock(_name_before(instructions, place), entered_at, body[0])
    return _Blocks(found, table)


def evaluate(text: str, variables: dict[str, Any]) -> object | None:
    """Return what a dotted name means among some variables; None if nothing. Runs no code of properties."""
    first, *rest = text.strip().split(".")
    thing: Any = variables.get(first)
    for name in rest:
        if thing is None or not name.isidentifier():
            return None
        thing = attribute_of(thing, name)
    result: object | None = thing
    return result


def attribute_of(thing: object, name: str) -> Any:
    """Return an attribute that lies in an object, not one that code of its class makes up; None if there is none."""
    try:
        own = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        own = {}
    if name in own:
        return own[name]
    for base in type(thing).__mro__:
        member = vars(base).get(name)
        if type(member) is MemberDescriptorType:
            try:
                return member.__get__(thing)
            except AttributeError:  # not assigned yet
                return None
    return None


def variables_of(step: Step) -> dict[str, Any]:
    """Return a frame's variables, and of the global ones those that its code names."""
    assert step.frame is not None
    names = step.frame.f_globals
    return {name: names[name] for name in step.code.co_names if name in names} | local_variables(step.frame)


def _held_in(step: Step) -> Iterator[HeldBlock]:
    site = short_site(step.code.co_filename, step.line, step.code.co_qualname)
    if step.frame is None:
        return
    blocks = blocks_entered((step,))
    if blocks:
        if _blocks_of(step.code).entering(step.frame.f_lasti) is not None:
            blocks.pop()  # the last one on the stack
        for entered in blocks:
            yield from _inside(entered, f"inside its block at {site}", _NESTED_MAX)
        return
    around = [block for block in _blocks_of(step.code).around(step.frame.f_lasti) if block.text]
    variables = variables_of(step) if around else {}
    for block in around:
        thing = evaluate(block.text, variables)
        if thing is not None:
            yield from _inside(thing, f"inside `with {block.text}` in {step.code.co_qualname}", _NESTED_MAX)


def _inside(entered: Any, evidence: str, depth: int) -> Iterator[HeldBlock]:
    """Yield what was entered, and what that has entered in turn."""
    yield HeldBlock(entered, evidence)
    if depth == 0:
        return
    kind = type(entered)  # not `isinstance`, which asks the object for its class
    if issubclass(kind, (contextlib.ExitStack, contextlib.AsyncExitStack)):
        for _, callback in list(entered._exit_callbacks):  # noqa: SLF001 - known nowhere else
            manager = getattr(callback, "__self__", None)
            if manager is not None:
                yield from _inside(manager, evidence, depth - 1)
    elif issubclass(kind, (contextlib._GeneratorContextManager, contextlib._AsyncGeneratorContextManager)):  # noqa: SLF001
        for held in _held_in_generator(entered.gen):
            yield from _inside(held, evidence, depth - 1)


def _held_in_generator(generator: Any) -> list[object]:
    return [
        method.__self__
        for method in held_objects(generator)
        if type(method) in (MethodType, BuiltinMethodType) and method.__name__ in _EXITS
    ]


def _is_wait(step: Step) -> bool:
    """Whether a frame is that of a condition's `wait`, which has released its lock, or is about to acquire it again."""
    return step.code is asyncio.Condition.wait.__code__ or step.code is threading.Condition.wait.__code__


def _name_before(instructions: Sequence[dis.Instruction], place: int) -> str:
    """Return the dotted name that the instructions before one have loaded."""
    names: list[str] = []
    for instruction in reversed(instructions[:place]):
        if instruction.opname in ("CACHE", "EXTENDED_ARG", "PUSH_NULL", "NOP"):
            continue
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            names.append(str(instruction.argval))
        elif instruction.opname.startswith("LOAD_") and instruction.opname != "LOAD_CONST":
            argument = instruction.argval
            names.append(str(argument[-1] if isinstance(argument, tuple) else argument))
            return ".".join(reversed(names))
        else:
            break
    return ""
