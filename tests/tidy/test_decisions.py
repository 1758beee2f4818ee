"""Decisions are written down, complete, and found from the index."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Repository

REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")
PARTS = ("Context", "Decision", "Alternatives", "How it is tested")


def test_each_decision_is_in_the_index_and_has_its_parts(repository: Repository) -> None:
    index = (repository.root / "docs/adr/README.md").read_text(encoding="utf-8")
    wrong = []
    for page in decisions(repository.root):
        headings = set(re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        wrong += [f"{page.name}: no section {part!r}" for part in PARTS if part not in headings]
        if f"({page.name})" not in index:
            wrong.append(f"{page.name}: not linked from docs/adr/README.md")
    assert wrong == []


def test_each_decision_has_a_number_of_its_own(repository: Repository) -> None:
    numbers = [page.name[:4] for page in decisions(repository.root)]
    assert len(numbers) == len(set(numbers))
    assert all(number.isdigit() for number in numbers)


def test_each_dependency_has_a_line_that_says_why(repository: Repository) -> None:
    project = tomllib.loads((repository.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (repository.root / "docs/adr/0001-dependencies.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([A-Za-z0-9._-]+)`", page, flags=re.MULTILINE))
    wanted = {
        REQUIREMENT_NAME.match(requirement)[0]  # type: ignore[index]  # a requirement begins with a name
        for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    }
    assert sorted(wanted - told) == [], "add a line to docs/adr/0001-dependencies.md"
    assert sorted(told - wanted) == [], "no longer a dependency: take the line out"


def decisions(root: Path) -> list[Path]:
    return sorted(path for path in (root / "docs/adr").glob("*.md") if path.name != "README.md")
