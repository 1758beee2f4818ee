"""The pieces that are expected in a repository, and one command for each chore."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Repository

COMMANDS = ("playground", "test", "check", "bench", "soak")


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"]
)
def test_the_expected_pages_are_there(repository: Repository, name: str) -> None:
    assert (repository.root / name).stat().st_size > 1000


@pytest.mark.parametrize("command", COMMANDS)
def test_make_and_dev_know_the_same_commands(repository: Repository, command: str) -> None:
    targets = (repository.root / "Makefile").read_text(encoding="utf-8").splitlines()[-2]
    assert command in targets.rstrip(":").split()
    shown = subprocess.run(
        [sys.executable, "dev", "--help"], cwd=repository.root, capture_output=True, text=True, check=True, timeout=30
    )
    assert f"./dev {command}" in shown.stdout


@pytest.mark.parametrize("name", ["dev", ".ci/run"])
def test_scripts_are_executable(repository: Repository, name: str) -> None:
    assert os.access(repository.root / name, os.X_OK)


def test_ci_runs_the_test_command_of_the_readme(repository: Repository) -> None:
    last = (repository.root / ".ci/run").read_text(encoding="utf-8").splitlines()[-1]
    assert last == "exec ./dev test"
    assert "\n./dev test" in (repository.root / "README.md").read_text(encoding="utf-8")
