"""No import cycles between files, also none behind `TYPE_CHECKING` or inside of a function: a file comes after those it uses.

A file imports a module wherever it says so. `from package import name` imports the package's `__init__` unless `name` is a
module of it. So an `__init__` may hand on what its modules have, and those modules may not import from it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Repository, TextFile


def test_no_file_imports_itself_through_others(repository: Repository) -> None:
    cycles = find_cycles(imports_of(repository.python("src")))
    assert cycles == [], "move what both need into a file below both"


def test_a_cycle_is_found_wherever_the_import_is() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert find_cycles(imports) == [["a", "b", "c"], ["d", "e"]]
    tree = ast.parse("if TYPE_CHECKING:\n    from p.x import y\ndef f():\n    import p.z\nfrom p import x, N\n")
    modules = {"p": "p/__init__.py", "p.x": "p/x.py", "p.z": "p/z.py"}
    assert {modules[name] for name in modules_named(tree, modules)} == {"p/__init__.py", "p/x.py", "p/z.py"}


def imports_of(files: list[TextFile]) -> dict[str, set[str]]:
    """Return, for each file, the other files that it imports."""
    modules = {module_name(file): file.name for file in files}
    return {file.name: {modules[name] for name in modules_named(file.tree, modules)} - {file.name} for file in files}


def module_name(file: TextFile) -> str:
    return file.name.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def modules_named(tree: ast.Module, modules: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inner]
        yield from (name for name in names if name in modules)


def find_cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the files of each strongly connected component of more than one, sorted."""
    reached = {name: reachable(name, imports) for name in imports}
    found = {frozenset(other for other in reached[name] if name in reached[other]) for name in imports}
    return sorted(sorted(cycle) for cycle in found if len(cycle) > 1)


def reachable(start: str, imports: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        for name in imports[todo.pop()] - found:
            found.add(name)
            todo.append(name)
    return found
