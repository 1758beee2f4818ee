"""State is documented where it is declared: what it is, who moves it, what always holds.

A field of a class is state if `__init__` begins it as a constant, an empty collection or something that tasks or threads wait
for, or if another method of the class assigns it, or one of its items. Such a field has a docstring of its own below it.
Collaborators and settings, which are stored once and stay, speak by their names and types.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Repository

COLLECTIONS = frozenset(
    {
        *("Counter", "OrderedDict", "bytearray", "defaultdict", "deque", "dict", "list", "set"),
        *("SortedDict", "SortedList", "SortedSet", "WeakKeyDictionary", "WeakSet", "WeakValueDictionary"),
    }
)
WAITED_FOR = frozenset({"Condition", "Event", "Future", "Lock", "Queue", "RLock", "Semaphore"})
Assignment = ast.Assign | ast.AnnAssign


def test_state_fields_have_a_line_that_says_what_they_are(repository: Repository) -> None:
    bare = [f"{file.name}:{found}" for file in repository.python("src") for found in undocumented(file.tree)]
    assert bare == [], "say below the field what it is, who moves it, and what always holds"


def undocumented(tree: ast.Module) -> Iterator[str]:
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            methods = [each for each in cls.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))]
            moved = {name for each in methods if each.name != "__init__" for name in assigned(each)}
            for init in [each for each in methods if each.name == "__init__"]:
                for number, statement in enumerate(init.body):
                    names = list(assigned(statement)) if isinstance(statement, Assignment) else []
                    states = [name for name in names if name in moved or begins_as_state(statement)]
                    if states and not is_docstring(init.body[number + 1 : number + 2]):
                        yield f"{statement.lineno} {cls.name}.{states[0]}"


def assigned(node: ast.AST) -> Iterator[str]:
    """Yield the attributes of `self` that some code binds, changes an item of, or deletes."""
    for each in ast.walk(node):
        if isinstance(each, (ast.Attribute, ast.Subscript)) and isinstance(each.ctx, (ast.Store, ast.Del)):
            target = each.value if isinstance(each, ast.Subscript) else each
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                yield target.attr


def begins_as_state(statement: ast.stmt) -> bool:
    match getattr(statement, "value", None):
        case ast.Constant():
            return True
        case ast.List(elts=inner) | ast.Set(elts=inner) | ast.Dict(keys=inner):
            return not inner
        case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio" | "threading"), attr=name)):
            return name in WAITED_FOR
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in COLLECTIONS
        case ast.Call(func=ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name))):  # deque[int]()
            return name in COLLECTIONS
    return False


def is_docstring(following: list[ast.stmt]) -> bool:
    return any(
        isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        for each in following
    )


@pytest.mark.parametrize(
    ("line", "method", "is_state"),
    [
        ("self.x = 0", "pass", True),
        ("self.x: dict[int, int] = {}", "pass", True),
        ("self.x = deque[int]()", "pass", True),
        ("self.x = asyncio.Event()", "pass", True),
        ("self.x = given", "pass", False),
        ("self.x = {1: given}", "pass", False),
        ("self.x = given", "self.x = None", True),
        ("self.x = given", "self.x[0] += 1", True),
        ("self.x = given", "del self.x[0]", True),
        ("self.x = given", "self.x.y = 1", False),
        ('self.x = 0\n        """It only grows."""', "pass", False),
    ],
)
def test_what_is_state(line: str, method: str, is_state: bool) -> None:
    text = f"class A:\n    def __init__(self, given):\n        {line}\n    def move(self):\n        {method}\n"
    assert list(undocumented(ast.parse(text))) == (["3 A.x"] if is_state else [])
