"""docs/invariants.md names code that is there and tests that are there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Repository

LINK = re.compile(r"\[`?([^\]`]+)`?\]\(([^)]+)\)")


def test_each_row_has_an_invariant_a_place_and_a_test(repository: Repository) -> None:
    broken = [row for row in rows(repository.root) if len(row) != 4 or not all(row) or "tests/" not in row[3]]
    assert broken == []


def test_numbers_are_not_used_twice(repository: Repository) -> None:
    numbers = [row[0] for row in rows(repository.root)]
    assert len(numbers) == len(set(numbers))


def test_named_definitions_and_tests_exist(repository: Repository) -> None:
    """A link's text is a name that is defined in the file to which the link leads, or that file's own name."""
    missing = []
    for row in rows(repository.root):
        for name, target in LINK.findall(" ".join(row[2:])):
            path = repository.root / "docs" / target
            if not path.is_file():
                missing.append(f"{row[0]}: {target} is not there")
            elif not name.endswith(".py") and not defines(path, name):
                missing.append(f"{row[0]}: {target} does not define {name}")
    assert missing == []


def rows(root: Path) -> list[list[str]]:
    """Return the cells of each table row that begins with a number such as R1 or S2."""
    text = (root / "docs/invariants.md").read_text(encoding="utf-8")
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\|\s*[A-Z]+\d+\s*\|", line)
    ]


def defines(path: Path, name: str) -> bool:
    """Tell whether a file defines a class, function, method or constant of that name."""
    last = re.escape(name.rsplit(".", maxsplit=1)[-1])
    pattern = rf"^\s*(?:(?:async )?def|class) {last}\b|^\s*{last}\s*[:=]"
    return re.search(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE) is not None
