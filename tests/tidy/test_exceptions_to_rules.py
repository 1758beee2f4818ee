"""An exception to a rule names the rule and says why."""

from __future__ import annotations

import io
import re
import tokenize
import tomllib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Repository, TextFile

REASON = r"\s*(?:#|:|;|,|-|–|—)?\s*\S*\w{2,}"
TYPE_IGNORE = re.compile(r"type:\s*ignore")
TYPE_IGNORE_WITH_CODE = re.compile(r"type:\s*ignore\[[a-z-]+(?:,\s*[a-z-]+)*\]")
TYPE_IGNORE_WITH_REASON = re.compile(TYPE_IGNORE_WITH_CODE.pattern + REASON)
NOQA = re.compile(r"\bnoqa\b", re.IGNORECASE)
NOQA_GOOD = re.compile(r"noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*" + REASON)
RULE_IN_LIST = re.compile(r'^\s*"[A-Z]+\d*",?\s*(?P<comment>#.*)?$')


def test_type_ignores_have_a_code_and_a_reason(repository: Repository) -> None:
    assert bad_comments(repository.python("src", "tools"), TYPE_IGNORE, TYPE_IGNORE_WITH_REASON) == []


def test_type_ignores_in_tests_have_a_code(repository: Repository) -> None:
    """There the reason is always the same: the test does on purpose what types forbid."""
    assert bad_comments(repository.python("tests"), TYPE_IGNORE, TYPE_IGNORE_WITH_CODE) == []


def test_noqas_have_a_code_and_a_reason(repository: Repository) -> None:
    assert bad_comments(repository.python(), NOQA, NOQA_GOOD) == []


def test_rules_switched_off_in_pyproject_have_a_reason(repository: Repository) -> None:
    lines = (repository.root / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    bare = [line.strip() for line in lines if (rule := RULE_IN_LIST.match(line)) and not rule["comment"]]
    assert bare == []


def test_the_broad_selection_of_lint_rules_stays(repository: Repository) -> None:
    ruff = tomllib.loads((repository.root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert ruff["lint"]["select"] == ["ALL"]


def bad_comments(files: list[TextFile], suspect: re.Pattern[str], good: re.Pattern[str]) -> list[str]:
    return [
        f"{file.name}:{number}: {comment}"
        for file in files
        for number, comment in comments(file)
        if suspect.search(comment) and not good.search(comment)
    ]


def comments(file: TextFile) -> Iterator[tuple[int, str]]:
    """Yield the numbered comments; text inside strings is none."""
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
