"""The repository works on any machine: no absolute paths of one machine, no package index of one site."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Repository

MACHINE_PATH = re.compile(r"(?<![\w.~/})-])/(?:work|home|root|opt|mnt|Users)/\w")
PACKAGE_INDEX = re.compile(
    "|".join([r"pythonhosted" + r"\.org", r"pypi\.org/" + "simple", "(?:extra-)?index-" + "url"])
)


def test_no_path_of_one_machine(repository: Repository) -> None:
    assert lines_with(repository, MACHINE_PATH) == []


def test_no_package_index_is_named(repository: Repository) -> None:
    assert lines_with(repository, PACKAGE_INDEX) == []


def lines_with(repository: Repository, pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{file.name}:{number}: {line.strip()}"
        for file in repository.files
        for number, line in enumerate(file.lines, start=1)
        if pattern.search(line)
    ]
