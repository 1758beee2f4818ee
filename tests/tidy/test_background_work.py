"""Background work is started through lifecycle scopes only, and no hand-over blocks.

The lint rule TID251 bans the functions; the methods, which a linter can't tell by their type, are looked for here.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Repository, TextFile

OWNERS = (
    "src/pytinykv/lifecycle/",  # scopes
    "src/pytinykv/transport/",  # what gRPC needs
    "src/pytinykv/waitgraph/",  # looks at tasks and threads
    "src/pytinykv/simulation/",  # owns the loop itself, and fails a history that leaves a task behind
)
STARTERS = frozenset({"create_task", "run_in_executor", "set_default_executor", "create_subprocess_exec"})


def test_no_task_or_executor_is_started_outside_lifecycle(repository: Repository) -> None:
    found = [
        f"{file.name}:{call.lineno}: .{call.func.attr}(…): start it through a lifecycle Scope"
        for file in repository.python("src")
        if not file.name.startswith(OWNERS)
        for call in calls(file)
        if isinstance(call.func, ast.Attribute) and call.func.attr in STARTERS
    ]
    assert found == []


def test_no_queue_is_filled_by_a_wait(repository: Repository) -> None:
    """`await queue.put(…)` waits for the reader, who may be gone: a bounded queue takes now, drops, or refuses."""
    found = [
        f"{file.name}:{node.lineno}: await ….put(…) on a queue"
        for file in repository.python("src")
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Await) and is_queue_put(node.value)
    ]
    assert found == []


def calls(file: TextFile) -> Iterator[ast.Call]:
    return (node for node in ast.walk(file.tree) if isinstance(node, ast.Call))


def is_queue_put(node: ast.expr) -> bool:
    """Tell a queue by its name: the key-value `put` of a client is awaited rightly."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "put"):
        return False
    receiver = ast.unparse(node.func.value).lower()
    return any(word in receiver for word in ("queue", "inbox", "mailbox", "outbox"))
