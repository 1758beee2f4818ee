"""The Pythons on which the suite passes are the same ones wherever they are named."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from pytinykv.waitgraph.stacks import BYTECODE_KNOWN

if TYPE_CHECKING:
    from conftest import Repository

VERSIONS = [f"{major}.{minor}" for major, minor in BYTECODE_KNOWN]


def test_the_metadata_names_them(repository: Repository) -> None:
    project = tomllib.loads((repository.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [match[1] for name in project["classifiers"] if (match := re.fullmatch(r".*:: Python :: (3\.\d+)", name))]
    assert named == VERSIONS
    assert project["requires-python"] == f">={VERSIONS[0]}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_pages_name_them(repository: Repository, page: str) -> None:
    text = " ".join((repository.root / page).read_text(encoding="utf-8").split())
    assert f"{', '.join(VERSIONS[:-1])} and {VERSIONS[-1]}." in text
