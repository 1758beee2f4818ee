"""What the tidy tests look at: the text files of the repository, read once."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "build", "dist", "node_modules"})
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi")
TEXT_SUFFIXES = frozenset({"", ".cfg", ".md", ".proto", ".py", ".pyi", ".sh", ".toml", ".tsv", ".txt", ".yaml", ".yml"})


@dataclass(frozen=True)
class TextFile:
    """One file of ours."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """The path relative to the root, with forward slashes."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_python(self) -> bool:
        return self.path.suffix == ".py" or self.name == "dev"

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.name)


class Repository:
    """The files that people write: generated code, caches and the virtual environment are left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = tuple(sorted(read_files(root), key=lambda file: file.name))

    def python(self, *directories: str) -> list[TextFile]:
        """Return the Python files below some directories, or all of them."""
        return [file for file in self.files if file.is_python and self._is_below(file, directories)]

    def markdown(self) -> list[TextFile]:
        return [file for file in self.files if file.path.suffix == ".md"]

    @staticmethod
    def _is_below(file: TextFile, directories: tuple[str, ...]) -> bool:
        return not directories or any(file.name.startswith(f"{directory}/") for directory in directories)


def read_files(root: Path) -> Iterator[TextFile]:
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if is_ours(name)]
        for name in files:
            path = Path(directory, name)
            if path.suffix in TEXT_SUFFIXES and not name.endswith(GENERATED_SUFFIXES) and not name.startswith(".cov"):
                yield TextFile(path, path.read_text(encoding="utf-8"))


def is_ours(directory: str) -> bool:
    hidden = directory.startswith(".") and directory not in {".ci", ".github"}
    return not hidden and directory not in SKIPPED_DIRECTORIES and not directory.endswith(".egg-info")


@pytest.fixture(scope="session")
def repository() -> Repository:
    return Repository(ROOT)
