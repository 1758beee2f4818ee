"""Files and functions stay small enough to be read in one go."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Repository

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80


def test_no_module_is_longer_than_600_lines(repository: Repository) -> None:
    long = [
        f"{file.name}: {len(file.lines)} lines" for file in repository.python() if len(file.lines) > MODULE_LINES_MAX
    ]
    assert long == [], "split by concept; docs/architecture.md shows how the packages are cut"


def test_no_function_is_longer_than_80_lines(repository: Repository) -> None:
    long = [
        f"{file.name}:{node.lineno}: {node.name} has {length} lines"
        for file in repository.python()
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []
