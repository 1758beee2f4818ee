"""Tests that a page names by a link are defined in the file to which the link leads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Repository

LINK = re.compile(r"\[`(test_\w+)`\]\(([^)\s]+\.py)\)")


def test_tests_that_pages_name_exist(repository: Repository) -> None:
    missing, found = [], 0
    for file in repository.markdown():
        for name, target in LINK.findall("\n".join(file.lines)):
            path = file.path.parent / target
            found += 1
            if not path.is_file() or not re.search(rf"^\s*(?:async )?def {name}\b", path.read_text(), re.MULTILINE):
                missing.append(f"{file.name}: {name} in {target}")
    assert missing == []
    assert found
